package turnserver

import (
	"container/list"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/transport/v4/packetio"
)

// dtlsListener serves clients over DTLS (RFC 7350). One goroutine reads the socket and deals datagrams to sessions, by the address they come from:
//
//  1. From an unknown address only a ClientHello counts, within the allowance that strangers have there and the pace of all new sessions. Everything
//     else is dropped before any work.
//  2. pion/dtls answers with a cookie (HelloVerifyRequest, RFC 6347 section 4.2.1). Until it comes back the address may be forged: the session gets one
//     answer, shorter than the question, for each datagram, and is one of at most maxUnproven, of which the oldest goes for a new one.
//  3. With the cookie back the session counts as a connection, in all and of its address, like a TCP connection; see dtlsSession.
type dtlsListener struct {
	s       *Server
	conn    *wildcardConn
	local   netip.AddrPort
	options []dtls.ServerOption
	running sync.WaitGroup // sessions

	mu       sync.Mutex
	sessions map[tuple]*dtlsSession
	unproven *list.List // of *dtlsSession, the oldest first
}

const (
	maxUnproven   = 256
	helloBurst    = 256 // sessions begun at once, and then one each helloInterval
	helloInterval = 2 * time.Millisecond
	dtlsDatagram  = maxDatagram + 128 // header, nonce and tag of a record are shorter than that
	dtlsQueue     = 128 << 10         // bytes of datagrams that a session has not read yet
	dtlsMTU       = 1200              // of handshake messages
)

func (s *Server) listenDTLS(address string, config *tls.Config) (*dtlsListener, error) {
	conn, err := listenUDP(address)
	if err != nil {
		return nil, err
	}
	setBuffers(conn)
	certificate := func(hello *dtls.ClientHelloInfo) (*tls.Certificate, error) {
		if config.GetCertificate != nil {
			suites := make([]uint16, len(hello.CipherSuites)) // by which autocert knows who takes ECDSA
			for i, suite := range hello.CipherSuites {
				suites[i] = uint16(suite)
			}
			c, err := config.GetCertificate(&tls.ClientHelloInfo{
				ServerName: hello.ServerName, CipherSuites: suites,
				SupportedVersions: []uint16{tls.VersionTLS12},
			})
			if c != nil || err != nil {
				return c, err
			}
		}
		if len(config.Certificates) == 0 {
			return nil, errors.New("no certificate")
		}
		return &config.Certificates[0], nil
	}
	return &dtlsListener{
		s: s, conn: newWildcardConn(conn), local: addrPort(conn.LocalAddr()),
		options:  []dtls.ServerOption{dtls.WithGetCertificate(certificate), dtls.WithLoggerFactory(silence{}), dtls.WithMTU(dtlsMTU)},
		sessions: make(map[tuple]*dtlsSession), unproven: list.New(),
	}, nil
}

// serve reads until close; the socket stays open for what the last sessions still have to say.
func (l *dtlsListener) serve() {
	defer l.s.tasks.Done()
	buf := make([]byte, dtlsDatagram+1)
	for {
		n, from, err := l.conn.receive(buf)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, net.ErrClosed):
			l.running.Wait()
			_ = l.conn.Close()
			return
		case err != nil:
			time.Sleep(time.Millisecond) // an error of one datagram; the socket is well
		case n > dtlsDatagram:
			l.s.metrics.droppedSize.Inc()
		default:
			l.deal(from, buf[:n])
		}
	}
}

func (l *dtlsListener) close() { _ = l.conn.SetReadDeadline(time.Unix(1, 0)) }

func (l *dtlsListener) deal(from tuple, b []byte) {
	l.mu.Lock()
	d := l.sessions[from]
	l.mu.Unlock()
	if some, strange := inTheClear(b); strange || d == nil && !isClientHello(b) || d != nil && some && d.greeted.Load() {
		l.s.metrics.droppedMalformed.Inc()
		return
	}
	if d == nil || !d.proven.Load() {
		now := l.s.now()
		if !l.s.strangers.bucket(from.client.Addr()).take(now, 1, strangerBurst, strangerInterval) ||
			d == nil && !l.s.hellos.take(now, 1, helloBurst, helloInterval) {
			l.s.metrics.droppedSilenced.Inc()
			return
		}
	}
	if d == nil {
		if d = l.begin(from); d == nil {
			return
		}
	}
	d.owed.Add(1)
	_, _ = d.queue.Write(b) // a full queue loses it
}

// begin makes a session, at the cost of the oldest of which nothing is proven.
func (l *dtlsListener) begin(from tuple) *dtlsSession {
	if l.s.draining.Load() {
		return nil
	}
	d := &dtlsSession{s: l.s, l: l, tuple: from, queue: packetio.NewBuffer()}
	d.queue.SetLimitSize(dtlsQueue)
	d.ctx, d.cancel = context.WithTimeout(context.Background(), l.s.cfg.tune.firstFrame)
	if !l.s.track(d) {
		d.cancel()
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.unproven.Len() >= maxUnproven {
		oldest := l.unproven.Front()
		oldest.Value.(*dtlsSession).close()
		l.unproven.Remove(oldest)
	}
	l.sessions[from], d.place = d, l.unproven.PushBack(d)
	l.running.Add(1)
	go d.serve()
	return d
}

// prove moves a session out of the unproven ones, if its address may have another connection.
func (l *dtlsListener) prove(d *dtlsSession) bool {
	if !l.s.connections.take(d.client.Addr()) {
		l.s.metrics.refusedConnection.Inc()
		return false
	}
	l.s.metrics.connections.Inc()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.unproven.Remove(d.place) // nothing, if it has been pushed out meanwhile
	d.proven.Store(true)
	return true
}

func (l *dtlsListener) end(d *dtlsSession) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sessions[d.tuple] == d {
		delete(l.sessions, d.tuple)
	}
	l.unproven.Remove(d.place)
	l.running.Done()
}

// Where the record layer (RFC 6347 section 4.1) says what is in a handshake datagram.
const (
	recordHeader       = 13
	recordCipherSpec   = 20
	recordHandshake    = 22
	clientHello        = 1
	helloVerifyRequest = 3
)

// isClientHello says whether a datagram begins a handshake: in the clear (epoch 0), the first message, whole.
func isClientHello(b []byte) bool {
	const handshakeHeader = 12
	if len(b) < recordHeader+handshakeHeader || b[0] != recordHandshake || b[1] != 0xFE || b[3] != 0 || b[4] != 0 {
		return false
	}
	h := b[recordHeader:]
	length, offset, fragment := uint24(h[1:]), uint24(h[6:]), uint24(h[9:])
	return h[0] == clientHello && h[4] == 0 && h[5] == 0 && offset == 0 && fragment == length && length <= len(h)-handshakeHeader
}

// inTheClear says whether a datagram holds records in the clear, and whether others than those of a handshake. Anybody can send such under a client's address,
// and pion/dtls ends a session for some of them (an alert, data), where RFC 6347 section 4.1.2.7 would have them ignored. So they are kept from it: others than
// of a handshake always, and all of them once the client has said something encrypted, which it does only when its handshake is over.
func inTheClear(b []byte) (some, strange bool) {
	for len(b) >= recordHeader {
		if b[3] == 0 && b[4] == 0 {
			some = true
			strange = strange || b[0] != recordHandshake && b[0] != recordCipherSpec
		}
		size := recordHeader + int(binary.BigEndian.Uint16(b[recordHeader-2:]))
		b = b[min(size, len(b)):]
	}
	return some, strange
}

func uint24(b []byte) int { return int(b[0])<<16 | int(b[1])<<8 | int(b[2]) }
