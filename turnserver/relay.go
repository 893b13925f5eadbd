package turnserver

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// relay is one allocation's relayed transport address: the net.PacketConn that pion reads from peers and writes to them with.
//
//  1. pion allocates it (frontend.AllocatePacketConn), then says whose it is (own).
//  2. Each CreatePermission or ChannelBind that succeeded opens a peer for five minutes (permit).
//  3. WriteTo: a packet of the client leaves for a peer that is permitted and that policy allows.
//  4. ReadFrom: a packet of a peer passes under the same two conditions.
//  5. Close: pion ends the allocation; port, quota and entries are given back.
//
// Permissions are kept here and not by pion, for two reasons. pion goes on forwarding by channel after the permission has expired,
// which RFC 8656 section 12.6 forbids. And up to v5.1.2 pion publishes a permission before its timer exists, so that an allocation that
// closes at that instant stops a nil timer and takes the process down. With our own lifetimes pion's permissions need never expire
// (neverExpires); its only removal is then the closing of the allocation, which calls forget for each permission just before it touches the
// timer, and forget waits until creation is over. See publish.
type relay struct {
	s             *Server
	conn          *net.UDPConn
	local, public netip.AddrPort

	// whose it is; set once, before any request of the client can refer to it
	frontend   *frontend
	client     netip.AddrPort
	clientAddr *net.UDPAddr
	credential credential
	born       time.Time

	mu       sync.RWMutex
	peers    map[netip.Addr]time.Time     // permitted until
	started  map[netip.Addr]chan struct{} // closed once pion's timer for that permission exists
	channels atomic.Int32

	stranger bucket    // answers to unauthenticated requests from the client's 5-tuple
	rate     [2]bucket // bytes to peers, from peers

	live   sync.RWMutex // held for reading while another relay sends to ours
	closed bool
}

// neverExpires is the permission lifetime that pion is given.
const neverExpires = 100 * 365 * 24 * time.Hour

// publish notes that pion has published a permission and is about to start its timer; the caller closes the channel after that.
func (r *relay) publish(peer netip.Addr) chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.start(peer)
}

func (r *relay) start(peer netip.Addr) chan struct{} {
	c, ok := r.started[peer]
	if !ok {
		c = make(chan struct{})
		r.started[peer] = c
	}
	return c
}

// forget returns when pion may stop the timer of a permission that it has published. It runs on the goroutine that closes the allocation, while the one
// that makes the permission may be anywhere between publishing and start; in that stretch pion takes no lock, so this wait ends.
func (r *relay) forget(peer netip.Addr) {
	r.mu.Lock()
	c := r.start(peer)
	r.mu.Unlock()
	<-c
}

// hasRoom says whether one more permission fits.
func (r *relay) hasRoom(peer netip.Addr) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	_, known := r.started[peer]
	return known || len(r.started) < maxPeers
}

func (r *relay) permit(peer netip.Addr, until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.peers[peer] = until
}

func (r *relay) permits(peer netip.Addr, now time.Time) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return now.Before(r.peers[peer])
}

// WriteTo sends a client's packet to a peer. What may not be sent is lost silently, as RFC 8656 section 11.2 wants.
func (r *relay) WriteTo(b []byte, addr net.Addr) (int, error) {
	m, now, to := r.s.metrics, r.s.now(), addrPort(addr)
	switch {
	case to.Port() == 0 || !r.s.policy.allows(to.Addr()):
		m.droppedPeer.Inc()
		return len(b), nil
	case !r.permits(to.Addr(), now):
		m.droppedPermission.Inc()
		return len(b), nil
	case !r.spend(0, len(b), now):
		m.droppedBandwidth.Inc()
		return len(b), nil
	}
	if r.s.policy.isOwn(to.Addr()) {
		if target := r.s.table.byPublic(to); target == nil || !target.receive(r, b) {
			m.droppedPeer.Inc()
			return len(b), nil
		}
	} else if _, err := r.conn.WriteToUDPAddrPort(b, to); err != nil {
		m.droppedPeer.Inc() // no route, or the system's buffer is full
		return len(b), nil
	}
	m.toPeer.Inc()
	m.toPeerBytes.Add(float64(len(b)))
	return len(b), nil
}

// receive takes a packet from another relay of this server. It travels between the two local sockets, since behind a NAT the public
// address may lead nowhere from here; and r cannot close meanwhile, so its port cannot have become somebody else's.
func (r *relay) receive(from *relay, b []byte) bool {
	r.live.RLock()
	defer r.live.RUnlock()
	if r.closed {
		return false
	}
	_, err := from.conn.WriteToUDPAddrPort(b, r.local)
	return err == nil
}

// ReadFrom gives pion the next packet that a peer may send to the client.
func (r *relay) ReadFrom(b []byte) (int, net.Addr, error) {
	m := r.s.metrics
	for {
		n, from, err := r.conn.ReadFromUDPAddrPort(b)
		if errors.Is(err, net.ErrClosed) {
			return 0, nil, err
		}
		if err != nil { // of one packet; the socket is well
			time.Sleep(time.Millisecond)
			continue
		}
		from = netip.AddrPortFrom(from.Addr().Unmap().WithZone(""), from.Port())
		if r.s.policy.isOwn(from.Addr()) { // another relay, or else something on this machine that no client may hear
			sender := r.s.table.byLocal(from)
			if sender == nil {
				m.droppedPeer.Inc()
				continue
			}
			from = sender.public
		}
		now := r.s.now()
		switch {
		case n == len(b): // cut short by the buffer
			m.droppedSize.Inc()
		case !r.s.policy.allows(from.Addr()):
			m.droppedPeer.Inc()
		case !r.permits(from.Addr(), now):
			m.droppedPermission.Inc()
		case !r.spend(1, n, now):
			m.droppedBandwidth.Inc()
		default:
			m.fromPeer.Inc()
			m.fromPeerBytes.Add(float64(n))
			return n, net.UDPAddrFromAddrPort(from), nil
		}
	}
}

func (r *relay) spend(direction, n int, now time.Time) bool {
	if r.s.cfg.Bandwidth <= 0 {
		return true
	}
	perByte := time.Second / time.Duration(r.s.cfg.Bandwidth)
	return r.rate[direction].take(now, n, r.s.cfg.Bandwidth, max(perByte, 1))
}

// Close gives everything back. pion may call it more than once and must never see an error: one would keep it from closing the rest.
func (r *relay) Close() error {
	r.live.Lock()
	closed := r.closed
	r.closed = true
	r.live.Unlock()
	if closed {
		return nil
	}
	_ = r.conn.Close()
	if r.frontend != nil {
		r.frontend.release(r)
	}
	r.s.table.remove(r)
	return nil
}

func (r *relay) LocalAddr() net.Addr                { return net.UDPAddrFromAddrPort(r.public) }
func (r *relay) SetDeadline(t time.Time) error      { return r.conn.SetDeadline(t) }
func (r *relay) SetReadDeadline(t time.Time) error  { return r.conn.SetReadDeadline(t) }
func (r *relay) SetWriteDeadline(t time.Time) error { return r.conn.SetWriteDeadline(t) }

// addrPort is a UDP address of pion's in our form.
func addrPort(a net.Addr) netip.AddrPort {
	u, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	p := u.AddrPort()
	return netip.AddrPortFrom(p.Addr().Unmap().WithZone(""), p.Port())
}
