package signaling

import (
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"
)

// A bucket fills by one token each Rate.Every, up to Rate.Burst. It is kept as the time at which it will be full again, which
// makes the zero value a full one and a full one worth nothing to keep.
type bucket struct{ full time.Time }

// take removes a token and says how long to wait if there is none.
func (b *bucket) take(r Rate, now time.Time) (wait time.Duration) {
	full := b.full
	if full.Before(now) {
		full = now
	}
	full = full.Add(r.Every)
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
}

// maxBuckets bounds the memory of a limiter; above it unknown keys wait.
const maxBuckets = 200_000

func newLimiter[K comparable](r Rate) *limiter[K] {
	return &limiter[K]{rate: r, buckets: make(map[K]bucket), sweepAt: 1024}
}

func (l *limiter[K]) take(key K, now time.Time) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b, known := l.buckets[key]
	if !known && len(l.buckets) >= l.sweepAt {
		l.sweep(now)
		if len(l.buckets) >= maxBuckets {
			return l.rate.Every
		}
	}
	if wait := b.take(l.rate, now); wait > 0 {
		return wait
	}
	l.buckets[key] = b
	return 0
}

// sweep drops full buckets, and lets the map double before it looks again.
func (l *limiter[K]) sweep(now time.Time) {
	for k, b := range l.buckets {
		if !b.full.After(now) {
			delete(l.buckets, k)
		}
	}
	l.sweepAt = min(max(1024, 2*len(l.buckets)), maxBuckets)
}

// source is the address a limit goes by: an IPv4 address or an IPv6 /64, of which anyone has plenty.
func source(r *http.Request) netip.Prefix {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return netip.Prefix{}
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Prefix{}
	}
	ip = ip.Unmap().WithZone("")
	bits := 32
	if ip.Is6() {
		bits = 64
	}
	p, _ := ip.Prefix(bits)
	return p
}
