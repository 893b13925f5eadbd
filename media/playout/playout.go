// Package playout turns packets that come in bursts, late, twice or never into one frame of sound every 20 ms.
//
//	Push  a packet came: its delay enters the statistics, its payload the buffer
//	Pull  the next 20 ms are due:
//	      1. wait until the first packet has been here for the target delay
//	      2. the packet is there: decode it
//	      3. it is missing, the next is there: repair it from the copy in the next (FEC), else conceal it
//	      4. nothing is there: conceal, and keep its place for the packet in case it is only late
//	      5. the delay is off the target: take out or put in a period of the voice, which nobody hears
//
// The target follows the network: it is the delay that 98 of 100 packets of the last ten seconds kept, counted from the fastest of
// them, within a floor and a ceiling. Where packets get lost the floor is one packet higher, so that the repair is there in time.
//
// A Buffer is pure: time comes as an argument and it starts nothing. It is not safe for concurrent use. Its memory is bounded by
// the capacity, whatever is pushed.
package playout

import (
	"time"

	"sotto/media/opus"
)

const (
	frameSamples = opus.FrameSamples
	frameTime    = 20 * time.Millisecond
)

// Tuning.
const (
	floor         = 20 * time.Millisecond
	ceiling       = 400 * time.Millisecond
	onTime        = 0.98                   // share of packets that the target waits for
	capacity      = 64                     // packets, 1.28 s
	tooSlow       = 25 * time.Millisecond  // above the target: take sound out
	tooFast       = 5 * time.Millisecond   // below the target: put sound in
	farTooSlow    = 200 * time.Millisecond // above the target: skip packets
	longestGap    = 5                      // lost packets in a row that are concealed one by one
	pauseAfter    = 50                     // frames concealed in a row at one place
	restartAfter  = 50                     // late packets in a row mean that the sender started over
	smoothing     = 1.0 / 16               // of the delay, against a caller that pulls unevenly
	lossSmoothing = 1.0 / 256
	lossy         = 0.005 // share of lost frames from which on the repair is waited for
)

// Stats are counts of packets and of frames of 20 ms, from the start.
type Stats struct {
	Played    uint64 // frames decoded from their own packet
	Repaired  uint64 // frames decoded from the copy in the next packet
	Concealed uint64 // frames made up
	Late      uint64 // packets that came after their turn
	Duplicate uint64 // packets that were there already
	Refused   uint64 // packets that are not 20 ms of Opus
	Skipped   uint64 // frames passed over, to catch up or after a gap

	Stretched time.Duration // sound put in to raise the delay
	Squeezed  time.Duration // sound taken out to lower it
	Delay     time.Duration // what the buffer adds now to the way of the fastest packet
	Target    time.Duration // what it tries to add
}

type packet struct {
	present bool
	ts      int64
	payload []byte // its memory is used again
}

// A Buffer plays one stream.
type Buffer struct {
	decoder *opus.Decoder
	slots   [capacity]packet // by sequence number modulo capacity
	held    int              // how many are present

	epoch   time.Time // of the arrivals, zero before the first packet
	waiting bool      // the first packet is here, its time is not
	next    int64     // sequence number whose turn it is, extended beyond 16 bits
	nextTS  int64     // its timestamp, extended beyond 32 bits
	last    int64     // newest sequence number seen
	lastTS  int64
	misses  int // late packets in a row
	bridged int // frames concealed at the place of next, which may still come

	delays delays
	delay  time.Duration // smoothed
	loss   float64       // smoothed

	frame [frameSamples]int16
	ready []int16 // decoded and not yet pulled
	stats Stats
}

// New returns an empty buffer, which owns the decoder from here on.
func New(decoder *opus.Decoder) *Buffer {
	return &Buffer{decoder: decoder, ready: make([]int16, 0, 3*frameSamples)}
}

// Push takes the payload of an RTP packet, of which it keeps a copy. It reports whether the packet can still be played.
func (b *Buffer) Push(seq uint16, timestamp uint32, payload []byte, arrival time.Time) bool {
	if opus.Samples(payload) != frameSamples || len(payload) > opus.MaxPacket {
		b.stats.Refused++
		return false
	}
	if b.epoch.IsZero() {
		b.epoch = arrival
		b.restart(int64(seq), int64(timestamp))
	}
	// Sequence numbers and timestamps wrap (RFC 3550 section 5.1): the nearest to the newest is meant.
	n := b.last + int64(int16(seq-uint16(b.last)))
	ts := b.lastTS + int64(int32(timestamp-uint32(b.lastTS)))

	switch ahead := n - b.next; {
	case ahead < 0:
		b.stats.Late++
		if b.misses++; b.misses < restartAfter {
			b.delays.add(arrival.Sub(b.epoch) - duration(ts))
			return false
		}
		b.restart(n, ts)
	case ahead >= 2*capacity: // a long gap
		b.restart(n, ts)
	}
	for n-b.next >= capacity { // nobody pulls, or a burst
		b.skip()
	}
	b.misses = 0
	if n > b.last {
		b.last, b.lastTS = n, ts
	}
	slot := b.slot(n)
	if slot.present {
		b.stats.Duplicate++
		return false
	}
	slot.present, slot.ts, slot.payload = true, ts, append(slot.payload[:0], payload...)
	b.held++
	b.delays.add(arrival.Sub(b.epoch) - duration(ts))
	return true
}

func (b *Buffer) slot(n int64) *packet { return &b.slots[uint64(n)%capacity] }

// restart throws everything away and begins with the given packet.
func (b *Buffer) restart(n, ts int64) {
	for i := range b.slots {
		b.slots[i].present = false
	}
	b.held, b.bridged, b.misses, b.waiting = 0, 0, 0, true
	b.next, b.nextTS, b.last, b.lastTS = n, ts, n, ts
	b.delays = delays{}
}

// Pause says that nothing is to come for a while, by the peer's will or ours: nothing is made up
// for it, and what was made up since the last packet does not count. What comes next is waited for
// as at the start.
func (b *Buffer) Pause() {
	b.stats.Concealed -= uint64(b.bridged)
	for i := range b.slots {
		b.slots[i].present = false
	}
	b.held, b.bridged, b.waiting = 0, 0, true
}

// Pull fills pcm with the next 20 ms. It reports whether there was anything of the peer's: false means silence, since nothing has
// come yet, or nothing has for a while.
func (b *Buffer) Pull(pcm []int16, now time.Time) bool {
	pcm = pcm[:frameSamples]
	b.delay += frameTime // time has gone on; each frame produced makes up for it
	for len(b.ready) < frameSamples {
		if !b.produce(now) {
			clear(pcm)
			copy(pcm, b.ready)
			b.ready = b.ready[:0]
			return false
		}
	}
	n := copy(pcm, b.ready)
	b.ready = b.ready[:copy(b.ready, b.ready[n:])]
	return true
}

// produce appends the next frame to ready, or reports that there is none.
func (b *Buffer) produce(now time.Time) bool {
	if b.held == 0 {
		return !b.waiting && !b.epoch.IsZero() && b.bridge()
	}
	b.passBridged()
	b.passGap()

	// The delay that counts is how late the packet may have come. What is ready adds to what is heard, but not to that.
	delay := now.Sub(b.epoch) - duration(b.nextTS) - b.delays.least()
	target := b.target()
	if b.waiting {
		if delay < target {
			return false
		}
		b.waiting, b.delay = false, delay
	}
	b.delay += time.Duration(smoothing * float64(delay-b.delay))
	if delay > target+farTooSlow {
		for ; delay > target && b.held > 1; delay -= frameTime {
			b.skip()
		}
		b.delay = delay
	}

	slot, following := b.slot(b.next), b.slot(b.next+1)
	switch {
	case slot.present && b.decode(slot.payload):
		b.stats.Played++
		b.lost(0)
	case !slot.present && following.present && opus.HasFEC(following.payload) && b.decoder.DecodeFEC(following.payload, b.frame[:]) == nil:
		b.stats.Repaired++
		b.lost(1)
	default:
		b.conceal()
		b.lost(1)
	}
	b.ready = b.fit(b.ready, target)
	b.advance()
	b.delay -= frameTime
	return true
}

func (b *Buffer) decode(payload []byte) bool {
	n, err := b.decoder.Decode(payload, b.frame[:])
	return err == nil && n == frameSamples
}

func (b *Buffer) conceal() {
	b.stats.Concealed++
	if b.decoder.Conceal(b.frame[:]) != nil {
		clear(b.frame[:])
	}
}

// bridge conceals while nothing is there to play. The place in the stream stays: if the packet was only late the delay has grown by
// one frame, which it had to. After a second the peer is taken to pause, and whatever comes next is waited for as at the start.
func (b *Buffer) bridge() bool {
	if b.bridged++; b.bridged > pauseAfter {
		b.bridged, b.waiting = 0, true
		return false
	}
	b.conceal()
	b.ready = append(b.ready, b.frame[:]...)
	return true
}

// passBridged passes the lost packets whose sound was already made up while it was not known whether they were lost.
func (b *Buffer) passBridged() {
	for ; b.bridged > 0 && !b.slot(b.next).present; b.bridged-- {
		b.delay -= frameTime
		b.lost(1)
		b.advance()
	}
	b.bridged = 0
}

// passGap goes to the next packet there is, if many before it are missing or the sender's clock stood still or jumped in between.
func (b *Buffer) passGap() {
	gap := 0
	for !b.slot(b.next + int64(gap)).present {
		gap++
	}
	if gap > longestGap {
		for ; gap > 0; gap-- {
			b.skip()
		}
		b.waiting = true
	}
	if slot := b.slot(b.next); slot.present && slot.ts != b.nextTS {
		b.nextTS, b.waiting = slot.ts, true
	}
}

// advance goes on to the next packet, played or not.
func (b *Buffer) advance() {
	if slot := b.slot(b.next); slot.present {
		slot.present = false
		b.held--
	}
	b.next++
	b.nextTS += frameSamples
}

func (b *Buffer) skip() {
	b.stats.Skipped++
	b.advance()
}
