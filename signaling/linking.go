package signaling

import (
	"bytes"
	"context"
	"crypto/sha256"
	"net/http"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"sotto/signaling/store"
	"sotto/wire"
)

// How a new device and an account's first one meet:
//
//  1. device 1 opens a slot, for ten minutes; an account has one
//  2. a new device posts a request with the slot and waits; the first request takes the slot, and device 1 is handed it
//  3. device 1 adds the device (devices.go), with a reply, or declines
//  4. the request is answered
//
// What the two say to each other is sealed with a secret that the server never sees; the slot is made from it, so who knows a slot has seen
// the code, and nobody finds one by trying.
//
// All of it is in memory. Whatever is lost on the way, the same bytes are sent again: the new device posts the request again and gets the
// same answer, device 1 opens the slot again, also after a restart, and is handed the request again.

// meetings are the slots that are open, each a meeting of a new device with device 1.
type meetings struct {
	limit int

	mu        sync.Mutex
	bySlot    map[slot]*meeting
	byAccount map[store.UUID]*meeting
}

type slot [wire.SlotSize]byte

type meeting struct {
	slot    slot
	account store.UUID
	expires time.Time

	// Under meetings.mu:
	taken   bool
	request [sha256.Size]byte // hash of the one that took it
	blob    []byte            // that request, until it is answered

	answered chan struct{} // closed when the request can be answered; then:
	reply    []byte
	failed   *failure
}

func newMeetings(limit int) *meetings {
	return &meetings{limit: limit, bySlot: make(map[slot]*meeting), byAccount: make(map[store.UUID]*meeting)}
}

// open makes a slot the account's one. If it is that already, a request that waits is returned.
func (k *meetings) open(account store.UUID, at slot, now, expires time.Time) (waiting []byte, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l := k.find(at, now); l != nil {
		if l.account != account {
			return nil, errSlot
		}
		return l.blob, nil
	}
	if old := k.byAccount[account]; old != nil {
		k.close(old)
	}
	if len(k.bySlot) >= k.limit {
		return nil, errLinkings
	}
	l := &meeting{slot: at, account: account, expires: expires, answered: make(chan struct{})}
	k.bySlot[at], k.byAccount[account] = l, l
	return nil, nil
}

// find returns an open slot, nil if there is none. The caller holds k.mu.
func (k *meetings) find(at slot, now time.Time) *meeting {
	l := k.bySlot[at]
	if l != nil && !now.Before(l.expires) {
		k.close(l)
		return nil
	}
	return l
}

// close forgets a slot and refuses who waits. The caller holds k.mu.
func (k *meetings) close(l *meeting) {
	delete(k.bySlot, l.slot)
	delete(k.byAccount, l.account)
	if !l.isAnswered() {
		l.failed = errSlot
		close(l.answered)
	}
}

func (l *meeting) isAnswered() bool {
	select {
	case <-l.answered:
		return true
	default:
		return false
	}
}

// take gives the slot to a request. first says that device 1 has not been handed it.
func (k *meetings) take(r *wire.LinkRequest, now time.Time) (l *meeting, first bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	hash := sha256.Sum256(r.Blob)
	l = k.find(slot(r.Slot), now)
	switch {
	case l == nil || l.taken && l.request != hash:
		return nil, false, errSlot
	case l.taken:
		return l, false, nil
	}
	l.taken, l.request, l.blob = true, hash, r.Blob
	return l, true, nil
}

// isTaken says whether a request of this account's slot waits to be answered.
func (k *meetings) isTaken(account store.UUID, at slot, now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	l := k.find(at, now)
	return l != nil && l.account == account && l.taken && !l.isAnswered()
}

// answer answers the request that has taken the slot, if one has and none did before. The slot stays until it expires, for the same request
// to be answered again.
func (k *meetings) answer(account store.UUID, at slot, reply []byte, now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l := k.find(at, now); l != nil && l.account == account && l.taken && !l.isAnswered() {
		l.blob, l.reply = nil, bytes.Clone(reply)
		close(l.answered)
	}
}

// decline closes a slot of the account.
func (k *meetings) decline(account store.UUID, at slot) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l := k.bySlot[at]; l != nil && l.account == account {
		k.close(l)
	}
}

// forget closes the slot of an account, if it has one.
func (k *meetings) forget(account store.UUID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l := k.byAccount[account]; l != nil {
		k.close(l)
	}
}

func (k *meetings) sweep(now time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, l := range k.bySlot {
		k.find(l.slot, now)
	}
}

func (l *link) openLinking(m *wire.OpenLinking) (*wire.ServerFrame, error) {
	s := l.server
	if len(m.GetSlot()) != wire.SlotSize {
		return nil, errMalformed
	}
	if err := l.mayChangeDevices(); err != nil {
		return nil, err
	}
	now := s.now()
	waiting, err := s.meetings.open(l.device.Address.Account, slot(m.Slot), now, now.Add(s.timing.linking))
	if err != nil {
		return nil, err
	}
	if waiting != nil {
		l.push(linkingRequest(m.Slot, waiting))
	}
	return done(nil)
}

func (l *link) declineLinking(m *wire.DeclineLinking) (*wire.ServerFrame, error) {
	if len(m.GetSlot()) != wire.SlotSize {
		return nil, errMalformed
	}
	if l.device.Address.Device != 1 {
		return nil, errPrimary
	}
	l.server.meetings.decline(l.device.Address.Account, slot(m.Slot))
	return done(nil)
}

func linkingRequest(slot, blob []byte) *wire.ServerFrame {
	return &wire.ServerFrame{Body: &wire.ServerFrame_LinkingRequest{LinkingRequest: &wire.LinkRequest{Slot: slot, Blob: blob}}}
}

func (s *Server) handleLinkRequest(w http.ResponseWriter, r *http.Request) {
	reply, err := s.requestLinking(w, r)
	if err != nil {
		f := s.asFailure(err)
		respond(w, httpStatus(f.code), f.wire())
		return
	}
	respond(w, http.StatusOK, reply)
}

func (s *Server) requestLinking(w http.ResponseWriter, r *http.Request) (*wire.LinkReply, error) {
	body, err := s.body(w, r, wire.MaxLinkRequest+256) // first, as in register
	if err != nil {
		return nil, err
	}
	if wait := s.linkRequests.take(sourceOf(r.RemoteAddr), s.now()); wait > 0 {
		return nil, rateLimited(wait)
	}
	if _, err := s.nameOf(r); err != nil {
		return nil, err
	}
	request, err := parseLinkRequest(body)
	if err != nil {
		return nil, err
	}
	if err := overSameChannel(request.GetChannelBinding(), r); err != nil {
		return nil, err
	}
	l, first, err := s.meetings.take(request, s.now())
	if err != nil {
		return nil, err
	}
	// If device 1 has no link now, it is handed the request when it opens the slot again.
	if to := s.hub.get(store.Address{Account: l.account, Device: 1}); to != nil && first {
		to.push(linkingRequest(request.Slot, request.Blob))
	}
	return s.awaitReply(w, r.Context(), l)
}

func parseLinkRequest(body []byte) (*wire.LinkRequest, error) {
	r := &wire.LinkRequest{}
	switch {
	case proto.Unmarshal(body, r) != nil, len(r.GetSlot()) != wire.SlotSize, len(r.GetBlob()) == 0:
		return nil, errMalformed
	case len(r.GetBlob()) > wire.MaxLinkRequest:
		return nil, errTooLarge
	}
	return r, nil
}

// awaitReply waits until a person has confirmed on device 1.
func (s *Server) awaitReply(w http.ResponseWriter, ctx context.Context, l *meeting) (*wire.LinkReply, error) {
	wait := min(s.timing.confirm, l.expires.Sub(s.now()))
	// The HTTP server gives a request less time than a person takes.
	control, deadline := http.NewResponseController(w), time.Now().Add(wait+s.timing.write)
	control.SetReadDeadline(deadline) // it reads on, to see when nobody waits any more
	control.SetWriteDeadline(deadline)
	patience := time.NewTimer(wait)
	defer patience.Stop()
	select {
	case <-l.answered:
		if l.failed != nil {
			return nil, l.failed
		}
		return &wire.LinkReply{Blob: l.reply}, nil
	case <-patience.C:
		return nil, errNotYet
	case <-s.stop.Done():
		return nil, errStopping
	case <-ctx.Done(): // nobody waits any more
		return nil, errNotYet
	}
}
