package client

import (
	"context"
	"io"
	"testing"

	"sotto/media"
)

// brief is sound of so many frames.
type brief struct {
	tone
	frames int
}

func (b *brief) ReadFrame(pcm []int16) error {
	if b.frames == 0 {
		return io.EOF
	}
	b.frames--
	return b.tone.ReadFrame(pcm)
}

// film is pictures of so many frames.
type film struct {
	lens
	frames int
}

func (f *film) ReadFrame() (media.VideoFrame, error) {
	if f.frames == 0 {
		return media.VideoFrame{}, io.EOF
	}
	f.frames--
	return f.lens.ReadFrame()
}

// A call tells when its file of sound or of pictures is over. Behind sound comes silence, so that the
// network does not see it, until there is another source.
func TestSourceEnded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	caller, callee := new(end), new(end)
	m := caller.media()
	sound := &brief{frames: 20}
	m.Microphone = func(context.Context) (media.AudioSource, error) { return sound, nil }
	m.Camera = func(context.Context) (media.VideoSource, error) { return &film{frames: 15}, nil }
	var err error
	if caller.Call, err = alice.Call(patience(t), "bob", CallOptions{MediaOptions: m, Video: true}); err != nil {
		t.Fatal(err)
	}
	callee.Call = expect[IncomingCall](t, bob).Call
	if err := callee.Accept(patience(t), callee.media()); err != nil {
		t.Fatal(err)
	}
	ended := map[string]bool{}
	for range 2 {
		ended[awaitEvent[SourceEnded](t, caller).Device] = true
	}
	if !ended["microphone"] || !ended["camera"] {
		t.Errorf("these have ended: %v", ended)
	}
	before := callee.Stats().Audio.PacketsReceived
	eventually(t, "silence is sent", func() bool { return callee.Stats().Audio.PacketsReceived > before+20 })
	loud := callee.speaker.heard()
	if err := caller.SetMicrophone(&brief{frames: 30}); err != nil {
		t.Fatal(err)
	}
	if e := awaitEvent[SourceEnded](t, caller); e.Device != "microphone" {
		t.Errorf("%q has ended", e.Device)
	}
	eventually(t, "the other source is heard", func() bool { return callee.speaker.heard() > loud })
	eventually(t, "the first one is closed", sound.closed.Load)
	if err := caller.Hangup(); err != nil {
		t.Fatal(err)
	}
}
