package signaling

import (
	"context"
	"crypto/subtle"
	"errors"
	"net/http"
	"time"

	"github.com/gorilla/websocket"

	"sotto/signaling/store"
	"sotto/wire"
)

// How an envelope comes that names no sender:
//
//  1. limits of the source address, the server's name, the Origin; then the websocket handshake, as for a link
//  2. Welcome: nobody says Hello, for nobody is to be known
//  3. send_sealed: the form, the limit of the source, the recipient's delivery token, the limit of the recipient; then the envelope
//     goes the way of all others, From nobody
//  4. when nothing was asked for ten minutes, the link ends
//
// Until the token has shown that the recipient wants it, only the source pays: with a limit on recipients before it anybody could keep
// people's friends from reaching them.

// An anonymousLink is the websocket of somebody who shows delivery tokens instead of an account.
type anonymousLink struct {
	socket
	from source
	idle *time.Timer // under socket.mu
}

const maxAnonymousFrame = maxCiphertext + 1<<10

func (s *Server) handleAnonymous(w http.ResponseWriter, r *http.Request) {
	from := sourceOf(r.RemoteAddr)
	if _, _, err := s.admit(r, func() bool { return s.anonymous.enter(from) }); err != nil {
		f := s.asFailure(err)
		respond(w, httpStatus(f.code), f.wire())
		return
	}
	conn, err := s.upgrader.Upgrade(w, r, nil) // answers errors itself
	if err != nil {
		s.anonymous.leave(from)
		return
	}
	s.running.Go(func() {
		defer s.anonymous.leave(from)
		defer conn.Close()
		s.metrics.anonymous.Inc()
		defer s.metrics.anonymous.Dec()
		l := &anonymousLink{socket: newSocket(s, conn), from: from}
		l.run()
	})
}

func (l *anonymousLink) run() {
	s := l.server
	defer l.end(nil, websocket.CloseNormalClosure)
	defer context.AfterFunc(s.stop, func() { l.end(errStopping, websocket.CloseGoingAway) })()
	l.conn.SetReadLimit(maxAnonymousFrame)
	l.serve(&wire.Welcome{
		ServerTime:   uint64(s.now().UnixMilli()),
		PingInterval: uint32(s.timing.ping / time.Second),
	}, l.used, l.handle)
}

// used moves the moment at which the link counts as idle.
func (l *anonymousLink) used() {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.ended:
	case l.idle == nil:
		l.idle = time.AfterFunc(l.server.timing.idle, func() { l.end(nil, websocket.CloseNormalClosure) })
	default:
		l.idle.Reset(l.server.timing.idle)
	}
}

// end ends the link, for a reason to be told unless f is nil. Only the first call does anything.
func (l *anonymousLink) end(f *failure, code int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	if l.idle != nil {
		l.idle.Stop()
	}
	l.socket.end(f, code)
}

func (l *anonymousLink) handle(kind int, message []byte) {
	l.used()
	frame, err := parseFrame(kind, message)
	if err != nil {
		l.fail(frame.GetId(), l.server.asFailure(err))
		return
	}
	var reply *wire.ServerFrame
	switch body := frame.GetBody().(type) {
	case *wire.ClientFrame_SendSealed:
		err = l.send(frame.Id, body.SendSealed)
	case *wire.ClientFrame_FetchBundles:
		reply, err = l.fetch(body.FetchBundles)
	case *wire.ClientFrame_FetchDeviceList:
		reply, err = l.fetchDeviceList(body.FetchDeviceList)
	default:
		err = errMalformed
	}
	switch {
	case err != nil:
		l.fail(frame.Id, l.server.asFailure(err))
	case reply != nil:
		l.reply(frame.Id, reply)
	}
}

// send is step 3. A nil error means that the answer comes later.
func (l *anonymousLink) send(request uint64, m *wire.SendSealed) error {
	s := l.server
	start := time.Now()
	e := m.GetEnvelope()
	if err := checkSealed(m); err != nil {
		return err
	}
	if wait := s.sealedSends.take(l.from, s.now()); wait > 0 {
		return rateLimited(wait)
	}
	if err := s.checkToken(store.UUID(e.Recipient), m.DeliveryToken); err != nil {
		return err
	}
	envelope := s.stamped(e, nameless)
	if wait := s.sealedTo.take(envelope.To, s.now()); wait > 0 {
		return rateLimited(wait)
	}
	l.accept(request, envelope, start)
	return nil
}

// checkSealed checks the form of what comes over an anonymous link.
func checkSealed(m *wire.SendSealed) error {
	e := m.GetEnvelope()
	if err := checkEnvelope(e); err != nil {
		return err
	}
	if e.Type != typeSealed || len(e.Sender) > 0 || e.SenderDevice != 0 {
		return badRequest("Only a sealed envelope that names no sender comes over an anonymous link.")
	}
	if len(m.DeliveryToken) != wire.DeliveryTokenSize {
		return errMalformed
	}
	return nil
}

// checkToken says whether an account takes envelopes that name no sender from who knows this token. No account, no token and a wrong one
// get the same answer, at the same price.
func (s *Server) checkToken(account store.UUID, token []byte) error {
	held, err := s.store.DeliveryToken(account)
	unknown := errors.Is(err, store.ErrNotFound)
	if err != nil && !unknown {
		return err
	}
	hash := wire.DeliveryTokenHash(token)
	if subtle.ConstantTimeCompare(held[:], hash[:]) != 1 || unknown {
		s.metrics.refusedTokens.Inc()
		return errToken
	}
	return nil
}

// fetch hands out bundles to who knows the token.
func (l *anonymousLink) fetch(f *wire.FetchBundles) (*wire.ServerFrame, error) {
	s := l.server
	if len(f.GetAccount()) != 16 || f.GetDevice() > 127 || len(f.GetDeliveryToken()) != wire.DeliveryTokenSize {
		return nil, errMalformed
	}
	if wait := s.sealedFetches.take(l.from, s.now()); wait > 0 {
		return nil, rateLimited(wait)
	}
	target := store.UUID(f.Account)
	if err := s.checkToken(target, f.DeliveryToken); err != nil {
		return nil, err
	}
	return s.bundles(target, f.Device, func() time.Duration { return s.fetchedFrom.take(target, s.now()) })
}

// fetchDeviceList shows the list to who knows the token.
func (l *anonymousLink) fetchDeviceList(f *wire.FetchDeviceList) (*wire.ServerFrame, error) {
	s := l.server
	if len(f.GetAccount()) != 16 || len(f.GetDeliveryToken()) != wire.DeliveryTokenSize {
		return nil, errMalformed
	}
	if wait := s.sealedFetches.take(l.from, s.now()); wait > 0 {
		return nil, rateLimited(wait)
	}
	target := store.UUID(f.Account)
	if err := s.checkToken(target, f.DeliveryToken); err != nil {
		return nil, err
	}
	return s.deviceListFrame(target)
}
