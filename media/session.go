// Package media carries the sound and pictures of one call between two devices: Opus and VP8 in RTP, sealed as SRTP with keys that
// are handed in, on a path found by ICE.
//
// One session, in the order things happen:
//
//  1. NewSession draws ICE credentials and SSRCs; Local is what the peer must be told. GatherCandidates finds addresses to try.
//  2. Connect takes the peer's description and the keys, and starts the connectivity checks; candidates may come before and after.
//  3. StartSending, after the local user has accepted, reads the sources and sends. SetSinks lets what arrives be heard and seen.
//  4. When the network changes, OpenPath and ConnectPath move what is sent to another path, without a gap if the old one still works.
//  5. Close ends it and waits for everything it started.
//
// Guarantees: before StartSending nothing but connectivity checks leaves, and few of them before Accepted; before SetSinks nothing is
// played. Packets are taken from addresses that passed a connectivity check only, opened once, and counted as undecryptable if the key
// is wrong; nothing of them is played. A video frame is delivered with the bytes that were sent or not at all. When the peer no longer
// answers on any path, the session fails within 30 s.
//
// The session knows nothing of accounts, signaling and where keys come from.
package media

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/rtp"

	"sotto/media/opus"
	"sotto/media/rtpchain"
	"sotto/media/secure"
)

// A Session is one end of a call's media. Its methods may be called by any goroutine.
type Session struct {
	cfg        Config
	log        *slog.Logger
	local      []Stream
	ctx        context.Context // ends with Close
	cancel     context.CancelFunc
	done       sync.WaitGroup
	connected  chan struct{}
	ready      chan struct{} // closed when datagrams can be written
	readyOnce  sync.Once
	failed     chan error
	firstMedia chan struct{}
	current    atomic.Pointer[route] // the path that is written to
	opening    sync.Mutex            // held by OpenPath
	events     sync.Mutex            // one event at a time
	counts     counters
	sending    atomic.Bool       // media and RTCP may leave
	handling   sync.Mutex        // held while a datagram is taken
	deaf       deafness          // guarded by handling
	sent       map[uint32]uint32 // packets that the peer reported, by SSRC; guarded by handling
	heardAt    atomic.Int64      // when a packet was opened last, in Unix nanoseconds; 0: never

	microphone     *audioSender
	camera, screen *videoSender
	audio          *audioReceiver
	video          *videoReceiver
	screenIn       *videoReceiver
	lowData        atomic.Bool
	direct         atomic.Bool // see AllowDirect
	budget         budget
	quality        qualityWatch

	// Set by Connect before the first packet can come or go.
	sealer  sealer
	opener  *secure.Opener
	chain   *rtpchain.Chain
	remote  Description
	started time.Time

	mu         sync.Mutex
	state      state
	first      *route   // the path of generation 0
	routes     []*route // oldest first, never empty
	accepted   bool
	failedOnce bool

	instrument func(sealer) sealer // set by a test before Connect
}

type state int

const (
	created state = iota
	connecting
	sending
	closed
)

// sealer is what a test puts an instrument around.
type sealer interface {
	RTP(header *rtp.Header, payload []byte, now time.Time) ([]byte, error)
	RTCP(packet []byte, now time.Time) ([]byte, error)
	Epoch() uint32
}

// NewSession draws credentials and stream identifiers. Nothing is sent yet.
func NewSession(cfg Config) (*Session, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.RekeyEvery == 0 {
		cfg.RekeyEvery = rekeyEvery
	}
	s := &Session{
		cfg: cfg, log: cfg.Log, local: localStreams(cfg.Video, cfg.Screen), sent: map[uint32]uint32{},
		connected: make(chan struct{}), ready: make(chan struct{}), failed: make(chan error, 1), firstMedia: make(chan struct{}),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	encoder, err := opus.NewEncoder(opus.Config{Variable: cfg.VariableRate})
	if err != nil {
		return nil, err
	}
	announced := Description{Streams: s.local}
	sound, _ := announced.stream(Audio)
	picture, _ := announced.stream(Video)
	second, _ := announced.stream(Screen)
	s.microphone = &audioSender{s: s, stream: sound, encoder: encoder}
	s.camera, s.screen = &videoSender{s: s, stream: picture, device: "camera"}, &videoSender{s: s, stream: second, device: "screen"}
	if s.audio, err = newAudioReceiver(s); err != nil {
		return nil, err
	}
	s.video, s.screenIn = newVideoReceiver(s), newVideoReceiver(s)
	if s.first, err = s.newRoute(0, cfg.Relays, cfg.OnCandidate); err != nil {
		return nil, err
	}
	s.routes = []*route{s.first}
	s.current.Store(s.first)
	return s, nil
}

// Local is what the peer must be told.
func (s *Session) Local() Description {
	ufrag, password := s.first.path.Credentials()
	return Description{Ufrag: ufrag, Password: password, Streams: append([]Stream(nil), s.local...)}
}

// GatherCandidates starts finding this end's candidates and returns; each is handed to Config.OnCandidate.
func (s *Session) GatherCandidates() error { return s.first.path.Gather() }

// AddRemoteCandidate takes a candidate of the peer's, before or after Connect.
func (s *Session) AddRemoteCandidate(candidate string) error {
	return s.AddPathCandidate(0, candidate)
}

// Accepted says that the local user has accepted: until then only few of the peer's candidates are checked. StartSending and SetSinks
// say so too.
func (s *Session) Accepted() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.accept()
}

func (s *Session) accept() {
	s.accepted = true
	for _, r := range s.routes {
		r.path.Accepted()
	}
}

// Connect starts the connectivity checks and returns. It can be called once: a session's keys serve one session.
func (s *Session) Connect(remote Description, keys Keys) error {
	if err := remote.Validate(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != created {
		return errors.New("the session was connected or closed before")
	}
	sealer, opener, err := keys.contexts(s.cfg.RekeyEvery)
	if err != nil {
		return err
	}
	keys.erase()
	s.sealer = sealer
	if s.instrument != nil {
		s.sealer = s.instrument(sealer)
	}
	s.opener, s.remote, s.started = opener, remote, time.Now()
	s.chain, err = rtpchain.New(rtpchain.Config{
		WriteRTP: s.writeRTP, WriteRTCP: s.writeRTCP, OnKeyFrame: s.keyFrameRequested,
		MayResend: func() bool { return !s.camera.held.Load() && s.affordable(time.Now()) },
		RoundTrip: func() time.Duration { return s.current.Load().path.RoundTrip() },
	})
	if err != nil {
		return err
	}
	if stream, ok := remote.stream(Audio); ok {
		s.chain.AddRemote(stream.chain(), s.audio.push)
	}
	for kind, receiver := range map[Kind]*videoReceiver{Video: s.video, Screen: s.screenIn} {
		if stream, ok := remote.stream(kind); ok {
			receiver.ssrc = stream.SSRC
			s.chain.AddRemote(stream.chain(), receiver.push)
			s.done.Add(1)
			go receiver.watch()
		}
	}
	s.state = connecting
	s.watchReady(s.first)
	s.done.Add(1)
	go s.monitor()
	return s.first.path.Connect(remote.Ufrag, remote.Password)
}

// Connected is closed when a path has been selected for the first time.
func (s *Session) Connected() <-chan struct{} { return s.connected }

// Failed yields the reason once, when the session has failed for good, and is closed then.
func (s *Session) Failed() <-chan error { return s.failed }

// FirstMedia is closed by the first authenticated media packet of the peer's.
func (s *Session) FirstMedia() <-chan struct{} { return s.firstMedia }

func (s *Session) emit(event Event) {
	s.events.Lock()
	defer s.events.Unlock()
	s.report(event)
}

// report hands on an event; Session.events is held.
func (s *Session) report(event Event) {
	if s.cfg.OnEvent != nil {
		s.cfg.OnEvent(event)
	}
}

// deviceFailed tells of a source or sink that the session goes on without.
func (s *Session) deviceFailed(device string, err error) {
	if s.ctx.Err() != nil {
		return // it was closed
	}
	s.log.Error("a device failed", "device", device, "error", err)
	if s.cfg.OnDeviceFailed != nil {
		s.cfg.OnDeviceFailed(device, err)
	}
}

// Close ends the session and waits for everything it started; an AudioSource or VideoSource that has a Close method is closed, which
// must end a ReadFrame that blocks. Sinks are their owner's to close: Close waits for a WriteFrame that blocks. Close must not be called
// from Config.OnEvent.
func (s *Session) Close() error {
	s.mu.Lock()
	if s.state == closed {
		s.mu.Unlock()
		return nil
	}
	s.state = closed
	chain, routes := s.chain, s.routes
	s.mu.Unlock()

	s.cancel()
	var err error
	for _, r := range routes {
		err = errors.Join(err, r.path.Close())
	}
	if chain != nil {
		err = errors.Join(err, chain.Close())
	}
	s.done.Go(s.microphone.source.close) // one that does not close keeps no other one open
	s.done.Go(s.camera.source.close)
	s.done.Go(s.screen.source.close)
	s.done.Wait()
	return err
}
