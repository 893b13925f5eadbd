package media

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// stuck is a microphone that takes until it is released to close, and yields nothing meanwhile.
type stuck struct{ released, closing chan struct{} }

func newStuck() *stuck { return &stuck{released: make(chan struct{}), closing: make(chan struct{})} }

func (s *stuck) ReadFrame([]int16) error {
	<-s.closing
	return errors.New("closed")
}

func (s *stuck) Close() error {
	close(s.closing)
	<-s.released
	return nil
}

// A device that does not close holds up nobody but who exchanges it: the session goes on, with the next device, and other devices are
// closed with it.
func TestADeviceThatDoesNotClose(t *testing.T) { synctest.Test(t, testADeviceThatDoesNotClose) }

func testADeviceThatDoesNotClose(t *testing.T) {
	p, record := recorded(t, Config{Video: true})
	p.caller.microphone.encoder = newCanned()
	old := newStuck()
	if err := p.caller.StartSending(old, nil); err != nil {
		t.Fatal(err)
	}
	go p.caller.SetMicrophone(&tone{n: 1 << 30})
	<-old.closing
	p.caller.SetLowData(true)
	p.caller.SetLowData(false)
	if err := p.caller.SetCamera(newPictures(40, 20, 50*time.Millisecond)); err != nil {
		t.Error(err)
	}
	time.Sleep(time.Second)
	if _, left := record.voicePackets(); len(left) < 45 {
		t.Errorf("%d packets left", len(left))
	}
	if sent := p.caller.Stats().Video.FramesSent; sent < 15 {
		t.Errorf("%d pictures left", sent)
	}

	last := newStuck()
	go p.caller.SetMicrophone(last)
	other := newLens()
	if err := p.caller.SetCamera(other); err != nil {
		t.Error(err)
	}
	go p.caller.Close()
	<-last.closing
	<-other.closed
	close(old.released)
	close(last.released)
}

// newLens is a camera that yields nothing before it is closed.
func newLens() *lens { return &lens{closed: make(chan struct{})} }

type lens struct{ closed chan struct{} }

func (l *lens) ReadFrame() (VideoFrame, error) {
	<-l.closed
	return VideoFrame{}, errors.New("closed")
}

func (l *lens) Close() error {
	close(l.closed)
	return nil
}

// Devices that fail at once.
type brokenSpeaker struct{}

var errUnplugged = errors.New("it was unplugged")

func (brokenSpeaker) WriteFrame([]int16) error { return errUnplugged }

type brokenMicrophone struct{}

func (brokenMicrophone) ReadFrame([]int16) error { return errUnplugged }

type brokenCamera struct{}

func (brokenCamera) ReadFrame() (VideoFrame, error) { return VideoFrame{}, errUnplugged }

type brokenDisplay struct{}

func (brokenDisplay) WriteFrame(VideoFrame) error { return errUnplugged }

// A device that fails is told of, once, and another takes its place. One that has no more, or was closed, has not failed.
func TestDevicesFail(t *testing.T) { synctest.Test(t, testDevicesFail) }

func testDevicesFail(t *testing.T) {
	var mu sync.Mutex
	var failed []string
	p, _ := recorded(t, Config{Video: true, Screen: true, OnDeviceFailed: func(device string, err error) {
		if !errors.Is(err, errUnplugged) {
			t.Errorf("%s: %v", device, err)
		}
		mu.Lock()
		defer mu.Unlock()
		failed = append(failed, device)
	}})
	failures := func() []string {
		time.Sleep(time.Second)
		mu.Lock()
		defer mu.Unlock()
		defer func() { failed = nil }()
		slices.Sort(failed)
		return failed
	}
	p.caller.microphone.encoder = newCanned()
	if err := p.caller.StartSending(brokenMicrophone{}, brokenCamera{}); err != nil {
		t.Fatal(err)
	}
	if err := p.caller.SetScreen(brokenCamera{}); err != nil {
		t.Fatal(err)
	}
	if got := failures(); !slices.Equal(got, []string{"camera", "microphone", "screen"}) {
		t.Errorf("%v failed", got)
	}
	p.callee.SetSinks(brokenSpeaker{}, brokenDisplay{})
	if err := p.caller.SetMicrophone(&tone{n: 50}); err != nil { // a second of sound
		t.Fatal(err)
	}
	if err := p.caller.SetCamera(newPictures(10, 5, 50*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if got := failures(); !slices.Equal(got, []string{"display", "speaker"}) {
		t.Errorf("%v failed", got)
	}
	waiting := newBlocking()
	if err := p.caller.SetMicrophone(waiting); err != nil {
		t.Fatal(err)
	}
	p.caller.SetMicrophone(nil)
	p.caller.Close()
	if got := failures(); len(got) != 0 {
		t.Errorf("%v failed", got)
	}
}

// stumbles is an encoder that fails once.
type stumbles struct {
	encoder
	frames int
}

func (s *stumbles) Encode(pcm []int16) ([]byte, error) {
	if s.frames++; s.frames == 10 {
		return nil, errors.New("once")
	}
	return s.encoder.Encode(pcm)
}

// A microphone whose sound cannot be encoded is told of and closed, and another can take its place.
func TestAnotherMicrophoneAfterAnEncoderFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failed := make(chan string, 10)
		p, record := recorded(t, Config{OnDeviceFailed: func(device string, _ error) { failed <- device }})
		p.caller.microphone.encoder = &stumbles{encoder: newCanned()}
		if err := p.caller.StartSending(&tone{n: 1 << 30}, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if len(failed) != 1 || <-failed != "microphone" {
			t.Error("nothing is told of it")
		}
		_, before := record.voicePackets()
		if err := p.caller.SetMicrophone(&tone{n: 1 << 30}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if _, after := record.voicePackets(); len(after)-len(before) < 45 {
			t.Errorf("%d packets before the error, %d in all", len(before), len(after))
		}
	})
}
