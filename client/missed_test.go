package client

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/uuid"

	"sotto/client/callflow"
	"sotto/wire"
)

// missedEnvelope is the message that a caller leaves, as the server would bring it.
func (p *person) missedEnvelope(t testing.TB, to string, id CallID) *wire.Envelope {
	t.Helper()
	content := p.newContent()
	content.Body = &wire.Content_MissedCall{MissedCall: &wire.MissedCall{CallId: id[:], Timestamp: timestamp(time.Now()), Video: true}}
	return p.sealedContent(t, to, content)
}

// misses expects a missed call and is done with it.
func (p *person) misses(t testing.TB, id CallID) {
	t.Helper()
	m := expect[MissedCall](t, p)
	if m.ID != id {
		t.Fatalf("%s missed %s, want %s", p.Username(), m.ID, id)
	}
	if err := m.Done(); err != nil {
		t.Fatal(err)
	}
}

// noneMissed fails if a missed call is shown before the text.
func (p *person) noneMissed(t testing.TB, until string) {
	t.Helper()
	ctx := patience(t)
	for {
		select {
		case e := <-p.Events():
			switch e := e.(type) {
			case MissedCall:
				t.Fatalf("%s was told of %s again", p.Username(), e.ID)
			case Message:
				if e.Text != until {
					t.Fatalf("heard %q", e.Text)
				}
				return
			}
		case <-ctx.Done():
			t.Fatalf("%q did not come", until)
		}
	}
}

// The power fails at each step of receiving a missed call: it is shown once.
func TestMissedCallSurvivesPowerFailure(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	disk := alice.onMemory(t)
	bob.reopen(t, w)
	random := rand.New(rand.NewPCG(5, 6))
	for step := 1; ; step++ {
		id := CallID(randomBytes(16))
		e := bob.missedEnvelope(t, "alice", id)
		disk.steps, disk.failAt, disk.err, disk.off = 0, 0, errPower, true
		before := w.from(t, disk)
		disk.steps, disk.failAt = 0, step
		err := before.take(t.Context(), e)
		finished := disk.steps < step
		if err != nil && (finished || !errors.Is(err, errPower)) {
			t.Fatal(err)
		}
		disk = disk.afterPowerFailure(random)
		after := w.from(t, disk)
		if err == nil && len(after.inbox.unshown) != 1 {
			t.Fatalf("step %d: acknowledged and lost", step)
		}
		// The server brings what was not acknowledged, and perhaps what was.
		for range 2 {
			if err := after.take(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		}
		after.start(t)
		after.misses(t, id)
		if n := len(after.inbox.unshown); n != 0 {
			t.Fatalf("step %d: shown twice", step)
		}
		after.Close()
		if finished {
			return
		}
	}
}

// A missed call comes again after a restart until the program is done with it, in order with texts, and not after that.
func TestMissedCallWaits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	for _, p := range []*person{alice, bob} {
		p.reopen(t, w)
	}
	ids := []CallID{CallID(randomBytes(16)), CallID(randomBytes(16))}
	for _, e := range []*wire.Envelope{
		bob.sealed(t, "alice", "one"), bob.missedEnvelope(t, "alice", ids[0]), bob.sealed(t, "alice", "two"),
		bob.missedEnvelope(t, "alice", ids[1]), bob.sealed(t, "alice", "three"),
	} {
		if err := alice.take(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		alice.start(t)
		for _, want := range []any{"one", ids[0], "two", ids[1], "three"} {
			if got := next(t, alice); got != want {
				t.Fatalf("shown %v, want %v", got, want)
			}
		}
		alice.reopen(t, w)
	}
	alice.start(t)
	alice.hears(t, "one")
	alice.misses(t, ids[0])
	alice.hears(t, "two")
	alice.reopen(t, w)
	alice.start(t)
	alice.misses(t, ids[1])
	alice.hears(t, "three")
	alice.reopen(t, w)
	if n := len(alice.inbox.unshown); n != 0 {
		t.Errorf("%d are left", n)
	}
}

// next is the text or the call that is shown next. The program does not say that it is done with it.
func next(t *testing.T, p *person) any {
	t.Helper()
	ctx := patience(t)
	for {
		select {
		case e := <-p.Events():
			switch e := e.(type) {
			case Message:
				return e.Text
			case MissedCall:
				return e.ID
			}
		case <-ctx.Done():
			t.Fatal("nothing is shown")
		}
	}
}

// The message of a call that stopped ringing here comes after a restart: the user was told.
func TestMissedCallAfterItRang(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	bob.mu.Lock()
	bob.calls.handle = func(from *contact, device uint8, content *wire.Content) {
		if content.GetMissedCall() == nil { // it comes too late for this process
			bob.calls.onCallContent(from, device, content)
		}
	}
	bob.mu.Unlock()
	caller, callee := ring(t, alice, bob, CallOptions{})
	caller.Hangup()
	awaitEnd(t, callee, Cancelled)
	bob.misses(t, caller.ID())
	alice.send(t, "bob", "gone")
	bob.hears(t, "gone")
	bob.reopen(t, w)
	bob.start(t)
	alice.calls.leaveMissedTo(t, bob, caller.ID())
	alice.send(t, "bob", "after the missed call")
	bob.noneMissed(t, "after the missed call")
}

// The caller gives up while the callee declines: the message comes, and its call is not shown.
func TestDeclinedIsNotMissed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	caller, callee := ring(t, alice, bob, CallOptions{})
	callee.Decline()
	awaitEnd(t, callee, Declined)
	awaitEnd(t, caller, Declined)
	alice.calls.leaveMissedTo(t, bob, caller.ID())
	alice.send(t, "bob", "after the missed call")
	bob.noneMissed(t, "after the missed call")
	eventually(t, "its record is erased", func() bool {
		bob.mu.Lock()
		defer bob.mu.Unlock()
		return len(bob.store.list(recordInbox)) == 1 && bob.inbox.unread == 1 // the text
	})
}

// leaveMissedTo leaves a message as if the call had been given up.
func (s *calls) leaveMissedTo(t *testing.T, to *person, id CallID) {
	t.Helper()
	content := s.c.newContent()
	content.Body = &wire.Content_MissedCall{MissedCall: &wire.MissedCall{CallId: id[:], Timestamp: timestamp(time.Now())}}
	if err := s.c.sendTo(to.Account(), firstDevice, content, outgoing{}); err != nil {
		t.Fatal(err)
	}
}

// However many calls are missed, the ids that are remembered are bounded.
func TestMissedCallsRemembered(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	for range missedKept + 3 {
		if err := bob.showMissed(callflow.Missed{Call: callflow.CallID(randomBytes(16)), From: callflow.Account(alice.Account())}); err != nil {
			t.Fatal(err)
		}
	}
	if err := bob.showMissed(callflow.Missed{From: callflow.Account(uuid.New())}); err != nil { // of somebody who was removed
		t.Fatal(err)
	}
	bob.mu.Lock()
	defer bob.mu.Unlock()
	if n := len(bob.store.list(recordInbox)); n != missedKept+3 {
		t.Errorf("%d missed calls wait", n)
	}
	err := bob.store.update(func(tx *tx) error {
		known, err := readMissed(tx)
		if err == nil && len(known.IDs) != missedKept {
			t.Errorf("%d ids are remembered", len(known.IDs))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A caller who closes at once has left the message.
func TestMissedCallIsLeftAtClose(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	if err := bob.Close(); err != nil {
		t.Fatal(err)
	}
	call, err := alice.Call(patience(t), "bob", CallOptions{})
	if err != nil {
		t.Fatal(err)
	}
	call.Hangup()
	<-call.Done()
	if err := alice.Close(); err != nil {
		t.Fatal(err)
	}
	bob.reopen(t, w)
	bob.start(t)
	bob.misses(t, call.ID())
}
