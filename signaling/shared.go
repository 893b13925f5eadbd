package signaling

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Devices and the clients of a relay (TURN over TLS) may come to one port. Each connection is one
// or the other's once its TLS handshake is done:
//
//  1. by the protocol that it agreed on (ALPN): "stun.turn" (RFC 7443) or "http/1.1";
//  2. or, without one, by its first byte: a STUN message begins with two zero bits (RFC 8489
//     section 5), an HTTP request with a letter.
//
// All of them are counted at the door. TURN may come by TLS 1.2; devices may not.
const (
	alpnHTTP = "http/1.1"
	alpnTURN = "stun.turn"

	sortingTime = 10 * time.Second // for the handshake and the first byte, as http.Server gives
)

// Share hands connections of TURN clients to take, which owns them from then on. It is to be called
// before Serve, for a listener with TLS.
func (l *Listener) Share(take func(net.Conn)) {
	config := l.server.TLSConfig
	either := config.Clone()
	either.MinVersion = tls.VersionTLS12
	either.NextProtos = append(slices.Clone(config.NextProtos), alpnTURN)
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if offered := hello.SupportedProtos; len(offered) == 0 || slices.Contains(offered, alpnTURN) {
			return either, nil
		}
		return nil, nil
	}
	l.sorter = &sorter{
		Listener: l.net, config: config, turn: take, sorted: make(chan accepted), within: sortingTime,
	}
	l.sorter.ctx, l.sorter.cancel = context.WithCancel(context.Background())
}

// A sorter is the listener of the HTTP server: it accepts what is for that.
type sorter struct {
	net.Listener
	config *tls.Config
	turn   func(net.Conn)
	sorted chan accepted
	within time.Duration // handshake and first byte

	ctx     context.Context // over when the listener is closed
	cancel  context.CancelFunc
	running sync.WaitGroup
}

type accepted struct {
	conn net.Conn
	err  error
}

func (s *sorter) Accept() (net.Conn, error) {
	select {
	case a := <-s.sorted:
		return a.conn, a.err
	case <-s.ctx.Done():
		return nil, net.ErrClosed
	}
}

func (s *sorter) Close() error {
	s.cancel()
	err := s.Listener.Close()
	s.running.Wait()
	return err
}

// start accepts until the listener is closed. Errors are for the HTTP server, which waits a while.
func (s *sorter) start() {
	s.running.Go(func() {
		for {
			conn, err := s.Listener.Accept()
			switch {
			case errors.Is(err, net.ErrClosed):
				return
			case err != nil:
				s.pass(accepted{err: err})
			default:
				s.running.Go(func() { s.sort(conn) })
			}
		}
	})
}

func (s *sorter) sort(conn net.Conn) {
	stop := context.AfterFunc(s.ctx, func() { conn.Close() })
	defer stop()
	_ = conn.SetDeadline(time.Now().Add(s.within))
	secured := tls.Server(conn, s.config)
	sorted, isTURN, err := identify(secured)
	if err != nil || !stop() { // closed meanwhile
		_ = secured.Close()
		return
	}
	_ = conn.SetDeadline(time.Time{})
	if isTURN {
		s.turn(sorted)
		return
	}
	s.pass(accepted{conn: sorted})
}

func (s *sorter) pass(a accepted) {
	select {
	case s.sorted <- a:
	case <-s.ctx.Done():
		if a.conn != nil {
			_ = a.conn.Close()
		}
	}
}

var errNeither = errors.New("neither HTTP nor TURN")

// identify does the handshake and says whose the connection is.
func identify(conn *tls.Conn) (sorted net.Conn, isTURN bool, err error) {
	if err := conn.Handshake(); err != nil {
		return nil, false, err
	}
	state := conn.ConnectionState()
	switch state.NegotiatedProtocol {
	case alpnTURN:
		return conn, true, nil
	case alpnHTTP:
		return conn, false, nil
	case "":
	default: // acme-tls/1 (RFC 8737) is over
		return nil, false, errNeither
	}
	var first [1]byte
	if _, err := conn.Read(first[:]); err != nil {
		return nil, false, err
	}
	isTURN = first[0]&0xC0 == 0
	if !isTURN && state.Version < tls.VersionTLS13 {
		return nil, false, errNeither
	}
	return &begun{Conn: conn, first: first[:]}, isTURN, nil
}

// begun is a connection of which a byte has been read. The HTTP server asks it for the state of TLS,
// which channel binding needs.
type begun struct {
	*tls.Conn
	first []byte
}

func (b *begun) Read(p []byte) (int, error) {
	if len(b.first) > 0 && len(p) > 0 {
		n := copy(p, b.first)
		b.first = b.first[n:]
		return n, nil
	}
	return b.Conn.Read(p)
}

// serveSorted is Serve for a shared port.
func (l *Listener) serveSorted(handler http.Handler) error {
	l.server.Handler = handler
	l.sorter.start()
	return l.server.Serve(l.sorter)
}
