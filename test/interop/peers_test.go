package interop

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/google/uuid"

	"sotto/e2ee/ratchet"
)

// A peer is either side of a conversation: ours, or the library's.
type peer interface {
	bundle(oneTime bool) *bundle
	process(*bundle) error
	encrypt(plaintext string) (message, error)
	decrypt(message) (string, error)
}

type message struct {
	Type    uint32
	Message []byte
}

// bundle has the names that oracle.mjs uses.
type bundle struct {
	RegistrationID        uint32  `json:"registrationId"`
	Device                uint8   `json:"device"`
	IdentityKey           []byte  `json:"identityKey"`
	PreKeyID              *uint32 `json:"preKeyId"`
	PreKey                []byte  `json:"preKey"`
	SignedPreKeyID        uint32  `json:"signedPreKeyId"`
	SignedPreKey          []byte  `json:"signedPreKey"`
	SignedPreKeySignature []byte  `json:"signedPreKeySignature"`
	KyberPreKeyID         uint32  `json:"kyberPreKeyId"`
	KyberPreKey           []byte  `json:"kyberPreKey"`
	KyberPreKeySignature  []byte  `json:"kyberPreKeySignature"`
}

// errDuplicate stands for either side's word for a message it has decrypted before.
var errDuplicate = errors.New("duplicate message")

// ---- our side

type ours struct {
	t      testing.TB
	local  ratchet.Local
	remote ratchet.Remote
	record *ratchet.Record
	keys   *preKeys
	now    time.Time
}

func newOurs(t testing.TB) *ours {
	return &ours{
		t:      t,
		local:  ratchet.Local{Identity: ratchet.GenerateKeyPair(), Address: ratchet.Address{Account: uuid.New(), Device: 1}, AnyRegistrationID: true},
		record: new(ratchet.Record), keys: newPreKeys(), now: time.Now(),
	}
}

// name is the account's UUID, which the library takes for a service id and so binds messages to.
func (p *ours) name() string { return uuid.UUID(p.local.Address.Account).String() }

func (p *ours) address() args { return args{"name": p.name(), "device": p.local.Address.Device} }

func (p *ours) bundle(oneTime bool) *bundle {
	identity := p.local.Identity
	b := &bundle{RegistrationID: ratchet.RegistrationID(identity.Public()), Device: p.local.Address.Device, IdentityKey: identity.Public().Bytes()}
	k := p.keys
	if oneTime {
		k.next++
		id := k.next
		k.oneTime[id], k.kyber[id] = ratchet.GenerateKeyPair(), ratchet.GenerateKyberKeyPair()
		b.PreKeyID, b.PreKey, b.KyberPreKeyID = &id, k.oneTime[id].Public().Bytes(), id
	}
	b.SignedPreKeyID, b.SignedPreKey = signedID, k.signed.Public().Bytes()
	b.SignedPreKeySignature = identity.Sign(b.SignedPreKey)
	b.KyberPreKey = k.kyber[b.KyberPreKeyID].Public()
	b.KyberPreKeySignature = identity.Sign(b.KyberPreKey)
	return b
}

func (p *ours) process(b *bundle) error {
	signed, err := ratchet.ParsePublicKey(b.SignedPreKey)
	if err != nil {
		return err
	}
	identity, err := ratchet.ParsePublicKey(b.IdentityKey)
	if err != nil {
		return err
	}
	own := &ratchet.Bundle{
		RegistrationID: b.RegistrationID, Identity: identity,
		SignedID: b.SignedPreKeyID, SignedKey: signed, SignedSignature: b.SignedPreKeySignature,
		KyberID: b.KyberPreKeyID, KyberKey: b.KyberPreKey, KyberSignature: b.KyberPreKeySignature,
	}
	if b.PreKeyID != nil {
		key, err := ratchet.ParsePublicKey(b.PreKey)
		if err != nil {
			return err
		}
		own.OneTime = &ratchet.OneTimePreKey{ID: *b.PreKeyID, Key: key}
	}
	return p.record.Initiate(p.local, p.remote, own, p.now)
}

func (p *ours) encrypt(plaintext string) (message, error) {
	m, err := p.record.Encrypt(p.local, p.remote, []byte(plaintext), p.now)
	return message{m.Type, m.Bytes}, err
}

func (p *ours) decrypt(m message) (string, error) {
	before := p.record.Marshal()
	plaintext, err := p.record.Decrypt(p.local, p.remote, m.Type, m.Message, p.keys, p.now)
	if err != nil {
		if !bytes.Equal(before, p.record.Marshal()) {
			p.t.Error("a refused message changed the record")
		}
		if errors.Is(err, ratchet.ErrDuplicate) {
			err = errDuplicate
		}
		return "", err
	}
	if plaintext.Used != nil {
		p.keys.erase(plaintext.Used)
	}
	return string(plaintext.Bytes), nil
}

// restart stores the record and reads it back.
func (p *ours) restart() {
	p.t.Helper()
	record, err := ratchet.UnmarshalRecord(p.record.Marshal())
	if err != nil {
		p.t.Fatal(err)
	}
	p.record = record
}

// preKeys are our side's: one signed key, one last-resort Kyber key, the rest for one use.
type preKeys struct {
	signed  *ratchet.KeyPair
	oneTime map[uint32]*ratchet.KeyPair
	kyber   map[uint32]*ratchet.KyberKeyPair
	used    map[lastResortUse]bool
	next    uint32
}

const (
	signedID     = 7
	lastResortID = 0
)

type lastResortUse struct {
	kyberID, signedID uint32
	baseKey           ratchet.PublicKey
}

func newPreKeys() *preKeys {
	return &preKeys{
		signed: ratchet.GenerateKeyPair(), oneTime: map[uint32]*ratchet.KeyPair{}, used: map[lastResortUse]bool{},
		kyber: map[uint32]*ratchet.KyberKeyPair{lastResortID: ratchet.GenerateKyberKeyPair()},
	}
}

func (k *preKeys) OneTime(id uint32) (*ratchet.KeyPair, error) {
	if pair := k.oneTime[id]; pair != nil {
		return pair, nil
	}
	return nil, ratchet.ErrNoPreKey
}

func (k *preKeys) Signed(id uint32) (*ratchet.KeyPair, error) {
	if id == signedID {
		return k.signed, nil
	}
	return nil, ratchet.ErrNoPreKey
}

func (k *preKeys) Kyber(id uint32) (*ratchet.KyberKeyPair, bool, error) {
	if pair := k.kyber[id]; pair != nil {
		return pair, id == lastResortID, nil
	}
	return nil, false, ratchet.ErrNoPreKey
}

func (k *preKeys) LastResortUsed(kyberID, signedID uint32, baseKey ratchet.PublicKey) (bool, error) {
	return k.used[lastResortUse{kyberID, signedID, baseKey}], nil
}

func (k *preKeys) erase(u *ratchet.Used) {
	if u.OneTime {
		delete(k.oneTime, u.OneTimeID)
	}
	if u.LastResort {
		k.used[lastResortUse{u.KyberID, u.SignedID, u.BaseKey}] = true
	} else {
		delete(k.kyber, u.KyberID)
	}
}

// ---- the library's side

type theirs struct {
	*oracle
	party    string // its name in the oracle
	name     string
	device   uint8
	identity ratchet.PublicKey
	remote   args
	now      time.Time // zero is the system's
}

// newTheirs makes a party of the library with a new identity.
func newTheirs(o *oracle, name string) *theirs {
	p := &theirs{oracle: o, party: uuid.NewString(), name: name, device: 1}
	var made struct{ IdentityKey []byte }
	o.must("party.new", args{"party": p.party, "name": p.name, "device": p.device}, &made)
	var err error
	if p.identity, err = ratchet.ParsePublicKey(made.IdentityKey); err != nil {
		o.t.Fatal(err)
	}
	return p
}

func (p *theirs) address() args { return args{"name": p.name, "device": p.device} }

func (p *theirs) with(a args) args {
	a["party"] = p.party
	if p.remote != nil {
		a["remote"] = p.remote
	}
	if !p.now.IsZero() {
		a["now"] = p.now.UnixMilli()
	}
	return a
}

func (p *theirs) bundle(oneTime bool) *bundle {
	var made struct{ Bundle *bundle }
	p.must("party.bundle", p.with(args{"oneTime": oneTime}), &made)
	return made.Bundle
}

func (p *theirs) process(b *bundle) error {
	return p.call("bundle.process", p.with(args{"bundle": b}), nil)
}

func (p *theirs) encrypt(plaintext string) (m message, err error) {
	err = p.call("encrypt", p.with(args{"plaintext": []byte(plaintext)}), &m)
	return m, err
}

func (p *theirs) decrypt(m message) (string, error) {
	var made struct{ Plaintext []byte }
	err := p.call("decrypt", p.with(args{"type": m.Type, "message": m.Message}), &made)
	return string(made.Plaintext), theirDuplicate(err)
}

func theirDuplicate(err error) error {
	var refused *libraryError
	if errors.As(err, &refused) && refused.Name == "DuplicatedMessage" {
		return errDuplicate
	}
	return err
}

// epoch is the post-quantum ratchet's epoch that a message names, as the library reads it.
func (o *oracle) epoch(m message) uint64 {
	o.t.Helper()
	type signal struct{ SPQR struct{ Epoch uint64 } }
	var parsed struct {
		signal
		Inner *signal
	}
	o.must("parse", args{"kind": map[uint32]string{2: "signal", 3: "prekey"}[m.Type], "message": m.Message}, &parsed)
	if parsed.Inner != nil {
		return parsed.Inner.SPQR.Epoch
	}
	return parsed.SPQR.Epoch
}

// meet makes one of each and introduces them.
func meet(t testing.TB, o *oracle) (*ours, *theirs) {
	our, their := newOurs(t), newTheirs(o, uuid.NewString())
	introduce(our, their)
	return our, their
}

// introduce makes each the one the other talks to.
func introduce(our *ours, their *theirs) {
	their.remote = our.address()
	our.remote = ratchet.Remote{Address: ratchet.Address{Account: uuid.MustParse(their.name), Device: their.device}, Identity: their.identity}
}

// start begins a session from to's bundle and sends the first message.
func start(t testing.TB, from, to peer, oneTime bool) {
	t.Helper()
	if err := from.process(to.bundle(oneTime)); err != nil {
		t.Fatal(err)
	}
	say(t, from, to, "first")
}

// say sends one message that must arrive.
func say(t testing.TB, from, to peer, text string) {
	t.Helper()
	expect(t, to, seal(t, from, text), text)
}

func seal(t testing.TB, from peer, text string) message {
	t.Helper()
	m, err := from.encrypt(text)
	if err != nil {
		t.Fatalf("%T: %q: %v", from, text, err)
	}
	return m
}

func expect(t testing.TB, to peer, m message, want string) {
	t.Helper()
	got, err := to.decrypt(m)
	if err != nil || got != want {
		t.Fatalf("%T: %q: got %q, %v", to, want, got, err)
	}
}

// refuse expects an error, which is a duplicate's or not.
func refuse(t testing.TB, to peer, m message, duplicate bool) {
	t.Helper()
	got, err := to.decrypt(m)
	if err == nil || errors.Is(err, errDuplicate) != duplicate {
		t.Fatalf("%T: got %q, %v; want an error, duplicate %v", to, got, err, duplicate)
	}
}
