package senderkey

import (
	"bytes"
	"errors"
	"testing"

	"sotto/e2ee/internal/cbc"
	"sotto/e2ee/ratchet"
	"sotto/internal/protofield"
)

func TestAlteredMessage(t *testing.T) {
	s, r := newPair(t)
	skip(s, 200) // an iteration of two bytes
	for _, text := range []string{"ahead", "overtaken"} {
		m := encrypt(t, s, text)
		if text == "overtaken" {
			next := encrypt(t, s, "next")
			expect(t, r, next, "next")
		}
		altered := bytes.Clone(m)
		for i := 0; i < 8*len(m); i += tamperStep {
			altered[i/8] ^= 1 << (i % 8)
			refuse(t, r, altered, ErrUndecryptable)
			altered[i/8] ^= 1 << (i % 8)
		}
		for n := range m {
			refuse(t, r, m[:n], ErrUndecryptable)
		}
		for _, more := range [][]byte{{0}, {0x28, 1}, make([]byte, 64)} {
			refuse(t, r, append(bytes.Clone(m), more...), ErrUndecryptable)
		}
		expect(t, r, m, text)
	}
}

// Nothing in a distribution message authenticates it: it is the plaintext of a session's message, no bit of which can be changed. By
// itself it is held by its encoding, its distribution id, and the rule for signing keys. What can be flipped are the values of chain id,
// iteration, chain key and, to another point of the curve, signing key: any such values could be meant. No genuine text comes out with
// them. (Noise may, once in 256 times, where the padding happens to be right: the signature covers the ciphertext and not its key.)
func TestAlteredDistribution(t *testing.T) {
	s := NewSender(group)
	skip(s, 200)
	distribution := s.Distribution()
	m := encrypt(t, s, "genuine")
	values := make([]string, len(distribution)) // the field that each byte is the value of
	at := 1
	for _, field := range []struct {
		name         string
		header, size int
	}{{"", 2, 16}, {"chain id", 1, len(protofield.AppendVarint(nil, 2, uint64(s.chainID))) - 1}, {"iteration", 1, 2}, {"chain key", 2, 32}, {"", 2, 1}, {"signing key", 0, 32}} {
		at += field.header
		for range field.size {
			values[at] = field.name
			at++
		}
	}
	if at != len(distribution) {
		t.Fatalf("%d of %d bytes", at, len(distribution))
	}
	accepted := map[string]int{}
	altered := bytes.Clone(distribution)
	for i := 0; i < 8*len(distribution); i += tamperStep {
		altered[i/8] ^= 1 << (i % 8)
		r := NewReceiver(group)
		if err := r.Add(altered); err == nil {
			if values[i/8] == "" {
				t.Errorf("accepted with bit %d of byte %d flipped", i%8, i/8)
			}
			accepted[values[i/8]]++
			if text, err := r.Decrypt(m); err == nil && string(text) == "genuine" {
				t.Errorf("a genuine message decrypts with bit %d of byte %d flipped", i%8, i/8)
			}
		} else if !errors.Is(err, ErrBadDistribution) {
			t.Error(err)
		}
		altered[i/8] ^= 1 << (i % 8)
	}
	t.Logf("flipped bits accepted: %v", accepted)
	if tamperStep == 1 && accepted["chain key"] != 256 || accepted["signing key"] > 64 {
		t.Errorf("flipped bits accepted: %v", accepted)
	}
	for n := range distribution {
		if NewReceiver(group).Add(distribution[:n]) == nil {
			t.Errorf("accepted when cut to %d bytes", n)
		}
	}
	for _, more := range [][]byte{{0}, {0x28, 1}, {0x30, 1}, {0x32, 0}} {
		if NewReceiver(group).Add(append(bytes.Clone(distribution), more...)) == nil {
			t.Errorf("accepted with %x behind", more)
		}
	}
}

func TestOneEncoding(t *testing.T) {
	s, r := newPair(t)
	fields := func(build func(b []byte) []byte) []byte {
		b := build([]byte{versionByte})
		return append(b, s.signing.Sign(b)...)
	}
	seed := chainSeed(&s.chainKey)
	keys := newMessageKeys(&seed)
	ciphertext := cbc.Encrypt(keys[16:], keys[:16], []byte("x"))
	id := func(b []byte) []byte { return protofield.AppendBytes(b, 1, group[:]) }
	chain := func(b []byte) []byte { return protofield.AppendVarint(b, 2, uint64(s.chainID)) }
	iteration := func(b []byte) []byte { return protofield.AppendVarint(b, 3, 0) }
	text := func(b []byte) []byte { return protofield.AppendBytes(b, 4, ciphertext) }
	all := func(b []byte) []byte { return text(iteration(chain(id(b)))) }
	for name, build := range map[string]func(b []byte) []byte{
		"wrong order":      func(b []byte) []byte { return text(chain(iteration(id(b)))) },
		"no iteration":     func(b []byte) []byte { return text(chain(id(b))) },
		"repeated field":   func(b []byte) []byte { return text(all(b)) },
		"unknown field":    func(b []byte) []byte { return protofield.AppendVarint(all(b), 9, 1) },
		"padded iteration": func(b []byte) []byte { return text(append(chain(id(b)), 0x18, 0x80, 0)) },
		"wide iteration":   func(b []byte) []byte { return text(protofield.AppendVarint(chain(id(b)), 3, 1<<32)) },
		"long id": func(b []byte) []byte {
			return text(iteration(chain(protofield.AppendBytes(b, 1, append(bytes.Clone(group[:]), 0)))))
		},
		"version 4": func(b []byte) []byte { b[0] = 0x43; return all(b) },
	} {
		if _, err := r.Decrypt(fields(build)); !errors.Is(err, ErrUndecryptable) {
			t.Errorf("%s, signed by the sender: %v", name, err)
		}
	}
	expect(t, r, fields(all), "x")
}

// A message of another member, or by who knows the key but not the signing key.
func TestForged(t *testing.T) {
	s, r := newPair(t)
	member := &Sender{s.distribution, s.chainID, s.iteration, s.chainKey, ratchet.GenerateKeyPair()}
	refuse(t, r, encrypt(t, member, "forged"), ErrUndecryptable)
	other := NewSender(DistributionID{7})
	refuse(t, r, encrypt(t, other, "of another group"), ErrUndecryptable)
	for name, u := range map[string][32]byte{"small order": {1}, "not canonical": {0: 0xee, 31: 0x7f}} {
		bad := append([]byte{5}, u[:]...)
		for i := range 30 {
			if name == "not canonical" {
				bad[i+2] = 0xff
			}
		}
		key, err := ratchet.ParsePublicKey(bad)
		if err != nil {
			t.Fatal(err)
		}
		m := distributionMessage{distribution: group, signing: key}
		if err := r.Add(m.encode()); !errors.Is(err, ErrBadDistribution) {
			t.Errorf("signing key of %s: %v", name, err)
		}
	}
}
