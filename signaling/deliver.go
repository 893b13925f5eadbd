package signaling

import (
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"sotto/signaling/store"
)

// How envelopes reach a device. Each is handed to the link once and stays "handed over" until the device acknowledges it.
//
//   - From the mailbox: pump reads it in order and hands out what fits the window; an acknowledgement opens the window again.
//   - Straight through: offer takes an envelope that was never stored, if the mailbox has been handed out completely. What is not
//     acknowledged within timing.straight, or before the link ends, is stored then, in the order in which it was offered.
//
// So what one device sends to another arrives in the order in which it was sent: an envelope goes straight only if all that came
// before it have been handed out.
type delivery struct {
	pending bool   // the mailbox may hold what has not been handed out
	pumping bool   // pump runs
	place   uint64 // handed out up to here

	handed   map[envelopeID]*handover
	straight []*handover // offered and not stored, oldest first; some may be settled
	bytes    int         // of all that is handed over
	spilling *time.Timer
}

// The window: what a device may have unacknowledged.
const (
	windowCount = 64
	windowBytes = 1 << 20
	pumpStep    = 16
)

// envelopeID names an envelope within a mailbox.
type envelopeID struct {
	from store.UUID
	id   [16]byte
}

type handover struct {
	envelope store.Envelope
	since    time.Time
	stored   bool                   // it is in the mailbox, to be erased when acknowledged
	settled  chan struct{}          // closed when the sender can be answered; then:
	outcome  func() (string, error) // waits until that is durable and says how it was delivered
}

const (
	pathStraight = "straight"
	pathStored   = "stored"
)

func (h *handover) settle(path string, wait func() error) {
	h.outcome = func() (string, error) { return path, wait() }
	close(h.settled)
}

// wait returns when the envelope is acknowledged or durable.
func (h *handover) wait() (path string, err error) {
	<-h.settled
	return h.outcome()
}

// offer hands over an envelope that is not stored, and returns nil if it must be stored first. Then those offered before are in the
// mailbox already.
func (l *link) offer(e store.Envelope) *handover {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h := l.handed[envelopeID{e.From, e.ID}]; h != nil {
		return h // the same envelope once more
	}
	if l.ended || l.pending || l.pumping || !l.room() {
		l.spill(time.Time{})
		return nil
	}
	h := &handover{envelope: e, since: time.Now(), settled: make(chan struct{})}
	l.straight = append(l.straight, h)
	l.handOver(h)
	l.spillLater()
	return h
}

func (l *link) room() bool { return len(l.handed) < windowCount && l.bytes < windowBytes }

// handOver puts an envelope on its way to the device. The caller holds l.mu.
func (l *link) handOver(h *handover) {
	if l.handed == nil {
		l.handed = make(map[envelopeID]*handover)
	}
	l.handed[envelopeID{h.envelope.From, h.envelope.ID}] = h
	l.bytes += len(h.envelope.Body)
	// ServerFrame{deliver: body}: the body of a stored envelope is the serialised wire.Envelope.
	frame := make([]byte, 0, len(h.envelope.Body)+8)
	frame = protowire.AppendTag(frame, deliverField, protowire.BytesType)
	l.pushBytes(protowire.AppendBytes(frame, h.envelope.Body))
}

const deliverField = 5 // ServerFrame.deliver

// acknowledge erases an envelope that the device has.
func (l *link) acknowledge(id envelopeID) error {
	s := l.server
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.handed[id]
	if h == nil { // handed to an earlier link
		s.erased.Store(true)
		return s.store.Erase(l.device.Address, id.from, id.id)
	}
	s.metrics.delivered.Inc()
	delete(l.handed, id)
	l.bytes -= len(h.envelope.Body)
	if len(l.handed) == 0 {
		l.handed, l.straight = nil, nil
	}
	var err error
	if h.stored {
		err = s.store.Erase(l.device.Address, id.from, id.id)
		s.erased.Store(true)
	} else {
		err = s.store.MarkDelivered(h.envelope)
		if !h.isSettled() {
			h.settle(pathStraight, func() error { return nil })
		}
	}
	l.pump()
	return err
}

func (h *handover) isSettled() bool {
	select {
	case <-h.settled:
		return true
	default:
		return false
	}
}

// spill stores the envelopes offered up to a moment (zero: all) and not acknowledged, in order. The caller holds l.mu.
func (l *link) spill(until time.Time) {
	rest := l.straight
	for len(rest) > 0 && (until.IsZero() || !rest[0].since.After(until)) {
		h := rest[0]
		rest = rest[1:]
		if h.isSettled() {
			continue
		}
		wait, err := l.server.put(h.envelope)
		if err != nil {
			h.settle(pathStored, func() error { return err })
			continue // acknowledged later, it is marked as delivered
		}
		h.stored = true
		h.settle(pathStored, sync.OnceValue(wait))
	}
	l.straight = rest
}

// spillLater sets the timer for the oldest offer. The caller holds l.mu.
func (l *link) spillLater() {
	if l.spilling != nil || len(l.straight) == 0 {
		return
	}
	straight := l.server.timing.straight
	l.spilling = time.AfterFunc(time.Until(l.straight[0].since.Add(straight)), func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.spilling = nil
		if !l.ended {
			l.spill(time.Now().Add(-straight))
			l.spillLater()
		}
	})
}

// open begins to hand out envelopes.
func (l *link) open() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pumping = false
	l.pump()
}

// wake says that something was stored in the mailbox.
func (l *link) wake() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pending = true
	l.pump()
}

// pump hands out the mailbox, unless that is going on. The caller holds l.mu.
func (l *link) pump() {
	if l.pumping || l.ended || !l.pending || !l.room() {
		return
	}
	l.pumping = true
	l.server.running.Go(func() {
		for l.pumpOnce() {
		}
	})
}

// pumpOnce hands out the next envelopes and says whether to go on. It reads under l.mu: what is acknowledged or stored meanwhile
// waits, so that nothing is handed out twice or out of order.
func (l *link) pumpOnce() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended || !l.pending || !l.room() {
		l.pumping = false
		return false
	}
	list, next, err := l.server.store.Mailbox(l.device.Address, l.place, pumpStep, l.server.now())
	if err != nil {
		l.server.asFailure(err) // logs
		l.conn.Close()          // the device comes back, and perhaps the disk does
		l.pumping = false
		return false
	}
	for _, e := range list {
		if l.handed[envelopeID{e.From, e.ID}] != nil {
			continue // it went straight, and was stored afterwards
		}
		h := &handover{envelope: e.Envelope, stored: true, settled: make(chan struct{})}
		h.settle(pathStored, l.server.store.Check)
		l.handOver(h)
	}
	l.pending = next > l.place // until nothing is left
	l.place = next
	return true
}
