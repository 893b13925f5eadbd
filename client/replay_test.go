package client

import (
	"errors"
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	"sotto/e2ee/ratchet"
	"sotto/wire"
)

// apart is a pair with sessions that have moved on, not connected, and in memory.
func apart(t testing.TB) (alice, bob *person) {
	t.Helper()
	w := newWorld(t)
	alice, bob = friends(t, w)
	talk(t, alice, bob)
	settled(t, alice, bob, alice) // her receipt for his last text too
	return w.from(t, alice.onMemory(t)), w.from(t, bob.onMemory(t))
}

// writes sends a text, and returns the envelope as the server would bring it.
func (p *person) writes(t testing.TB, to *person, text string) *wire.Envelope {
	t.Helper()
	if _, err := p.Send(t.Context(), to.Username(), text); err != nil {
		t.Fatal(err)
	}
	return p.leaves(t, to)
}

func (p *person) gets(t testing.TB, e *wire.Envelope) {
	t.Helper()
	if err := p.take(t.Context(), e); err != nil {
		t.Fatal(err)
	}
}

// A server that brings a sealed envelope once more, under another id, does not have a session reset by it: the next one it could begin with
// a last-resort key.
func TestReplayUnderAnotherID(t *testing.T) {
	t.Parallel()
	alice, bob := apart(t)
	e := alice.writes(t, bob, "once")
	bob.gets(t, e)
	before := bob.records(t)
	again := proto.CloneOf(e)
	again.Id = randomBytes(16)
	bob.gets(t, again)
	if len(bob.outbox.entries) > 0 || string(before) != string(bob.records(t)) {
		t.Error("something came of it")
	}
	quiet[Undecryptable](t, bob)

	// What cannot be decrypted is asked for once, under however many ids it comes.
	bob.loseSessions(t, alice)
	e = alice.writes(t, bob, "again")
	for range 3 {
		e.Id = randomBytes(16)
		bob.gets(t, e)
	}
	if n := len(bob.outbox.entries); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// However many texts a sender keeps: who has them already is not shown one again.
func TestSentAnewIsShownOnce(t *testing.T) {
	t.Parallel()
	alice, bob := apart(t)
	const texts = 140 // more than half of what a session remembers
	for i := range texts {
		bob.gets(t, alice.writes(t, bob, fmt.Sprint(i)))
	}
	alice.mu.Lock()
	m := &mending{Reset: true}
	for _, kept := range alice.sent.to(bob.first()) {
		m.add(kept)
	}
	alice.retries.mending[bob.first()] = m
	alice.mu.Unlock()
	if err := alice.mendOffline(t, bob); err != nil {
		t.Fatal(err)
	}
	waiting := len(alice.outbox.entries)
	if waiting < texts {
		t.Fatalf("%d are sent anew", waiting)
	}
	for range waiting {
		bob.gets(t, alice.leaves(t, bob))
	}
	if n := len(bob.inbox.unshown); n != texts {
		t.Errorf("%d texts are shown", n)
	}
}

// A text that was for another identity key goes to no other: the user hears that it is lost.
func TestNotAnewToAnotherKey(t *testing.T) {
	t.Parallel()
	alice, bob := apart(t)
	id, err := alice.Send(t.Context(), "bob", "for the old key")
	if err != nil {
		t.Fatal(err)
	}
	alice.leaves(t, bob)
	alice.mu.Lock()
	m := new(mending)
	for _, kept := range alice.sent.to(bob.first()) {
		m.add(kept)
		kept.Identity = ratchet.GenerateKeyPair().Public().Bytes()
	}
	alice.retries.mending[bob.first()] = m
	alice.mu.Unlock()
	if err := alice.mend(t.Context(), bob.first()); err != nil {
		t.Fatal(err)
	}
	for {
		failed := expect[MessageFailed](t, alice)
		if !errors.Is(failed.Err, errNotAnew) {
			t.Fatalf("%+v", failed)
		}
		if failed.ID == id {
			break
		}
	}
	if len(alice.store.list(recordSent))+len(alice.outbox.entries)+len(alice.retries.mending) != 0 {
		t.Error("it is kept, or was sent")
	}
}

// What is given up for one contact costs no other a text, even if a record's number was given away again after a restart.
func TestGivingUpIsForOneContact(t *testing.T) {
	t.Parallel()
	alice, bob := apart(t)
	alice.writes(t, bob, "kept")
	before := alice.records(t)
	stranger := ratchet.Address{Account: [16]byte(randomBytes(16)), Device: firstDevice}
	alice.mu.Lock()
	err := alice.giveUp(stranger, &mending{Resend: alice.store.list(recordSent)}, errNoContact)
	alice.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if string(before) != string(alice.records(t)) {
		t.Error("texts to somebody else were erased")
	}
}

// The server gives keys of another identity for who asked to have something sent anew: the user
// hears that it changed, and nothing is sent.
func TestNotAnewUnderAnotherKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := spied(t, w)
	alice, bob := friends(t, w)
	expect[MessageDelivered](t, bob) // nothing else is on its way to bob
	settled(t, alice, bob)
	another := ratchet.GenerateKeyPair().Public().Bytes()
	s.do(func() {
		s.seen = nil
		s.alter = func(f *wire.ServerFrame) *wire.ServerFrame {
			for _, b := range f.GetBundles().GetBundles() {
				b.IdentityKey = another
			}
			return f
		}
	})
	alice.mu.Lock()
	alice.retries.mending[bob.first()] = &mending{Reset: true}
	alice.mu.Unlock()
	if err := alice.mend(patience(t), bob.first()); err != nil {
		t.Fatal(err)
	}
	if e := expect[IdentityChanged](t, alice); e.Contact.Username != "bob" {
		t.Errorf("%+v", e)
	}
	alice.mu.Lock()
	if n := len(alice.retries.mending) + len(alice.outbox.entries); n != 0 {
		t.Errorf("%d things are left to do", n)
	}
	if string(alice.named("bob").Appeared) != string(another) {
		t.Error("the key that appeared is not kept for the user to compare")
	}
	alice.mu.Unlock()
	if identified, sealed := s.sends(); identified+sealed > 0 {
		t.Error("something was sent")
	}
}
