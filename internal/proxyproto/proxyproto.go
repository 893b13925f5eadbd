// Package proxyproto takes the PROXY protocol off connections, versions 1 and 2 (HAProxy,
// doc/proxy-protocol.txt). A TCP proxy hides its clients' addresses, by which they are limited; so
// it puts them in front of each connection. A header is to be believed from listed proxies only,
// and these must send one.
package proxyproto

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// ErrHeader says that a connection does not begin with a header.
var ErrHeader = errors.New("not a PROXY header")

var signature = []byte("\r\n\r\n\x00\r\nQUIT\n") // section 2.2

const (
	maxLine   = 107 // the longest header of version 1, section 2.1
	fixedSize = 16  // of version 2, before the addresses
	maxHeader = 1024
)

// Conn is a connection whose header has been taken off. Its RemoteAddr is the client's.
type Conn struct {
	net.Conn
	r      *bufio.Reader
	client netip.AddrPort
}

// Accept waits for the header; the caller sets the deadline.
func Accept(conn net.Conn) (*Conn, error) {
	r := bufio.NewReaderSize(conn, maxHeader)
	client, err := readHeader(r)
	if err != nil {
		return nil, err
	}
	return &Conn{conn, r, client}, nil
}

// Client is not valid if the header names none: the proxy itself asks whether we are well.
func (c *Conn) Client() netip.AddrPort { return c.client }

func (c *Conn) RemoteAddr() net.Addr {
	if c.client.IsValid() {
		return net.TCPAddrFromAddrPort(c.client)
	}
	return c.Conn.RemoteAddr()
}

func (c *Conn) Read(p []byte) (int, error) { return c.r.Read(p) }

// A header comes with the connection: who waits for longer is no proxy of ours.
const (
	headerTime = 5 * time.Second
	maxWaiting = 256 // connections whose header has not come
)

// Listen takes headers off what l accepts from these proxies, and leaves all else as it is.
func Listen(l net.Listener, proxies []netip.Prefix) net.Listener {
	p := &listener{
		Listener: l, proxies: proxies,
		accepted: make(chan net.Conn), failed: make(chan error),
		waiting: make(chan struct{}, maxWaiting),
	}
	p.open, p.close = context.WithCancel(context.Background())
	p.running.Go(p.accept)
	return p
}

type listener struct {
	net.Listener
	proxies  []netip.Prefix
	accepted chan net.Conn
	failed   chan error
	waiting  chan struct{}
	open     context.Context
	close    context.CancelFunc
	running  sync.WaitGroup
}

func (p *listener) Accept() (net.Conn, error) {
	select {
	case conn := <-p.accepted:
		return conn, nil
	case err := <-p.failed:
		return nil, err
	case <-p.open.Done():
		return nil, net.ErrClosed
	}
}

func (p *listener) Close() error {
	p.close()
	err := p.Listener.Close()
	p.running.Wait()
	return err
}

func (p *listener) accept() {
	for p.open.Err() == nil {
		conn, err := p.Listener.Accept()
		if err != nil {
			select {
			case p.failed <- err: // who accepts decides how long to wait
			case <-p.open.Done():
			}
			continue
		}
		if !p.isProxy(conn.RemoteAddr()) {
			p.hand(conn)
			continue
		}
		select {
		case p.waiting <- struct{}{}:
			p.running.Go(func() { p.takeHeader(conn) })
		default:
			conn.Close()
		}
	}
}

func (p *listener) isProxy(a net.Addr) bool {
	at, ok := a.(*net.TCPAddr)
	if !ok {
		return false
	}
	ip := plain(at.AddrPort()).Addr()
	return slices.ContainsFunc(p.proxies, func(r netip.Prefix) bool { return r.Contains(ip) })
}

func (p *listener) takeHeader(conn net.Conn) {
	defer context.AfterFunc(p.open, func() { conn.Close() })()
	_ = conn.SetDeadline(time.Now().Add(headerTime))
	c, err := Accept(conn)
	<-p.waiting
	if err != nil {
		conn.Close()
		return
	}
	_ = conn.SetDeadline(time.Time{})
	p.hand(c)
}

func (p *listener) hand(conn net.Conn) {
	select {
	case p.accepted <- conn:
	case <-p.open.Done():
		conn.Close()
	}
}

// readHeader takes the header off. The address is not valid if the header names none.
func readHeader(r *bufio.Reader) (netip.AddrPort, error) {
	start, err := r.Peek(len(signature))
	switch {
	case err != nil:
		return netip.AddrPort{}, err
	case bytes.Equal(start, signature):
		return readV2(r)
	case bytes.HasPrefix(start, []byte("PROXY ")):
		return readV1(r)
	}
	return netip.AddrPort{}, ErrHeader
}

// readV1 reads "PROXY TCP4 192.0.2.1 198.51.100.7 56324 3478\r\n" (section 2.1).
func readV1(r *bufio.Reader) (netip.AddrPort, error) {
	line, err := r.ReadSlice('\n')
	if err != nil || len(line) > maxLine || !bytes.HasSuffix(line, []byte("\r\n")) {
		return netip.AddrPort{}, ErrHeader
	}
	words := strings.Split(string(line[:len(line)-2]), " ")
	if words[1] == "UNKNOWN" {
		return netip.AddrPort{}, nil
	}
	if len(words) != 6 || words[1] != "TCP4" && words[1] != "TCP6" {
		return netip.AddrPort{}, ErrHeader
	}
	client, err := netip.ParseAddrPort(net.JoinHostPort(words[2], words[4]))
	if err != nil || client.Addr().Zone() != "" || client.Addr().Is4() != (words[1] == "TCP4") {
		return netip.AddrPort{}, ErrHeader
	}
	return plain(client), nil
}

// readV2 reads the binary form (section 2.2): signature, version and command, family, length,
// addresses, and what else there may be.
func readV2(r *bufio.Reader) (netip.AddrPort, error) {
	head, err := r.Peek(fixedSize)
	if err != nil {
		return netip.AddrPort{}, err
	}
	command, family, size := head[12], head[13], fixedSize+int(binary.BigEndian.Uint16(head[14:]))
	if size > maxHeader || command != 0x20 && command != 0x21 {
		return netip.AddrPort{}, ErrHeader
	}
	all, err := r.Peek(size)
	if err != nil {
		return netip.AddrPort{}, err
	}
	var client netip.AddrPort
	addresses := all[fixedSize:]
	switch {
	case command == 0x20: // LOCAL
	case family == 0x11 && len(addresses) >= 12: // TCP over IPv4
		ip := netip.AddrFrom4([4]byte(addresses[:4]))
		client = netip.AddrPortFrom(ip, binary.BigEndian.Uint16(addresses[8:]))
	case family == 0x21 && len(addresses) >= 36: // TCP over IPv6
		ip := netip.AddrFrom16([16]byte(addresses[:16]))
		client = netip.AddrPortFrom(ip, binary.BigEndian.Uint16(addresses[32:]))
	case family == 0x11 || family == 0x21:
		return netip.AddrPort{}, ErrHeader
	}
	_, err = r.Discard(size)
	if client.IsValid() {
		client = plain(client)
	}
	return client, err
}

func plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}
