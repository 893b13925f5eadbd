package turnserver

import (
	"net"
	"net/netip"
	"runtime"

	"golang.org/x/sys/unix"
)

// loopPort is a relayed port that a loop serves.
type loopPort struct {
	outlet
	loop  *loop
	relay *relay
}

// open gives a relay its port, on a socket that belongs to the loop.
func (l *loop) open(r *relay) error {
	v6 := r.local.Addr().Is6()
	family := unix.AF_INET
	if v6 {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	p := &loopPort{outlet: outlet{fd: fd, v6: v6}, loop: l, relay: r}
	p.sent = p.count
	if v6 {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	}
	if err == nil {
		err = unix.Bind(fd, systemAddr(r.local, v6))
	}
	if err != nil {
		_ = unix.Close(fd)
		return err
	}
	tune(fd, v6)
	l.mu.Lock()
	l.ports[fd] = p
	l.mu.Unlock()
	if err := l.watch(fd); err != nil {
		p.close()
		return err
	}
	r.port = p
	return nil
}

// read ends pion's goroutine for the allocation: it would only wait, with its stack and buffer, for packets that the loop sees first. pion
// deletes an allocation when this call returns an error; it does not return.
func (p *loopPort) read([]byte) (int, netip.AddrPort, error) {
	runtime.Goexit()
	return 0, netip.AddrPort{}, net.ErrClosed
}

func (p *loopPort) close() {
	p.loop.mu.Lock()
	if p.loop.ports[p.fd] == p {
		delete(p.loop.ports, p.fd)
	}
	p.loop.mu.Unlock()
	p.shut()
}

// count is told what became of packets to peers.
func (p *loopPort) count(packets, bytes, lost int) {
	m := p.loop.s.metrics
	m.toPeer.Add(float64(packets))
	m.toPeerBytes.Add(float64(bytes))
	if lost > 0 {
		m.droppedPeer.Add(float64(lost))
	}
}

// write sends one datagram now, from any goroutine.
func (o *outlet) write(b []byte, to netip.AddrPort) error {
	return o.writeFrom(netip.Addr{}, b, to)
}

// writeFrom does so from one of our addresses, if one is given.
func (o *outlet) writeFrom(local netip.Addr, b []byte, to netip.AddrPort) error {
	o.mu.RLock()
	defer o.mu.RUnlock()
	if o.closed {
		return net.ErrClosed
	}
	if !local.IsValid() {
		return unix.Sendto(o.fd, b, unix.MSG_DONTWAIT, systemAddr(to, o.v6))
	}
	return unix.Sendmsg(o.fd, b, fromLocal(local, o.v6), systemAddr(to, o.v6), unix.MSG_DONTWAIT)
}

func (o *outlet) shut() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.closed {
		o.closed = true
		_ = unix.Close(o.fd)
	}
}

func systemAddr(a netip.AddrPort, v6 bool) unix.Sockaddr {
	if v6 {
		return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	}
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
}
