package signaling

import (
	"context"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"sotto/signaling/store"
	"sotto/wire"
)

// A link is the authenticated websocket of one device.
//
//	run      reads frames and answers them, until the connection fails or the device closes it
//	push     queues a frame; outbox.go writes the queue
//	deliver.go hands out envelopes
//	end      stops the link: unacknowledged envelopes go to the mailbox, what is being answered is answered, then it closes
type link struct {
	server *Server
	conn   *websocket.Conn
	device store.Device
	slots  chan struct{} // held by envelopes accepted and not yet answered
	frames bucket        // only run uses it
	done   chan struct{} // closed when run returns
	out    outbox

	mu      sync.Mutex
	ended   bool
	pinging *time.Timer
	answers sync.WaitGroup // grows under mu while ended is false
	delivery
}

const maxUnanswered = 64 // envelopes of one link waiting for their Sent; at that the link is not read

func newLink(s *Server, conn *websocket.Conn, device store.Device) *link {
	return &link{
		server:   s,
		conn:     conn,
		device:   device,
		slots:    make(chan struct{}, maxUnanswered),
		done:     make(chan struct{}),
		delivery: delivery{pending: true, pumping: true}, // nothing is handed out before Welcome
	}
}

// run is the life of a link, from Welcome on.
func (l *link) run(welcome *wire.Welcome) {
	defer l.end(nil, websocket.CloseNormalClosure)
	defer close(l.done)
	l.push(&wire.ServerFrame{Body: &wire.ServerFrame_Welcome{Welcome: welcome}})
	l.alive()
	l.conn.SetPongHandler(func(string) error { l.alive(); return nil })
	l.ping()
	l.open()
	for {
		kind, message, err := l.conn.ReadMessage()
		if err != nil {
			return
		}
		l.alive()
		if !l.begin() {
			continue // the device will ask again on its next link
		}
		l.slow(len(message))
		l.handle(kind, message)
		l.answers.Done()
	}
}

// begin counts a request as being answered, unless the link has ended.
func (l *link) begin() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return false
	}
	l.answers.Add(1)
	return true
}

// slow holds up a link that sends more, or larger, frames than it may: to parse one takes up to 0.1 ms for each KiB.
func (l *link) slow(size int) {
	s := l.server
	take := func() time.Duration { return l.frames.takeN(1+size/1024, s.cfg.Limits.Frames, s.now()) }
	for wait := take(); wait > 0; wait = take() {
		select {
		case <-time.After(wait):
		case <-s.stop.Done():
			return
		}
	}
}

// alive moves the moment at which the link counts as dead.
func (l *link) alive() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended {
		l.conn.SetReadDeadline(time.Now().Add(l.server.timing.silence))
	}
}

// ping asks for a sign of life, and again after a while. The first time it only sets the timer.
func (l *link) ping() {
	l.mu.Lock()
	first := l.pinging == nil
	if l.ended {
		l.mu.Unlock()
		return
	}
	l.pinging = time.AfterFunc(l.server.timing.ping, l.ping)
	l.mu.Unlock()
	if !first && l.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(l.server.timing.write)) != nil {
		l.conn.Close()
	}
}

// end ends the link, for a reason to be told unless f is nil. When it returns no envelope will be handed to the link any more, and
// those it did not acknowledge are in the mailbox. Only the first call does anything.
func (l *link) end(f *failure, code int) {
	l.mu.Lock()
	if l.ended {
		l.mu.Unlock()
		return
	}
	l.ended = true
	if l.pinging != nil {
		l.pinging.Stop()
	}
	l.spill(time.Time{})
	l.mu.Unlock()
	l.server.hub.remove(l)
	l.server.running.Go(func() { l.finish(f, code) })
}

// finish answers what is being answered, says goodbye and closes.
func (l *link) finish(f *failure, code int) {
	defer l.conn.Close()
	defer context.AfterFunc(l.server.cutting, func() { l.conn.Close() })()
	l.answers.Wait()
	if f != nil {
		l.fail(0, f)
	}
	<-l.out.drain()
	deadline := time.Now().Add(l.server.timing.closing)
	l.conn.SetReadDeadline(deadline)
	l.conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, ""), deadline)
	<-l.done // closing with unread bytes would reset the connection, and what was queued could be lost with it
}
