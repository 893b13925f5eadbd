package client

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"sotto/media"
)

// lens is a camera of small pictures, ten a second.
type lens struct {
	n      int
	closed atomic.Bool
}

func (l *lens) ReadFrame() (media.VideoFrame, error) {
	data := make([]byte, 400)
	key := l.n%5 == 0
	if !key {
		data[0] = 1 // of VP8 only the bit is looked at that tells key frames (RFC 6386 section 9.1)
	}
	l.n++
	return media.VideoFrame{Data: data, PTS: time.Duration(l.n) * 100 * time.Millisecond, Key: key}, nil
}

func (l *lens) Close() error { l.closed.Store(true); return nil }

// eyes count what they see.
type eyes struct{ seen atomic.Int32 }

func (e *eyes) open(context.Context) (media.VideoSink, error) { return e, nil }

func (e *eyes) WriteFrame(media.VideoFrame) error { e.seen.Add(1); return nil }

// The camera is on exactly while its user shows video; a screen is shown beside it; a hold stops both.
func TestVideoOnAndOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	caller, callee := new(end), new(end)
	var lenses []*lens
	opening := errors.New("the camera is in use")
	fail := new(atomic.Bool)
	m := caller.media()
	m.Camera = func(context.Context) (media.VideoSource, error) {
		if fail.Load() {
			return nil, opening
		}
		lenses = append(lenses, new(lens))
		return lenses[len(lenses)-1], nil
	}
	var err error
	if caller.Call, err = alice.Call(patience(t), "bob", CallOptions{MediaOptions: m, Video: true}); err != nil {
		t.Fatal(err)
	}
	callee.Call = expect[IncomingCall](t, bob).Call
	var camera, screen eyes
	theirs := callee.media()
	theirs.Screen, theirs.SharedScreen = camera.open, screen.open
	if err := callee.Accept(patience(t), theirs); err != nil {
		t.Fatal(err)
	}
	sees := func(e *eyes) {
		t.Helper()
		before := e.seen.Load()
		eventually(t, "pictures come", func() bool { return e.seen.Load() > before+3 })
	}
	sees(&camera)
	eventually(t, "bob knows that alice shows video", func() bool { return callee.PeerState().Video })
	eventually(t, "alice knows that bob does not", func() bool { return caller.PeerState() == PeerState{} && caller.Stats().Path.Kind != "" })

	if err := caller.ShowVideo(false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the camera is closed", lenses[0].closed.Load)
	eventually(t, "bob knows that alice shows none", func() bool { return !callee.PeerState().Video })
	shared := new(lens)
	if err := caller.ShareScreen(shared); err != nil {
		t.Fatal(err)
	}
	sees(&screen)
	if err := caller.Hold(true); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the screen stops", func() bool {
		before := screen.seen.Load()
		time.Sleep(300 * time.Millisecond) // a screen that goes on shows three pictures in that
		return screen.seen.Load() == before
	})
	if err := caller.Hold(false); err != nil {
		t.Fatal(err)
	}
	sees(&screen)
	if err := caller.ShareScreen(nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the shared screen is closed", shared.closed.Load)
	if err := caller.ShowVideo(true); err != nil {
		t.Fatal(err)
	}
	sees(&camera)
	if err := caller.ShowVideo(false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "bob knows that alice shows none", func() bool { return !callee.PeerState().Video })
	fail.Store(true)
	if err := caller.ShowVideo(true); err != nil {
		t.Fatal(err)
	}
	if failed := awaitEvent[DeviceFailed](t, caller); !errors.Is(failed.Err, opening) {
		t.Errorf("the camera failed with %v", failed.Err)
	}
	eventually(t, "bob knows that alice shows none", func() bool { return !callee.PeerState().Video })
	if err := callee.ShowVideo(true); err == nil {
		t.Error("bob shows video without a camera")
	}
	hear(t, caller, callee)
	caller.Hangup()
	awaitEnd(t, callee, Normal)
	awaitEnd(t, caller, Normal)
	for _, l := range lenses {
		if !l.closed.Load() {
			t.Error("a camera is open")
		}
	}
}

// A call without video has no camera, whatever its ends are asked.
func TestNoVideoInACallOfSound(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	caller, callee := ring(t, alice, bob, CallOptions{})
	m := callee.media()
	m.Camera = func(context.Context) (media.VideoSource, error) {
		t.Error("the camera was opened")
		return new(lens), nil
	}
	if err := callee.Accept(patience(t), m); err != nil {
		t.Fatal(err)
	}
	if err := callee.ShowVideo(true); err == nil {
		t.Error("video in a call of sound")
	}
	source := new(lens)
	if err := callee.ShareScreen(source); err == nil || !source.closed.Load() {
		t.Errorf("a screen in a call of sound: %v", err)
	}
	hear(t, caller, callee)
	caller.Hangup()
	awaitEnd(t, callee, Normal)
}
