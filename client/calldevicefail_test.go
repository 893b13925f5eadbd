package client

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"sotto/media"
)

var errUnplugged = errors.New("it was unplugged")

// plug is what a device hangs on.
type plug struct{ out atomic.Bool }

func (p *plug) check() error {
	if p.out.Load() {
		return errUnplugged
	}
	return nil
}

type pluggedMicrophone struct {
	tone
	plug
}

func (m *pluggedMicrophone) ReadFrame(pcm []int16) error {
	return errors.Join(m.tone.ReadFrame(pcm), m.check())
}

type pluggedSpeaker struct {
	ear
	plug
}

func (s *pluggedSpeaker) WriteFrame(pcm []int16) error {
	return errors.Join(s.ear.WriteFrame(pcm), s.check())
}

type pluggedCamera struct {
	lens
	plug
}

func (c *pluggedCamera) ReadFrame() (media.VideoFrame, error) {
	frame, err := c.lens.ReadFrame()
	return frame, errors.Join(err, c.check())
}

// A device that fails during a call is told of, not met with silence. The call goes on, with another one if there is one; the other end
// sees that there are no pictures any more.
func TestDevicesFailDuringACall(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	caller, callee := new(end), new(end)
	var mic pluggedMicrophone
	var speaker pluggedSpeaker
	cameras := make(chan *pluggedCamera, 2)
	m := MediaOptions{
		Microphone: func(context.Context) (media.AudioSource, error) { return &mic, nil },
		Speaker:    func(context.Context) (media.AudioSink, error) { return &speaker, nil },
		Camera: func(context.Context) (media.VideoSource, error) {
			camera := new(pluggedCamera)
			cameras <- camera
			return camera, nil
		},
	}
	var err error
	if caller.Call, err = alice.Call(patience(t), "bob", CallOptions{MediaOptions: m, Video: true}); err != nil {
		t.Fatal(err)
	}
	callee.Call = expect[IncomingCall](t, bob).Call
	var eye eyes
	theirs := callee.media()
	theirs.Screen = eye.open
	if err := callee.Accept(patience(t), theirs); err != nil {
		t.Fatal(err)
	}
	hear(t, callee)
	failed := func(device string, p *plug) {
		t.Helper()
		p.out.Store(true)
		if got := awaitEvent[DeviceFailed](t, caller); got.Device != device || !errors.Is(got.Err, errUnplugged) {
			t.Errorf("%s failed: %v", got.Device, got.Err)
		}
	}
	failed("microphone", &mic.plug)
	eventually(t, "the microphone is closed", mic.closed.Load)
	if err := caller.SetMicrophone(new(tone)); err != nil {
		t.Fatal(err)
	}
	hear(t, callee)
	failed("speaker", &speaker.plug)
	hear(t, callee)

	eventually(t, "bob sees alice", func() bool { return eye.seen.Load() > 3 && callee.PeerState().Video })
	camera := <-cameras
	failed("camera", &camera.plug)
	eventually(t, "bob knows that alice shows no video", func() bool { return !callee.PeerState().Video })
	eventually(t, "the camera is closed", camera.closed.Load)
	if err := caller.ShowVideo(true); err != nil {
		t.Fatal(err)
	}
	before := eye.seen.Load()
	eventually(t, "bob sees alice again", func() bool { return eye.seen.Load() > before+3 })
	caller.Hangup()
	awaitEnd(t, callee, Normal)
	awaitEnd(t, caller, Normal)
}

// During a hold, whoever began it, the camera is on exactly while its user says so.
func TestCameraDuringAHold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	caller, callee := new(end), new(end)
	cameras := make(chan *lens, 1)
	m := caller.media()
	m.Camera = func(context.Context) (media.VideoSource, error) {
		camera := new(lens)
		cameras <- camera
		return camera, nil
	}
	var err error
	if caller.Call, err = alice.Call(patience(t), "bob", CallOptions{MediaOptions: m, Video: true}); err != nil {
		t.Fatal(err)
	}
	callee.Call = expect[IncomingCall](t, bob).Call
	if err := callee.Accept(patience(t), callee.media()); err != nil {
		t.Fatal(err)
	}
	hear(t, caller, callee)
	for _, holds := range []*end{caller, callee} {
		camera := <-cameras
		if err := holds.Hold(true); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the call is on hold", func() bool { return callee.PeerState().Held || caller.PeerState().Held })
		if camera.closed.Load() {
			t.Error("a hold closed the camera")
		}
		if err := caller.ShowVideo(false); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the camera is closed", camera.closed.Load)
		if err := caller.ShowVideo(true); err != nil {
			t.Fatal(err)
		}
		sent := caller.Stats().Video.FramesSent
		if err := holds.Hold(false); err != nil {
			t.Fatal(err)
		}
		eventually(t, "pictures go on", func() bool { return caller.Stats().Video.FramesSent > sent+3 })
		eventually(t, "the hold is over", func() bool { return !callee.PeerState().Held && !caller.PeerState().Held })
	}
	caller.Hangup()
	awaitEnd(t, callee, Normal)
}

// burst is a shared screen of many pictures.
type burst struct{ lens }

func (b *burst) ReadFrame() (media.VideoFrame, error) {
	frame, err := b.lens.ReadFrame()
	frame.PTS = time.Duration(b.n) * 2 * time.Millisecond
	return frame, err
}

// A shared screen that nobody here looks at is taken and dropped: it does not pile up, nor is it asked for anew.
func TestASharedScreenThatNobodyWants(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	caller, callee := accepted(t, alice, bob, CallOptions{Video: true})
	if err := caller.ShareScreen(new(burst)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "more pictures came than wait for a screen", func() bool { return callee.Stats().Screen.FramesReceived > 500 })
	caller.Hangup()
	awaitEnd(t, callee, Normal)
}
