package media

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"sotto/media/opus"
	"sotto/media/rtpchain"
)

const (
	// maxDatagram is what a packet may take of the path, beside IP and UDP headers; 1200 bytes pass everywhere (RFC 9000 section 14).
	maxDatagram = 1200
	// payloadSize leaves room for the RTP header, the TWCC extension (or a retransmission's original sequence number), tag and MKI.
	payloadSize = maxDatagram - 12 - 8 - 17
	// A source that is later than this has stopped for a while; what follows is not sent in a burst to make up for it.
	maxBehind = 200 * time.Millisecond
)

var errNotStarted = errors.New("this end has not started to send, or the session is closed")

// StartSending begins to send what the sources yield. It is called when the local user has accepted and not before; either source
// may be nil, and both can be exchanged later. Sending begins on the first pair of addresses that answered a check.
//
// A source that blocks (a device) sets the pace; one that does not (a file) is paced here.
func (s *Session) StartSending(audio AudioSource, video VideoSource) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != connecting {
		return errors.New("sending starts once, after Connect")
	}
	if video != nil && !s.cfg.Video {
		return errNoStream
	}
	s.accept()
	s.state = sending
	s.sending.Store(true)
	if audio != nil {
		s.microphone.begin(audio)
	}
	if video != nil {
		s.camera.begin(video)
	}
	return nil
}

// audioSender sends a packet every 20 ms, all of one length, whatever is said.
type audioSender struct {
	s       *Session
	stream  Stream
	source  slot[AudioSource]
	encoder encoder

	mu      sync.Mutex // held from a frame's last look at the controls until it has left
	running bool       // guarded by Session.mu
	muted   bool
	held    bool
	lowData bool // the encoder was told
}

// encoder is Opus, or what a test that is not about sound puts in its place.
type encoder interface {
	Encode(pcm []int16) ([]byte, error)
	SetBitrate(bitrate int) error
}

// begin starts to send, or goes over to another source, and returns the one before, to be closed. Session.mu is held.
func (a *audioSender) begin(source AudioSource) (unused AudioSource) {
	unused = a.source.put(source, source != nil)
	if !a.running && source != nil {
		a.running = true
		a.s.done.Add(1)
		go a.run(a.s.chain.AddLocal(a.stream.chain()))
	}
	return unused
}

func (a *audioSender) run(out *rtpchain.Writer) {
	defer a.s.done.Done()
	pcm := make([]int16, FrameSamples)
	var due time.Time
	frame, marker := uint32(0), true // the marker begins a talkspurt (RFC 3551 section 4.1)
	for {
		source, turn, ok := a.source.take(a.s.ctx)
		if !ok {
			return
		}
		if err := source.ReadFrame(pcm); err != nil {
			if last, was := a.source.ended(turn); was {
				a.s.sourceEnded("microphone", last, err)
			}
			continue
		}
		if due.IsZero() {
			if !a.s.waitReady() {
				return
			}
			due = time.Now()
		}
		if !sleepUntil(a.s.ctx, due) {
			return
		}
		now := time.Now()
		if behind := now.Sub(due); behind > maxBehind { // no source for a while: time went on (RFC 3550 section 5.1)
			frame += uint32(behind / FrameLength)
			marker = true
		}
		sent, err := a.send(out, pcm, frame, marker)
		if err != nil {
			if last, was := a.source.ended(turn); was {
				a.s.sourceEnded("microphone", last, fmt.Errorf("its sound cannot be encoded: %w", err))
			}
		}
		marker = !sent
		frame++
		due = nextDue(due, now)
	}
}

// send sends one frame, or silence in its place, or nothing while the call is held.
func (a *audioSender) send(out *rtpchain.Writer, pcm []int16, frame uint32, marker bool) (sent bool, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.held {
		return false, nil
	}
	if a.muted {
		clear(pcm)
	}
	if low := a.s.lowData.Load(); low != a.lowData {
		a.lowData = low
		bitrate := opus.DefaultBitrate
		if low {
			bitrate = lowDataAudio
		}
		if err := a.encoder.SetBitrate(bitrate); err != nil {
			return false, err
		}
	}
	packet, err := a.encoder.Encode(pcm)
	if err != nil {
		return false, err
	}
	if out.Write(frame*FrameSamples, marker, packet) == nil {
		a.s.counts.audioFramesSent.Add(1)
	}
	return true, nil
}

// nextDue is a frame later, counted from when this one was due so that nothing drifts, unless the source has fallen far behind.
func nextDue(due, now time.Time) time.Time {
	due = due.Add(FrameLength)
	if now.Sub(due) > maxBehind {
		return now
	}
	return due
}

func (s *Session) waitReady() bool {
	select {
	case <-s.ready:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// sourceEnded closes a source, beside the goroutine that is to read the next one.
func (s *Session) sourceEnded(device string, source any, err error) {
	s.done.Go(func() { closeSource(source) })
	switch {
	case !errors.Is(err, io.EOF):
		s.deviceFailed(device, err)
	case s.cfg.OnSourceEnded != nil && s.ctx.Err() == nil:
		s.cfg.OnSourceEnded(device)
	}
}

func sleepUntil(ctx context.Context, t time.Time) bool {
	wait := time.Until(t)
	if wait <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
