package client

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"sotto/signaling"
	"sotto/turnserver"
	"sotto/wire"
)

// half lets a call's callee take halves of paths, as its caller would send them, and waits until they are dealt with.
func (e *end) half(of *person, generations ...uint32) {
	id := e.ID()
	for _, generation := range generations {
		m := &wire.CallMessage{CallId: id[:], Body: &wire.CallMessage_Path{Path: &wire.Path{
			Generation: generation, Ice: &wire.IceParameters{Ufrag: "abcd", Password: "0123456789012345678901"},
		}}}
		of.takes(e.peer, proto.CloneOf(m))
	}
	_ = of.calls.do(func() error { return nil }) // behind them all
}

func upTo(n uint32) (generations []uint32) {
	for g := range n {
		generations = append(generations, g+1)
	}
	return generations
}

// A peer that floods a call with new paths gets some of them, and the newest later.
func TestPathsAreLimited(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	caller, callee := accepted(t, alice, bob, CallOptions{})
	began := time.Now()
	callee.half(bob, upTo(50)...)
	hear(t, caller, callee) // and what they began beside the loop has had its time
	if opened := callee.session.Generation(); time.Since(began) < restartEvery && opened > restartBurst {
		t.Errorf("%d paths were opened", opened)
	}
	eventually(t, "the newest path is opened", func() bool { return callee.session.Generation() == 50 })
	hear(t, caller, callee)
	caller.Hangup()
	awaitEnd(t, callee, Normal)
}

// What is late, and what answers a path that this end has begun, does not count among the paths that the peer may begin.
func TestPathsThatBeginNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	caller, callee := accepted(t, alice, bob, CallOptions{})
	began := time.Now()
	callee.half(bob, 1, 2)
	eventually(t, "two paths are opened", func() bool { return callee.session.Generation() == 2 })
	for range 20 {
		callee.half(bob, 1, 2)
	}
	callee.half(bob, 3, 4)
	if later := callee.later(bob); later != nil {
		t.Errorf("%+v has to wait", later)
	}
	callee.half(bob, 5)
	if waits := callee.later(bob) != nil; !waits && time.Since(began) < restartEvery {
		t.Error("five paths at once")
	}
	caller.Hangup()
	awaitEnd(t, callee, Normal)
}

// later is the half of a path that waits, or nil.
func (e *end) later(of *person) (half any) {
	_ = of.calls.do(func() error {
		half = e.leg(of).later.Message
		return nil
	})
	return half
}

// leg is the call's, whose media was opened. Only the loop may ask.
func (e *end) leg(of *person) *leg { return of.calls.table[[16]byte(e.ID())].chosen }

// relaysOf are the relays that a path of a call's would be begun with.
func (e *end) relaysOf(p *person) (r relays) {
	_ = p.calls.do(func() error {
		r = e.leg(p).relays
		return nil
	})
	return r
}

// However long a call lasts, it has credentials of relays that a path can be begun with, even if the link to the server breaks again and
// again.
func TestRelayCredentialsAreRenewed(t *testing.T) {
	t.Parallel()
	const ttl = 3 * time.Second
	relay := withRelay(t)
	w := newWorld(t, func(cfg *signaling.Config) {
		relay(cfg)
		cfg.Relay.TTL = ttl
	})
	alice, bob := friends(t, w)
	for _, p := range []*person{alice, bob} {
		p.wait(func(w *timing) { w.relays = 50 * time.Millisecond })
	}
	caller, callee := accepted(t, alice, bob, CallOptions{RelayOnly: true})
	first := caller.relaysOf(alice)
	if len(first.list) == 0 {
		t.Fatal("no relays")
	}
	for range 3 {
		broken, err := alice.link.wait(patience(t))
		if err != nil {
			t.Fatal(err)
		}
		broken.end(errors.New("in the test"))
	}
	eventually(t, "the credentials were renewed twice", func() bool {
		return caller.relaysOf(alice).until.Sub(first.until) > ttl && callee.relaysOf(bob).until.Sub(first.until) > ttl
	})
	alice.networkChanged() // which breaks the link as well
	eventually(t, "the call has another path", func() bool {
		return caller.Stats().Path.Generation > 0 && callee.Stats().Path.Generation > 0 && caller.Stats().Path.Kind == "relay"
	})
	hear(t, caller, callee)
	caller.Hangup()
	awaitEnd(t, callee, Normal)
}

// A call that began without relays, since the server was not heard in time or had to be asked less
// often, gets some while it lasts, and uses them.
func TestRelaysAreFetchedLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t, withRelay(t), func(cfg *signaling.Config) {
		cfg.Limits.Relays = signaling.Rate{Burst: 1, Every: time.Second}
	})
	alice, bob := friends(t, w)
	alice.wait(func(w *timing) { w.relays = 50 * time.Millisecond })
	if len(alice.fetchRelays(patience(t)).list) == 0 {
		t.Fatal("no relays")
	}
	caller, callee := accepted(t, alice, bob, CallOptions{})
	eventually(t, "the call has relays", func() bool { return len(caller.relaysOf(alice).list) > 0 })
	alice.networkChanged()
	eventually(t, "another path", func() bool { return caller.Stats().Path.Generation > 0 })
	_ = alice.calls.do(func() error {
		if unusable := caller.leg(alice).unusable; len(unusable) > 0 {
			t.Errorf("left out: %v", unusable)
		}
		return nil
	})
	caller.Hangup()
	awaitEnd(t, callee, Normal)
}

// A server without a relay is asked once.
func TestAServerWithoutARelay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if r := w.online("alice").fetchRelays(patience(t)); len(r.list) != 0 || !r.renew.IsZero() {
		t.Errorf("%+v", r)
	}
}

// An accepted call without a path says so soon, names the relays that do not help and why, and ends
// as what it is.
func TestCallWithoutAPath(t *testing.T) {
	t.Parallel()
	dead, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "turn:" + dead.Addr().String() + "?transport=tcp"
	_ = dead.Close()
	w := newWorld(t, func(cfg *signaling.Config) {
		cfg.Relay = &signaling.RelayConfig{URLs: []string{url, "nonsense"}, Secret: testSecret}
	})
	alice, bob := friends(t, w)
	for _, p := range []*person{alice, bob} {
		p.wait(func(w *timing) { w.pathless, w.Lost, w.Retry = 300*time.Millisecond, 2*time.Second, time.Second })
	}
	caller, callee := ring(t, alice, bob, CallOptions{RelayOnly: true})
	if err := callee.Accept(patience(t), callee.media()); err != nil {
		t.Fatal(err)
	}
	why := map[string]string{}
	for _, relay := range awaitEvent[NoPath](t, caller).Relays {
		why[relay.URL] = relay.Err.Error()
	}
	if len(why) != 2 || !strings.Contains(why[url], "cannot be reached") || !strings.Contains(why["nonsense"], "malformed") {
		t.Errorf("relays: %v", why)
	}
	awaitEnd(t, caller, Lost)
	awaitEnd(t, callee, Lost)
	if err := caller.Err(); err == nil || !strings.Contains(err.Error(), "no network path") {
		t.Errorf("ended with %v", err)
	}
}

// A relay that is started anew with another secret refuses the credentials that a call has. The
// call fetches others, though those are good for long still.
func TestRefusedCredentialsAreRenewed(t *testing.T) {
	t.Parallel()
	var relay *turnserver.Server
	w := newWorld(t, func(cfg *signaling.Config) {
		relay = startRelay(t)
		cfg.Relay = &signaling.RelayConfig{URLs: relay.URLs(), Secret: testSecret}
	})
	alice, bob := friends(t, w)
	for _, p := range []*person{alice, bob} {
		p.wait(func(w *timing) { w.interrupted, w.Retry = 500*time.Millisecond, 500*time.Millisecond })
	}
	caller, callee := accepted(t, alice, bob, CallOptions{RelayOnly: true})
	hear(t, caller, callee)
	fresh := []byte("another secret of the tests, 32.")
	if err := errors.Join(relay.SetSecrets([][]byte{fresh}), w.server.SetRelaySecret(fresh)); err != nil {
		t.Fatal(err)
	}
	before := caller.Stats().Path.Generation
	alice.networkChanged() // another path is begun, with the credentials that the call has
	eventually(t, "another path through the relay", func() bool {
		return caller.Stats().Path.Generation > before && callee.Stats().Path.Generation > before
	})
	hear(t, caller, callee)
	caller.Hangup()
	awaitEnd(t, callee, Normal)
}

// A server that hands out other relays again and again, for as long as a call lasts, fills nothing.
func TestUnusableRelaysAreBounded(t *testing.T) {
	s, l := &calls{}, &leg{}
	for i := range 100 {
		s.relayFailed(l, fmt.Sprintf("turn:relay%d.example", i), errors.New("it does not answer"))
	}
	if n := len(l.unusable); n != maxUnusable || l.unusable[n-1].URL != "turn:relay99.example" {
		t.Errorf("%d are kept", n)
	}
}
