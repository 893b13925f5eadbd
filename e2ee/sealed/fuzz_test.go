package sealed

import (
	"bytes"
	"errors"
	"testing"

	"sotto/e2ee/ratchet"
	"sotto/sealedwire"
)

func FuzzContent(f *testing.F) {
	v := loadLibrary(f)
	f.Add([]byte(v.V1Content))
	f.Add([]byte(v.V2Content))
	b, err := newWorld(f).content.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseContent(b)
		if err != nil {
			if !errors.Is(err, ErrUndecryptable) {
				t.Fatal(err)
			}
			return
		}
		if again, err := c.encode(); err != nil || !bytes.Equal(again, b) {
			t.Fatal("accepted in another encoding than ours")
		}
	})
}

func FuzzMessage1(f *testing.F) {
	f.Add([]byte(loadLibrary(f).V1Message))
	w := newWorld(f)
	f.Add(w.seal1(f, w.content))
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := parseMessage1(b); err == nil && !bytes.Equal(m.encode(), b) {
			t.Fatal("accepted in another encoding than ours")
		}
	})
}

// FuzzOpen: of arbitrary messages none opens but those that were made.
func FuzzOpen(f *testing.F) {
	v := loadLibrary(f)
	local, err := ratchet.UnmarshalKeyPair(v.RecipientPrivate)
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(v.V1Message))
	f.Add([]byte(v.V2Received))
	f.Add([]byte(v.V2Sent))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := Open(local, sealedwire.PublicKey(v.TrustRoot), b, now)
		if err != nil && !errors.Is(err, ErrUndecryptable) {
			t.Fatal(err)
		}
		if err == nil && !bytes.Equal(b, v.V1Message) && !bytes.Equal(b, v.V2Received) {
			t.Fatal("an altered message opens")
		}
	})
}
