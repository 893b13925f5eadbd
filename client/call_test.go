package client

import (
	"context"
	"errors"
	"math"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sotto/client/callflow"
	"sotto/media"
	"sotto/signaling"
	"sotto/wire"
)

// tone is a microphone that hears 440 Hz, and tells when it was opened and closed.
type tone struct {
	n      int
	opened atomic.Bool
	closed atomic.Bool
}

func (s *tone) open(context.Context) (media.AudioSource, error) {
	s.opened.Store(true)
	return s, nil
}

func (s *tone) ReadFrame(pcm []int16) error {
	for i := range pcm {
		pcm[i] = int16(10000 * math.Sin(2*math.Pi*440*float64(s.n)/media.SampleRate))
		s.n++
	}
	return nil
}

func (s *tone) Close() error { s.closed.Store(true); return nil }

// ear is a speaker that knows how loud it was.
type ear struct {
	mu     sync.Mutex
	frames int
	loud   int
	closed bool
}

func (e *ear) open(context.Context) (media.AudioSink, error) { return e, nil }

func (e *ear) WriteFrame(pcm []int16) error {
	var power float64
	for _, s := range pcm {
		power += float64(s) * float64(s)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.frames++
	if math.Sqrt(power/float64(len(pcm))) > 3000 {
		e.loud++
	}
	return nil
}

func (e *ear) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	return nil
}

func (e *ear) heard() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.loud
}

// end is one end of a call with its devices.
type end struct {
	*Call
	mic     tone
	speaker ear
}

func (e *end) media() MediaOptions {
	return MediaOptions{Microphone: e.mic.open, Speaker: e.speaker.open}
}

// ring calls and waits until it rings.
func ring(t testing.TB, from, to *person, o CallOptions) (caller, callee *end) {
	t.Helper()
	caller, callee = new(end), new(end)
	o.MediaOptions = caller.media()
	var err error
	if caller.Call, err = from.Call(patience(t), to.Username(), o); err != nil {
		t.Fatal(err)
	}
	callee.Call = expect[IncomingCall](t, to).Call
	awaitEvent[Ringing](t, caller)
	return caller, callee
}

func awaitEvent[E CallEvent](t testing.TB, e *end) E {
	t.Helper()
	var want E
	ctx := patience(t)
	for {
		select {
		case got, ok := <-e.Events():
			if !ok {
				t.Fatalf("the call ended (%v, %v) without %T", e.End(), e.Err(), want)
			}
			if got, ok := got.(E); ok {
				return got
			}
			if last, ok := got.(Ended); ok {
				t.Fatalf("the call ended without %T: %v, %v", want, last.Reason, last.Err)
			}
		case <-ctx.Done():
			t.Fatalf("no %T in time", want)
		}
	}
}

func awaitEnd(t testing.TB, e *end, reason EndReason) {
	t.Helper()
	select {
	case <-e.Done():
	case <-patience(t).Done():
		t.Fatal("the call did not end in time")
	}
	if e.End() != reason {
		t.Fatalf("ended as %v (%v), want %v", e.End(), e.Err(), reason)
	}
}

func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute) // on a busy machine, under the race detector
	for !is() {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// friends are two who have accepted each other.
func friends(t testing.TB, w *world) (alice, bob *person) {
	t.Helper()
	alice, bob = w.online("alice"), w.online("bob")
	alice.send(t, "bob", "hi")
	bob.hears(t, "hi")
	bob.send(t, "alice", "hi")
	alice.hears(t, "hi")
	return alice, bob
}

func TestCallDirect(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	wholeCall(t, alice, bob, CallOptions{}, "direct")
}

func TestCallRelayOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, withRelay(t))
	alice, bob := friends(t, w)
	bob.options.RelayOnly = true
	var count atomic.Int32
	relayed := func(m *wire.CallMessage) *wire.CallMessage {
		for _, c := range m.GetCandidates().GetCandidates() {
			if fields := strings.Fields(c); !isRelay(c) || strings.Join(fields[8:], " ") != "raddr 0.0.0.0 rport 9" {
				t.Errorf("candidate %q tells more than the relay's address", c)
			}
			count.Add(1)
		}
		return m
	}
	alice.between(relayed)
	bob.between(relayed)
	wholeCall(t, alice, bob, CallOptions{RelayOnly: true}, "relay")
	if count.Load() < 2 {
		t.Error("no candidates were seen")
	}
}

// A caller who is no contact does not learn this device's address before its user accepts: until then only the relay's candidate leaves.
// Then the call finds the direct path, unless the user wants none.
func TestCallFromStrangerIsRelayed(t *testing.T) {
	t.Parallel()
	for always, path := range map[bool]string{false: "direct", true: "relay"} {
		w := newWorld(t, withRelay(t))
		alice, bob := w.online("alice"), w.online("bob")
		bob.options.RelayOnly = always
		var ofFirst, later atomic.Int32
		alice.between(func(m *wire.CallMessage) *wire.CallMessage {
			for _, c := range m.GetCandidates().GetCandidates() {
				switch {
				case m.GetCandidates().Generation > 0:
					later.Add(1)
				case !isRelay(c):
					t.Errorf("candidate %q left before the accept", c)
				default:
					ofFirst.Add(1)
				}
			}
			return m
		})
		wholeCall(t, alice, bob, CallOptions{}, path)
		// The direct path may be there before the relay's candidates are.
		if always && ofFirst.Load() == 0 || later.Load() > 0 == always {
			t.Errorf("relay-only always %v: %d candidates while it rang, %d after", always, ofFirst.Load(), later.Load())
		}
	}
}

// A stranger's call does not depend on the relay once it is accepted: the direct path opens at the
// accept, though the relay cannot be reached and neither end sends anything.
func TestCallFromStrangerWithADeadRelay(t *testing.T) {
	t.Parallel()
	dead, err := net.ListenPacket("udp4", "127.0.0.1:0") // it never answers
	if err != nil {
		t.Fatal(err)
	}
	defer dead.Close()
	w := newWorld(t, func(cfg *signaling.Config) {
		cfg.Relay = &signaling.RelayConfig{
			URLs: []string{"turn:" + dead.LocalAddr().String() + "?transport=udp"}, Secret: testSecret,
		}
	})
	alice, bob := w.online("alice"), w.online("bob")
	caller, callee := ring(t, alice, bob, CallOptions{})
	if err := errors.Join(caller.Mute(true), callee.Mute(true)); err != nil {
		t.Fatal(err)
	}
	if err := callee.Accept(patience(t), callee.media()); err != nil {
		t.Fatal(err)
	}
	accepted := time.Now()
	awaitEvent[Connected](t, callee)
	awaitEvent[Connected](t, caller)
	if took := time.Since(accepted); took > callflow.StandardTiming.Retry {
		t.Errorf("the path took %v: it came by the retry, not by the accept", took)
	}
	if kind := callee.Stats().Path.Kind; kind != "direct" {
		t.Errorf("the path is %s", kind)
	}
	caller.Hangup()
	awaitEnd(t, callee, Normal)
}

// A device list that is another at each end, which the owner's stolen key may have signed, ends the call at whichever end learns of it.
func TestCallBindsDeviceLists(t *testing.T) {
	t.Parallel()
	for name, fewer := range map[string]func(alice, bob *person) *person{
		"of the caller's account, at the callee's end": func(alice, bob *person) *person { return bob },
		"of the callee's account, at the caller's end": func(alice, bob *person) *person { return alice },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			alice, bob := friends(t, w)
			misled, owner := fewer(alice, bob), bob
			if misled == bob {
				owner = alice
			}
			misled.mu.Lock()
			other := *misled.contacts[owner.Account()]
			other.List = []byte("a list that nobody else has seen")
			misled.contacts[owner.Account()] = &other
			misled.mu.Unlock()
			call, err := alice.Call(patience(t), "bob", CallOptions{})
			if err != nil {
				t.Fatal(err)
			}
			caller := &end{Call: call}
			awaitEnd(t, caller, Failed)
			if misled == alice && caller.Err() != errListsDiffer {
				t.Errorf("the caller hears %v", caller.Err())
			}
			if misled == bob {
				callee := expect[IncomingCall](t, bob).Call
				<-callee.Done()
				if callee.Err() != errListsDiffer {
					t.Errorf("the callee hears %v", callee.Err())
				}
			}
		})
	}
}

// Without a relay nothing of the callee's leaves before its user has accepted the stranger's call.
func TestCallFromStrangerWithoutRelay(t *testing.T) {
	t.Parallel()
	useless := func(cfg *signaling.Config) {
		cfg.Relay = &signaling.RelayConfig{URLs: []string{"nonsense"}, Secret: testSecret}
	}
	for _, w := range []*world{newWorld(t), newWorld(t, useless)} {
		alice, bob := w.online("alice"), w.online("bob")
		wholeCall(t, alice, bob, CallOptions{}, "direct")
	}
}

func wholeCall(t *testing.T, alice, bob *person, o CallOptions, path string) {
	caller, callee := ring(t, alice, bob, o)
	if !callee.Incoming() || callee.Peer().Account != alice.Account() || callee.ID() != caller.ID() {
		t.Errorf("incoming call from %v", callee.Peer())
	}
	if caller.mic.opened.Load() || callee.mic.opened.Load() {
		t.Fatal("a microphone was opened before the accept")
	}
	if err := callee.Accept(patience(t), callee.media()); err != nil {
		t.Fatal(err)
	}
	awaitEvent[Accepted](t, caller)
	eventually(t, "both hear the tone", func() bool { return caller.speaker.heard() > 25 && callee.speaker.heard() > 25 })

	for _, e := range []*end{caller, callee} {
		eventually(t, "the path is "+path, func() bool { return e.Stats().Path.Kind == path })
		if e.Stats().Undecryptable != 0 {
			t.Error("undecryptable packets")
		}
	}
	code, ok := caller.VerificationCode()
	theirs, ok2 := callee.VerificationCode()
	if !ok || !ok2 || code != theirs || len(code) != 7 {
		t.Errorf("verification codes %q and %q", code, theirs)
	}
	if _, err := alice.Call(patience(t), bob.Username(), o); !errors.Is(err, ErrBusy) {
		t.Errorf("a second call: %v", err)
	}
	if err := caller.Hangup(); err != nil {
		t.Error(err)
	}
	awaitEnd(t, caller, Normal)
	awaitEnd(t, callee, Normal)
	for _, e := range []*end{caller, callee} {
		if !e.mic.closed.Load() || !e.speaker.closed {
			t.Error("a device was not closed")
		}
	}
}

func TestDecline(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	caller, callee := ring(t, alice, bob, CallOptions{})
	if err := callee.Decline(); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, callee, Declined)
	awaitEnd(t, caller, Declined)
	if caller.mic.opened.Load() {
		t.Error("the caller's microphone was opened")
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	caller, callee := ring(t, alice, bob, CallOptions{})
	if err := caller.Hangup(); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, caller, Cancelled)
	awaitEnd(t, callee, Cancelled)
	if err := callee.Accept(patience(t), callee.media()); !errors.Is(err, ErrCallEnded) || callee.mic.opened.Load() {
		t.Errorf("accepting a cancelled call: %v", err)
	}
}

func TestBusy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	carol := w.online("carol")
	if _, err := bob.AddContact(patience(t), "carol"); err != nil {
		t.Fatal(err)
	}
	caller, _ := ring(t, alice, bob, CallOptions{})
	third := new(end)
	var err error
	if third.Call, err = carol.Call(patience(t), "bob", CallOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, third, Busy)
	quiet[IncomingCall](t, bob)
	if caller.End() != NotEnded {
		t.Error("the third party ended the call")
	}
}

func TestNobodyAnswers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	alice.wait(func(w *timing) { w.Ring = 500 * time.Millisecond })
	caller, callee := ring(t, alice, bob, CallOptions{})
	awaitEnd(t, caller, Timeout)
	awaitEnd(t, callee, Timeout)
}

func TestDeviceNotConnected(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	if err := bob.Close(); err != nil {
		t.Fatal(err)
	}
	alice.wait(func(w *timing) { w.Reach = 500 * time.Millisecond })
	call, err := alice.Call(patience(t), "bob", CallOptions{})
	if err != nil {
		t.Fatal(err)
	}
	caller := &end{Call: call}
	awaitEnd(t, caller, Unreachable)
	if call.Err() == nil {
		t.Errorf("error %v", call.Err())
	}
}

func TestMicrophoneFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	caller, callee := ring(t, alice, bob, CallOptions{})
	broken := errors.New("no microphone here")
	err := callee.Accept(patience(t), MediaOptions{Microphone: func(context.Context) (media.AudioSource, error) { return nil, broken }})
	if !errors.Is(err, broken) {
		t.Errorf("accept: %v", err)
	}
	awaitEnd(t, callee, Failed)
	awaitEnd(t, caller, Failed)
}

// Close hangs up, and so does the end of Start's context, before the link ends: the other end is told at once.
func TestCloseHangsUp(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*testing.T, *person, context.CancelFunc){
		"close": func(t *testing.T, p *person, _ context.CancelFunc) {
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
		},
		"context": func(_ *testing.T, _ *person, cancel context.CancelFunc) { cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			alice, bob := friends(t, w)
			alice.reopen(t, w)
			ctx, cancel := context.WithCancel(t.Context())
			if err := alice.Start(ctx); err != nil {
				t.Fatal(err)
			}
			if err := alice.WaitConnected(patience(t)); err != nil {
				t.Fatal(err)
			}
			caller, callee := ring(t, alice, bob, CallOptions{})
			if err := callee.Accept(patience(t), callee.media()); err != nil {
				t.Fatal(err)
			}
			awaitEvent[Accepted](t, caller)
			end(t, alice, cancel)
			awaitEnd(t, caller, Normal)
			awaitEnd(t, callee, Normal)
			if _, err := alice.Call(patience(t), "bob", CallOptions{}); !errors.Is(err, ErrClosed) {
				t.Errorf("a call after the end: %v", err)
			}
		})
	}
}
