package spqr

import (
	"encoding/binary"
	"errors"
	"maps"

	"sotto/e2ee/internal/kdf"
)

const (
	MaxJump  = 25_000 // how far ahead of the newest message of its epoch a message may be
	maxStore = 2_000  // passed-over keys kept, counted back from the newest
)

// ErrJump: the message passes over more messages than it may.
var ErrJump = errors.New("spqr: message index too far ahead")

var (
	errKeyGone = errors.New("spqr: key already used or too old")
	errEpoch   = errors.New("spqr: message of an unknown epoch")
)

// Direction says which party of a session this is: A→B for the one who sent the first message.
type Direction uint8

const (
	AtoB Direction = iota
	BtoA
)

// A chain yields one key per message of a direction in a key epoch.
type chain struct {
	key     [32]byte
	counter uint32 // index of the last key given out; the first is 1
}

// step returns the chain after the next key, and that key.
func (c chain) step() (chain, [32]byte) {
	var out [64]byte
	c.derive(out[:])
	next := chain{key: [32]byte(out[:32]), counter: c.counter + 1}
	key := [32]byte(out[32:])
	clear(out[:])
	return next, key
}

// skip is step without the key, at half the work.
func (c chain) skip() chain {
	next := chain{counter: c.counter + 1}
	c.derive(next.key[:])
	return next
}

func (c *chain) derive(out []byte) {
	var info [64]byte
	binary.BigEndian.PutUint32(info[:], c.counter+1)
	label := append(info[:4], "Signal PQ Ratchet V1 Chain Next"...)
	kdf.HKDF(out, nil, c.key[:], label)
}

// keyEpoch holds both chains of one epoch secret. The receiving side keeps the keys it passed over.
type keyEpoch struct {
	send, receive chain
	sendDone      bool                // the sending key epoch moved on
	skipped       map[uint32][32]byte // by index; nil when empty
}

// chains are the keys of all live epochs, oldest first: at most the sending epoch, the one before, and a newer one.
type chains struct {
	direction Direction
	nextRoot  [32]byte
	first     uint64 // number of epochs[0]
	sending   uint64 // newest epoch sent in
	epochs    []*keyEpoch
}

func newChains(pqKey *[32]byte, d Direction) chains {
	var out [96]byte
	kdf.HKDF(out[:], nil, pqKey[:], "Signal PQ Ratchet V1 Chain  Start") // two spaces
	c := chains{direction: d}
	c.push(&out)
	return c
}

// addEpoch starts the chains of the next key epoch.
func (c *chains) addEpoch(secret *[32]byte) {
	var out [96]byte
	kdf.HKDF(out[:], c.nextRoot[:], secret[:], "Signal PQ Ratchet V1 Chain Add Epoch")
	c.push(&out)
}

func (c *chains) push(out *[96]byte) {
	c.nextRoot = [32]byte(out[:32])
	e := &keyEpoch{send: chain{key: [32]byte(out[32:64])}, receive: chain{key: [32]byte(out[64:])}}
	if c.direction == BtoA {
		e.send, e.receive = e.receive, e.send
	}
	c.epochs = append(c.epochs[:len(c.epochs):len(c.epochs)], e)
}

// sendKey gives the key of the next message sent in a key epoch and forgets what no message can need any more.
func (c *chains) sendKey(epoch uint64) (index uint32, key [32]byte, err error) {
	e := c.at(epoch)
	if e == nil || epoch < c.sending || e.sendDone {
		return 0, key, errEpoch
	}
	if e.send.counter == 1<<32-1 {
		return 0, key, ErrJump
	}
	c.sending = epoch
	for c.first+1 < epoch {
		c.epochs = c.epochs[1:]
		c.first++
	}
	for number := c.first; number < epoch; number++ {
		if old := c.at(number); !old.sendDone {
			done := *old
			done.send, done.sendDone = chain{}, true
			c.replace(number, &done)
		}
	}
	next := *e
	next.send, key = e.send.step()
	c.replace(epoch, &next)
	return next.send.counter, key, nil
}

// found is the key of a received message, and where it is.
type found struct {
	key   [32]byte
	epoch uint64
	index uint32

	ahead bool  // of the chain; otherwise among the skipped keys
	next  chain // after the message
	keep  chain // before the first skipped key to keep
}

// receiveKey finds the key of a received message. It takes one HKDF for each message passed over, and *work of them at most; the
// keys of those are not made before commit, when the message is authenticated.
func (c *chains) receiveKey(epoch uint64, index uint32, work *int) (f found, err error) {
	e := c.at(epoch)
	if e == nil {
		return f, errEpoch
	}
	f = found{epoch: epoch, index: index}
	if index <= e.receive.counter {
		var kept bool
		if f.key, kept = e.skipped[index]; !kept {
			return f, errKeyGone
		}
		return f, nil
	}
	jump := index - e.receive.counter
	if jump > uint32(min(*work, MaxJump)) {
		return f, ErrJump
	}
	*work -= int(jump)
	f.ahead = true
	at := e.receive
	for index-at.counter > maxStore+1 {
		at = at.skip()
	}
	f.keep = at
	for index-at.counter > 1 {
		at = at.skip()
	}
	f.next, f.key = at.step()
	return f, nil
}

// commit uses the key up and keeps those passed over. It replaces the epoch and leaves the one before as it was, but for its skipped
// keys: most messages have none, and copying 2,000 for each would be the most of the work.
func (c *chains) commit(f *found) {
	e := c.at(f.epoch)
	if !f.ahead {
		delete(e.skipped, f.index)
		return
	}
	next := *e
	next.receive = f.next
	if next.skipped == nil && f.index-f.keep.counter > 1 {
		next.skipped = map[uint32][32]byte{}
	}
	for at := f.keep; f.index-at.counter > 1; {
		var key [32]byte
		at, key = at.step()
		next.skipped[at.counter] = key
	}
	maps.DeleteFunc(next.skipped, func(i uint32, _ [32]byte) bool { return next.receive.counter-i > maxStore })
	c.replace(f.epoch, &next)
}

func (c *chains) at(epoch uint64) *keyEpoch {
	if epoch < c.first || epoch-c.first >= uint64(len(c.epochs)) {
		return nil
	}
	return c.epochs[epoch-c.first]
}

// replace puts e in a copy of the list, so that other holders of the list keep what they have.
func (c *chains) replace(epoch uint64, e *keyEpoch) {
	list := make([]*keyEpoch, len(c.epochs))
	copy(list, c.epochs)
	list[epoch-c.first] = e
	c.epochs = list
}
