package client

import (
	"sync"

	"github.com/google/uuid"
)

// maxQueued is how much of one account's may wait for the calls' loop.
const maxQueued = 64

// callBox is what waits for the calls' loop. Putting something in never waits: the inbox, media sessions and the outbox, which do so,
// must not be held up by a call, nor by whoever sends more than the loop can take.
type callBox struct {
	wake chan struct{} // has room for one

	mu     sync.Mutex
	queue  []func()
	peers  map[uuid.UUID]int // how much of the queue came from whom
	closed bool
}

func newCallBox() *callBox {
	return &callBox{wake: make(chan struct{}, 1), peers: map[uuid.UUID]int{}}
}

// post reports whether the loop will run f.
func (b *callBox) post(f func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.put(f)
}

func (b *callBox) put(f func()) bool {
	if b.closed {
		return false
	}
	b.queue = append(b.queue, f)
	select {
	case b.wake <- struct{}{}:
	default:
	}
	return true
}

// fromPeer posts what an account sent, unless too much of its waits: something spare is dropped early enough to leave room for the
// rest; the first of the rest that has no room is replaced by flooded.
func (b *callBox) fromPeer(account uuid.UUID, spare bool, f, flooded func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch n := b.peers[account]; {
	case n > maxQueued || spare && n >= maxQueued/2:
		return
	case n == maxQueued:
		f = flooded
	}
	b.peers[account]++
	b.put(f)
}

// take empties the box.
func (b *callBox) take() []func() {
	b.mu.Lock()
	defer b.mu.Unlock()
	queue := b.queue
	b.queue = nil
	clear(b.peers)
	return queue
}

// close takes nothing any more, and returns what is left.
func (b *callBox) close() []func() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	return b.take()
}
