package turnserver

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

// maxFrame is the longest message taken from a client, below the 1,600 bytes that pion reads.
const maxFrame = 1596

var errFrame = errors.New("not a TURN message")

// stream is a TCP or TLS connection. Its life:
//
//  1. accepted within the limits of connections, in all and of one address;
//  2. the TLS handshake and the first whole message within six seconds, or it is closed: until then it costs no pion server;
//  3. then messages, each whole within six seconds of its first byte, with 30 s of silence at most while it holds no allocation;
//     with one the network may be away for 45 s, which is more than ICE waits for consent (RFC 7675 section 5.1: 30 s);
//  4. closed by the client, by what is no message, by an answer that the client does not take in that time.
type stream struct {
	s      *Server
	conn   net.Conn
	client netip.AddrPort
	r      *bufio.Reader
	holds  func() bool // whether there is an allocation on it
	once   sync.Once
}

// acceptStreams serves a TCP or TLS listener until it is closed.
func (s *Server) acceptStreams(l net.Listener, config *tls.Config) {
	defer s.tasks.Done()
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // too many open files, or a connection gone already
			s.log.Warn("cannot accept a connection", "error", errors.Unwrap(err))
			time.Sleep(50 * time.Millisecond)
			continue
		}
		if client := tcpAddrPort(conn.RemoteAddr()); s.isProxy(client.Addr()) {
			s.acceptProxied(conn, client, config)
		} else {
			s.admitStream(conn, client, config)
		}
	}
}

// ServeConn serves a client that another listener accepted, whose TLS handshake is done: with that
// TURN can share a port (RFC 7443). The connection counts as one of TLS from now on, within the
// limits of its address, and is the relay's to close.
func (s *Server) ServeConn(conn net.Conn) {
	if s.draining.Load() {
		_ = conn.Close()
		return
	}
	s.serveStream(conn, tcpAddrPort(conn.RemoteAddr()), "tls")
}

func (s *Server) admitStream(conn net.Conn, client netip.AddrPort, config *tls.Config) {
	if config != nil {
		s.serveStream(tls.Server(conn, config), client, "tls")
	} else {
		s.serveStream(conn, client, "tcp")
	}
}

func (s *Server) serveStream(conn net.Conn, client netip.AddrPort, transport string) {
	if !s.connections.take(client.Addr()) {
		s.metrics.refusedConnection.Inc()
		_ = conn.Close()
		return
	}
	local := tcpAddrPort(conn.LocalAddr())
	_ = conn.SetDeadline(time.Now().Add(s.cfg.tune.firstFrame))
	st := &stream{s: s, conn: conn, client: client, r: bufio.NewReaderSize(conn, 2048)}
	if !s.track(st) {
		_ = conn.Close()
		s.connections.give(client.Addr())
		return
	}
	s.metrics.connections.Inc()
	go st.serve(local, transport)
}

// serve waits for the first message before it starts a pion server.
func (st *stream) serve(local netip.AddrPort, transport string) {
	f := &frontend{
		s: st.s, socket: st, local: local, transport: transport, proven: true, stranger: new(bucket),
		relays: make(map[tuple]*relay),
	}
	st.holds = func() bool { return f.relayOf(tuple{client: st.client}) != nil }
	if err := st.first(); err != nil {
		st.ended()
		return
	}
	if err := f.start(); err != nil {
		st.s.log.Error("cannot serve a connection", "error", err)
		st.ended()
	}
}

func (st *stream) read(b []byte) (int, tuple, error) {
	n, err := st.readMessage(b)
	return n, tuple{client: st.client}, err
}

func (st *stream) readMessage(b []byte) (int, error) {
	for {
		if err := st.await(); err != nil {
			return 0, err
		}
		size, err := st.size()
		if err != nil {
			return 0, err
		}
		if size > maxFrame && !st.holds() {
			return 0, errFrame
		}
		if size > maxFrame { // no datagram to a peer would hold it
			st.s.metrics.droppedSize.Inc()
			if _, err := st.r.Discard(size); err != nil {
				return 0, err
			}
			continue
		}
		message, err := st.r.Peek(size)
		n := copy(b, message)
		_, _ = st.r.Discard(size)
		return n, err
	}
}

// await waits for the first byte of a message, and bounds the time until its last.
func (st *stream) await() error {
	tune := st.s.cfg.tune
	if st.r.Buffered() == 0 {
		wait := tune.idle
		if st.holds() {
			wait = time.Hour // an allocation is refreshed or over by then (RFC 8656 section 7.2); its end shortens this, see idle
		}
		_ = st.conn.SetReadDeadline(time.Now().Add(wait))
		if _, err := st.r.Peek(1); err != nil {
			return err
		}
	}
	_ = st.conn.SetReadDeadline(time.Now().Add(st.patience()))
	return nil
}

// patience is how long the rest of a message may take, either way.
func (st *stream) patience() time.Duration {
	if st.holds() {
		return st.s.cfg.tune.outage
	}
	return st.s.cfg.tune.restOfFrame
}

// first waits for the first message to be whole.
func (st *stream) first() error {
	size, err := st.size()
	if err == nil && size > maxFrame {
		err = errFrame
	}
	if err == nil {
		_, err = st.r.Peek(size)
	}
	return err
}

// size says how long the next message is. On a stream messages follow one another without
// delimiters: STUN says its length, and ChannelData is padded to a multiple of four (RFC 8656
// section 12.5).
func (st *stream) size() (int, error) {
	head, err := st.r.Peek(4)
	if err != nil {
		return 0, err
	}
	size := 4 + (int(binary.BigEndian.Uint16(head[2:]))+3)&^3
	switch head[0] & 0xC0 {
	case 0x00:
		size = headerSize + int(binary.BigEndian.Uint16(head[2:]))
	case 0x40:
	default:
		return 0, errFrame
	}
	return size, nil
}

// write sends one message whole. A client that does not read loses the connection: half a message would have broken it anyway.
func (st *stream) write(b []byte, _ tuple) {
	_ = st.conn.SetWriteDeadline(time.Now().Add(st.patience()))
	if _, err := st.conn.Write(b); err != nil {
		st.close()
	}
}

func (st *stream) open(r *relay) error { return openUDPPort(r) }

func (st *stream) idle() { _ = st.conn.SetReadDeadline(time.Now().Add(st.s.cfg.tune.idle)) }

func (st *stream) interrupt() { st.close() }

// close makes read fail; pion then ends the allocation.
func (st *stream) close() { _ = st.conn.Close() }

func (st *stream) ended() {
	st.once.Do(func() {
		_ = st.conn.Close()
		st.s.metrics.connections.Dec()
		st.s.connections.give(st.client.Addr())
		st.s.untrack(st)
	})
}

func tcpAddrPort(a net.Addr) netip.AddrPort {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	return plain(t.AddrPort())
}
