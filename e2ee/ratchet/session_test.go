package ratchet

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// A device of the tests, with its store of pre-keys.
type device struct {
	t      testing.TB
	local  Local
	record Record

	oneTime map[uint32]*KeyPair
	signed  map[uint32]*KeyPair
	kyber   map[uint32]*KyberKeyPair
	last    uint32 // id of the last-resort Kyber key
	used    map[Used]bool
	broken  error // what the store answers when it fails
}

var start = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func newDevice(t testing.TB, name string) *device {
	var account [16]byte
	copy(account[:], name)
	d := &device{
		t: t, local: Local{Identity: GenerateKeyPair(), Address: Address{account, 1}},
		oneTime: map[uint32]*KeyPair{}, signed: map[uint32]*KeyPair{}, kyber: map[uint32]*KyberKeyPair{}, used: map[Used]bool{},
	}
	d.signed[1] = GenerateKeyPair()
	d.last = 100
	d.kyber[d.last] = GenerateKyberKeyPair()
	return d
}

// bundle publishes one-time keys, or only those that last.
func (d *device) bundle(oneTime bool) *Bundle {
	b := &Bundle{
		RegistrationID: RegistrationID(d.local.Identity.Public()), Identity: d.local.Identity.Public(),
		SignedID: 1, SignedKey: d.signed[1].Public(), KyberID: d.last,
	}
	if oneTime {
		id := uint32(len(d.used) + len(d.oneTime) + 1)
		d.oneTime[id], d.kyber[id] = GenerateKeyPair(), GenerateKyberKeyPair()
		b.OneTime = &OneTimePreKey{id, d.oneTime[id].Public()}
		b.KyberID = id
	}
	b.KyberKey = d.kyber[b.KyberID].Public()
	b.SignedSignature = d.local.Identity.Sign(b.SignedKey.Bytes())
	b.KyberSignature = d.local.Identity.Sign(b.KyberKey)
	return b
}

func (d *device) OneTime(id uint32) (*KeyPair, error) { return lookUp(d.oneTime, id, d.broken) }
func (d *device) Signed(id uint32) (*KeyPair, error)  { return lookUp(d.signed, id, d.broken) }

func (d *device) Kyber(id uint32) (*KyberKeyPair, bool, error) {
	pair, err := lookUp(d.kyber, id, d.broken)
	return pair, id == d.last, err
}

func (d *device) LastResortUsed(kyberID, signedID uint32, baseKey PublicKey) (bool, error) {
	return d.used[Used{KyberID: kyberID, SignedID: signedID, BaseKey: baseKey}], nil
}

func lookUp[T any](m map[uint32]*T, id uint32, broken error) (*T, error) {
	if broken != nil {
		return nil, broken
	}
	if pair := m[id]; pair != nil {
		return pair, nil
	}
	return nil, ErrNoPreKey
}

// erase does what Used asks for.
func (d *device) erase(u *Used) {
	if u.OneTime {
		delete(d.oneTime, u.OneTimeID)
	}
	if u.LastResort {
		d.used[Used{KyberID: u.KyberID, SignedID: u.SignedID, BaseKey: u.BaseKey}] = true
	} else {
		delete(d.kyber, u.KyberID)
	}
}

func (d *device) remote() Remote {
	return Remote{Address: d.local.Address, Identity: d.local.Identity.Public()}
}

func (d *device) initiate(other *device, oneTime bool) {
	d.t.Helper()
	if err := d.record.Initiate(d.local, other.remote(), other.bundle(oneTime), start); err != nil {
		d.t.Fatal(err)
	}
}

func (d *device) encrypt(to *device, text string) Message {
	d.t.Helper()
	m, err := d.record.Encrypt(d.local, to.remote(), []byte(text), start)
	if err != nil {
		d.t.Fatal(err)
	}
	return m
}

// decrypt also restores the record from its stored form, every time, so that all tests exercise that too.
func (d *device) decrypt(from *device, m Message) (string, error) {
	d.t.Helper()
	before := d.record.Marshal()
	p, err := d.record.Decrypt(d.local, from.remote(), m.Type, m.Bytes, d, start)
	if err != nil {
		if !bytes.Equal(before, d.record.Marshal()) {
			d.t.Fatal("a failed decryption changed the record")
		}
		return "", err
	}
	if !p.Identity.Equal(from.local.Identity.Public()) {
		d.t.Fatal("wrong identity")
	}
	if p.Used != nil {
		d.erase(p.Used)
	}
	d.restore()
	return string(p.Bytes), nil
}

func (d *device) restore() {
	d.t.Helper()
	b := d.record.Marshal()
	r, err := UnmarshalRecord(b)
	if err != nil {
		d.t.Fatal(err)
	}
	if !bytes.Equal(b, r.Marshal()) {
		d.t.Fatal("the stored record does not survive")
	}
	d.record = *r
}

func (d *device) expect(from *device, m Message, want string) {
	d.t.Helper()
	if got, err := d.decrypt(from, m); err != nil || got != want {
		d.t.Fatalf("got %q, %v; want %q", got, err, want)
	}
}

func (d *device) refuse(from *device, m Message, want error) {
	d.t.Helper()
	if got, err := d.decrypt(from, m); !errors.Is(err, want) {
		d.t.Fatalf("got %q, %v; want %v", got, err, want)
	}
}

func pair(t testing.TB) (alice, bob *device) {
	return newDevice(t, "alice"), newDevice(t, "bob")
}

// established is a pair whose session both sides have used.
func established(t testing.TB) (alice, bob *device) {
	alice, bob = pair(t)
	alice.initiate(bob, true)
	bob.expect(alice, alice.encrypt(bob, "hello"), "hello")
	alice.expect(bob, bob.encrypt(alice, "hi"), "hi")
	return alice, bob
}

func TestConversation(t *testing.T) {
	for _, oneTime := range []bool{true, false} {
		alice, bob := pair(t)
		alice.initiate(bob, oneTime)
		first, second := alice.encrypt(bob, ""), alice.encrypt(bob, "two")
		if first.Type != TypePreKeyMessage || second.Type != TypePreKeyMessage {
			t.Fatal("messages before the first answer must be pre-key messages")
		}
		p, err := bob.record.Decrypt(bob.local, alice.remote(), second.Type, second.Bytes, bob, start)
		if err != nil || string(p.Bytes) != "two" {
			t.Fatal(p, err)
		}
		if u := p.Used; u == nil || u.OneTime != oneTime || u.LastResort == oneTime || u.SignedID != 1 || u.BaseKey.IsZero() {
			t.Fatalf("used: %+v", p.Used)
		}
		bob.erase(p.Used)
		// The pre-keys are gone, but the session knows its other pre-key messages.
		bob.expect(alice, first, "")
		for i := range 20 {
			text := fmt.Sprint("message ", i)
			m := bob.encrypt(alice, text)
			if m.Type != TypeMessage {
				t.Fatal("an answered session must not send pre-key messages")
			}
			alice.expect(bob, m, text)
			alice.expect(bob, bob.encrypt(alice, "again"), "again")
			bob.expect(alice, alice.encrypt(bob, text), text)
		}
	}
}

func TestReplayIsDuplicate(t *testing.T) {
	alice, bob := pair(t)
	alice.initiate(bob, true)
	first := alice.encrypt(bob, "first")
	bob.expect(alice, first, "first")
	bob.refuse(alice, first, ErrDuplicate)
	answer := bob.encrypt(alice, "answer")
	alice.expect(bob, answer, "answer")
	alice.refuse(bob, answer, ErrDuplicate)
	// After a turn of the ratchet the chain is still known.
	bob.expect(alice, alice.encrypt(bob, "more"), "more")
	bob.refuse(alice, first, ErrDuplicate)
}

// Two parties talk over a network that loses, repeats and reorders. What arrives first decrypts, what arrives again is a duplicate.
func TestLossReorderingDuplication(t *testing.T) {
	for seed := range uint64(8) {
		rng := rand.New(rand.NewPCG(seed, 7))
		alice, bob := pair(t)
		alice.initiate(bob, true)
		if seed%2 == 1 {
			bob.initiate(alice, true) // both at once
		}
		type flying struct {
			from, to *device
			m        Message
			text     string
		}
		var air []flying
		arrived := map[string]bool{}
		for i := range 300 {
			from, to := alice, bob
			if rng.IntN(2) == 0 && bob.record.current != nil {
				from, to = bob, alice
			}
			text := fmt.Sprint(i)
			f := flying{from, to, from.encrypt(to, text), text}
			for range []int{0, 1, 1, 1, 2}[rng.IntN(5)] {
				air = append(air, f)
			}
			for len(air) > 0 && rng.IntN(3) > 0 {
				k := rng.IntN(min(len(air), 8))
				f := air[k]
				air = append(air[:k], air[k+1:]...)
				got, err := f.to.decrypt(f.from, f.m)
				if arrived[f.text] {
					if !errors.Is(err, ErrDuplicate) {
						t.Fatalf("seed %d: message %s again: %q, %v", seed, f.text, got, err)
					}
				} else if err != nil || got != f.text {
					t.Fatalf("seed %d: message %s: %q, %v", seed, f.text, got, err)
				}
				arrived[f.text] = true
			}
		}
		if len(arrived) < 100 {
			t.Fatalf("only %d messages arrived", len(arrived))
		}
	}
}

func TestSimultaneousStart(t *testing.T) {
	alice, bob := pair(t)
	alice.initiate(bob, true)
	bob.initiate(alice, true)
	a, b := alice.encrypt(bob, "from alice"), bob.encrypt(alice, "from bob")
	bob.expect(alice, a, "from alice")
	alice.expect(bob, b, "from bob")
	// Each answers in the other's session; crossing answers swap them, an alternating exchange settles.
	a, b = alice.encrypt(bob, "answer"), bob.encrypt(alice, "answer")
	bob.expect(alice, a, "answer")
	alice.expect(bob, b, "answer")
	for range 3 {
		bob.expect(alice, alice.encrypt(bob, "x"), "x")
		alice.expect(bob, bob.encrypt(alice, "y"), "y")
	}
	if len(alice.record.archived) != 1 || len(bob.record.archived) != 1 {
		t.Fatal("each side keeps the other session archived")
	}
}

func TestArchivedSessionIsPromoted(t *testing.T) {
	alice, bob := established(t)
	late := alice.encrypt(bob, "late")
	old := bob.record.current
	alice.initiate(bob, true)
	bob.expect(alice, alice.encrypt(bob, "new session"), "new session")
	if len(bob.record.archived) != 1 || bob.record.current == old {
		t.Fatal("the old session is archived")
	}
	bob.expect(alice, late, "late")
	if len(bob.record.archived) != 1 {
		t.Fatal("promotion archives the other session")
	}
	m := bob.encrypt(alice, "in the promoted one")
	if m.Type != TypeMessage {
		t.Fatal("the promoted session is answered")
	}
	alice.expect(bob, m, "in the promoted one")
}

func TestOnlyFortySessionsAreArchived(t *testing.T) {
	alice, bob := established(t)
	oldest := alice.encrypt(bob, "oldest")
	for range maxArchived + 3 {
		alice.initiate(bob, true)
		bob.expect(alice, alice.encrypt(bob, "x"), "x")
	}
	if len(bob.record.archived) != maxArchived || len(alice.record.archived) != maxArchived {
		t.Fatal("archived:", len(alice.record.archived), len(bob.record.archived))
	}
	bob.refuse(alice, oldest, ErrUndecryptable)
}

// Of a session that is no longer kept nothing secret is left.
func TestDroppedSessionIsErased(t *testing.T) {
	alice, bob := established(t)
	dropped := alice.record.current
	for range maxArchived + 1 {
		alice.initiate(bob, true)
	}
	if slices.Contains(alice.record.archived, dropped) {
		t.Fatal("it is kept")
	}
	none := [32]byte{}
	if dropped.root != none || dropped.ratchet.private != none || dropped.sending.key != none {
		t.Error("keys of a session are left")
	}
	for _, c := range dropped.receiving {
		if c.key != none {
			t.Error("the key of a receiving chain is left")
		}
	}
}

// Whoever starts many sessions and skips as much as it may in each does not make the record grow without measure.
func TestRecordStaysSmall(t *testing.T) {
	alice, bob := established(t)
	for range maxArchived + 1 {
		alice.initiate(bob, true)
		for range 300 {
			alice.encrypt(bob, "")
		}
		bob.expect(alice, alice.encrypt(bob, "x"), "x")
	}
	if size := len(bob.record.Marshal()); size > 300<<10 {
		t.Errorf("a record of %d bytes", size)
	}
	for _, s := range alice.record.archived {
		if s.pending != nil {
			t.Fatal("a session that sends no more keeps what goes with first messages")
		}
	}
}

func TestOneTimeKeyExhausted(t *testing.T) {
	alice, bob := pair(t)
	b := bob.bundle(true)
	carol := newDevice(t, "carol")
	for _, d := range []*device{alice, carol} {
		if err := d.record.Initiate(d.local, bob.remote(), b, start); err != nil {
			t.Fatal(err)
		}
	}
	bob.expect(alice, alice.encrypt(bob, "first"), "first")
	// A server that hands the same one-time key out twice gets the second session refused.
	bob.record = Record{}
	bob.refuse(carol, carol.encrypt(bob, "second"), ErrUndecryptable)
}

func TestLastResortRepeatIsRefused(t *testing.T) {
	alice, bob := pair(t)
	alice.initiate(bob, false)
	first := alice.encrypt(bob, "first")
	bob.expect(alice, first, "first")
	bob.record = Record{} // the session is long gone
	bob.refuse(alice, first, ErrDuplicate)
	alice.initiate(bob, false)
	bob.expect(alice, alice.encrypt(bob, "another"), "another")
}

func TestIdentity(t *testing.T) {
	alice, bob := pair(t)
	b := bob.bundle(true)
	other := bob.remote()
	other.Identity = GenerateKeyPair().Public()
	if err := alice.record.Initiate(alice.local, other, b, start); !errors.Is(err, ErrIdentityChanged) {
		t.Fatal(err)
	}
	if err := alice.record.Initiate(alice.local, bob.remote(), b, start); err != nil {
		t.Fatal(err)
	}
	m := alice.encrypt(bob, "hello")
	claimed, err := PreKeyIdentity(m.Bytes)
	if err != nil || !claimed.Equal(alice.local.Identity.Public()) {
		t.Fatal(claimed, err)
	}
	impostor := alice.remote()
	impostor.Identity = GenerateKeyPair().Public()
	if _, err := bob.record.Decrypt(bob.local, impostor, m.Type, m.Bytes, bob, start); !errors.Is(err, ErrIdentityChanged) {
		t.Fatal(err)
	}
	bob.expect(alice, m, "hello")
	// Once the caller trusts another key, the old session neither sends nor receives.
	if _, err := alice.record.Encrypt(alice.local, other, nil, start); !errors.Is(err, ErrNoSession) {
		t.Fatal(err)
	}
	answer := bob.encrypt(alice, "answer")
	if _, err := alice.record.Decrypt(alice.local, other, answer.Type, answer.Bytes, alice, start); !errors.Is(err, ErrUndecryptable) {
		t.Fatal(err)
	}
	// Trust on first use accepts any key and says which.
	p, err := alice.record.Decrypt(alice.local, Remote{Address: bob.local.Address}, answer.Type, answer.Bytes, alice, start)
	if err != nil || !p.Identity.Equal(bob.local.Identity.Public()) {
		t.Fatal(err)
	}
}

func TestReflectionIsRefused(t *testing.T) {
	alice, bob := pair(t)
	alice.initiate(bob, true)
	m := alice.encrypt(bob, "hello")
	if _, err := alice.record.Decrypt(alice.local, Remote{Address: bob.local.Address}, m.Type, m.Bytes, bob, start); !errors.Is(err, ErrUndecryptable) {
		t.Fatal(err)
	}

	// Nor is a message taken from another device that has the key of this one.
	twin := newDevice(t, "twin")
	twin.local.Identity = alice.local.Identity
	twin.initiate(alice, true)
	alice.refuse(twin, twin.encrypt(alice, "hello"), ErrUndecryptable)
}

func TestAddressIsBound(t *testing.T) {
	alice, bob := pair(t)
	alice.initiate(bob, true)
	m := alice.encrypt(bob, "hello")
	elsewhere := alice.remote()
	elsewhere.Address.Device = 2
	if _, err := bob.record.Decrypt(bob.local, elsewhere, m.Type, m.Bytes, bob, start); !errors.Is(err, ErrUndecryptable) {
		t.Fatal(err)
	}
	// Without the addresses a pre-key message is refused, though its MACs are right.
	alice2 := newDevice(t, "alice")
	alice2.initiate(bob, true)
	s := alice2.record.current
	outer := *s.pending
	s.pending = nil
	inner := alice2.encrypt(bob, "hello")
	outer.message = inner.Bytes
	bob.record = Record{}
	bob.refuse(alice2, Message{TypePreKeyMessage, outer.encode()}, ErrUndecryptable)
	bob.expect(alice, m, "hello")
}

func TestUnansweredSessionExpires(t *testing.T) {
	alice, bob := pair(t)
	alice.initiate(bob, true)
	encrypt := func(after time.Duration) error {
		_, err := alice.record.Encrypt(alice.local, bob.remote(), nil, start.Add(after))
		return err
	}
	const day = 24 * time.Hour
	if err := encrypt(29 * day); err != nil {
		t.Fatal(err)
	}
	if err := encrypt(31 * day); !errors.Is(err, ErrNoSession) {
		t.Fatal(err)
	}
	bob.expect(alice, alice.encrypt(bob, "hello"), "hello")
	alice.expect(bob, bob.encrypt(alice, "hi"), "hi")
	if err := encrypt(400 * day); err != nil {
		t.Fatal("an answered session does not expire:", err)
	}
}

func TestFailingStore(t *testing.T) {
	alice, bob := pair(t)
	alice.initiate(bob, true)
	m := alice.encrypt(bob, "hello")
	bob.broken = errors.New("disk on fire")
	bob.refuse(alice, m, bob.broken)
	bob.broken = nil
	bob.expect(alice, m, "hello")
}

func TestBundleIsChecked(t *testing.T) {
	alice, bob := pair(t)
	change := map[string]func(*Bundle){
		"identity":        func(b *Bundle) { b.Identity = PublicKey{} },
		"signed key":      func(b *Bundle) { b.SignedKey = GenerateKeyPair().Public() },
		"signature":       func(b *Bundle) { b.SignedSignature[5] ^= 1 },
		"no signature":    func(b *Bundle) { b.KyberSignature = nil },
		"kyber key":       func(b *Bundle) { b.KyberKey = GenerateKyberKeyPair().Public() },
		"kyber type":      func(b *Bundle) { b.KyberKey[0] = 0x0a },
		"kyber modulus":   func(b *Bundle) { b.KyberKey[1], b.KyberKey[2] = 0xff, 0xff },
		"no kyber":        func(b *Bundle) { b.KyberKey = nil },
		"one-time key":    func(b *Bundle) { b.OneTime.Key = PublicKey{} },
		"registration id": func(b *Bundle) { b.RegistrationID ^= 1 },
		"zero point":      func(b *Bundle) { b.OneTime.Key, _ = ParsePublicKey(append([]byte{5}, make([]byte, 32)...)) },
	}
	for name, change := range change {
		b := bob.bundle(true)
		change(b)
		remote := Remote{Address: bob.local.Address}
		if err := alice.record.Initiate(alice.local, remote, b, start); !errors.Is(err, ErrBadBundle) {
			t.Errorf("%s: %v", name, err)
		}
		if alice.record.CanEncrypt(remote, start) {
			t.Errorf("%s: a session began", name)
		}
	}
}
