package client

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"sotto/e2ee/ratchet"
	"sotto/signaling"
	"sotto/wire"
)

// anotherBob are two, where alice has pinned another key for bob than the one he has.
func anotherBob(t *testing.T, w *world) (alice, bob *person) {
	t.Helper()
	alice, bob = w.online("alice"), w.online("bob")
	if _, err := alice.AddContact(patience(t), "bob"); err != nil {
		t.Fatal(err)
	}
	alice.mu.Lock()
	defer alice.mu.Unlock()
	_, err := alice.changeContact(alice.named("bob"), func(p *contact) {
		p.Identity = ratchet.GenerateKeyPair().Public().Bytes()
	}, func(tx *tx) error { tx.delete(sessionRecord(bob)); return nil })
	if err != nil {
		t.Fatal(err)
	}
	return alice, bob
}

// forged is a text under a key pair of somebody who can make the server deliver what is not the sender's.
func (p *person) forged(t *testing.T, to *person, key *ratchet.KeyPair, text string) *wire.Envelope {
	t.Helper()
	bundle, err := p.fetchBundle(patience(t), to.first())
	if err != nil {
		t.Fatal(err)
	}
	content := p.newContent()
	content.Body = &wire.Content_Text{Text: &wire.Text{Body: text}}
	plaintext, err := sealable(content)
	if err != nil {
		t.Fatal(err)
	}
	var record ratchet.Record
	local := p.local()
	local.Identity, local.RegistrationID = key, ratchet.RegistrationID(key.Public())
	remote := ratchet.Remote{Address: to.local().Address, Identity: bundle.Identity}
	if err := record.Initiate(local, remote, bundle, time.Now()); err != nil {
		t.Fatal(err)
	}
	message, err := record.Encrypt(local, remote, plaintext, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &wire.Envelope{
		Id: randomBytes(16), Sender: p.account.Account[:], SenderDevice: firstDevice, Recipient: to.account.Account[:], RecipientDevice: firstDevice,
		Type: message.Type, Ciphertext: message.Bytes,
	}
}

func (p *person) number(t *testing.T, of string) string {
	t.Helper()
	number, err := p.SafetyNumber(of)
	if err != nil {
		t.Fatal(err)
	}
	return number
}

// While the user compares the number of one key, another appears: that one is not accepted.
func TestOnlyTheComparedKeyIsAccepted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := anotherBob(t, w)
	var changed *IdentityChangedError
	if _, err := alice.Send(patience(t), "bob", "hello"); !errors.As(err, &changed) {
		t.Fatal(err)
	}
	compared := alice.number(t, "bob")

	if err := alice.take(t.Context(), bob.forged(t, alice, ratchet.GenerateKeyPair(), "I am bob, really")); err != nil {
		t.Fatal(err)
	}
	if err := alice.AcceptIdentity(patience(t), "bob", compared); err == nil {
		t.Error("a key that nobody compared was accepted")
	}
	if p, err := alice.Contact("bob"); err != nil || !p.Changed {
		t.Errorf("after the refusal: %+v, %v", p, err)
	}

	// Bob's own key appears again, and what was held under the other one is never shown.
	bob.send(t, "alice", "it is me")
	eventually(t, "bob's key appears again", func() bool { return alice.number(t, "bob") == compared })
	for _, wrong := range []string{"", strings.Repeat("0", 60), compared[:len(compared)-1]} {
		if err := alice.AcceptIdentity(patience(t), "bob", wrong); err == nil {
			t.Errorf("accepted with %q", wrong)
		}
	}
	if err := alice.AcceptIdentity(patience(t), "bob", strings.ReplaceAll(compared, " ", "")); err != nil {
		t.Fatal(err)
	}
	alice.hears(t, "it is me")
	alice.send(t, "bob", "so it is")
	bob.hears(t, "so it is")
	if n := len(alice.store.list(recordHeld)); n != 0 {
		t.Errorf("%d envelopes are still held back", n)
	}
	if p, err := alice.Contact("bob"); err != nil || p.Changed {
		t.Errorf("after accepting: %+v, %v", p, err)
	}
}

// The process dies after the key was pinned and before what was held back is released.
func TestHeldSurvivesCrash(t *testing.T) {
	t.Parallel()
	for name, next := range map[string]func(*testing.T, *person) error{
		"accepted again": func(t *testing.T, alice *person) error {
			err := alice.AcceptIdentity(patience(t), "bob", alice.number(t, "bob"))
			if n := len(alice.store.list(recordHeld)); n != 0 {
				t.Errorf("%d envelopes are held back although their key is pinned", n)
			}
			return err
		},
		"started again": func(t *testing.T, alice *person) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			alice, bob := anotherBob(t, w)
			bob.send(t, "alice", "one")
			bob.send(t, "alice", "two")
			eventually(t, "both are held back", func() bool { return len(alice.store.list(recordHeld)) == 2 })
			if err := alice.pin("bob", alice.number(t, "bob")); err != nil {
				t.Fatal(err)
			}
			alice.reopen(t, w)
			if err := next(t, alice); err != nil {
				t.Fatal(err)
			}
			alice.start(t)
			alice.hears(t, "one")
			alice.hears(t, "two")
			if n := len(alice.store.list(recordHeld)); n != 0 {
				t.Errorf("%d envelopes are still held back", n)
			}
		})
	}
}

// Somebody known without a name gets one when it is used, and the server is not asked for it again.
func TestNameIsPinnedAtFirstUse(t *testing.T) {
	t.Parallel()
	for _, session := range []string{"there is a session", "there is none"} {
		t.Run(session, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			alice, bob := w.online("alice"), w.online("bob")
			bob.account.Username = "nobody-such" // the server does not confirm the name
			bob.send(t, "alice", "hi")
			if m := alice.hears(t, "hi"); m.From.Username != "" {
				t.Fatalf("from %+v", m.From)
			}
			if session == "there is none" {
				if err := alice.store.update(func(tx *tx) error { tx.delete(sessionRecord(bob)); return nil }); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := alice.Send(patience(t), "bob", "hello"); err != nil {
				t.Fatal(err)
			}
			alice.number(t, "bob")
			alice.reopen(t, w)
			if p, err := alice.Contact("bob"); err != nil || p.Account != bob.Account() || len(alice.Contacts()) != 1 {
				t.Errorf("bob is %+v, %v", p, err)
			}
			// Not connected, alice can still write: nobody is asked who bob is.
			if _, err := alice.Send(t.Context(), "bob", "again"); err != nil {
				t.Error(err)
			}
		})
	}
}

// A server that gives a contact's account for another name, or another account for a contact's name, is not believed.
func TestNameOfAnotherContact(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob, mallory := w.online("alice"), w.online("bob"), w.online("mallory")
	for _, name := range []string{"bob", "mallory"} {
		if _, err := alice.AddContact(patience(t), name); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		account  uuid.UUID
		username string
	}{
		"a contact's account under a new name": {mallory.Account(), "carol"},
		"a contact's account under another's":  {mallory.Account(), "bob"},
		"another account under a known name":   {uuid.New(), "bob"},
	} {
		if err := alice.ensureSessions(patience(t), test.account, test.username); err == nil || !strings.Contains(err.Error(), "do not trust it") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if p, err := alice.Contact("bob"); err != nil || p.Account != bob.Account() || len(alice.Contacts()) != 2 {
		t.Errorf("bob is %+v, %v", p, err)
	}
}

// Strangers use up alice's look-ups: one more is shown without a name, and the link stays up.
func TestLookUpsUsedUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(cfg *signaling.Config) { cfg.Limits.LookUps = signaling.Rate{Burst: 1, Every: time.Hour} })
	alice, bob, carol := w.online("alice"), w.online("bob"), w.online("carol")
	expect[LinkUp](t, alice)
	bob.send(t, "alice", "from bob")
	if m := alice.hears(t, "from bob"); m.From.Username != "bob" {
		t.Errorf("from %+v", m.From)
	}
	carol.send(t, "alice", "from carol")
	switch e := (<-alice.Events()).(type) {
	case Message:
		if e.From.Username != "" || e.From.Account != carol.Account() {
			t.Errorf("from %+v", e.From)
		}
	default:
		t.Errorf("%T: %+v", e, e)
	}
}

func TestTooManyStrangers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob, carol := w.online("alice"), w.online("bob"), w.online("carol")
	alice.mu.Lock()
	for range maxStrangers {
		id := uuid.New()
		alice.contacts[id] = &contact{Account: id}
	}
	alice.mu.Unlock()
	if _, err := alice.AddContact(patience(t), "carol"); err != nil {
		t.Fatal(err)
	}
	bob.send(t, "alice", "from a stranger")
	carol.send(t, "alice", "from a contact")
	alice.hears(t, "from a contact")
	if n := len(alice.Contacts()); n != maxStrangers+1 {
		t.Errorf("%d contacts", n)
	}
}

// Somebody calls under another key than the one that is pinned: that is said, and nothing rings; neither does anything when they are
// called. Once the key is accepted the user is told of the call that was missed.
func TestCallUnderAnotherKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := anotherBob(t, w)
	bob.wait(func(w *timing) { w.Reach = 500 * time.Millisecond })
	call, err := bob.Call(patience(t), "alice", CallOptions{})
	if err != nil {
		t.Fatal(err)
	}
	said := false
	for ctx := patience(t); !said; {
		select {
		case e := <-alice.Events():
			switch e := e.(type) {
			case IncomingCall, MissedCall:
				t.Fatalf("%T", e)
			case IdentityChanged:
				said = e.Contact.Username == "bob" && e.Contact.Changed
			}
		case <-ctx.Done():
			t.Fatal("nothing is said of the other key")
		}
	}
	awaitEnd(t, &end{Call: call}, Unreachable) // no device of alice's has said that it rings
	var changed *IdentityChangedError
	if _, err := alice.Call(patience(t), "bob", CallOptions{}); !errors.As(err, &changed) {
		t.Errorf("calling: %v", err)
	}
	quiet[IncomingCall](t, alice)
	eventually(t, "offer, hangup and missed call are held back", func() bool { return len(alice.store.list(recordHeld)) >= 3 })
	if err := alice.AcceptIdentity(patience(t), "bob", alice.number(t, "bob")); err != nil {
		t.Fatal(err)
	}
	alice.misses(t, call.ID())
}

// What there is with a contact belongs to their identity key: when another is pinned the sessions,
// the delivery token, the list of devices and that they were compared are gone, on disk too.
func TestPinningForgetsTheOldKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	phone := w.link(bob)
	phone.start(t)
	alice.knows(t, "bob", 2)
	alice.send(t, "bob", "to both")
	phone.hears(t, "to both")
	bob.hears(t, "to both")
	if err := alice.VerifyNumber(patience(t), "bob", alice.number(t, "bob")); err != nil {
		t.Fatal(err)
	}
	if err := bob.RemoveDevice(patience(t), 2); err != nil { // another epoch was heard of
		t.Fatal(err)
	}
	alice.knows(t, "bob", 1)
	if p := alice.knownAs(bob); p.Token == nil || p.Epoch == 0 || !p.Verified {
		t.Fatalf("there is nothing to forget: %+v", p)
	}
	another := ratchet.GenerateKeyPair().Public()
	alice.mu.Lock()
	err := alice.identityAppeared(alice.named("bob"), another)
	alice.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if err := alice.AcceptIdentity(patience(t), "bob", alice.number(t, "bob")); err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{"in memory", "on disk"} {
		p := alice.knownAs(bob)
		if p.Token != nil || p.Verified || p.Epoch != 0 || p.Heard != 0 ||
			p.List != nil || p.Signature != nil || p.listed != nil {
			t.Errorf("%s: %+v", when, p)
		}
		devices := p.devices()
		if len(devices) != 1 || string(devices[0].identity) != string(another.Bytes()) {
			t.Errorf("%s: devices %+v", when, devices)
		}
		sessions := alice.store.list(recordSession + bob.Account().String())
		if len(sessions) != 0 {
			t.Errorf("%s: sessions %v", when, sessions)
		}
		alice.reopen(t, w)
	}
}

// While another key than the pinned one waits for the user, nothing is begun with the contact and
// nothing leaves for them: neither by who acts nor by what runs by itself.
func TestNothingGoesToAnUnacceptedKey(t *testing.T) {
	t.Parallel()
	alice, bob := apart(t)
	alice.mu.Lock()
	err := alice.identityAppeared(alice.named("bob"), ratchet.GenerateKeyPair().Public())
	p := alice.named("bob")
	alice.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	for name, do := range map[string]func() error{
		"adding":  func() error { _, err := alice.AddContact(patience(t), "bob"); return err },
		"sending": func() error { _, err := alice.Send(patience(t), "bob", "hello"); return err },
		"posting": func() error { return alice.post(p, alice.newContent(), outgoing{}) },
		"answering": func() error {
			return alice.sendTo(bob.Account(), firstDevice, alice.newContent(), outgoing{})
		},
	} {
		var changed *IdentityChangedError
		if err := do(); !errors.As(err, &changed) || changed.Username != "bob" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := len(alice.outbox.entries); n != 0 {
		t.Errorf("%d envelopes leave", n)
	}
}

// What strangers' servers, or a contact's thief, can have held back is bounded; what comes then is
// reported as lost.
func TestHeldIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := anotherBob(t, w)
	alice.reopen(t, w)
	forged := func() *wire.Envelope { return bob.forged(t, alice, bob.identity, "held") }
	for range 2 {
		if err := alice.take(t.Context(), forged()); err != nil {
			t.Fatal(err)
		}
	}
	held := alice.store.list(recordHeld)
	if len(held) != 2 {
		t.Fatalf("%d are held", len(held))
	}
	err := alice.store.update(func(tx *tx) error {
		for i := range maxHeld - 3 {
			tx.put(fmt.Sprintf("%s%020d", recordHeld, 1000+i), []byte("one more"))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // of which one has room
		if err := alice.take(t.Context(), forged()); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(alice.store.list(recordHeld)); n != maxHeld {
		t.Fatalf("%d are held, want %d", n, maxHeld)
	}
	for range 2 {
		expect[Undecryptable](t, alice)
	}
}

// A server that answers a look-up with this very account, or with another name, is not believed.
func TestLookUpsThatAnswerSomethingElse(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := spied(t, w)
	alice := w.online("alice")
	w.register("bob")
	for name, change := range map[string]func(*wire.Account){
		"this account":  func(a *wire.Account) { a.Account = alice.account.Account[:] },
		"another name":  func(a *wire.Account) { a.Username = "carol" },
		"half a number": func(a *wire.Account) { a.Account = a.Account[:8] },
	} {
		s.do(func() {
			s.alter = func(f *wire.ServerFrame) *wire.ServerFrame {
				if a := f.GetAccount(); a != nil {
					change(a)
				}
				return f
			}
		})
		if id, err := alice.lookUp(patience(t), "bob"); err != errProtocol {
			t.Errorf("%s: %v, %v", name, id, err)
		}
	}
}

// Bundles are taken of the account that was asked for, and of devices that there can be.
func TestBundlesOfAnotherAccount(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := w.online("alice"), w.online("bob")
	good, err := alice.fetchBundles(patience(t), bob.Account(), firstDevice)
	if err != nil {
		t.Fatal(err)
	}
	bundles, err := parseBundles(bob.Account(), good)
	if err != nil || bundles[firstDevice] == nil {
		t.Fatalf("%v, %v", bundles, err)
	}
	for name, change := range map[string]func(*wire.Bundle){
		"another account":   func(b *wire.Bundle) { b.Account = alice.account.Account[:] },
		"no account":        func(b *wire.Bundle) { b.Account = nil },
		"no device":         func(b *wire.Bundle) { b.Device = 0 },
		"a device too high": func(b *wire.Bundle) { b.Device = wire.MaxDeviceID + 1 },
	} {
		reply := proto.CloneOf(good)
		change(reply.Bundles[0])
		if _, err := parseBundles(bob.Account(), reply); err != errProtocol {
			t.Errorf("%s: %v", name, err)
		}
	}
}
