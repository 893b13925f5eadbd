package client

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/google/uuid"

	"sotto/media"
	"sotto/wire"
)

// stuck is a speaker whose WriteFrame blocks until it is closed; if deaf is set, not even then.
type stuck struct {
	deaf    bool
	once    sync.Once
	playing chan struct{} // closed by the first frame
	freed   chan struct{}
}

func newStuck(deaf bool) *stuck {
	return &stuck{deaf: deaf, playing: make(chan struct{}), freed: make(chan struct{})}
}

func (s *stuck) open(context.Context) (media.AudioSink, error) { return s, nil }

func (s *stuck) WriteFrame([]int16) error {
	s.once.Do(func() { close(s.playing) })
	<-s.freed
	return errors.New("closed")
}

func (s *stuck) Close() error {
	if s.deaf {
		<-s.freed
		return nil
	}
	close(s.freed)
	return nil
}

// A speaker that takes nothing any more keeps neither the call nor the client from ending.
func TestStuckSpeaker(t *testing.T) {
	for name, deaf := range map[string]bool{"until it is closed": false, "for good": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			alice, bob := friends(t, w)
			caller, callee := ring(t, alice, bob, CallOptions{})
			speaker := newStuck(deaf)
			if deaf {
				defer close(speaker.freed)
			}
			m := callee.media()
			m.Speaker = speaker.open
			if err := callee.Accept(patience(t), m); err != nil {
				t.Fatal(err)
			}
			select {
			case <-speaker.playing:
			case <-patience(t).Done():
				t.Fatal("nothing is played")
			}
			if err := callee.Hangup(); err != nil {
				t.Fatal(err)
			}
			awaitEnd(t, callee, Normal)
			awaitEnd(t, caller, Normal)
			if errors.Is(callee.Err(), errDeviceStuck) != deaf {
				t.Errorf("ended with %v", callee.Err())
			}
			if !callee.mic.closed.Load() {
				t.Error("the microphone is open")
			}
			if bob.calls.with(alice.Account()) {
				t.Error("the next call would find this one")
			}
			if err := bob.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// dialog is a microphone that asks its user first.
type dialog struct {
	tone
	asked  chan struct{}
	answer chan struct{}
}

func newDialog() *dialog { return &dialog{asked: make(chan struct{}), answer: make(chan struct{})} }

func (d *dialog) open(ctx context.Context) (media.AudioSource, error) {
	close(d.asked)
	<-d.answer // whatever becomes of the call
	return d.tone.open(ctx)
}

// asking is a call whose callee has accepted and is now asked for the microphone.
func asking(t *testing.T, alice, bob *person) (caller, callee *end, microphone *dialog, accepted chan error) {
	caller, callee = ring(t, alice, bob, CallOptions{})
	microphone, accepted = newDialog(), make(chan error, 1)
	m := callee.media()
	m.Microphone = microphone.open
	go func() { accepted <- callee.Accept(patience(t), m) }()
	select {
	case <-microphone.asked:
	case <-patience(t).Done():
		t.Fatal("the microphone was not opened")
	}
	return caller, callee, microphone, accepted
}

// While a dialog asks the callee for its microphone, the caller cannot hold up what others send.
func TestOpeningDevicesHoldsUpNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	carol := w.online("carol")
	caller, callee, microphone, accepted := asking(t, alice, bob)
	for range maxQueued + 16 {
		body := &wire.CallMessage_Candidates{Candidates: &wire.Candidates{Candidates: []string{"none"}}}
		bob.takes(callee.peer, &wire.CallMessage{CallId: callee.id[:], Body: body})
	}
	carol.send(t, "bob", "hello")
	bob.hears(t, "hello")
	close(microphone.answer)
	if err := <-accepted; err != nil {
		t.Error(err)
	}
	eventually(t, "the call goes on", func() bool { return caller.speaker.heard() > 10 && callee.speaker.heard() > 10 })
	if err := caller.Hangup(); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, callee, Normal)
}

// The caller hangs up while the dialog is open: the call ends, and what the user then opens is closed at once.
func TestHangupWhileDevicesOpen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	caller, callee, microphone, accepted := asking(t, alice, bob)
	awaitEvent[Accepted](t, caller)
	if err := caller.Hangup(); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, callee, Normal)
	if err := <-accepted; !errors.Is(err, ErrCallEnded) {
		t.Errorf("accept: %v", err)
	}
	close(microphone.answer)
	eventually(t, "the microphone is closed", microphone.closed.Load)
	callee.speaker.mu.Lock()
	defer callee.speaker.mu.Unlock()
	if !callee.speaker.closed {
		t.Error("the speaker is open")
	}
}

// Whatever a peer sends, and however busy the calls are, taking it does not wait. Too many candidates are dropped; when something else
// is lost its call fails, once. Others are not affected.
func TestPeerCannotBlock(t *testing.T) {
	box := newCallBox() // nobody takes
	peer, other := uuid.New(), uuid.New()
	var candidates, rest, floods, others int
	flooded := func() { floods++ }
	for range 2 * maxQueued {
		box.fromPeer(peer, true, func() { candidates++ }, flooded)
	}
	for range 2 * maxQueued {
		box.fromPeer(peer, false, func() { rest++ }, flooded)
	}
	box.fromPeer(other, false, func() { others++ }, flooded)
	for _, f := range box.take() {
		f()
	}
	if candidates != maxQueued/2 || rest != maxQueued/2 || floods != 1 || others != 1 {
		t.Errorf("%d candidates, %d others, %d faults; %d of somebody else's", candidates, rest, floods, others)
	}
	box.fromPeer(peer, true, func() { candidates++ }, flooded)
	if len(box.take()) != 1 {
		t.Error("there is no room although the box was emptied")
	}
	box.close()
	if box.post(func() {}) {
		t.Error("a closed box takes something")
	}
}
