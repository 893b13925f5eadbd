package signaling

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/proto"

	"sotto/signaling/store"
	"sotto/wire"
)

// How a link begins:
//
//  1. limits of the source address, the server's name, the Origin; then the websocket handshake (RFC 6455 section 4)
//  2. Hello with a fresh nonce
//  3. Authenticate within 10 s: a signature over server name, nonce, address and TLS channel
//  4. Welcome; a link that the device had before ends
//  5. the mailbox, then what arrives
const (
	maxFirstFrame = 1 << 10   // Authenticate
	maxFrame      = 256 << 10 // an upload of pre-keys; an envelope is at most 64 KiB
)

func (s *Server) handleLink(w http.ResponseWriter, r *http.Request) {
	from := sourceOf(r.RemoteAddr)
	server, binding, err := s.admit(r, func() bool { return s.strangers.enter(from, s.now()) })
	if err != nil {
		f := s.asFailure(err)
		respond(w, httpStatus(f.code), f.wire())
		return
	}
	s.metrics.pending.Inc()
	conn, err := s.upgrader.Upgrade(w, r, nil) // answers errors itself
	if err != nil {
		s.strangers.leave(from)
		s.metrics.pending.Dec()
		return
	}
	place := s.strangers.wait(from, conn, s.now())
	// The HTTP server's goroutine and buffers go when this returns.
	s.running.Go(func() {
		defer conn.Close()
		l, welcome, err := s.authenticate(conn, place, server, binding)
		s.strangers.done(place)
		s.metrics.pending.Dec()
		if err != nil {
			s.refuse(conn, err)
			return
		}
		l.run(welcome)
	})
}

// admit is step 1 but for the Origin, which the handshake looks at. enter takes a place for the
// link, last.
func (s *Server) admit(r *http.Request, enter func() bool) (server string, binding [wire.ChannelBindingSize]byte, err error) {
	from := sourceOf(r.RemoteAddr)
	if wait := s.attempts.take(from, s.now()); wait > 0 {
		return "", binding, rateLimited(wait)
	}
	if server, err = s.nameOf(r); err != nil {
		return "", binding, err
	}
	if binding, err = wire.ChannelBinding(r.TLS); err != nil {
		return "", binding, badRequest("The link needs TLS 1.3.")
	}
	if !enter() {
		return "", binding, errTooManyLinks
	}
	return server, binding, nil
}

// authenticate is steps 2 and 3. The link it returns is the device's one.
func (s *Server) authenticate(conn *websocket.Conn, place *waiting, server string, binding [wire.ChannelBindingSize]byte) (*link, *wire.Welcome, error) {
	defer context.AfterFunc(s.stop, func() { conn.Close() })() // a stranger is owed nothing when the server stops
	conn.SetReadLimit(maxFirstFrame)
	conn.SetReadDeadline(time.Now().Add(s.timing.authenticate))

	nonce := make([]byte, wire.NonceSize)
	rand.Read(nonce)
	hello := known(&wire.ServerFrame{Body: &wire.ServerFrame_Hello{Hello: &wire.Hello{Nonce: nonce}}})
	conn.SetWriteDeadline(time.Now().Add(s.timing.authenticate))
	if err := conn.WriteMessage(websocket.BinaryMessage, hello); err != nil {
		return nil, nil, err
	}
	kind, message, err := conn.ReadMessage()
	var timeout interface{ Timeout() bool }
	if errors.As(err, &timeout) && timeout.Timeout() {
		return nil, nil, errAuthTimeout
	}
	if err != nil {
		return nil, nil, err
	}
	if !s.strangers.hear(place) {
		return nil, nil, errTooManyLinks
	}
	auth, err := parseAuthenticate(kind, message)
	if err != nil {
		return nil, nil, err
	}
	// Before the account is looked at: this must not tell whether there is one.
	if err := sameChannel(auth.GetChannelBinding(), binding); err != nil {
		return nil, nil, err
	}
	device, err := s.checkAuthentication(auth, server, nonce, binding)
	if err != nil {
		return nil, nil, err
	}
	counts, err := s.store.KeyCounts(device.Address)
	if err != nil {
		return nil, nil, err
	}
	before, err := s.store.CountLink(device.Address, auth.GetLinkNumber())
	if err != nil {
		return nil, nil, err
	}
	conn.SetReadLimit(maxFrame)
	l := newLink(s, conn, device, server)
	if err := s.hub.add(l); err != nil {
		return nil, nil, err
	}
	// Who removes a device, or disables or deletes an account, ends the link that the hub has. One
	// that came too late to be ended sees so here.
	if err := s.mayHaveLink(device); err != nil {
		l.end(s.asFailure(err), websocket.ClosePolicyViolation)
	}
	return l, &wire.Welcome{
		ServerTime:   uint64(s.now().UnixMilli()),
		KeyCounts:    wireCounts(counts),
		PingInterval: uint32(s.timing.ping / time.Second),
		LinkNumber:   before,
	}, nil
}

func parseAuthenticate(kind int, message []byte) (*wire.Authenticate, error) {
	var frame wire.ClientFrame
	if kind != websocket.BinaryMessage || proto.Unmarshal(message, &frame) != nil {
		return nil, errMalformed
	}
	auth := frame.GetAuthenticate()
	if auth == nil || len(auth.GetAccount()) != 16 || auth.GetDevice() < 1 || auth.GetDevice() > 127 {
		return nil, errMalformed
	}
	return auth, nil
}

// nobody is the identity key that signatures of unknown devices are checked against, so that the answer takes as long.
var nobody = [33]byte{curveKeyType, 9}

func (s *Server) checkAuthentication(a *wire.Authenticate, server string, nonce []byte, binding [wire.ChannelBindingSize]byte) (store.Device, error) {
	address := store.Address{Account: store.UUID(a.GetAccount()), Device: uint8(a.GetDevice())}
	device, err := s.store.Device(address)
	unknown := errors.Is(err, store.ErrNotFound)
	if err != nil && !unknown {
		return device, err
	}
	// Whether there was an account is told without a proof, for nothing is left to prove it by: who
	// knows its id may know that it is gone.
	if gone, err := s.store.Deleted(address.Account); gone || err != nil {
		return device, cmp.Or(err, error(errDeleted))
	}
	if unknown {
		device.IdentityKey = nobody
	}
	signed := wire.AuthenticationToSign(server, nonce, a.GetAccount(), address.Device, binding)
	if !verify(device.IdentityKey, signed, a.GetSignature()) || unknown {
		return device, errSignature
	}
	return device, s.mayHaveLink(device)
}

// refuse tells a stranger why its link ends. What it did not send us an error for is its own doing.
func (s *Server) refuse(conn *websocket.Conn, err error) {
	var f *failure
	var closed *websocket.CloseError
	if errors.As(err, &closed) || s.stop.Err() != nil {
		return
	}
	if !errors.As(err, &f) && !errors.Is(err, store.ErrNotFound) {
		return // the connection failed
	}
	f = s.asFailure(err)
	deadline := time.Now().Add(s.timing.closing)
	conn.SetWriteDeadline(deadline)
	frame := known(&wire.ServerFrame{Body: &wire.ServerFrame_Error{Error: f.wire()}})
	if conn.WriteMessage(websocket.BinaryMessage, frame) != nil {
		return
	}
	conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.ClosePolicyViolation, ""), deadline)
	// Closing with unread bytes would reset the connection and could take the error with it.
	conn.SetReadDeadline(deadline)
	for {
		if _, _, err := conn.NextReader(); err != nil {
			return
		}
	}
}
