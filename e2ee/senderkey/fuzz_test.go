package senderkey

import (
	"bytes"
	"errors"
	"testing"
)

func FuzzDistribution(f *testing.F) {
	f.Add([]byte(loadLibrary(f).Distribution))
	f.Add(NewSender(group).Distribution())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseDistribution(b)
		if err != nil {
			if !errors.Is(err, ErrBadDistribution) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(m.encode(), b) {
			t.Fatal("accepted in another encoding than ours")
		}
		if err := NewReceiver(m.distribution).Add(b); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzMessage hands arbitrary messages to a receiver: nothing but the messages as they were sent decrypts, and a failure changes
// nothing.
func FuzzMessage(f *testing.F) {
	v := loadLibrary(f)
	id, err := KeyDistribution(v.Distribution)
	if err != nil {
		f.Fatal(err)
	}
	r := NewReceiver(id)
	if err := r.Add(v.Distribution); err != nil {
		f.Fatal(err)
	}
	for _, m := range v.Messages {
		f.Add([]byte(m.Message))
	}
	before := r.Marshal()
	f.Fuzz(func(t *testing.T, b []byte) {
		if m, err := parseMessage(b); err == nil && !bytes.Equal(append(m.encode(), m.signature...), b) {
			t.Fatal("accepted in another encoding than ours")
		}
		r, err := UnmarshalReceiver(before)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = r.Decrypt(b); err != nil {
			if !errors.Is(err, ErrUndecryptable) || !bytes.Equal(r.Marshal(), before) {
				t.Fatal("a failed decryption changed the receiver, or says more:", err)
			}
			return
		}
		for _, m := range v.Messages {
			if bytes.Equal(b, m.Message) {
				return
			}
		}
		t.Fatal("an altered message decrypts")
	})
}

func FuzzStates(f *testing.F) {
	s, r := newPair(f)
	f.Add(s.Marshal())
	skip(s, 3)
	expect(f, r, encrypt(f, s, "x"), "x")
	f.Add(r.Marshal())
	f.Add([]byte{stateVersion})
	message := encrypt(f, s, "y")
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := UnmarshalSender(b); err == nil {
			if !bytes.Equal(s.Marshal(), b) {
				t.Fatal("the sender changed")
			}
			_, _ = s.Encrypt([]byte("must not panic"))
		} else if !errors.Is(err, ErrBadState) {
			t.Fatal(err)
		}
		if r, err := UnmarshalReceiver(b); err == nil {
			if !bytes.Equal(r.Marshal(), b) {
				t.Fatal("the receiver changed")
			}
			_, _ = r.Decrypt(message) // must not panic
		} else if !errors.Is(err, ErrBadState) {
			t.Fatal(err)
		}
	})
}
