package signaling

import (
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"sotto/wire"
)

// An outbox queues what is to be written to a socket. A goroutine writes while there is something to write: an idle one has none.
type outbox struct {
	mu      sync.Mutex
	queue   [][]byte
	bytes   int
	writing bool
	drained chan struct{} // non-nil: takes nothing more, and is closed when empty
}

// A device that reads so slowly that this much waits for it is cut off.
const (
	maxQueue       = 1024
	maxQueuedBytes = 4 << 20
)

// push queues a frame for the device.
func (k *socket) push(f *wire.ServerFrame) { k.pushBytes(known(f)) }

func (k *socket) reply(to uint64, f *wire.ServerFrame) {
	f.ReplyTo = to
	k.push(f)
}

func (k *socket) fail(to uint64, f *failure) {
	k.reply(to, &wire.ServerFrame{Body: &wire.ServerFrame_Error{Error: f.wire()}})
}

func (k *socket) pushBytes(frame []byte) {
	o := &k.out
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.drained != nil {
		return
	}
	if len(o.queue) >= maxQueue || o.bytes+len(frame) > maxQueuedBytes {
		k.conn.Close() // serve sees it, and the link ends
		return
	}
	o.queue = append(o.queue, frame)
	o.bytes += len(frame)
	if !o.writing {
		o.writing = true
		k.server.running.Go(k.write)
	}
}

// write sends the queue until it is empty. After an error it only empties it.
func (k *socket) write() {
	var err error
	for {
		frame := k.out.next()
		if frame == nil {
			return
		}
		if err != nil {
			continue
		}
		k.conn.SetWriteDeadline(time.Now().Add(k.server.timing.write))
		if err = k.conn.WriteMessage(websocket.BinaryMessage, frame); err != nil {
			k.conn.Close()
		}
	}
}

func (o *outbox) next() []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.queue) == 0 {
		o.queue = nil // an idle link keeps no memory for it
		o.writing = false
		if o.drained != nil {
			close(o.drained)
		}
		return nil
	}
	frame := o.queue[0]
	o.queue[0] = nil
	o.queue = o.queue[1:]
	o.bytes -= len(frame)
	return frame
}

// drain refuses further frames and returns a channel that is closed when all are written. It is called once.
func (o *outbox) drain() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.drained = make(chan struct{})
	if !o.writing {
		close(o.drained)
	}
	return o.drained
}
