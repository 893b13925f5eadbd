package media

import (
	"context"
	"errors"
	"io"
	"time"

	"sotto/media/rtpchain"
	"sotto/media/vp8"
)

const (
	// maxDatagram is what a packet may take of the path, beside IP and UDP headers; 1200 bytes pass everywhere (RFC 9000 section 14).
	maxDatagram = 1200
	// payloadSize leaves room for the RTP header, the TWCC extension (or a retransmission's original sequence number), tag and MKI.
	payloadSize = maxDatagram - 12 - 8 - 17
	// A source that is later than this has stopped for a while; what follows is not sent in a burst to make up for it.
	maxBehind = 200 * time.Millisecond
)

// StartSending begins to send what the sources yield. It is called when the local user has accepted and not before; either source
// may be nil. Sending begins on the first pair of addresses that answered a check.
//
// A source that blocks (a device) sets the pace; one that does not (a file) is paced here.
func (s *Session) StartSending(audio AudioSource, video VideoSource) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != connecting {
		return errors.New("sending starts once, after Connect")
	}
	if video != nil && !s.cfg.Video {
		return errors.New("this session did not announce video")
	}
	s.accept()
	s.state = sending
	s.sending.Store(true)
	if audio != nil {
		s.sources = append(s.sources, audio)
		s.done.Add(1)
		go s.sendAudio(audio, s.chain.AddLocal(s.local[0].chain()))
	}
	if video != nil {
		s.sources = append(s.sources, video)
		s.done.Add(1)
		go s.sendVideo(video, s.chain.AddLocal(s.local[1].chain()))
	}
	return nil
}

// sendAudio sends a packet every 20 ms, all of one length, whatever is said.
func (s *Session) sendAudio(source AudioSource, out *rtpchain.Writer) {
	defer s.done.Done()
	var due time.Time
	pcm := make([]int16, FrameSamples)
	for frame := uint32(0); ; frame++ {
		if err := source.ReadFrame(pcm); err != nil {
			s.sourceEnded("audio", err)
			return
		}
		packet, err := s.encoder.Encode(pcm)
		if err != nil {
			s.log.Error("encoding audio failed", "error", err)
			return
		}
		if frame == 0 { // it is ready when the path is
			if !s.waitReady() {
				return
			}
			due = time.Now()
		}
		if !sleepUntil(s.ctx, due) {
			return
		}
		due = nextDue(due, time.Now())
		if out.Write(frame*FrameSamples, frame == 0, packet) == nil {
			s.counts.audioFramesSent.Add(1)
		}
	}
}

// nextDue is a frame later, counted from when this one was due so that nothing drifts, unless the source has fallen far behind.
func nextDue(due, now time.Time) time.Time {
	due = due.Add(FrameLength)
	if now.Sub(due) > maxBehind {
		return now
	}
	return due
}

// sendVideo sends each frame at its presentation time. RTP time stamps begin at 0, so the receiver knows the presentation times.
func (s *Session) sendVideo(source VideoSource, out *rtpchain.Writer) {
	defer s.done.Done()
	if !s.waitReady() {
		return
	}
	packetizer := vp8.NewPacketizer(payloadSize)
	start := time.Now()
	for {
		frame, err := source.ReadFrame()
		if err != nil {
			s.sourceEnded("video", err)
			return
		}
		if !sleepUntil(s.ctx, start.Add(frame.PTS)) {
			return
		}
		if late := time.Since(start.Add(frame.PTS)); late > maxBehind {
			start = start.Add(late)
		}
		timestamp := uint32((frame.PTS*vp8ClockRate + time.Second/2) / time.Second)
		payloads := packetizer.Packetize(frame.Data)
		for i, payload := range payloads {
			// A packet that the socket refuses is kept for retransmission like any other that is lost.
			err = errors.Join(err, out.Write(timestamp, i == len(payloads)-1, payload))
		}
		if err == nil {
			s.counts.videoFramesSent.Add(1)
		}
	}
}

// keyFrameRequested hears the peer's PLI. A source of encoded frames cannot be asked for a key frame out of turn: the peer resumes at
// the next one in the source.
func (s *Session) keyFrameRequested(uint32) {
	s.log.Debug("the peer asks for a key frame; it gets the source's next")
}

func (s *Session) waitReady() bool {
	select {
	case <-s.ready:
		return true
	case <-s.ctx.Done():
		return false
	}
}

func (s *Session) sourceEnded(kind string, err error) {
	if !errors.Is(err, io.EOF) && s.ctx.Err() == nil {
		s.log.Error("reading a source failed", "kind", kind, "error", err)
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
