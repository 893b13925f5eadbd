package ratchet

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
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
	Entropy       struct{ BaseKey, KyberEncaps, RatchetKeys [][]byte }
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
		Random: &fixedRandom{t: t, base: c.Entropy.BaseKey, ratchet: c.Entropy.RatchetKeys, encapsulate: c.Entropy.KyberEncaps},
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

var errLaterEpoch = errors.New("of a later key epoch")

// epochZero stands in for the post-quantum ratchet in its first key epoch. The keys of that epoch follow from the handshake alone,
// so that they can be derived here; what it sends is supplied from the recording.
type epochZero struct {
	t                  testing.TB
	sending, receiving []byte
	field              []byte // of the message about to be sent
}

func newEpochZero(t testing.TB, pqKey []byte, initiator bool) *epochZero {
	out, err := hkdf.Key(sha256.New, pqKey, make([]byte, 32), "Signal PQ Ratchet V1 Chain  Start", 96)
	if err != nil {
		t.Fatal(err)
	}
	if initiator {
		return &epochZero{t: t, sending: out[32:64], receiving: out[64:]}
	}
	return &epochZero{t: t, sending: out[64:], receiving: out[32:64]}
}

// key is the index-th of a chain, from 1.
func (p *epochZero) key(chain []byte, index uint64) (key []byte) {
	for i := uint64(1); i <= index; i++ {
		info := string(binary.BigEndian.AppendUint32(nil, uint32(i))) + "Signal PQ Ratchet V1 Chain Next"
		out, err := hkdf.Key(sha256.New, chain, make([]byte, 32), info, 64)
		if err != nil {
			p.t.Fatal(err)
		}
		chain, key = out[:32], out[32:]
	}
	return key
}

// epoch and index begin a message of the ratchet, after its version.
func epochAndIndex(field []byte) (epoch, index uint64) {
	if len(field) == 0 || field[0] != 1 {
		return 0, 0
	}
	epoch, n := binary.Uvarint(field[1:])
	index, _ = binary.Uvarint(field[1+n:])
	return epoch, index
}

func (p *epochZero) send() (field, salt []byte, err error) {
	_, index := epochAndIndex(p.field)
	return p.field, p.key(p.sending, index), nil
}

func (p *epochZero) receive(field []byte) (salt []byte, commit func(), err error) {
	epoch, index := epochAndIndex(field)
	if epoch != 1 {
		return nil, nil, errLaterEpoch
	}
	return p.key(p.receiving, index), func() {}, nil
}

func (p *epochZero) marshal() []byte { return nil }

// The recorded conversations replay until the post-quantum ratchet reaches its next key epoch: what we send is the recording's,
// byte for byte, and what the library sent decrypts.
func TestRecordedConversations(t *testing.T) {
	for _, test := range []struct {
		file    string
		covered int
		sent    int
	}{
		{file: "initiator.json", covered: 92, sent: 43},
		{file: "recipient.json", covered: 94, sent: 45},
		{file: "initiator-lossy.json", covered: 92, sent: 49},
	} {
		t.Run(test.file, func(t *testing.T) {
			covered, sent := replay(t, loadConversation(t, test.file))
			t.Logf("%d events replayed, %d of them sent by us", covered, sent)
			if covered != test.covered || sent != test.sent {
				t.Errorf("%d events replayed, %d sent; want %d, %d", covered, sent, test.covered, test.sent)
			}
		})
	}
}

func replay(t *testing.T, c *conversation) (covered, sent int) {
	local, remote := c.local(t), c.remote(t)
	var pq *epochZero
	local.startPQ = func(pqKey *[32]byte, initiator bool) (pqRatchet, error) {
		pq = newEpochZero(t, pqKey[:], initiator)
		return pq, nil
	}
	var r Record
	var keys PreKeys
	if c.BundleSecrets == nil {
		if err := r.Initiate(local, remote, c.bundle(t), start); err != nil {
			t.Fatal(err)
		}
	} else {
		keys = c.preKeys(t)
	}
	for i, e := range c.Events {
		field := pqField(t, e.Type, e.Message)
		if epoch, _ := epochAndIndex(field); epoch != 1 {
			return i, sent
		}
		if e.Dir == "in" {
			p, err := r.Decrypt(local, remote, e.Type, e.Message, keys, start)
			if err != nil || !bytes.Equal(p.Bytes, e.Plaintext) {
				t.Fatalf("event %d: %q, %v; want %q", i, p.Bytes, err, e.Plaintext)
			}
			if (p.Used != nil) != (i == 0) {
				t.Fatalf("event %d: used %v", i, p.Used)
			}
			continue
		}
		pq.field = field
		m, err := r.Encrypt(local, remote, e.Plaintext, start)
		if err != nil {
			t.Fatal(err)
		}
		if m.Type != e.Type || !bytes.Equal(m.Bytes, e.Message) {
			t.Fatalf("event %d: got type %d %x, want type %d %x", i, m.Type, m.Bytes, e.Type, e.Message)
		}
		sent++
	}
	t.Fatal("the recording has no second key epoch")
	return 0, 0
}

// pqField is field 5 of a message of either type.
func pqField(t *testing.T, typ uint32, message []byte) []byte {
	if typ == TypePreKeyMessage {
		outer, err := parsePreKeyMessage(message)
		if err != nil {
			t.Fatal(err)
		}
		message = outer.message
	}
	m, err := parseSignalMessage(message)
	if err != nil {
		t.Fatal(err)
	}
	return m.pq
}
