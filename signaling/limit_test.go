package signaling

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestFullLimiterLooksRarely: a limiter whose buckets are all in use looks through them once a second, not for each stranger.
func TestFullLimiterLooksRarely(t *testing.T) {
	l := newLimiter[int](Rate{1, time.Minute})
	start := time.Now()
	l.take(-1, start.Add(-time.Minute+time.Millisecond)) // full again in a millisecond
	for i := range maxBuckets - 1 {
		l.take(i, start)
	}
	for _, c := range []struct {
		after time.Duration
		in    bool
	}{{0, false}, {sweepPause / 2, false}, {sweepPause, true}} {
		if in := l.take(-2, start.Add(c.after)) == 0; in != c.in {
			t.Errorf("after %v a stranger got in: %v, want %v", c.after, in, c.in)
		}
	}
	if l.take(0, start) == 0 {
		t.Error("a known one got more than it may")
	}
}

// TestLargeFramesCountMore: of the largest frames a link may send three at once and then four a second.
func TestLargeFramesCountMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(Config{Limits: Limits{}.withDefaults()}, nil, nil, defaultTiming)
		for _, c := range []struct {
			size, frames int
			want         time.Duration
		}{
			{100, 1000, 0},
			{100, 1500, 500 * time.Millisecond},
			{maxFrame, 3, 0},
			{maxFrame, 23, (23*257 - 1000) * time.Millisecond},
		} {
			l := &socket{server: s}
			start := time.Now()
			for range c.frames {
				l.slow(c.size)
			}
			if took := time.Since(start); took != c.want {
				t.Errorf("%d frames of %d bytes are read in %v, want %v", c.frames, c.size, took, c.want)
			}
		}
	})
}
