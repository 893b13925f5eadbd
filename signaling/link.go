package signaling

import (
	"time"

	"github.com/gorilla/websocket"

	"sotto/signaling/store"
	"sotto/wire"
)

// A link is the authenticated websocket of one device.
//
//	run        answers frames (handle.go), as a socket does
//	deliver.go hands out envelopes
//	end        stops the link: unacknowledged envelopes go to the mailbox, what is being answered is answered, then it closes
type link struct {
	socket
	device   store.Device
	name     string // of the server, as the device knows and signs it
	delivery        // under socket.mu
}

func newLink(s *Server, conn *websocket.Conn, device store.Device, name string) *link {
	return &link{
		socket:   newSocket(s, conn),
		device:   device,
		name:     name,
		delivery: delivery{pending: true, pumping: true}, // nothing is handed out before Welcome
	}
}

// run is the life of a link, from Welcome on.
func (l *link) run(welcome *wire.Welcome) {
	defer l.end(nil, websocket.CloseNormalClosure)
	l.serve(welcome, l.open, l.handle)
}

// end ends the link, for a reason to be told unless f is nil. When it returns no envelope will be handed to the link any more, and
// those it did not acknowledge are in the mailbox. Only the first call does anything.
func (l *link) end(f *failure, code int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return
	}
	l.spill(time.Time{})
	l.server.hub.remove(l)
	l.socket.end(f, code)
}
