package turnserver

import (
	"container/list"
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/transport/v4/packetio"
)

// dtlsSession is one client over DTLS, in two roles: the net.PacketConn below pion/dtls, and the socket of a frontend above it. Its life after the
// cookie (dtlsListener) is that of a stream:
//
//  1. handshake and first message within six seconds of the ClientHello: until then it costs no pion server;
//  2. then messages, one in each record, with 30 s of silence at most while it holds no allocation;
//  3. closed by the client's close_notify, or when it falls silent.
type dtlsSession struct {
	tuple
	s     *Server
	l     *dtlsListener
	place *list.Element // among the unproven

	queue   *packetio.Buffer // datagrams from the client
	owed    atomic.Int64     // answers, while unproven
	proven  atomic.Bool      // the cookie came back
	greeted atomic.Bool      // the first message came
	ctx     context.Context  // of the handshake and the first message
	cancel  context.CancelFunc

	conn  *dtls.Conn
	buf   [dtlsDatagram]byte
	first int         // length of the first message, waiting in buf
	holds func() bool // whether there is an allocation on it
	once  sync.Once
}

func (d *dtlsSession) serve() {
	f := &frontend{
		s: d.s, socket: d, local: d.l.local, transport: "dtls", proven: true, stranger: new(bucket),
		relays: make(map[tuple]*relay),
	}
	d.holds = func() bool { return f.relayOf(d.tuple) != nil }
	err := d.greet()
	d.cancel()
	if err != nil {
		d.ended()
		return
	}
	if err := f.start(); err != nil {
		d.s.log.Error("cannot serve a connection", "error", err)
		d.ended()
	}
}

// greet does the handshake and waits for the first message.
func (d *dtlsSession) greet() (err error) {
	d.conn, err = dtls.ServerWithOptions(d, net.UDPAddrFromAddrPort(d.client), d.l.options...)
	if err != nil {
		return err
	}
	if err = d.conn.HandshakeContext(d.ctx); err != nil {
		return err
	}
	deadline, _ := d.ctx.Deadline()
	_ = d.conn.SetReadDeadline(deadline)
	d.first, err = d.conn.Read(d.buf[:])
	d.greeted.Store(err == nil)
	return err
}

func (d *dtlsSession) read(b []byte) (int, tuple, error) {
	n := d.first
	d.first = 0
	if n == 0 {
		wait := d.s.cfg.tune.idle
		if d.holds() {
			wait = time.Hour // an allocation is refreshed or over by then (RFC 8656 section 7.2); its end shortens this, see idle
		}
		_ = d.conn.SetReadDeadline(time.Now().Add(wait))
		var err error
		if n, err = d.conn.Read(d.buf[:]); err != nil {
			return 0, d.tuple, err
		}
	}
	return copy(b, d.buf[:n]), d.tuple, nil // the frontend sees that what b does not hold is too long
}

// write loses what cannot be sent, as UDP does.
func (d *dtlsSession) write(b []byte, _ tuple) { _, _ = d.conn.Write(b) }

func (d *dtlsSession) open(r *relay) error { return openUDPPort(r) }

func (d *dtlsSession) idle() { _ = d.conn.SetReadDeadline(time.Now().Add(d.s.cfg.tune.idle)) }

func (d *dtlsSession) interrupt() { d.close() }

// close makes handshake and read fail; pion then ends the allocation.
func (d *dtlsSession) close() {
	d.cancel()
	_ = d.queue.Close()
}

func (d *dtlsSession) ended() {
	d.once.Do(func() {
		if d.conn != nil {
			_ = d.conn.Close() // with close_notify
		}
		d.close()
		if d.proven.Load() {
			d.s.metrics.connections.Dec()
			d.s.connections.give(d.client.Addr())
		}
		d.l.end(d)
		d.s.untrack(d)
	})
}

// ReadFrom gives pion/dtls the client's next datagram.
func (d *dtlsSession) ReadFrom(b []byte) (int, net.Addr, error) {
	n, err := d.queue.Read(b)
	return n, net.UDPAddrFromAddrPort(d.client), err
}

// WriteTo sends what pion/dtls answers. Its first handshake message other than HelloVerifyRequest says that the client has returned the cookie.
func (d *dtlsSession) WriteTo(b []byte, _ net.Addr) (int, error) {
	if !d.proven.Load() {
		if d.owed.Add(-1) < 0 {
			return len(b), nil
		}
		if len(b) > recordHeader && b[0] == recordHandshake && b[recordHeader] != helloVerifyRequest && !d.l.prove(d) {
			d.close()
			return len(b), nil
		}
	}
	return d.l.conn.send(b, d.tuple)
}

// Close, LocalAddr and the deadlines complete net.PacketConn.
func (d *dtlsSession) Close() error                      { return d.queue.Close() }
func (d *dtlsSession) LocalAddr() net.Addr               { return net.UDPAddrFromAddrPort(d.l.local) }
func (d *dtlsSession) SetDeadline(t time.Time) error     { return d.queue.SetReadDeadline(t) }
func (d *dtlsSession) SetReadDeadline(t time.Time) error { return d.queue.SetReadDeadline(t) }
func (d *dtlsSession) SetWriteDeadline(time.Time) error  { return nil }
