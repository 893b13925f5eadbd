package turnserver

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// udpListener is a socket that clients reach by UDP.
type udpListener interface {
	socket
	at() netip.AddrPort
	begin(f *frontend) error // all listeners are open now, and f will read from this one
}

// The data planes.
const (
	planeAuto     = "auto"
	planePortable = "portable"
)

// Whether the network driver carries packets beside them.
const (
	offloadOff      = "off"
	offloadAuto     = "auto"
	offloadRequired = "required"
)

// openUDP opens the listeners of one address: the fastest that this system has, or the portable one. What it opened before an error it returns too.
func (s *Server) openUDP(address string) ([]udpListener, error) {
	conn, err := listenUDP(address)
	if err != nil {
		return nil, err
	}
	if !hasLoops || s.cfg.DataPlane == planePortable {
		setBuffers(conn)
		return []udpListener{&datagrams{s: s, conn: newWildcardConn(conn)}}, nil
	}
	opened, err := s.openLoops(conn)
	if err != nil {
		err = fmt.Errorf("cannot serve UDP %s: %w", address, err)
	}
	return opened, err
}

// datagrams is a UDP listener of the portable data plane.
type datagrams struct {
	s      *Server
	conn   *wildcardConn
	closed atomic.Bool
}

func (d *datagrams) at() netip.AddrPort    { return addrPort(d.conn.LocalAddr()) }
func (d *datagrams) begin(*frontend) error { return nil }

func (d *datagrams) read(b []byte) (int, tuple, error) {
	for {
		n, from, err := d.conn.receive(b)
		if err == nil {
			return n, from, nil
		}
		if errors.Is(err, os.ErrDeadlineExceeded) && !d.closed.Load() {
			_ = d.conn.SetReadDeadline(time.Time{})
			if !d.closed.Load() { // nor since
				return 0, tuple{}, errInterrupted
			}
		}
		if errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, tuple{}, err
		}
		time.Sleep(time.Millisecond) // an error of one datagram; the socket is well
	}
}

// write loses what cannot be sent: the client asks again.
func (d *datagrams) write(b []byte, to tuple) { _, _ = d.conn.send(b, to) }
func (d *datagrams) open(r *relay) error      { return openUDPPort(r) }
func (d *datagrams) idle()                    {}

// close ends reading only: the answer to the request that ended the last call is perhaps still to be written.
func (d *datagrams) close() {
	d.closed.Store(true)
	d.interrupt()
}

func (d *datagrams) interrupt() { _ = d.conn.SetReadDeadline(time.Unix(1, 0)) }

func (d *datagrams) ended() {
	_ = d.conn.Close()
	d.s.tasks.Done()
}

// socketBuffer is asked for on UDP listeners, which carry the traffic of all clients; the system may give less.
const socketBuffer = 4 << 20

func listenUDP(address string) (*net.UDPConn, error) {
	at, err := parseListen(address)
	if err != nil {
		return nil, err
	}
	conn, err := net.ListenUDP("udp", at.udp())
	if err != nil {
		return nil, explain("UDP", address, err)
	}
	return conn, nil
}

func setBuffers(conn *net.UDPConn) {
	_ = conn.SetReadBuffer(socketBuffer)
	_ = conn.SetWriteBuffer(socketBuffer)
}

func listenTCP(address string) (*net.TCPListener, error) {
	at, err := parseListen(address)
	if err != nil {
		return nil, err
	}
	l, err := net.ListenTCP("tcp", at.tcp())
	if err != nil {
		return nil, explain("TCP", address, err)
	}
	return l, nil
}

// listenAddr is an address and port; no address means all.
type listenAddr struct{ netip.AddrPort }

func parseListen(address string) (listenAddr, error) {
	if port, ok := strings.CutPrefix(address, ":"); ok {
		address = "[::]:" + port
	}
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return listenAddr{}, fmt.Errorf("cannot listen on %q: write it as an IP address and port, such as 203.0.113.7:3478, or :3478", address)
	}
	return listenAddr{at}, nil
}

func (a listenAddr) udp() *net.UDPAddr { return (*net.UDPAddr)(a.tcp()) }

func (a listenAddr) tcp() *net.TCPAddr {
	if a.Addr() == netip.IPv6Unspecified() {
		return &net.TCPAddr{Port: int(a.Port())} // IPv4 too
	}
	return net.TCPAddrFromAddrPort(a.AddrPort)
}

// explain turns the system's word for why a port cannot be had into what to do about it.
func explain(transport, address string, err error) error {
	hint := "choose another address"
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		hint = "another program, perhaps another relay, uses that port: stop it or choose another port"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		hint = "this machine has no such address: name one of its own, and give the one of a NAT as the external address"
	case errors.Is(err, syscall.EACCES):
		hint = "ports below 1024 need a privilege: choose a higher port or grant CAP_NET_BIND_SERVICE"
	}
	return fmt.Errorf("cannot listen on %s %s: %s: %w", transport, address, hint, err)
}

// relayAddrs finds the addresses to open relayed ports on: the specific ones that clients are served on, or for a wildcard the source addresses of the default
// routes. Only those remain that may be peers, since in a call with both ends relayed here each is the other's peer.
func (s *Server) relayAddrs(listening []netip.AddrPort) ([]relayAddr, error) {
	var candidates []netip.Addr
	for _, a := range listening {
		if a.Addr().IsUnspecified() {
			source := s.cfg.tune.source
			candidates = append(candidates, source("udp4", "192.0.2.1:9"), source("udp6", "[2001:db8::1]:9"))
		} else {
			candidates = append(candidates, a.Addr())
		}
	}
	var out []relayAddr
	var unusable *ExternalError
	seen := make(map[netip.Addr]bool)
	for _, local := range candidates {
		if !local.IsValid() || seen[local] {
			continue
		}
		seen[local] = true
		public, given := local, false
		for _, e := range s.cfg.External {
			if e.Unmap().Is4() == local.Is4() {
				public, given = e.Unmap(), true
			}
		}
		if !s.policy.allows(public) {
			if unusable == nil || given && !unusable.Given {
				unusable = &ExternalError{Address: public, Given: given}
			}
			continue
		}
		out = append(out, relayAddr{local, public})
	}
	switch {
	case len(out) > 0:
		return out, nil
	case unusable != nil:
		return nil, unusable
	}
	return nil, errors.New("no external address: this machine has no default route. Listen on a specific address instead of on all")
}

// An ExternalError says that the relay would be at an address that the internet does not reach.
type ExternalError struct {
	Address netip.Addr
	Given   bool // by Config.External
}

func (e *ExternalError) Error() string {
	where := "set External to the address that the internet knows this machine by"
	if e.Given {
		where = "External is to be the address that the internet knows this machine by"
	}
	return fmt.Sprintf("no external address: %s is not reachable from the internet: %s, or for a "+
		"relay of your own network open that network with AllowPeers", e.Address, where)
}

// defaultSource is the address that packets to the internet leave from. Nothing is sent.
func defaultSource(network, to string) netip.Addr {
	conn, err := net.Dial(network, to)
	if err != nil {
		return netip.Addr{}
	}
	defer conn.Close()
	return addrPort(conn.LocalAddr()).Addr()
}

// relayAddrFor prefers the address that the client came to.
func (s *Server) relayAddrFor(listening netip.Addr, v6 bool) (relayAddr, bool) {
	found, ok := relayAddr{}, false
	for _, a := range *s.relays.Load() {
		if a.local.Is6() == v6 && (!ok || a.local == listening) {
			found, ok = a, true
		}
	}
	return found, ok
}
