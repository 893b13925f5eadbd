package sealed

import (
	"encoding/binary"
	"testing"

	"sotto/e2ee/ratchet"
	"sotto/e2ee/senderkey"
	"sotto/sealedwire"
)

func BenchmarkVersion1(b *testing.B) {
	w := newWorld(b)
	w.content.Message = make([]byte, 256)
	message := w.seal1(b, w.content)
	b.Run("seal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			w.seal1(b, w.content)
		}
	})
	b.Run("open", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Open(w.bob, w.root.Public(), message, now); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkVersion2(b *testing.B) {
	w := newWorld(b)
	w.content.Message = make([]byte, 256)
	received, _ := w.seal2(b, w.content)
	recipients := make([]Recipient, 100)
	for i := range recipients {
		binary.BigEndian.PutUint32(recipients[i].Account[:], uint32(i))
		recipients[i].Identity = ratchet.GenerateKeyPair().Public()
		recipients[i].Devices = []sealedwire.Device{{ID: 1, RegistrationID: 1}}
	}
	b.Run("seal-100-recipients", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := SealMany(w.alice, recipients, w.content); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("open", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Open(w.bob, w.root.Public(), received, now); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// What a message costs that anybody could have made: 64 KiB, sealed with a key and a certificate that nobody vouched for.
func BenchmarkRefused(b *testing.B) {
	w := newWorld(b)
	w.content.Message = make([]byte, 64<<10-1000)
	w.content.Type = senderkey.TypeMessage
	two, _ := w.seal2(b, w.content)
	other := sealedwire.GeneratePrivateKey().Public()
	for name, message := range map[string][]byte{"version1": w.seal1(b, w.content), "version2": two} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Open(w.bob, other, message, now); err == nil {
					b.Fatal("opened")
				}
			}
		})
	}
}
