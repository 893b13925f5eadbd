package turnserver

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// A TCP proxy hides its clients' addresses, by which they are limited. It can put them in front of each connection: the PROXY protocol, versions 1 and 2
// (HAProxy, doc/proxy-protocol.txt). Such a header is believed from listed proxies only, which must send one; from everybody else it is no TURN message.

var (
	errProxyHeader = errors.New("turnserver: not a PROXY header")
	proxySignature = []byte("\r\n\r\n\x00\r\nQUIT\n") // section 2.2
)

const (
	proxyLine   = 107 // the longest header of version 1, section 2.1
	proxyHeader = 16  // of version 2, before the addresses
	maxProxy    = 1024
)

func (s *Server) isProxy(a netip.Addr) bool {
	return slices.ContainsFunc(s.cfg.Proxies, func(p netip.Prefix) bool { return p.Contains(a) })
}

// acceptProxied waits for the header; from there on the connection is the client's.
func (s *Server) acceptProxied(conn net.Conn, proxy netip.AddrPort, config *tls.Config) {
	w := waiting{conn}
	if !s.headers.take(proxy.Addr()) {
		s.metrics.refusedConnection.Inc()
		_ = conn.Close()
		return
	}
	if !s.track(w) {
		s.headers.give(proxy.Addr())
		_ = conn.Close()
		return
	}
	go func() {
		defer s.untrack(w)
		_ = conn.SetDeadline(time.Now().Add(s.cfg.tune.firstFrame))
		r := bufio.NewReaderSize(conn, maxProxy)
		client, err := readProxyHeader(r)
		s.headers.give(proxy.Addr())
		if err != nil {
			s.metrics.droppedMalformed.Inc()
			_ = conn.Close()
			return
		}
		if !client.IsValid() { // the proxy itself, asking whether we are well
			client = proxy
		}
		s.admitStream(behind{conn, r}, client, config)
	}()
}

// waiting is a connection whose header has not come.
type waiting struct{ conn net.Conn }

func (w waiting) close() { _ = w.conn.Close() }

// behind is a connection of which the beginning has been read.
type behind struct {
	net.Conn
	r *bufio.Reader
}

func (b behind) Read(p []byte) (int, error) { return b.r.Read(p) }

// readProxyHeader takes the header off. The address is not valid if the header names none.
func readProxyHeader(r *bufio.Reader) (netip.AddrPort, error) {
	start, err := r.Peek(len(proxySignature))
	switch {
	case err != nil:
		return netip.AddrPort{}, err
	case bytes.Equal(start, proxySignature):
		return readProxyV2(r)
	case bytes.HasPrefix(start, []byte("PROXY ")):
		return readProxyV1(r)
	}
	return netip.AddrPort{}, errProxyHeader
}

// readProxyV1 reads "PROXY TCP4 192.0.2.1 198.51.100.7 56324 3478\r\n" (section 2.1).
func readProxyV1(r *bufio.Reader) (netip.AddrPort, error) {
	line, err := r.ReadSlice('\n')
	if err != nil || len(line) > proxyLine || !bytes.HasSuffix(line, []byte("\r\n")) {
		return netip.AddrPort{}, errProxyHeader
	}
	words := strings.Split(string(line[:len(line)-2]), " ")
	if words[1] == "UNKNOWN" {
		return netip.AddrPort{}, nil
	}
	if len(words) != 6 || words[1] != "TCP4" && words[1] != "TCP6" {
		return netip.AddrPort{}, errProxyHeader
	}
	client, err := netip.ParseAddrPort(net.JoinHostPort(words[2], words[4]))
	if err != nil || client.Addr().Zone() != "" || client.Addr().Is4() != (words[1] == "TCP4") {
		return netip.AddrPort{}, errProxyHeader
	}
	return plain(client), nil
}

// readProxyV2 reads the binary form (section 2.2): signature, version and command, family, length, addresses, and what else there may be.
func readProxyV2(r *bufio.Reader) (netip.AddrPort, error) {
	head, err := r.Peek(proxyHeader)
	if err != nil {
		return netip.AddrPort{}, err
	}
	command, family, size := head[12], head[13], proxyHeader+int(binary.BigEndian.Uint16(head[14:]))
	if size > maxProxy || command != 0x20 && command != 0x21 {
		return netip.AddrPort{}, errProxyHeader
	}
	all, err := r.Peek(size)
	if err != nil {
		return netip.AddrPort{}, err
	}
	var client netip.AddrPort
	addresses := all[proxyHeader:]
	switch {
	case command == 0x20: // LOCAL
	case family == 0x11 && len(addresses) >= 12: // TCP over IPv4
		client = netip.AddrPortFrom(netip.AddrFrom4([4]byte(addresses[:4])), binary.BigEndian.Uint16(addresses[8:]))
	case family == 0x21 && len(addresses) >= 36: // TCP over IPv6
		client = netip.AddrPortFrom(netip.AddrFrom16([16]byte(addresses[:16])), binary.BigEndian.Uint16(addresses[32:]))
	case family == 0x11 || family == 0x21:
		return netip.AddrPort{}, errProxyHeader
	}
	_, err = r.Discard(size)
	if client.IsValid() {
		client = plain(client)
	}
	return client, err
}
