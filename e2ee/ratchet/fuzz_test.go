package ratchet

import (
	"bytes"
	"errors"
	"testing"
)

func FuzzSignalMessage(f *testing.F) {
	for _, file := range []string{"initiator.json", "initiator-lossy.json"} {
		for _, e := range loadConversation(f, file).Events[:20] {
			if e.Type == TypeMessage {
				f.Add(e.Message)
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseSignalMessage(b)
		if err != nil {
			if !errors.Is(err, ErrUndecryptable) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(append(m.encode(), m.mac...), b) {
			t.Fatal("accepted in another encoding than ours")
		}
	})
}

func FuzzPreKeySignalMessage(f *testing.F) {
	f.Add(loadConversation(f, "initiator.json").Events[0].Message)
	f.Add(loadConversation(f, "initiator-lossy.json").Events[0].Message)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parsePreKeyMessage(b)
		if _, identityErr := PreKeyIdentity(b); (err == nil) != (identityErr == nil) {
			t.Fatal(err, identityErr)
		}
		if err != nil {
			if !errors.Is(err, ErrUndecryptable) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(m.encode(), b) {
			t.Fatal("accepted in another encoding than ours")
		}
	})
}

func FuzzRecord(f *testing.F) {
	alice, bob := established(f)
	f.Add(alice.record.Marshal())
	bob.initiate(alice, false)
	for range 3 {
		bob.encrypt(alice, "lost")
	}
	alice.expect(bob, bob.encrypt(alice, "x"), "x")
	f.Add(alice.record.Marshal())
	f.Add(bob.record.Marshal())
	f.Add([]byte{recordVersion})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := UnmarshalRecord(b)
		if err != nil {
			if !errors.Is(err, ErrBadRecord) {
				t.Fatal(err)
			}
			return
		}
		stored := r.Marshal()
		again, err := UnmarshalRecord(stored)
		if err != nil || !bytes.Equal(again.Marshal(), stored) {
			t.Fatal("what was read does not survive", err)
		}
		// Whatever was read, using it must not panic.
		var local = alice.local
		m, err := r.Encrypt(local, Remote{Address: bob.local.Address}, []byte("x"), start)
		if err == nil {
			_, _ = again.Decrypt(local, Remote{Address: bob.local.Address}, TypeMessage, m.Bytes, bob, start)
		}
	})
}

func FuzzKeys(f *testing.F) {
	pair, kyber := GenerateKeyPair(), GenerateKyberKeyPair()
	for _, b := range [][]byte{pair.Marshal(), pair.Public().Bytes(), kyber.Marshal(), kyber.Public()} {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if k, err := ParsePublicKey(b); err == nil {
			if !bytes.Equal(k.Bytes(), b) {
				t.Fatal("public key changed")
			}
			k.Verify(b, make([]byte, 64))
			_, _ = pair.Agree(k)
		}
		if k, err := UnmarshalKeyPair(b); err == nil {
			again, err := UnmarshalKeyPair(k.Marshal())
			if err != nil || !again.Public().Equal(k.Public()) {
				t.Fatal("key pair changed")
			}
		}
		if k, err := UnmarshalKyberKeyPair(b); err == nil && !bytes.Equal(k.Marshal(), b) {
			t.Fatal("Kyber key pair changed")
		}
		if secret, ciphertext, err := kyberEncapsulate(b, systemRandom{}); err == nil && (len(secret) != 32 || len(ciphertext) != kyberCiphertextSize) {
			t.Fatal("encapsulation")
		}
	})
}

// FuzzDecrypt hands arbitrary messages to a live record: nothing but the messages as they were sent decrypts, and a failure changes
// nothing.
func FuzzDecrypt(f *testing.F) {
	alice, bob := established(f)
	later := alice.encrypt(bob, "seed")
	again := newDevice(f, "alice") // a new installation at the same address
	again.initiate(bob, false)
	first := again.encrypt(bob, "seed")
	f.Add(later.Type, later.Bytes)
	f.Add(first.Type, first.Bytes)
	f.Add(uint32(7), []byte{})
	before := bob.record.Marshal()
	f.Fuzz(func(t *testing.T, typ uint32, b []byte) {
		r, err := UnmarshalRecord(before)
		if err != nil {
			t.Fatal(err)
		}
		_, err = r.Decrypt(bob.local, Remote{Address: alice.local.Address}, typ, b, bob, start)
		if err != nil && !bytes.Equal(r.Marshal(), before) {
			t.Fatal("a failed decryption changed the record")
		}
		if err == nil && !bytes.Equal(b, later.Bytes) && !bytes.Equal(b, first.Bytes) {
			t.Fatal("an altered message decrypts")
		}
	})
}
