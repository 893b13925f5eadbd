package ratchet

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/uuid"
)

// conversation is one recorded with libsignal-client 0.103.0: "us" is the side replayed here, with the randomness it used.
type conversation struct {
	Us, Them struct {
		Name                         string
		Device                       uint8
		RegistrationID               uint32
		IdentityKey, IdentityPrivate []byte
	}
	Bundle struct {
		RegistrationID        uint32
		IdentityKey           []byte
		PreKeyID              *uint32
		PreKey                []byte
		SignedPreKeyID        uint32
		SignedPreKey          []byte
		SignedPreKeySignature []byte
		KyberPreKeyID         uint32
		KyberPreKey           []byte
		KyberPreKeySignature  []byte
	}
	BundleSecrets *struct{ PreKey, SignedPreKey, KyberSeed []byte }
	Entropy       struct{ BaseKey, KyberEncaps, RatchetKeys, SPQRKeygen, SPQREncaps [][]byte }
	Events        []struct {
		Dir                string
		Type               uint32
		Plaintext, Message []byte
	}
}

func loadConversation(t testing.TB, file string) *conversation {
	c := new(conversation)
	loadJSON(t, file, c)
	return c
}

func (c *conversation) local(t testing.TB) Local {
	identity, err := UnmarshalKeyPair(c.Us.IdentityPrivate)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(identity.Public().Bytes(), c.Us.IdentityKey) {
		t.Fatal("identity key")
	}
	return Local{
		Identity: identity, Address: Address{uuid.MustParse(c.Us.Name), c.Us.Device},
		RegistrationID: c.Us.RegistrationID, AnyRegistrationID: true,
		Random: &fixedRandom{t: t, base: c.Entropy.BaseKey, ratchet: c.Entropy.RatchetKeys, encapsulate: c.Entropy.KyberEncaps,
			spqrKeyGen: c.Entropy.SPQRKeygen, spqrEncaps: c.Entropy.SPQREncaps},
	}
}

func (c *conversation) remote(t testing.TB) Remote {
	return Remote{Address: Address{uuid.MustParse(c.Them.Name), c.Them.Device}, Identity: mustParse(t, c.Them.IdentityKey)}
}

func (c *conversation) bundle(t testing.TB) *Bundle {
	b := &Bundle{
		RegistrationID: c.Bundle.RegistrationID, Identity: mustParse(t, c.Bundle.IdentityKey),
		SignedID: c.Bundle.SignedPreKeyID, SignedKey: mustParse(t, c.Bundle.SignedPreKey), SignedSignature: c.Bundle.SignedPreKeySignature,
		KyberID: c.Bundle.KyberPreKeyID, KyberKey: c.Bundle.KyberPreKey, KyberSignature: c.Bundle.KyberPreKeySignature,
	}
	if c.Bundle.PreKeyID != nil {
		b.OneTime = &OneTimePreKey{*c.Bundle.PreKeyID, mustParse(t, c.Bundle.PreKey)}
	}
	return b
}

// preKeys are the recipient's secrets.
func (c *conversation) preKeys(t testing.TB) *device {
	d := &device{oneTime: map[uint32]*KeyPair{}, signed: map[uint32]*KeyPair{}, kyber: map[uint32]*KyberKeyPair{}}
	var errs [3]error
	d.oneTime[*c.Bundle.PreKeyID], errs[0] = UnmarshalKeyPair(c.BundleSecrets.PreKey)
	d.signed[c.Bundle.SignedPreKeyID], errs[1] = UnmarshalKeyPair(c.BundleSecrets.SignedPreKey)
	d.kyber[c.Bundle.KyberPreKeyID], errs[2] = UnmarshalKyberKeyPair(c.BundleSecrets.KyberSeed)
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
	return d
}

func mustParse(t testing.TB, b []byte) PublicKey {
	k, err := ParsePublicKey(b)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// The recorded conversations replay whole: what we send is the recording's, byte for byte, and what the library sent decrypts.
func TestRecordedConversations(t *testing.T) {
	for file, sent := range map[string]int{"initiator.json": 155, "recipient.json": 159, "initiator-lossy.json": 253} {
		t.Run(file, func(t *testing.T) {
			c := loadConversation(t, file)
			got := replay(t, c)
			t.Logf("%d events replayed, %d of them sent by us", len(c.Events), got)
			if got != sent {
				t.Errorf("%d sent by us, want %d", got, sent)
			}
		})
	}
}

func replay(t *testing.T, c *conversation) (sent int) {
	local, remote := c.local(t), c.remote(t)
	r := new(Record)
	var keys PreKeys
	if c.BundleSecrets == nil {
		if err := r.Initiate(local, remote, c.bundle(t), start); err != nil {
			t.Fatal(err)
		}
	} else {
		keys = c.preKeys(t)
	}
	for i, e := range c.Events {
		if e.Dir == "in" {
			p, err := r.Decrypt(local, remote, e.Type, e.Message, keys, start)
			if err != nil || !bytes.Equal(p.Bytes, e.Plaintext) {
				t.Fatalf("event %d: %q, %v; want %q", i, p.Bytes, err, e.Plaintext)
			}
			if (p.Used != nil) != (i == 0) {
				t.Fatalf("event %d: used %v", i, p.Used)
			}
		} else {
			m, err := r.Encrypt(local, remote, e.Plaintext, start)
			if err != nil {
				t.Fatal(err)
			}
			if m.Type != e.Type || !bytes.Equal(m.Bytes, e.Message) {
				t.Fatalf("event %d: got type %d %x, want type %d %x", i, m.Type, m.Bytes, e.Type, e.Message)
			}
			sent++
		}
		if i%10 == 0 { // stored and read back, as a client does
			var err error
			if r, err = UnmarshalRecord(r.Marshal()); err != nil {
				t.Fatal(err)
			}
		}
	}
	return sent
}
