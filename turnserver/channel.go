package turnserver

import (
	"cmp"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// What an allocation may exchange with which peer. pion says what its client asked for and was granted; every packet is held to it here, whichever way it is
// carried:
//
//  1. bind: a ChannelBind made a channel (frontend.channelCreated). unbind: its ten minutes passed, or the allocation ended.
//  2. permit: the ChannelBind or CreatePermission succeeded, and the peer is open for five minutes (frontend.succeeded).
//  3. passes: is this packet between client and peer allowed now?
//  4. end: the allocation is over, after unbind for each of its channels, but for one that a request made meanwhile.

// permission is an opened peer address.
type permission struct {
	peer    netip.Addr
	until   atomic.Int64  // Unix nanoseconds; what was never granted is over
	started chan struct{} // closed once pion's timer for it exists; nil before pion has one
}

// channel is a bound channel.
type channel struct {
	number     uint16
	peer       netip.AddrPort
	permission *permission
	judged     atomic.Pointer[judgement]
}

// judgement is what policy says of a peer.
type judgement struct {
	by           *localAddrs // what it was based on; the rest of policy never changes
	allowed, own bool
}

func (p *policy) judge(a netip.Addr) *judgement {
	by := p.local.Load()
	return &judgement{by: by, allowed: p.allows(a), own: p.isOwn(a)}
}

// Most allocations have a channel or two, whose maps would take more memory than all else here: so they are in order, in slices.

func (ch *channel) cmpNumber(number uint16) int     { return cmp.Compare(ch.number, number) }
func (ch *channel) cmpPeer(peer netip.AddrPort) int { return ch.peer.Compare(peer) }
func (p *permission) cmpPeer(peer netip.Addr) int   { return p.peer.Compare(peer) }

// bind is called for a number and a peer that are free, which pion sees to under its own lock.
func (r *relay) bind(number uint16, peer netip.AddrPort) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return
	}
	ch := &channel{number: number, peer: peer, permission: r.permission(peer.Addr())}
	at, _ := slices.BinarySearchFunc(r.byNumber, number, (*channel).cmpNumber)
	r.byNumber = slices.Insert(r.byNumber, at, ch)
	at, _ = slices.BinarySearchFunc(r.byPeer, peer, (*channel).cmpPeer)
	r.byPeer = slices.Insert(r.byPeer, at, ch)
}

func (r *relay) unbind(number uint16) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, bound := slices.BinarySearchFunc(r.byNumber, number, (*channel).cmpNumber)
	if !bound {
		return
	}
	ch := r.byNumber[at]
	r.byNumber = slices.Delete(r.byNumber, at, at+1)
	at, _ = slices.BinarySearchFunc(r.byPeer, ch.peer, (*channel).cmpPeer)
	r.byPeer = slices.Delete(r.byPeer, at, at+1)
	r.s.offload.drop(ch)
}

func (r *relay) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.over = true
	for _, ch := range r.byNumber {
		r.s.offload.drop(ch)
	}
	r.byNumber, r.byPeer = nil, nil
}

func (r *relay) channel(number uint16) *channel {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if at, bound := slices.BinarySearchFunc(r.byNumber, number, (*channel).cmpNumber); bound {
		return r.byNumber[at]
	}
	return nil
}

func (r *relay) channelTo(peer netip.AddrPort) *channel {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if at, bound := slices.BinarySearchFunc(r.byPeer, peer, (*channel).cmpPeer); bound {
		return r.byPeer[at]
	}
	return nil
}

// permission is the entry of a peer address; r.mu is held for writing.
func (r *relay) permission(peer netip.Addr) *permission {
	at, known := slices.BinarySearchFunc(r.permissions, peer, (*permission).cmpPeer)
	if !known {
		r.permissions = slices.Insert(r.permissions, at, &permission{peer: peer})
	}
	return r.permissions[at]
}

func (r *relay) permit(peer netip.Addr, until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over {
		return
	}
	p := r.permission(peer)
	p.until.Store(until.UnixNano())
	for _, ch := range r.byNumber {
		if ch.permission == p {
			r.s.offload.permit(r, ch)
		}
	}
}

func (r *relay) permits(peer netip.Addr, now time.Time) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	at, known := slices.BinarySearchFunc(r.permissions, peer, (*permission).cmpPeer)
	return known && r.permissions[at].permits(now)
}

func (p *permission) permits(now time.Time) bool { return now.UnixNano() < p.until.Load() }

// hasRoom says whether these permissions fit and, where the one peer is to be bound, a channel.
// Permissions that are over do not count, though pion holds them for up to an hour, which is
// bounded too.
func (r *relay) hasRoom(peers []netip.AddrPort, bind bool, now time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.permissions)+len(peers) > maxPermissions {
		r.permissions = slices.DeleteFunc(r.permissions, func(p *permission) bool {
			return p.started == nil && !p.permits(now) && !r.binds(p)
		})
	}
	live, more := 0, 0
	for _, p := range r.permissions {
		if p.permits(now) {
			live++
		}
	}
	for _, peer := range peers {
		at, known := slices.BinarySearchFunc(r.permissions, peer.Addr(), (*permission).cmpPeer)
		if !known {
			more++
		}
		if !known || !r.permissions[at].permits(now) {
			live++
		}
	}
	return live <= maxPermissions && len(r.permissions)+more <= 4*maxPermissions && (!bind || len(r.byNumber) < maxChannels)
}

// binds says whether a channel uses the permission; r.mu is held.
func (r *relay) binds(p *permission) bool {
	return slices.ContainsFunc(r.byNumber, func(ch *channel) bool { return ch.permission == p })
}

// direction of a packet, as its client sees it.
type direction int

const (
	toPeer direction = iota
	fromPeer
)

// judge is what policy says of a peer, remembered if it has a channel.
func (r *relay) judge(peer netip.Addr, ch *channel) *judgement {
	if ch == nil {
		return r.s.policy.judge(peer)
	}
	j := ch.judged.Load()
	if j == nil || j.by != r.s.policy.local.Load() {
		j = r.s.policy.judge(peer)
		ch.judged.Store(j)
	}
	return j
}

// passes decides on a packet of n bytes; ch is the peer's channel or nil. A packet that does not pass is lost silently (RFC 8656 sections 11.2 and 11.4) and counted.
func (r *relay) passes(d direction, peer netip.AddrPort, ch *channel, n int, now time.Time) (j *judgement, dropped prometheus.Counter) {
	m := r.s.metrics
	j = r.judge(peer.Addr(), ch)
	if peer.Port() == 0 || !j.allowed {
		return j, m.droppedPeer
	}
	if ch != nil && !ch.permission.permits(now) || ch == nil && !r.permits(peer.Addr(), now) {
		return j, m.droppedPermission
	}
	if n >= maxDatagram {
		return j, m.droppedSize
	}
	return j, r.spend(d, n, now)
}

// sender is who sent a packet that came to the relayed port, and the channel it has. What has an address of this machine is another relay, which
// peers know by its public address, or else something that no client may hear.
func (r *relay) sender(from netip.AddrPort) (netip.AddrPort, *channel, bool) {
	ch := r.channelTo(from)
	if ch != nil && !r.judge(from.Addr(), ch).own || ch == nil && !r.s.policy.isOwn(from.Addr()) {
		return from, ch, true
	}
	other := r.s.table.byLocal(from)
	if other == nil {
		return from, nil, false
	}
	return other.public, r.channelTo(other.public), true
}
