package signaling

import (
	"net/netip"
	"sync"
	"time"
)

// A bucket fills by one token each Rate.Every, up to Rate.Burst. It is kept as the time at which it will be full again, which
// makes the zero value a full one and a full one worth nothing to keep.
type bucket struct{ full time.Time }

// take removes a token and says how long to wait if there is none.
func (b *bucket) take(r Rate, now time.Time) (wait time.Duration) { return b.takeN(1, r, now) }

// takeN removes n tokens, or none. More than a full bucket holds is a full bucket.
func (b *bucket) takeN(n int, r Rate, now time.Time) (wait time.Duration) {
	full := b.full
	if full.Before(now) {
		full = now
	}
	full = full.Add(time.Duration(min(n, r.Burst)) * r.Every)
	if wait := full.Sub(now) - time.Duration(r.Burst)*r.Every; wait > 0 {
		return wait
	}
	b.full = full
	return 0
}

// limiter keeps a bucket for each key that took something lately.
type limiter[K comparable] struct {
	rate Rate

	mu      sync.Mutex
	buckets map[K]bucket
	sweepAt int // number of buckets at which full ones are dropped
	swept   time.Time
}

// maxBuckets bounds the memory of a limiter; above it unknown keys wait. Looking for full buckets takes milliseconds when there are that
// many, so that is done once a sweepPause and not for each stranger.
const (
	maxBuckets = 200_000
	sweepPause = time.Second
)

func newLimiter[K comparable](r Rate) *limiter[K] {
	return &limiter[K]{rate: r, buckets: make(map[K]bucket), sweepAt: 1024}
}

func (l *limiter[K]) take(key K, now time.Time) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, known := l.buckets[key]
	if !known && len(l.buckets) >= l.sweepAt {
		if now.Sub(l.swept).Abs() >= sweepPause {
			l.sweep(now)
		}
		if len(l.buckets) >= maxBuckets {
			return sweepPause
		}
	}
	if wait := b.take(l.rate, now); wait > 0 {
		return wait
	}
	l.buckets[key] = b
	return 0
}

// giveBack undoes a take.
func (l *limiter[K]) giveBack(key K) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if b, known := l.buckets[key]; known {
		l.buckets[key] = bucket{b.full.Add(-l.rate.Every)}
	}
}

// sweep drops full buckets, and lets the map double before it looks again.
func (l *limiter[K]) sweep(now time.Time) {
	for k, b := range l.buckets {
		if !b.full.After(now) {
			delete(l.buckets, k)
		}
	}
	l.swept = now
	l.sweepAt = min(max(1024, 2*len(l.buckets)), maxBuckets)
}

// sourceLimiter limits sources: each by itself, and the IPv6 /48 around it. The /48 comes first, so that one of them cannot fill the
// other limiter.
type sourceLimiter struct{ near, wide *limiter[netip.Prefix] }

func newSourceLimiter(r Rate) sourceLimiter {
	return sourceLimiter{newLimiter[netip.Prefix](r), newLimiter[netip.Prefix](Rate{wideFactor * r.Burst, max(1, r.Every/wideFactor)})}
}

func (l sourceLimiter) take(from source, now time.Time) (wait time.Duration) {
	if !from.wide.IsValid() {
		return l.near.take(from.near, now)
	}
	if wait := l.wide.take(from.wide, now); wait > 0 {
		return wait
	}
	wait = l.near.take(from.near, now)
	if wait > 0 {
		l.wide.giveBack(from.wide) // its neighbours have not had it
	}
	return wait
}
