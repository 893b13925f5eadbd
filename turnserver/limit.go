package turnserver

import (
	"hash/maphash"
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// A bucket is a token bucket in one word (the generic cell rate algorithm): the time at which it would be full again.
type bucket struct{ full atomic.Int64 }

// take draws n tokens of a bucket that holds burst tokens and gains one each interval.
func (b *bucket) take(now time.Time, n, burst int, interval time.Duration) bool {
	for {
		old := b.full.Load()
		next := max(old, now.UnixNano()) + int64(n)*int64(interval)
		if next-now.UnixNano() > int64(burst)*int64(interval) {
			return false
		}
		if b.full.CompareAndSwap(old, next) {
			return true
		}
	}
}

// give returns n tokens.
func (b *bucket) give(n int, interval time.Duration) { b.full.Add(-int64(n) * int64(interval)) }

// has says whether take would give one.
func (b *bucket) has(now time.Time, burst int, interval time.Duration) bool {
	return max(b.full.Load(), now.UnixNano())+int64(interval)-now.UnixNano() <= int64(burst)*int64(interval)
}

// Replies to somebody who has not proved to hold a credential: a burst, then one each interval. A
// client needs one for an allocation, as its second request is signed, and one for each STUN
// keepalive. The burst serves a company behind one address whose people join a call at once; to a
// victim whose address is forged it brings 45 kB, once.
const (
	strangerBurst    = 512
	strangerInterval = time.Second / 4
	strangerSlots    = 1 << 16
)

// strangers limits what is answered to each source before it is authenticated. A flood from forged sources must not grow memory, so there
// is a fixed number of buckets; sources that share one share its allowance, and the seed keeps that from being arranged.
type strangers struct {
	seed    maphash.Seed
	buckets [strangerSlots]bucket
}

func newStrangers() *strangers { return &strangers{seed: maphash.MakeSeed()} }

func (s *strangers) bucket(client netip.Addr) *bucket {
	return &s.buckets[maphash.Comparable(s.seed, holder(client))%strangerSlots]
}

// holder is the unit in which addresses are counted: an IPv4 address, or the IPv6 /64 that one network gets.
func holder(a netip.Addr) netip.Addr {
	if a.Is4() {
		return a
	}
	return netip.PrefixFrom(a, 64).Masked().Addr()
}

// site is the next larger unit. One subscriber may have many /64s, a /56 at home and a /48 in an office: counted by /64 alone, he could take
// all there is.
func site(a netip.Addr) netip.Addr { return netip.PrefixFrom(a, 48).Masked().Addr() }

// perSite is how many times the share of one /64 a /48 may hold.
const perSite = 10

// addressQuota counts what client addresses hold at once: in all, by holder and, of IPv6, by site.
type addressQuota struct{ holders, sites *quota[netip.Addr] }

func newAddressQuota(max, maxOf int) *addressQuota {
	q := &addressQuota{newQuota[netip.Addr](0, 0), newQuota[netip.Addr](0, 0)}
	q.bound(max, maxOf)
	return q
}

func (q *addressQuota) bound(max, maxOf int) {
	q.holders.bound(max, maxOf)
	q.sites.bound(math.MaxInt, perSite*min(maxOf, math.MaxInt/perSite))
}

func (q *addressQuota) take(a netip.Addr) bool {
	if a.Is6() && !q.sites.take(site(a)) {
		return false
	}
	if !q.holders.take(holder(a)) {
		if a.Is6() {
			q.sites.give(site(a))
		}
		return false
	}
	return true
}

func (q *addressQuota) give(a netip.Addr) {
	q.holders.give(holder(a))
	if a.Is6() {
		q.sites.give(site(a))
	}
}

// quota counts what is held at once, in all and under each key.
type quota[K comparable] struct {
	mu         sync.Mutex
	total      int
	held       map[K]int
	max, maxOf int
}

func newQuota[K comparable](max, maxOf int) *quota[K] {
	return &quota[K]{held: make(map[K]int), max: max, maxOf: maxOf}
}

// bound changes the bounds of what is taken from now on.
func (q *quota[K]) bound(max, maxOf int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.max, q.maxOf = max, maxOf
}

func (q *quota[K]) take(k K) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.total >= q.max || q.held[k] >= q.maxOf {
		return false
	}
	q.total++
	q.held[k]++
	return true
}

func (q *quota[K]) give(k K) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.total--
	if q.held[k]--; q.held[k] == 0 {
		delete(q.held, k)
	}
}
