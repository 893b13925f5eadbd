package demo

import (
	"crypto/sha256"
	"io"
	"sync"
	"time"

	"sotto/media"
)

// What the two ends say, hear, show and see. Each keeps a copy for the comparison afterwards.

// A mouth says a recording over and over, for a while, and is silent then.
type mouth struct {
	recording []int16
	left      int // frames

	mu   sync.Mutex
	said []int16
}

func newMouth(recording []int16, length time.Duration) *mouth {
	return &mouth{recording: recording, left: int(length / media.FrameLength)}
}

func (m *mouth) ReadFrame(pcm []int16) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.left == 0 {
		clear(pcm)
		return nil
	}
	m.left--
	for i := range pcm {
		pcm[i] = m.recording[(len(m.said)+i)%len(m.recording)]
	}
	m.said = append(m.said, pcm...)
	return nil
}

// An ear keeps what it hears.
type ear struct {
	mu    sync.Mutex
	heard []int16
}

func (e *ear) WriteFrame(pcm []int16) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.heard = append(e.heard, pcm...)
	return nil
}

func (e *ear) pcm() []int16 {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]int16(nil), e.heard...)
}

// A camera shows a clip over and over, for a while. The clip begins with a key frame, so it can be repeated.
type camera struct {
	clip   []media.VideoFrame
	period time.Duration // of one repetition
	length time.Duration

	mu       sync.Mutex
	next     int
	sent     []fingerprint
	finished bool
}

type fingerprint [sha256.Size]byte

func newCamera(clip []media.VideoFrame, length time.Duration) *camera {
	last := clip[len(clip)-1].PTS
	return &camera{clip: clip, period: last + last/time.Duration(max(1, len(clip)-1)), length: length}
}

func (c *camera) ReadFrame() (media.VideoFrame, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	frame := c.clip[c.next%len(c.clip)]
	frame.PTS += c.period * time.Duration(c.next/len(c.clip))
	if frame.PTS >= c.length {
		c.finished = true
		return media.VideoFrame{}, io.EOF
	}
	c.next++
	c.sent = append(c.sent, sha256.Sum256(frame.Data))
	return frame, nil
}

// count is how many pictures were shown, and whether those were all.
func (c *camera) count() (sent int, finished bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.sent), c.finished
}

// An eye keeps what it sees.
type eye struct {
	mu   sync.Mutex
	seen []media.VideoFrame
}

func (e *eye) WriteFrame(frame media.VideoFrame) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	frame.Data = append([]byte(nil), frame.Data...)
	e.seen = append(e.seen, frame)
	return nil
}

func (e *eye) frames() []media.VideoFrame {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]media.VideoFrame(nil), e.seen...)
}

// identical counts the frames that were seen as they were sent, byte for byte and in order.
func identical(sent []fingerprint, seen []media.VideoFrame) int {
	count := 0
	for _, frame := range seen {
		print := sha256.Sum256(frame.Data)
		for i, candidate := range sent {
			if candidate == print {
				count++
				sent = sent[i+1:]
				break
			}
		}
	}
	return count
}
