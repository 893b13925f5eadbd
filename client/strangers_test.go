package client

import (
	"strings"
	"testing"
	"time"

	"sotto/client/callflow"
	"sotto/wire"
)

// A stranger's call rings, and gives way to a contact's at once, which rings as any first call
// does. The user hears of it as missed. Nothing tells the stranger that the phone was there, and
// their next call does not ring.
func TestAStrangersCallGivesWay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	mallory := w.online("mallory")
	mallory.wait(func(w *timing) { w.Reach, w.Ring = 2*time.Second, 3*time.Second })

	theirs, atBob := ring(t, mallory, bob, CallOptions{})
	call, err := alice.Call(patience(t), "bob", CallOptions{})
	if err != nil {
		t.Fatal(err)
	}
	incoming := expect[IncomingCall](t, bob)
	if incoming.Waiting || incoming.Call.Peer().Account != alice.Account() {
		t.Errorf("bob hears of %+v", incoming)
	}
	awaitEnd(t, atBob, Cancelled)
	awaitEnd(t, theirs, Timeout) // as if nobody had answered

	again, err := mallory.Call(patience(t), "bob", CallOptions{})
	if err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, &end{Call: again}, Unreachable)
	quiet[IncomingCall](t, bob)

	own := &end{Call: incoming.Call}
	if err := own.Accept(patience(t), own.media()); err != nil {
		t.Fatal(err)
	}
	awaitEvent[Connected](t, &end{Call: call})
	if err := call.Hangup(); err != nil {
		t.Fatal(err)
	}
}

// Strangers ring less and less, each by itself and all together, across restarts; a clock that was
// set back silences nobody for ever.
func TestStrangersRingLessAndLess(t *testing.T) {
	w := newWorld(t)
	bob := w.register("bob")
	names := []string{"ann", "ben", "cat", "dan", "eve"}
	bob.start(t)
	people := map[string]*person{}
	for _, name := range names {
		people[name] = w.online(name)
		people[name].send(t, "bob", "hello")
		bob.hears(t, "hello")
	}
	for i, name := range names[:strangersRings] {
		id := people[name].Account()
		if !bob.mayRing(id) {
			t.Fatalf("stranger %d may not ring", i)
		}
		if err := bob.rang(id); err != nil {
			t.Fatal(err)
		}
		if bob.mayRing(id) {
			t.Errorf("stranger %d rings again at once", i)
		}
	}
	last := people[names[strangersRings]].Account()
	if bob.mayRing(last) {
		t.Error("one more of all strangers rings within the hour")
	}
	if err := bob.answered(people["dan"].Account()); err != nil || !bob.mayRing(last) || !bob.mayRing(people["dan"].Account()) {
		t.Error("a call that was taken counts still", err)
	}
	if err := bob.rang(people["dan"].Account()); err != nil {
		t.Fatal(err)
	}
	bob.reopen(t, w)
	if bob.mayRing(last) || bob.mayRing(people["ann"].Account()) {
		t.Error("a restart makes strangers ring")
	}

	p := &contact{}
	var pauses []time.Duration
	for range len(ringPauses) + 1 {
		now := time.Now()
		p.hasRung(now)
		pauses = append(pauses, p.Quiet.Sub(now))
	}
	for i := range ringPauses {
		if pauses[i] != ringPauses[i] || pauses[i+1] < pauses[i] {
			t.Errorf("pauses %v", pauses)
		}
	}
	if within(400*24*time.Hour, ringPauses[len(ringPauses)-1]) || within(-time.Second, time.Hour) {
		t.Error("a pause that cannot be")
	}
}

// What a stranger sends has one fate, whether this device is there or not: a malformed offer is not
// answered, as one to a device that is away is not.
func TestAStrangersOfferTellsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	_, bob := friends(t, w)
	mallory := w.online("mallory")
	mallory.send(t, "bob", "hello")
	bob.hears(t, "hello")
	bob.send(t, "alice", "I am here")
	var heard []string
	mallory.between(func(m *wire.CallMessage) *wire.CallMessage {
		heard = append(heard, m.String())
		return m
	})
	bob.mu.Lock()
	from := bob.contacts[mallory.Account()]
	bob.mu.Unlock()
	for i, offer := range [][]byte{nil, []byte("nonsense"), make([]byte, 9000)} {
		id := callflow.CallID{byte(i + 1)}
		bob.takes(from, &wire.CallMessage{CallId: id[:], Body: &wire.CallMessage_Offer{Offer: offer}})
	}
	bob.mu.Lock()
	for _, entry := range bob.outbox.entries {
		if entry.address().Account == [16]byte(mallory.Account()) {
			t.Error("something is on its way to the stranger")
		}
	}
	bob.mu.Unlock()
	if len(heard) > 0 {
		t.Errorf("the stranger hears %q", heard)
	}
}

// Who is blocked has one silent fate with all they send, keeps no delivery token, and is let in
// again as a stranger.
func TestBlock(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	alice.wait(func(w *timing) { w.Reach = time.Second })
	bob.mu.Lock()
	before := string(bob.sealing.Token)
	bob.mu.Unlock()
	if err := bob.Block("alice"); err != nil {
		t.Fatal(err)
	}
	if p, err := bob.Contact("alice"); err != nil || !p.Blocked || p.Accepted || p.Sealed {
		t.Errorf("%+v, %v", p, err)
	}
	bob.mu.Lock()
	if string(bob.sealing.Token) == before {
		t.Error("the delivery token that alice has is good still")
	}
	bob.mu.Unlock()
	if _, err := bob.Send(patience(t), "alice", "hi"); err == nil || !strings.Contains(err.Error(), "unblock") {
		t.Errorf("writing to somebody blocked: %v", err)
	}

	alice.send(t, "bob", "can you hear me?")
	call, err := alice.Call(patience(t), "bob", CallOptions{})
	if err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, &end{Call: call}, Unreachable)
	bob.reopen(t, w)
	bob.start(t)
	quiet[Message](t, bob)
	quiet[IncomingCall](t, bob)
	quiet[MissedCall](t, bob)

	if err := bob.Unblock("alice"); err != nil {
		t.Fatal(err)
	}
	alice.send(t, "bob", "and now?")
	bob.hears(t, "and now?")
	if p, _ := bob.Contact("alice"); p.Blocked || p.Accepted {
		t.Errorf("%+v", p)
	}
	if bob.Unblock("alice") == nil || bob.Block("nobody") == nil {
		t.Error("what is not there was changed")
	}
}

// The delivery token goes to those whom the user has accepted: who only calls does not get it, not
// even with what this device answers.
func TestStrangersLearnNoToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := w.online("alice"), w.online("bob")
	caller, callee := ring(t, alice, bob, CallOptions{})
	if err := callee.Decline(); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, caller, Declined)
	if alice.knownAs(bob).Token != nil {
		t.Error("who was declined has the token")
	}
	bob.send(t, "alice", "now you may")
	alice.hears(t, "now you may")
	if alice.knownAs(bob).Token == nil {
		t.Error("an accepted contact does not get it")
	}
}
