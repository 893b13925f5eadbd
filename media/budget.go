package media

import (
	"sync"
	"time"
)

// Low-data mode: what an end sends, with retransmissions, reports, connectivity checks left aside, and the IP and UDP headers of IPv4.
const (
	lowDataRate  = 300_000 // bits a second
	lowDataAudio = 16_000  // of Opus: 42 kb/s with all headers
	lowDataVideo = 200_000 // what a source is asked for, so that headers and repairs fit
	headers      = 20 + 8

	// What was saved up may be spent on a key frame, and a frame may be owed for: a key frame is larger than what a moment allows.
	lowDataSaved = lowDataRate / 8 / 2 // bytes
)

// A budget lets frames begin while it is not used up. It is a plain function of what it is told and when.
type budget struct {
	mu    sync.Mutex
	level float64 // bytes; below 0: owed
	since time.Time
}

func (b *budget) advance(now time.Time) {
	if b.since.IsZero() {
		b.level = lowDataSaved
	} else {
		b.level = min(lowDataSaved, b.level+now.Sub(b.since).Seconds()*lowDataRate/8)
	}
	b.since = now
}

// spend takes off what has left.
func (b *budget) spend(bytes int, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.advance(now)
	b.level -= float64(bytes)
}

func (b *budget) left(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.advance(now)
	return b.level > 0
}

// affordable reports whether a frame of video may be sent now.
func (s *Session) affordable(now time.Time) bool { return !s.lowData.Load() || s.budget.left(now) }
