package client

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"sotto/wire"
)

// Calls of accounts with several devices, over a real server and real media. client/callflow explores the rest.

// family is alice, and bob with two devices, all connected.
func family(t *testing.T) (w *world, alice, bob, tablet *person) {
	t.Helper()
	w = newWorld(t)
	alice, bob = friends(t, w)
	tablet = w.another(bob, alice)
	return w, alice, bob, tablet
}

// another is a further device of owner's, and peer knows it.
func (w *world) another(owner, peer *person) *person {
	w.t.Helper()
	p := w.link(owner)
	p.start(w.t)
	peer.knows(w.t, owner.Username(), len(owner.Devices()))
	return p
}

// ringAll calls an account, of which these devices ring.
func ringAll(t *testing.T, from *person, to string, devices ...*person) (caller *end, callees []*end) {
	t.Helper()
	caller = new(end)
	var err error
	if caller.Call, err = from.Call(patience(t), to, CallOptions{MediaOptions: caller.media()}); err != nil {
		t.Fatal(err)
	}
	for _, d := range devices {
		callees = append(callees, &end{Call: expect[IncomingCall](t, d).Call})
	}
	awaitEvent[Ringing](t, caller)
	return caller, callees
}

func (e *end) accept(t *testing.T) {
	t.Helper()
	if err := e.Accept(patience(t), e.media()); err != nil {
		t.Fatal(err)
	}
}

// sameCode fails unless both ends show one verification code.
func sameCode(t *testing.T, a, b *end) {
	t.Helper()
	ours, ok := a.VerificationCode()
	theirs, ok2 := b.VerificationCode()
	if !ok || !ok2 || ours != theirs {
		t.Errorf("verification codes %q and %q", ours, theirs)
	}
}

// hangUp ends a call at one end; the others hear of it.
func hangUp(t *testing.T, by *end, others ...*end) {
	t.Helper()
	if err := by.Hangup(); err != nil {
		t.Fatal(err)
	}
	for _, e := range append(others, by) {
		awaitEnd(t, e, Normal)
	}
}

// neverOpened fails if a device that did not take the call opened anything.
func neverOpened(t *testing.T, e *end) {
	t.Helper()
	if e.mic.opened.Load() {
		t.Error("the microphone of a device that did not take the call was opened")
	}
}

func TestAllDevicesRing(t *testing.T) {
	t.Parallel()
	_, alice, bob, tablet := family(t)
	t.Run("the first to accept has the call", func(t *testing.T) {
		caller, at := ringAll(t, alice, "bob", bob, tablet)
		at[1].accept(t)
		awaitEnd(t, at[0], Elsewhere)
		hear(t, caller, at[1])
		sameCode(t, caller, at[1])
		neverOpened(t, at[0])
		hangUp(t, at[1], caller)
	})
	t.Run("one declines for all", func(t *testing.T) {
		caller, at := ringAll(t, alice, "bob", bob, tablet)
		if err := at[0].Decline(); err != nil {
			t.Fatal(err)
		}
		awaitEnd(t, at[0], Declined)
		awaitEnd(t, at[1], DeclinedElsewhere)
		awaitEnd(t, caller, Declined)
		neverOpened(t, at[1])
	})
	t.Run("the caller gives up", func(t *testing.T) {
		caller, at := ringAll(t, alice, "bob", bob, tablet)
		if err := caller.Hangup(); err != nil {
			t.Fatal(err)
		}
		for n, e := range at {
			awaitEnd(t, e, Cancelled)
			missed := expect[MissedCall](t, []*person{bob, tablet}[n])
			if missed.ID != caller.ID() || missed.Done() != nil {
				t.Errorf("device %d missed %v", n+1, missed)
			}
		}
	})
	t.Run("both accept at once", func(t *testing.T) {
		caller, at := ringAll(t, alice, "bob", bob, tablet)
		accepts := make(chan error, 2)
		for _, e := range at {
			go func() { accepts <- e.Accept(patience(t), e.media()) }()
		}
		awaitEvent[Accepted](t, caller)
		var loser, winner *end
		select {
		case <-at[0].Done():
			loser, winner = at[0], at[1]
		case <-at[1].Done():
			loser, winner = at[1], at[0]
		case <-patience(t).Done():
			t.Fatal("both devices are in the call")
		}
		awaitEnd(t, loser, Elsewhere)
		hear(t, caller, winner)
		sameCode(t, caller, winner)
		for range at { // the loser's may have been in time, too
			if err := <-accepts; err != nil && !errors.Is(err, ErrCallEnded) {
				t.Error(err)
			}
		}
		if loser.mic.opened.Load() && !loser.mic.closed.Load() {
			t.Error("the loser's microphone is open")
		}
		hangUp(t, caller, winner)
	})
	t.Run("the second device calls", func(t *testing.T) {
		caller, at := ringAll(t, tablet, "alice", alice)
		at[0].accept(t)
		hear(t, caller, at[0])
		sameCode(t, caller, at[0])
		if at[0].Peer().Username != "bob" {
			t.Errorf("%v calls", at[0].Peer())
		}
		hangUp(t, at[0], caller)
		quiet[IncomingCall](t, bob)
	})
	t.Run("their own account", func(t *testing.T) {
		for _, p := range []*person{bob, tablet} {
			if _, err := p.Call(patience(t), "bob", CallOptions{}); err == nil || err.Error() != "this is your own account" {
				t.Errorf("bob calls himself: %v", err)
			}
		}
	})
}

// A device that is busy leaves the call to the other one.
func TestOneDeviceIsBusy(t *testing.T) {
	t.Parallel()
	w, alice, bob, tablet := family(t)
	carol := w.online("carol")
	pending, at := ringAll(t, bob, "carol", carol)
	caller, ringing := ringAll(t, alice, "bob", tablet)
	ringing[0].accept(t)
	hear(t, caller, ringing[0])
	hangUp(t, caller, ringing[0])
	if err := pending.Hangup(); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, at[0], Cancelled)
	quiet[IncomingCall](t, bob)
}

// A device that was linked while the caller was away rings for their first call, although they call as soon as there is a link.
func TestANewDeviceRingsForTheFirstCall(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	if err := alice.Close(); err != nil {
		t.Fatal(err)
	}
	tablet := w.link(bob)
	tablet.start(t)
	eventually(t, "alice's mailbox has the list", func() bool {
		bob.mu.Lock()
		defer bob.mu.Unlock()
		return bob.told() && len(bob.outbox.entries) == 0
	})
	alice.reopened(t, w)
	caller, at := ringAll(t, alice, "bob", bob, tablet)
	at[1].accept(t)
	hear(t, caller, at[1])
	hangUp(t, caller, at[1])
}

// A device that says it is busy, or closes, while it rings leaves the call to the other one.
func TestOneDeviceTurnsAway(t *testing.T) {
	t.Parallel()
	_, alice, bob, tablet := family(t)
	caller, at := ringAll(t, alice, "bob", bob, tablet)
	if err := at[0].Busy(); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, at[0], Busy)
	at[1].accept(t)
	hear(t, caller, at[1])
	hangUp(t, caller, at[1])

	caller, at = ringAll(t, alice, "bob", bob, tablet)
	if err := tablet.Close(); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, at[1], Busy)
	at[0].accept(t)
	hear(t, caller, at[0])
	hangUp(t, caller, at[0])
}

// Nobody takes the call: every device shows it as missed, once, even one that comes later.
func TestMissedOnEveryDevice(t *testing.T) {
	t.Parallel()
	w, alice, bob, tablet := family(t)
	if err := tablet.Close(); err != nil {
		t.Fatal(err)
	}
	alice.wait(func(timing *timing) { timing.Ring = 5 * time.Second })
	caller, at := ringAll(t, alice, "bob", bob)
	awaitEnd(t, caller, Timeout)
	awaitEnd(t, at[0], Timeout)
	tablet.reopened(t, w)
	for _, p := range []*person{bob, tablet} {
		if missed := expect[MissedCall](t, p); missed.ID != caller.ID() || missed.Done() != nil {
			t.Errorf("missed %v", missed)
		}
	}
	alice.send(t, "bob", "that was all")
	for _, p := range []*person{bob, tablet} {
		for _, e := range p.until(t, "that was all") {
			switch e.(type) {
			case MissedCall, IncomingCall:
				t.Errorf("%T after the call was over", e)
			}
		}
	}
}

// until returns the events up to a text.
func (p *person) until(t *testing.T, text string) (events []Event) {
	t.Helper()
	for {
		e := expect[Event](t, p)
		if m, ok := e.(Message); ok && m.Text == text {
			return append(events, e)
		}
		events = append(events, e)
	}
}

// A device that comes when the call was taken elsewhere neither rings nor shows it as missed.
func TestLateDeviceDoesNotRing(t *testing.T) {
	t.Parallel()
	w, alice, bob, tablet := family(t)
	if err := tablet.Close(); err != nil {
		t.Fatal(err)
	}
	caller, at := ringAll(t, alice, "bob", bob)
	at[0].accept(t)
	hear(t, caller, at[0])
	tablet.reopened(t, w)
	hangUp(t, caller, at[0])
	alice.send(t, "bob", "after it")
	for _, e := range tablet.until(t, "after it") {
		switch e.(type) {
		case MissedCall, IncomingCall:
			t.Errorf("%T of a call that was taken elsewhere", e)
		}
	}
}

// reopened is a closed device's next process.
func (p *person) reopened(t *testing.T, w *world) {
	t.Helper()
	var err error
	if p.Client, err = Open(p.dir, w.options()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	p.start(t)
}

// Both call at once, each by another device than the one that the other end's user holds: one call, and the two devices besides stop ringing.
func TestBothCallAtOnceWithTwoDevicesEach(t *testing.T) {
	t.Parallel()
	w, alice, bob, tablet := family(t)
	phone := w.another(alice, bob)
	tablet.knows(t, "alice", 2)
	for p, other := range map[*person]*person{phone: bob, tablet: alice} {
		p.between(func(m *wire.CallMessage) *wire.CallMessage {
			for m.GetOffer() != nil && !p.calls.with(other.Account()) && t.Context().Err() == nil {
				time.Sleep(time.Millisecond) // between two looks whether this one calls, too: the offers cross then
			}
			return m
		})
	}
	ends := map[*person]*end{phone: new(end), tablet: new(end)}
	calling := make(chan error, 2)
	for from, to := range map[*person]string{phone: "bob", tablet: "alice"} {
		go func() {
			var err error
			ends[from].Call, err = from.Call(patience(t), to, CallOptions{MediaOptions: ends[from].media()})
			calling <- err
		}()
	}
	for range ends {
		if err := <-calling; err != nil {
			t.Fatal(err)
		}
	}
	hear(t, ends[phone], ends[tablet])
	sameCode(t, ends[phone], ends[tablet])
	hangUp(t, ends[phone], ends[tablet])
	rang := 0
	for p, from := range map[*person]*person{alice: tablet, bob: phone} { // whichever call gave way may have done so before it rang
		from.send(t, p.Username(), "that was all")
		for _, e := range p.until(t, "that was all") {
			if incoming, ok := e.(IncomingCall); ok {
				rang++
				other := &end{Call: incoming.Call}
				awaitEnd(t, other, Elsewhere)
				neverOpened(t, other)
			}
		}
	}
	if rang == 0 {
		t.Error("no other device rang")
	}
}

// A device that joins the account while it rings, or in a call, changes neither.
func TestDeviceJoinsDuringACall(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	caller, at := ringAll(t, alice, "bob", bob)
	tablet := w.another(bob, alice)
	at[0].accept(t)
	hear(t, caller, at[0])
	sameCode(t, caller, at[0])
	w.another(bob, alice)
	hear(t, caller, at[0])
	hangUp(t, caller, at[0])
	quiet[IncomingCall](t, tablet)
}

// callEnvelope is a step of a call as this device would send it, whether the server carries it or not.
func (p *person) callEnvelope(t *testing.T, to *person, m *wire.CallMessage) *wire.Envelope {
	t.Helper()
	p.mu.Lock()
	content := p.newContent()
	p.mu.Unlock()
	content.Body = &wire.Content_Call{Call: m}
	if err := p.sendTo(to.Account(), firstDevice, content, outgoing{}); err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	e := proto.CloneOf(p.outbox.entries[len(p.outbox.entries)-1].envelope)
	e.Sender, e.SenderDevice = p.account.Account[:], uint32(p.account.Device)
	return e
}

// A device that is removed loses the call: while it rings the others go on, in a call it is over.
func TestDeviceIsRemovedDuringACall(t *testing.T) {
	t.Parallel()
	w, alice, bob, tablet := family(t)
	caller, at := ringAll(t, alice, "bob", bob, tablet)
	if err := bob.RemoveDevice(patience(t), 2); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, at[1], Failed)
	if err := at[1].Accept(patience(t), at[1].media()); !errors.Is(err, ErrUnauthenticated) {
		t.Errorf("the removed device accepts: %v", err)
	}
	neverOpened(t, at[1])
	alice.knows(t, "bob", 1)
	for _, m := range []*wire.CallMessage{ // even if the server still carries what it sends
		{Body: &wire.CallMessage_Accept{Accept: &wire.Accept{Verification: make([]byte, 32)}}},
		{Body: &wire.CallMessage_Hangup{Hangup: &wire.Hangup{Reason: wire.Hangup_DECLINED}}},
	} {
		m.CallId = caller.id[:]
		if err := alice.take(patience(t), tablet.callEnvelope(t, alice, m)); err != nil {
			t.Fatal(err)
		}
	}
	alice.calls.do(func() error { return nil })
	if !alice.calls.with(bob.Account()) || caller.mic.opened.Load() {
		t.Error("the removed device has a say in the call")
	}
	at[0].accept(t)
	hear(t, caller, at[0])
	hangUp(t, caller, at[0])

	laptop := w.another(bob, alice)
	caller, at = ringAll(t, alice, "bob", bob, laptop)
	at[1].accept(t)
	hear(t, caller, at[1])
	if err := bob.RemoveDevice(patience(t), int(laptop.account.Device)); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, caller, Failed)
	awaitEnd(t, at[1], Failed)
	eventually(t, "its microphone is closed", at[1].mic.closed.Load)
}
