package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/pflag"

	"sotto/client"
	"sotto/media"
	"sotto/media/device"
	"sotto/media/file"
)

// mediaFlags say what a call's sound and pictures are, the same for "call" and "listen".
type mediaFlags struct {
	agent     string
	audio     string
	audioElse string // its default
	video     string
	loop      bool
	record    string
	limit     time.Duration

	relayOnly, variableRate bool
}

func (m *mediaFlags) define(flags *pflag.FlagSet, audio string) {
	m.audioElse = audio
	flags.StringVar(&m.agent, "agent", "", "let the program `CMD` speak and listen")
	flags.StringVar(&m.audio, "audio", audio, "what you say: mic, tone, none, or a `FILE` (WAV, Ogg/Opus)")
	flags.StringVar(&m.video, "video", "", "what you show: a `FILE` (VP8 in IVF)")
	flags.BoolVar(&m.loop, "loop", false, "play the files again and again")
	flags.StringVar(&m.record, "record", "", "keep what you hear (WAV) and see (IVF) in `DIR`")
	flags.BoolVar(&m.relayOnly, "relay-only", false, "use the relay only: the other end does not learn this machine's address")
	flags.BoolVar(&m.variableRate, "variable-rate", false,
		"let packets of sound be as large as the sound needs; otherwise all have one size, and who watches the network learns nothing of what is said")
	flags.DurationVar(&m.limit, "for", 0, "hang up so long after the call was accepted; 0 does not")
}

// check finds out before a call whether the files can be played, and the agent run.
func (m *mediaFlags) check() error {
	if m.agent != "" {
		if m.audio != m.audioElse {
			return usagef("--agent and --audio exclude each other: the agent speaks")
		}
		if err := checkAgent(m.agent); err != nil {
			return err
		}
	}
	t, err := m.open("nobody")
	if err != nil {
		return err
	}
	if m.record != "" {
		if err := os.MkdirAll(m.record, 0o700); err != nil {
			return fmt.Errorf("cannot record there; choose another directory with --record: %w", err)
		}
	}
	return t.Close()
}

// tracks are the open media of one call. Files are open before it begins, so that a missing one is noticed; devices and
// recordings open when the call does.
type tracks struct {
	flags *mediaFlags
	peer  string
	agent *agent // nil if none speaks
	audio media.AudioSource
	video media.VideoSource

	mu       sync.Mutex
	closers  []func() error
	recorded []string
}

func (m *mediaFlags) open(peer string) (*tracks, error) {
	t := &tracks{flags: m, peer: peer}
	switch {
	case m.agent != "":
		agent, err := newAgent(m.agent, peer)
		if err != nil {
			return nil, err
		}
		t.agent = agent
		t.closers = append(t.closers, agent.finish)
	case m.audio == "mic", m.audio == "none", m.audio == "":
	case m.audio == "tone":
		t.audio = file.Tone(440)
	default:
		audio, err := file.OpenAudio(m.audio)
		if err != nil {
			return nil, err
		}
		t.closers = append(t.closers, audio.Close)
		t.audio = thenSilence{audio}
		if m.loop {
			t.audio = file.LoopAudio(audio)
		}
	}
	if m.video != "" {
		video, err := file.OpenVideo(m.video)
		if err != nil {
			return nil, errors.Join(err, t.Close())
		}
		t.closers = append(t.closers, video.Close)
		t.video = video
		if m.loop {
			t.video = file.LoopVideo(video)
		}
	}
	return t, nil
}

// thenSilence goes on when a file is over: the network would see that there is nothing more to hear.
type thenSilence struct{ media.AudioSource }

func (t thenSilence) ReadFrame(pcm []int16) error {
	err := t.AudioSource.ReadFrame(pcm)
	if errors.Is(err, io.EOF) {
		clear(pcm)
		return nil
	}
	return err
}

// options hand the media to the call, which asks for them once it is accepted.
func (t *tracks) options() client.MediaOptions {
	o := client.MediaOptions{Speaker: t.speaker}
	switch {
	case t.agent != nil:
		o.Microphone = func(context.Context) (media.AudioSource, error) { return (*agentMouth)(t.agent), t.agent.start() }
	case t.flags.audio == "mic":
		o.Microphone = func(context.Context) (media.AudioSource, error) { return device.OpenMicrophone() }
	case t.audio != nil:
		o.Microphone = func(context.Context) (media.AudioSource, error) { return t.audio, nil }
	}
	if t.video != nil {
		o.Camera = t.camera
	}
	if t.flags.record != "" {
		o.Screen = func(context.Context) (media.VideoSink, error) { return &screen{tracks: t}, nil }
	}
	return o
}

// camera is the video, from its beginning each time that it is turned on.
func (t *tracks) camera(context.Context) (media.VideoSource, error) {
	t.mu.Lock()
	video := t.video
	t.video = nil
	t.mu.Unlock()
	if video != nil {
		return video, nil
	}
	again, err := file.OpenVideo(t.flags.video)
	if err != nil {
		return nil, err
	}
	t.closeLater(again.Close)
	if t.flags.loop {
		return file.LoopVideo(again), nil
	}
	return again, nil
}

// A screen records what is seen, once there is something to see.
type screen struct {
	tracks    *tracks
	recording *file.IVF
}

func (s *screen) WriteFrame(frame media.VideoFrame) error {
	if s.recording == nil {
		recording, err := file.CreateIVF(s.tracks.recording(".ivf"))
		if err != nil {
			return err
		}
		s.recording = recording
		s.tracks.closeLater(recording.Close)
	}
	return s.recording.WriteFrame(frame)
}

// speaker plays what is heard where the microphone is, and records it if that is wanted.
func (t *tracks) speaker(context.Context) (media.AudioSink, error) {
	var sinks audioSinks
	if t.flags.record != "" {
		recording, err := file.CreateWAV(t.recording(".wav"))
		if err != nil {
			return nil, err
		}
		t.closeLater(recording.Close)
		sinks = append(sinks, recording)
	}
	if t.agent != nil {
		if err := t.agent.start(); err != nil {
			return nil, err
		}
		return append(sinks, (*agentEar)(t.agent)), nil
	}
	if t.flags.audio == "mic" {
		speaker, err := device.OpenSpeaker()
		if err != nil {
			return nil, err
		}
		t.closeLater(speaker.Close)
		sinks = append(sinks, speaker)
	}
	return sinks, nil
}

// audioSinks gives each frame to all of them.
type audioSinks []media.AudioSink

func (s audioSinks) WriteFrame(pcm []int16) error {
	var errs []error
	for _, sink := range s {
		errs = append(errs, sink.WriteFrame(pcm))
	}
	return errors.Join(errs...)
}

func (t *tracks) recording(extension string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	name := filepath.Join(t.flags.record, time.Now().Format("20060102-150405-")+filepath.Base(t.peer)+extension)
	t.recorded = append(t.recorded, name)
	return name
}

func (t *tracks) closeLater(close func() error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closers = append(t.closers, close)
}

// Close finishes the recordings, without what came too late for them, and waits for the agent.
func (t *tracks) Close() error {
	t.mu.Lock()
	closers := t.closers
	t.closers = nil
	t.mu.Unlock()
	var errs []error
	for _, close := range closers {
		if err := close(); !errors.Is(err, os.ErrClosed) { // the call may have closed it
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func (t *tracks) files() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([]string(nil), t.recorded...)
}
