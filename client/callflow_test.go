package client

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"sotto/wire"
)

// The call flow of several calls, and of calls that cross, over real sessions and media. client/callflow explores the rest.

// accepted is a call that both hear.
func accepted(t testing.TB, from, to *person, o CallOptions) (caller, callee *end) {
	t.Helper()
	caller, callee = ring(t, from, to, o)
	if err := callee.Accept(patience(t), callee.media()); err != nil {
		t.Fatal(err)
	}
	hear(t, caller, callee)
	return caller, callee
}

// hear waits until both ends of a call hear more than before.
func hear(t testing.TB, ends ...*end) {
	t.Helper()
	for _, e := range ends {
		before := e.speaker.heard()
		eventually(t, "an end hears the other", func() bool { return e.speaker.heard() > before+10 })
	}
}

// Both call at the same time: both are in one call, which nobody has to accept, and hear each other. Whoever asked for a call through
// the relay only is in such a one, be it the other's.
func TestBothCallAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, withRelay(t))
	alice, bob := friends(t, w)
	for p, other := range map[*person]*person{alice: bob, bob: alice} {
		p.between(func(m *wire.CallMessage) *wire.CallMessage {
			for m.GetOffer() != nil && !p.calls.with(other.Account()) && t.Context().Err() == nil {
				time.Sleep(time.Millisecond) // between two looks whether this one calls, too: the offers cross then
			}
			for _, c := range m.GetCandidates().GetCandidates() {
				if !isRelay(c) {
					t.Errorf("candidate %q is not the relay's", c)
				}
			}
			return m
		})
	}
	ends := map[*person]*end{alice: new(end), bob: new(end)}
	calling := make(chan error, 2)
	for from, to := range map[*person]*person{alice: bob, bob: alice} {
		go func() {
			var err error
			ends[from].Call, err = from.Call(patience(t), to.Username(), CallOptions{MediaOptions: ends[from].media(), RelayOnly: true})
			calling <- err
		}()
	}
	for range ends {
		if err := <-calling; err != nil {
			t.Fatal(err) // neither can be busy
		}
	}
	hear(t, ends[alice], ends[bob])
	if ends[alice].ID() != ends[bob].ID() {
		t.Error("the ends are in different calls")
	}
	if path := ends[alice].Stats().Path.Kind; path != "relay" {
		t.Errorf("the path is %q", path)
	}
	ours, _ := ends[alice].VerificationCode()
	theirs, _ := ends[bob].VerificationCode()
	if ours == "" || ours != theirs {
		t.Errorf("verification codes %q and %q", ours, theirs)
	}
	quiet[IncomingCall](t, alice)
	quiet[IncomingCall](t, bob)
	ends[bob].Hangup()
	awaitEnd(t, ends[alice], Normal)
	awaitEnd(t, ends[bob], Normal)
}

// A second call waits. Its callee puts the first on hold and takes it, then goes back, and ends with both.
func TestCallWaiting(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	carol := w.online("carol")
	if _, err := bob.AddContact(patience(t), "carol"); err != nil {
		t.Fatal(err)
	}
	first, bobsFirst := accepted(t, alice, bob, CallOptions{})

	second := new(end)
	var err error
	if second.Call, err = carol.Call(patience(t), "bob", CallOptions{MediaOptions: second.media()}); err != nil {
		t.Fatal(err)
	}
	incoming := expect[IncomingCall](t, bob)
	if !incoming.Waiting {
		t.Error("the second call does not say that it waits")
	}
	bobsSecond := &end{Call: incoming.Call}
	if err := bobsSecond.Accept(patience(t), bobsSecond.media()); err != nil {
		t.Fatal(err)
	}
	hear(t, second, bobsSecond)
	awaitEvent[Held](t, bobsFirst)
	eventually(t, "alice sees that she is on hold", func() bool { return first.PeerState().Held })
	silent(t, first, bobsFirst)

	if err := bobsFirst.Hold(false); err != nil {
		t.Fatal(err)
	}
	awaitEvent[Resumed](t, bobsFirst)
	hear(t, first, bobsFirst)
	eventually(t, "carol sees that she is on hold", func() bool { return second.PeerState().Held })
	silent(t, second, bobsSecond)

	third := w.online("dave")
	if _, err := bob.AddContact(patience(t), "dave"); err != nil {
		t.Fatal(err)
	}
	fourth := new(end)
	if fourth.Call, err = third.Call(patience(t), "bob", CallOptions{}); err != nil {
		t.Fatal(err)
	}
	waits := &end{Call: expect[IncomingCall](t, bob).Call}
	if err := waits.Accept(patience(t), waits.media()); err == nil {
		t.Error("three calls at once")
	}
	if err := waits.AcceptInstead(patience(t), waits.media()); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, first, Normal)
	awaitEnd(t, bobsFirst, Normal)
	awaitEvent[Accepted](t, fourth)
	for _, e := range []*end{second, fourth} {
		e.Hangup()
		awaitEnd(t, e, Normal)
	}
	awaitEnd(t, bobsSecond, Normal)
	awaitEnd(t, waits, Normal)
}

// silent fails if an end of a call goes on hearing the other. What was under way may still come.
func silent(t testing.TB, ends ...*end) {
	t.Helper()
	for _, e := range ends {
		heard := -1
		eventually(t, "the call is silent", func() bool {
			before := heard
			heard = e.speaker.heard()
			time.Sleep(200 * time.Millisecond) // a call that goes on is heard ten times in that
			return before == heard
		})
	}
}

// Mute is silence of the same packets; the other end is told.
func TestMute(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	caller, callee := accepted(t, alice, bob, CallOptions{})
	if err := caller.Mute(true); err != nil {
		t.Fatal(err)
	}
	eventually(t, "bob sees that alice is muted", func() bool { return callee.PeerState().Muted })
	silent(t, callee)
	before := callee.Stats().Audio.PacketsReceived
	eventually(t, "packets go on", func() bool { return callee.Stats().Audio.PacketsReceived > before+10 })
	hear(t, caller)
	if err := caller.Mute(false); err != nil {
		t.Fatal(err)
	}
	hear(t, callee)
	another := new(tone)
	if err := caller.SetMicrophone(another); err != nil {
		t.Fatal(err)
	}
	hear(t, callee)
	if !caller.mic.closed.Load() {
		t.Error("the microphone that was replaced is open")
	}
	caller.Hangup()
	awaitEnd(t, callee, Normal)
	awaitEnd(t, caller, Normal)
	if !another.closed.Load() {
		t.Error("the second microphone is open")
	}
	if err := caller.Mute(true); !errors.Is(err, ErrCallEnded) {
		t.Errorf("muting a call that has ended: %v", err)
	}
}

// An end that was restarted in a call, and calls again: the call of old ends at the other end too, and the new one rings there.
func TestCalledAgainByWhoLostTheCall(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	_, old := accepted(t, alice, bob, CallOptions{})
	// Alice's process dies, and bob is told nothing.
	alice.calls.box.post(func() {
		for _, o := range alice.calls.table {
			alice.calls.end(o, Failed, nil)
		}
		alice.calls.flow = newCalls(alice.Client).flow
	})
	caller, callee := ring(t, alice, bob, CallOptions{})
	awaitEnd(t, old, Failed)
	if callee.mic.opened.Load() {
		t.Error("the new call was accepted by itself")
	}
	caller.Hangup()
	awaitEnd(t, callee, Cancelled)
}

// Who was away is told of the call later, once; who saw it ring is told once as well.
func TestMissedCall(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	alice.wait(func(w *timing) { w.Reach = 500 * time.Millisecond })
	if err := bob.Close(); err != nil {
		t.Fatal(err)
	}
	began := time.Now().Add(-time.Second)
	call, err := alice.Call(patience(t), "bob", CallOptions{Video: true})
	if err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, &end{Call: call}, Unreachable)
	eventually(t, "the message has left", func() bool {
		alice.mu.Lock()
		defer alice.mu.Unlock()
		return len(alice.outbox.entries) == 0
	})
	bob.reopen(t, w)
	bob.start(t)
	missed := expect[MissedCall](t, bob)
	if missed.ID != call.ID() || missed.From.Username != "alice" || !missed.Video || missed.At.Before(began) || missed.At.After(time.Now()) {
		t.Errorf("missed %+v", missed)
	}

	caller, callee := ring(t, alice, bob, CallOptions{})
	caller.Hangup()
	awaitEnd(t, callee, Cancelled)
	if missed := expect[MissedCall](t, bob); missed.ID != caller.ID() {
		t.Errorf("missed %+v", missed)
	}
	alice.send(t, "bob", "after the missed call")
	for e := range bob.Events() {
		if _, again := e.(MissedCall); again {
			t.Fatal("a missed call was told twice")
		}
		if m, ok := e.(Message); ok && m.Text == "after the missed call" {
			break
		}
	}
}

// When the network changes the link is made anew, and the call goes over to a path of the next generation; sound goes on. In a relay-only
// call no other address leaves then either.
func TestNetworkChanges(t *testing.T) {
	t.Parallel()
	t.Run("direct", func(t *testing.T) { testNetworkChanges(t, false) })
	t.Run("relay-only", func(t *testing.T) { testNetworkChanges(t, true) })
}

func testNetworkChanges(t *testing.T, relayOnly bool) {
	w := newWorld(t, withRelay(t))
	alice, bob := friends(t, w)
	bob.options.RelayOnly = relayOnly
	var halves atomic.Int32
	for _, p := range []*person{alice, bob} {
		p.between(func(m *wire.CallMessage) *wire.CallMessage {
			if m.GetPath() != nil {
				halves.Add(1)
			}
			for _, c := range m.GetCandidates().GetCandidates() {
				if relayOnly && !strings.HasSuffix(c, " typ relay raddr 0.0.0.0 rport 9") {
					t.Errorf("candidate %q of path %d tells more than the relay's address", c, m.GetCandidates().GetGeneration())
				}
			}
			return m
		})
	}
	caller, callee := accepted(t, alice, bob, CallOptions{RelayOnly: relayOnly})
	before, _ := alice.link.wait(patience(t))
	for generation := range uint32(2) {
		alice.networkChanged()
		eventually(t, "the call has another path", func() bool {
			return caller.Stats().Path.Generation == generation+1 && callee.Stats().Path.Generation == generation+1
		})
		hear(t, caller, callee)
	}
	if after, err := alice.link.wait(patience(t)); err != nil || after == before {
		t.Errorf("the link is the same (%v)", err)
	}
	if halves.Load() == 0 {
		t.Error("no path was sent")
	}
	if caller.Stats().Undecryptable+callee.Stats().Undecryptable != 0 {
		t.Error("undecryptable packets")
	}
	caller.Hangup()
	awaitEnd(t, callee, Normal)
}
