package spqr

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"maps"
)

const (
	MaxJump  = 25_000 // how far ahead of the newest message of its epoch a message may be
	maxStore = 2_000  // passed-over keys kept, counted back from the newest
)

var (
	errJump    = errors.New("spqr: message index too far ahead")
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

func (c chain) step() (chain, [32]byte) {
	c.counter++
	var out [64]byte
	info := string(binary.BigEndian.AppendUint32(nil, c.counter)) + "Signal PQ Ratchet V1 Chain Next"
	derive(out[:], nil, c.key[:], info)
	c.key = [32]byte(out[:32])
	return c, [32]byte(out[32:])
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
	derive(out[:], nil, pqKey[:], "Signal PQ Ratchet V1 Chain  Start") // two spaces
	c := chains{direction: d}
	c.push(&out)
	return c
}

// addEpoch starts the chains of the next key epoch.
func (c *chains) addEpoch(secret *[32]byte) {
	var out [96]byte
	derive(out[:], c.nextRoot[:], secret[:], "Signal PQ Ratchet V1 Chain Add Epoch")
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
		return 0, key, errJump
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

// receiveKey finds the key of a received message. It changes nothing but c.epochs, whose elements it replaces; the skipped keys
// of the epoch are only touched by commit, since most messages have none.
func (c *chains) receiveKey(epoch uint64, index uint32, work *int) (key [32]byte, commit func(), err error) {
	e := c.at(epoch)
	if e == nil {
		return key, nil, errEpoch
	}
	if index <= e.receive.counter {
		key, ok := e.skipped[index]
		if !ok {
			return key, nil, errKeyGone
		}
		return key, func() { delete(e.skipped, index) }, nil
	}
	jump := int(index - e.receive.counter)
	if jump > min(*work, MaxJump) {
		return key, nil, errJump
	}
	*work -= jump
	next := *e
	var passed map[uint32][32]byte
	for next.receive.counter < index-1 {
		var k [32]byte
		next.receive, k = next.receive.step()
		if index-next.receive.counter <= maxStore {
			if passed == nil {
				passed = map[uint32][32]byte{}
			}
			passed[next.receive.counter] = k
		}
	}
	next.receive, key = next.receive.step()
	c.replace(epoch, &next)
	return key, func() {
		if next.skipped == nil {
			next.skipped = passed
		} else {
			maps.Copy(next.skipped, passed)
		}
		maps.DeleteFunc(next.skipped, func(i uint32, _ [32]byte) bool { return next.receive.counter-i > maxStore })
	}, nil
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

func derive(out, salt, ikm []byte, info string) {
	if salt == nil {
		salt = make([]byte, 32)
	}
	okm, err := hkdf.Key(sha256.New, ikm, salt, info, len(out))
	if err != nil {
		panic("spqr: " + err.Error()) // only a length over 255 blocks
	}
	copy(out, okm)
	clear(okm)
}
