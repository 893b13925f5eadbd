package vp8

import (
	"slices"
	"time"

	"github.com/pion/rtp/codecs"
)

const (
	window = 4096 // packets held at most, and how far ahead of the next one they may be
	// After a loss was given up, a key frame is asked for so often until one comes.
	keyFrameRetry = time.Second
	// The longest step by which patience runs out. A process that stood still for a second has not waited for a second: what it waits
	// for may lie in its socket.
	maxStep = 100 * time.Millisecond
)

// A Frame is whole.
type Frame struct {
	Data      []byte
	Timestamp uint32
	Key       bool
}

// An Assembler puts frames together from packets that arrive in any order. It holds back what follows a missing packet until that
// packet comes by retransmission. When it has waited long enough it gives up everything before the next key frame and asks for one.
//
// It is a plain function of what it is told and when; the caller pushes packets and calls Pop again and again.
type Assembler struct {
	patience time.Duration

	started bool
	next    uint64 // the packet that begins the next frame
	packets map[uint64]packet
	highest uint64
	popped  time.Time     // when Pop was called last
	waited  time.Duration // for a packet, with later ones in hand
	needKey bool          // what comes before the next key frame cannot be decoded
	asked   time.Time

	picture int // picture id of the last frame in order, or -1
	lost    uint64
}

type packet struct {
	timestamp uint32
	marker    bool
	begins    bool // first packet of a frame
	key       bool // of a key frame, known in its first packet
	picture   uint16
	payload   []byte
}

// NewAssembler waits up to patience for a missing packet.
func NewAssembler(patience time.Duration) *Assembler {
	return &Assembler{patience: patience, packets: make(map[uint64]packet), needKey: true, picture: -1}
}

// Push takes one packet by its extended sequence number. The first one expected is number first, or the first that comes.
func (a *Assembler) Push(sequence uint64, timestamp uint32, marker bool, payload []byte, now time.Time) {
	if !a.started {
		a.started, a.next, a.highest = true, min(sequence, 1), sequence
		if sequence > window {
			a.next = sequence
		}
	}
	if sequence < a.next {
		return
	}
	if sequence >= a.next+window {
		// The hole is too large to wait for: begin anew behind it.
		a.giveUp(sequence)
	}
	var descriptor codecs.VP8Packet
	body, err := descriptor.Unmarshal(payload)
	if err != nil || len(body) == 0 {
		return
	}
	p := packet{timestamp: timestamp, marker: marker, payload: slices.Clone(body)}
	p.begins = descriptor.S == 1 && descriptor.PID == 0
	p.picture = descriptor.PictureID
	p.key = p.begins && IsKey(body)
	a.packets[sequence] = p
	a.highest = max(a.highest, sequence)
}

// Pop returns the next frame if there is one. askKey says that the caller should ask the sender for a key frame now.
func (a *Assembler) Pop(now time.Time) (frame *Frame, askKey bool) {
	var step time.Duration
	if !a.popped.IsZero() {
		step = min(now.Sub(a.popped), maxStep)
	}
	a.popped = now
	for {
		end, whole := a.whole(a.next)
		if !whole {
			break
		}
		picture := a.packets[a.next].picture
		frame := a.take(end)
		if a.needKey && !frame.Key {
			continue
		}
		a.needKey, a.waited = false, 0
		a.count(picture)
		return frame, false
	}
	if len(a.packets) == 0 {
		a.waited = 0
		return nil, a.wantKey(now)
	}
	// What is in hand is the beginning of a frame whose end is on its way, or follows a loss: both wait.
	if a.waited += step; a.waited < a.patience {
		return nil, false
	}
	a.waited = 0
	if uint64(len(a.packets)) == a.highest-a.next+1 {
		// The beginning of a frame and nothing behind it: if its end was lost, only the sender's next report says so. Giving up
		// would gain nothing, since there is nothing to go on with.
		return nil, a.wantKey(now)
	}
	a.needKey = true
	for sequence := a.next + 1; sequence <= a.highest; sequence++ {
		if p, ok := a.packets[sequence]; ok && p.key {
			a.giveUp(sequence)
			return a.Pop(now)
		}
	}
	a.giveUp(a.highest + 1)
	return nil, a.wantKey(now)
}

// wantKey is true when a key frame is needed and has not been asked for lately.
func (a *Assembler) wantKey(now time.Time) bool {
	if !a.started || !a.needKey || now.Sub(a.asked) < keyFrameRetry {
		return false
	}
	a.asked = now
	return true
}

// whole looks for the end of the frame that begins at sequence.
func (a *Assembler) whole(sequence uint64) (end uint64, ok bool) {
	first, ok := a.packets[sequence]
	if !ok {
		return 0, false
	}
	if !first.begins { // the rest of a frame whose beginning was given up: a frame of its own, which no key frame is
		a.needKey = true
	}
	for {
		p, ok := a.packets[sequence]
		if !ok {
			return 0, false
		}
		if p.marker {
			return sequence, true
		}
		sequence++
	}
}

// take removes the packets from next to end and joins them.
func (a *Assembler) take(end uint64) *Frame {
	first := a.packets[a.next]
	frame := &Frame{Timestamp: first.timestamp, Key: first.key}
	for ; a.next <= end; a.next++ {
		frame.Data = append(frame.Data, a.packets[a.next].payload...)
		delete(a.packets, a.next)
	}
	return frame
}

// giveUp forgets everything before sequence.
func (a *Assembler) giveUp(sequence uint64) {
	for number := range a.packets {
		if number < sequence {
			delete(a.packets, number)
		}
	}
	a.next, a.needKey = sequence, true
	a.highest = max(a.highest, sequence)
}

// count notes the frames between this picture and the last. Ids have 15 bits, begin at 0 and count frames.
func (a *Assembler) count(picture uint16) {
	if a.picture < 0 && picture >= window {
		a.picture = int(picture) - 1 // a sender that begins elsewhere
	}
	a.lost += uint64((int(picture) - a.picture - 1) & 0x7fff)
	a.picture = int(picture)
}

// Lose tells the assembler that the frame it returned last was thrown away, and with it what builds on it.
func (a *Assembler) Lose() {
	a.lost++
	a.needKey = true
}

// Lost counts the frames that were sent before the last one delivered, and not delivered.
func (a *Assembler) Lost() uint64 { return a.lost }
