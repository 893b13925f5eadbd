package turnserver

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

// relay is one allocation's relayed transport address: the net.PacketConn that pion reads from peers and writes to them with.
//
//  1. pion allocates it (frontend.AllocatePacketConn), then says whose it is (created).
//  2. Requests that succeed open peers: see channel.go.
//  3. WriteTo: a packet of the client leaves for a peer that is permitted and that policy allows.
//  4. ReadFrom: a packet of a peer passes under the same two conditions.
//  5. Close: pion ends the allocation; port, quota and entries are given back.
//
// Permissions are kept here and not by pion, for two reasons. pion goes on forwarding by channel after the permission has expired,
// which RFC 8656 section 12.6 forbids. And up to v5.1.2 pion publishes a permission before its timer exists, so that an allocation that
// closes at that instant stops a nil timer and takes the process down. With our own lifetimes pion's permissions need not expire while
// they are used (pionsPermission); what removes them is then the closing of the allocation, which calls forget for each permission just before
// it touches the timer, and forget waits until creation is over. See publish.
type relay struct {
	s             *Server
	port          port
	local, public netip.AddrPort

	// whose it is; set once, before any request of the client can refer to it
	frontend   *frontend
	tuple      tuple
	clientAddr *net.UDPAddr
	credential credential
	born       time.Time
	accounts   [payers]*account // nil where nothing is bounded

	mu          sync.RWMutex
	permissions []*permission // kept until the relay closes
	byNumber    []*channel
	byPeer      []*channel
	over        bool // no channel and no permission comes any more

	stranger bucket // answers to unauthenticated requests from the client's 5-tuple

	live   sync.RWMutex // held for reading while another relay sends to ours
	closed bool
}

// port is a bound relayed port. It is the only part of a relay that depends on how packets are carried.
type port interface {
	read(b []byte) (n int, from netip.AddrPort, err error) // the next packet; net.ErrClosed after close
	write(b []byte, to netip.AddrPort) error
	close()
}

// pionsPermission is the permission lifetime that pion is given: much longer than ours, and short enough that the timer of one that was made
// while its allocation closed does not keep that for long.
const pionsPermission = time.Hour

// publish notes that pion has published a permission and is about to start its timer; the caller closes the channel after that.
func (r *relay) publish(peer netip.Addr) chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.start(peer)
}

func (r *relay) start(peer netip.Addr) chan struct{} {
	p := r.permission(peer)
	if p.started == nil {
		p.started = make(chan struct{})
	}
	return p.started
}

// forget returns when pion may stop the timer of a permission that it has published. It runs on the goroutine that closes the allocation, while the one
// that makes the permission may be anywhere between publishing and start; in that stretch pion takes no lock, so this wait ends. A request that still
// holds the allocation may then have pion make the permission once more.
func (r *relay) forget(peer netip.Addr) {
	r.mu.Lock()
	c := r.start(peer)
	r.mu.Unlock()
	<-c
	r.mu.Lock()
	defer r.mu.Unlock()
	r.permission(peer).started = nil
}

// WriteTo sends a client's packet to a peer. What may not be sent is lost silently, as RFC 8656 section 11.2 wants.
func (r *relay) WriteTo(b []byte, addr net.Addr) (int, error) {
	m, to := r.s.metrics, addrPort(addr)
	j, dropped := r.passes(toPeer, to, r.channelTo(to), len(b), r.s.now())
	if dropped != nil {
		dropped.Inc()
		return len(b), nil
	}
	if j.own {
		if target := r.s.table.byPublic(to); target == nil || !target.receive(r, b) {
			m.droppedPeer.Inc()
			return len(b), nil
		}
	} else if r.port.write(b, to) != nil {
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
	return !r.closed && from.port.write(b, r.local) == nil
}

// ReadFrom gives pion the next packet that a peer may send to the client.
func (r *relay) ReadFrom(b []byte) (int, net.Addr, error) {
	m := r.s.metrics
	for {
		n, from, err := r.port.read(b)
		if errors.Is(err, net.ErrClosed) {
			return 0, nil, err
		}
		if err != nil { // of one packet; the socket is well
			time.Sleep(time.Millisecond)
			continue
		}
		from, ch, ok := r.sender(from)
		if !ok {
			m.droppedPeer.Inc()
			continue
		}
		if _, dropped := r.passes(fromPeer, from, ch, n, r.s.now()); dropped != nil {
			dropped.Inc()
			continue
		}
		m.fromPeer.Inc()
		m.fromPeerBytes.Add(float64(n))
		return n, net.UDPAddrFromAddrPort(from), nil
	}
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
	r.end()
	r.port.close()
	if r.frontend != nil {
		r.frontend.release(r)
	}
	r.s.table.remove(r)
	return nil
}

// LocalAddr implements net.PacketConn.
func (r *relay) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(r.public) }

// SetDeadline, SetReadDeadline and SetWriteDeadline complete net.PacketConn; pion calls none of them.
func (r *relay) SetDeadline(time.Time) error      { return nil }
func (r *relay) SetReadDeadline(time.Time) error  { return nil }
func (r *relay) SetWriteDeadline(time.Time) error { return nil }

// udpPort is a port in the portable data plane.
type udpPort struct{ conn *net.UDPConn }

func openUDPPort(r *relay) (err error) {
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(r.local))
	if err == nil {
		r.port = udpPort{conn}
	}
	return err
}

func (p udpPort) read(b []byte) (int, netip.AddrPort, error) {
	n, from, err := p.conn.ReadFromUDPAddrPort(b)
	return n, plain(from), err
}

func (p udpPort) write(b []byte, to netip.AddrPort) error {
	_, err := p.conn.WriteToUDPAddrPort(b, to)
	return err
}

func (p udpPort) close() { _ = p.conn.Close() }

// addrPort is a UDP address of pion's in our form.
func addrPort(a net.Addr) netip.AddrPort {
	u, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	return plain(u.AddrPort())
}

// plain is an address without the ways of the socket it came by.
func plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}
