package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
	audioElse string      // its default
	chosen    func() bool // whether --audio was said
	video     string
	screen    string
	loop      bool
	record    string
	limit     time.Duration
	stdin     *standardInput // see checkStdin

	relayOnly, variableRate, lowData bool

	from *origin // what the names of files and the agent's program are relative to
}

// typed makes names of files those that this process opens.
func (m *mediaFlags) typed(from *origin) {
	m.from = from
	for _, name := range []*string{&m.audio, &m.video, &m.screen, &m.record} {
		word := *name == stdinName && name != &m.record ||
			name == &m.audio && slices.Contains([]string{"mic", "tone", "none"}, *name)
		if !word {
			*name = from.file(*name)
		}
	}
}

func (m *mediaFlags) define(flags *pflag.FlagSet, audio string) {
	m.audioElse = audio
	m.chosen = func() bool { return flags.Changed("audio") }
	flags.StringVar(&m.agent, "agent", "", "let the program `CMD` speak and listen")
	flags.StringVar(&m.audio, "audio", audio, "what you say: mic, tone, none, or a `FILE` (WAV, Ogg/Opus; - is standard input)")
	flags.StringVar(&m.video, "video", "", "what you show: a `FILE` (VP8 in IVF; - is standard input)")
	flags.StringVar(&m.screen, "screen", "", "what you share as your screen, beside --video: a `FILE` (VP8 in IVF)")
	flags.BoolVar(&m.loop, "loop", false, "play the files again and again")
	flags.StringVar(&m.record, "record", "", "keep what you hear (WAV) and see, their screen too (IVF), in `DIR`")
	flags.BoolVar(&m.relayOnly, "relay-only", false, "use the relay only: the other end does not learn this machine's address")
	flags.BoolVar(&m.variableRate, "variable-rate", false,
		"let packets of sound be as large as the sound needs; otherwise all have one size, and who watches the network learns nothing of what is said")
	flags.BoolVar(&m.lowData, "low-data", false, "send at most 300 kb/s in all")
	flags.DurationVar(&m.limit, "for", 0, "hang up so long after the call was accepted; 0 does not")
}

// check finds out before a call whether the files can be played, the agent run, and the microphone used.
func (m *mediaFlags) check() error {
	if m.agent != "" {
		if m.audio != m.audioElse {
			return usagef("--agent and --audio exclude each other: the agent speaks")
		}
		if err := checkAgent(m.agent, m.from); err != nil {
			return err
		}
	}
	if m.limit < 0 {
		return usagef("--for %v is less than nothing", m.limit)
	}
	if err := m.checkStdin(); err != nil {
		return err
	}
	files := *m
	for _, name := range []*string{&files.audio, &files.video, &files.screen} {
		if *name == stdinName {
			*name = ""
		}
	}
	t, err := files.open("nobody")
	if err != nil {
		return err
	}
	if m.record != "" {
		if err := os.MkdirAll(m.record, 0o700); err != nil {
			return fmt.Errorf("cannot record there; choose another directory with --record: %w", err)
		}
	}
	if err := t.Close(); err != nil {
		return err
	}
	if m.agent == "" && m.audio == "mic" {
		if err := device.Check(); err != nil {
			return err
		}
	}
	return nil
}

// spoken are the media of a call that a person takes: who says nothing of --audio speaks, as in
// "sotto call", if there is a microphone.
func (m *mediaFlags) spoken(out *output) *mediaFlags {
	if m.agent != "" || m.chosen == nil || m.chosen() {
		return m
	}
	if err := device.Check(); err != nil {
		out.say(nil, "a tone is sent, and nothing is heard here: %s", err)
		return m
	}
	speaks := *m
	speaks.audio = "mic"
	return &speaks
}

// tracks are the open media of one call. Files are open before it begins, so that a missing one is noticed; devices and
// recordings open when the call does.
type tracks struct {
	flags  *mediaFlags
	peer   string
	agent  *agent // nil if none speaks
	audio  media.AudioSource
	video  media.VideoSource
	screen media.VideoSource // nil if none is shared

	mu       sync.Mutex
	closers  []func() error
	recorded []string
	damages  []file.Damage // that were not told yet
}

// toldDamages is how much of a file that is nothing but damage is told of at once.
const toldDamages = 8

func (t *tracks) damaged(d file.Damage) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.damages) < toldDamages {
		t.damages = append(t.damages, d)
	}
}

// newDamages are those since the last time.
func (t *tracks) newDamages() []file.Damage {
	t.mu.Lock()
	defer t.mu.Unlock()
	found := t.damages
	t.damages = nil
	return found
}

func (m *mediaFlags) open(peer string) (*tracks, error) {
	t := &tracks{flags: m, peer: peer}
	switch {
	case m.agent != "":
		agent, err := newAgent(m.agent, peer, m.from)
		if err != nil {
			return nil, err
		}
		t.agent = agent
		t.closers = append(t.closers, agent.finish)
	case m.audio == "mic", m.audio == "none", m.audio == "":
	case m.audio == "tone":
		t.audio = file.Tone(440)
	default:
		audio, err := m.openAudio(m.audio)
		if err != nil {
			return nil, err
		}
		audio.OnDamage = t.damaged
		t.closers = append(t.closers, audio.Close)
		t.audio = audio
		if m.loop {
			t.audio = file.LoopAudio(audio)
		}
	}
	var err error
	if m.video != "" {
		t.video, err = t.openVideo(m.video)
	}
	if m.screen != "" && err == nil {
		t.screen, err = t.openVideo(m.screen)
	}
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return t, nil
}

// openVideo opens a file, which is closed with the tracks.
func (t *tracks) openVideo(name string) (media.VideoSource, error) {
	video, err := t.flags.openVideo(name)
	if err != nil {
		return nil, err
	}
	video.OnDamage = t.damaged
	t.closeLater(video.Close)
	if t.flags.loop {
		return file.LoopVideo(video), nil
	}
	return video, nil
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
		o.Screen = func(context.Context) (media.VideoSink, error) { return &recorder{tracks: t, ending: ".ivf"}, nil }
		o.SharedScreen = func(context.Context) (media.VideoSink, error) {
			return &recorder{tracks: t, ending: "-screen.ivf"}, nil
		}
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
	return t.openVideo(t.flags.video)
}

// share shows the screen. It can as soon as the call's devices are open.
func (t *tracks) share(call *client.Call) error {
	// Without its Close: the call would close what it cannot show yet.
	return call.ShareScreen(struct{ media.VideoSource }{t.screen})
}

// A recorder keeps what is seen, once there is something to see.
type recorder struct {
	tracks    *tracks
	ending    string // of the file's name
	recording *file.IVF
}

func (r *recorder) WriteFrame(frame media.VideoFrame) error {
	if r.recording == nil {
		recording, err := file.CreateIVF(r.tracks.recording(r.ending))
		if err != nil {
			return err
		}
		r.recording = recording
		r.tracks.closeLater(recording.Close)
	}
	return r.recording.WriteFrame(frame)
}

// speaker plays what is heard where the microphone is, or gives it to the agent, and records it if that is wanted.
func (t *tracks) speaker(context.Context) (media.AudioSink, error) {
	var hears media.AudioSink = nobody{}
	switch {
	case t.agent != nil:
		if err := t.agent.start(); err != nil {
			return nil, err
		}
		hears = (*agentEar)(t.agent)
	case t.flags.audio == "mic":
		speaker, err := device.OpenSpeaker()
		if err != nil {
			return nil, err
		}
		t.closeLater(speaker.Close)
		hears = speaker
	}
	if t.flags.record == "" {
		return hears, nil
	}
	recording, err := file.CreateWAV(t.recording(".wav"))
	if err != nil {
		return nil, err
	}
	t.closeLater(recording.Close)
	return &heardAndKept{hears, recording, func(err error) {
		t.closeLater(func() error { return fmt.Errorf("the recording is not whole: %w", err) })
	}}, nil
}

// A heardAndKept gives each frame to who hears it, and records it as long as that can be done.
type heardAndKept struct {
	media.AudioSink
	recording media.AudioSink
	failed    func(error)
}

func (s *heardAndKept) WriteFrame(pcm []int16) error {
	if s.recording != nil {
		if err := s.recording.WriteFrame(pcm); err != nil {
			s.recording = nil
			s.failed(err)
		}
	}
	return s.AudioSink.WriteFrame(pcm)
}

// nobody hears what is only recorded.
type nobody struct{}

func (nobody) WriteFrame([]int16) error { return nil }

func (t *tracks) recording(ending string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	stem := time.Now().Format("20060102-150405-") + filepath.Base(t.peer)
	stem = filepath.Join(t.flags.record, stem)
	name := stem + ending
	for n := 2; taken(name); n++ { // a call within the same second
		name = fmt.Sprintf("%s-%d%s", stem, n, ending)
	}
	t.recorded = append(t.recorded, name)
	return name
}

func taken(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
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
