package rtpchain

import (
	"slices"
	"time"
)

const (
	reorderTolerance = 8 * time.Millisecond  // before a gap counts as a loss
	minRetry         = 20 * time.Millisecond // between two requests for one packet
	giveUpAfter      = 1500 * time.Millisecond
	leastRequests    = 5 // before giving up, so that a process that stood still asks all the same
	maxMissing       = 1024
	// A stream starts at sequence number 1, so that the loss of its very first packets is seen. A peer that starts elsewhere is
	// understood too; then what was lost before the first arrival stays unknown.
	firstSequence = 1
)

// A tracker follows the sequence numbers of one incoming stream: which packets are new, which are missing, when to ask for them.
// It is a plain function of what it is told and when.
type tracker struct {
	started bool
	base    uint64 // extended number of the first packet of the stream
	next    uint64 // one above the highest number seen or announced
	missing map[uint64]*gap
}

type gap struct {
	since, asked time.Time
	requests     int
}

// received takes the arrival of a packet and returns its extended number (its sequence number plus the rollovers) and whether it
// arrived for the first time.
func (t *tracker) received(sequence uint16, now time.Time) (extended uint64, fresh bool) {
	if !t.started {
		t.started, t.missing = true, make(map[uint64]*gap)
		t.base = uint64(sequence)
		if sequence > firstSequence && sequence <= maxMissing {
			t.base = firstSequence
		}
		t.next = t.base
	}
	extended = t.extend(sequence)
	if extended >= t.next {
		t.expect(extended, now)
		t.next = extended + 1
		return extended, true
	}
	if _, ok := t.missing[extended]; !ok {
		return extended, false
	}
	delete(t.missing, extended)
	return extended, true
}

// extend picks the extended number closest to the next one expected (RFC 3550 appendix A.1).
func (t *tracker) extend(sequence uint16) uint64 {
	ahead := int64(int16(sequence - uint16(t.next)))
	if back := -ahead; back > 0 && uint64(back) > t.next {
		return uint64(sequence) // before the first rollover there is nothing below
	}
	return uint64(int64(t.next) + ahead)
}

// expect notes everything up to and without end as missing.
func (t *tracker) expect(end uint64, now time.Time) {
	from := t.next
	if end-from > maxMissing {
		from = end - maxMissing
	}
	for number := from; number < end && len(t.missing) < maxMissing; number++ {
		t.missing[number] = &gap{since: now}
	}
}

// announced takes the packet count of a sender report: with it the loss of the last packets before a pause is seen too.
func (t *tracker) announced(count uint32, now time.Time) {
	if !t.started || t.base != firstSequence {
		return
	}
	end := t.next&^(1<<32-1) | uint64(count) + firstSequence
	if end > t.next && end-t.next < maxMissing {
		t.expect(end, now)
		t.next = end
	}
}

// due returns the sequence numbers to ask for now, and forgets those that will not come any more.
func (t *tracker) due(now time.Time, roundTrip time.Duration) []uint16 {
	retry := max(minRetry, roundTrip+roundTrip/4)
	var wanted []uint64
	for number, g := range t.missing {
		switch {
		case now.Sub(g.since) > giveUpAfter && g.requests >= leastRequests:
			delete(t.missing, number)
		case now.Sub(g.since) < reorderTolerance, now.Sub(g.asked) < retry:
		default:
			g.asked = now
			g.requests++
			wanted = append(wanted, number)
		}
	}
	slices.Sort(wanted)
	sequences := make([]uint16, len(wanted))
	for i, number := range wanted {
		sequences[i] = uint16(number)
	}
	return sequences
}

// expected is how many packets the peer has sent as far as can be known.
func (t *tracker) expected() uint64 { return t.next - t.base }
