package signaling

import (
	"context"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"sotto/signaling/store"
	"sotto/wire"
)

// A socket is what a link and an anonymousLink have in common: a websocket on which frames are answered.
//
//	serve    reads frames and has them handled, until the connection fails or the other end closes it
//	push     queues a frame; outbox.go writes the queue
//	accept   routes an envelope and answers it later
//	goodbye  answers what is being answered, then closes
type socket struct {
	server *Server
	conn   *websocket.Conn
	slots  chan struct{} // held by envelopes accepted and not yet answered
	frames bucket        // only serve uses it
	done   chan struct{} // closed when serve returns
	out    outbox

	mu      sync.Mutex
	ended   bool
	pinging *time.Timer
	answers sync.WaitGroup // grows under mu while ended is false
}

const maxUnanswered = 64 // envelopes of one socket waiting for their Sent; at that it is not read

func newSocket(s *Server, conn *websocket.Conn) socket {
	return socket{server: s, conn: conn, slots: make(chan struct{}, maxUnanswered), done: make(chan struct{})}
}

// serve says Welcome and reads frames. begun is called after Welcome.
func (k *socket) serve(welcome *wire.Welcome, begun func(), handle func(kind int, message []byte)) {
	defer close(k.done)
	k.push(&wire.ServerFrame{Body: &wire.ServerFrame_Welcome{Welcome: welcome}})
	k.alive()
	k.conn.SetPongHandler(func(string) error { k.alive(); return nil })
	k.ping()
	begun()
	for {
		kind, message, err := k.conn.ReadMessage()
		if err != nil {
			return
		}
		k.alive()
		if !k.begin() {
			continue // the device will ask again on its next link
		}
		k.slow(len(message))
		handle(kind, message)
		k.answers.Done()
	}
}

// begin counts a request as being answered, unless the socket has ended.
func (k *socket) begin() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ended {
		return false
	}
	k.answers.Add(1)
	return true
}

// slow holds up who sends more, or larger, frames than it may: to parse one takes up to 0.1 ms for each KiB.
func (k *socket) slow(size int) {
	s := k.server
	take := func() time.Duration { return k.frames.takeN(1+size/1024, s.cfg.Limits.Frames, s.now()) }
	for wait := take(); wait > 0; wait = take() {
		select {
		case <-time.After(wait):
		case <-s.stop.Done():
			return
		}
	}
}

// alive moves the moment at which the socket counts as dead.
func (k *socket) alive() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.ended {
		k.conn.SetReadDeadline(time.Now().Add(k.server.timing.silence))
	}
}

// ping asks for a sign of life, and again after a while. The first time it only sets the timer.
func (k *socket) ping() {
	k.mu.Lock()
	first := k.pinging == nil
	if k.ended {
		k.mu.Unlock()
		return
	}
	k.pinging = time.AfterFunc(k.server.timing.ping, k.ping)
	k.mu.Unlock()
	if !first && k.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(k.server.timing.write)) != nil {
		k.conn.Close()
	}
}

// accept routes an envelope, in order with the others of this socket, and answers it when it is durable or acknowledged.
func (k *socket) accept(request uint64, e store.Envelope, start time.Time) {
	s := k.server
	k.slots <- struct{}{} // given back within timing.straight and a sync
	wait, err := s.route(e)
	if err != nil {
		<-k.slots
		k.fail(request, s.asFailure(err))
		return
	}
	k.answers.Add(1) // serve holds one, so this is no new work
	s.running.Go(func() {
		defer k.answers.Done()
		defer func() { <-k.slots }()
		path, err := wait()
		if err != nil {
			k.fail(request, s.asFailure(err))
			return
		}
		s.metrics.sent(path, e.From != store.UUID{}, start)
		k.reply(request, &wire.ServerFrame{Body: &wire.ServerFrame_Sent{Sent: &wire.Sent{}}})
	})
}

// end marks the socket as ended and has it closed, for a reason to be told unless f is nil. The caller holds k.mu and has seen that it
// had not ended.
func (k *socket) end(f *failure, code int) {
	k.ended = true
	if k.pinging != nil {
		k.pinging.Stop()
	}
	k.server.running.Go(func() { k.goodbye(f, code) })
}

// goodbye answers what is being answered, says why and closes.
func (k *socket) goodbye(f *failure, code int) {
	defer k.conn.Close()
	defer context.AfterFunc(k.server.cutting, func() { k.conn.Close() })()
	k.answers.Wait()
	if f != nil {
		k.fail(0, f)
	}
	<-k.out.drain()
	deadline := time.Now().Add(k.server.timing.closing)
	k.conn.SetReadDeadline(deadline)
	k.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""), deadline)
	<-k.done // closing with unread bytes would reset the connection, and what was queued could be lost with it
}
