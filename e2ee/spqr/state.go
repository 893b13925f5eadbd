package spqr

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"
)

// stateVersion is the first byte of a stored state.
const stateVersion = 1

var errState = errors.New("spqr: malformed stored state")

// Marshal gives the state in the form Unmarshal reads. It holds secrets: store it encrypted.
func (s *State) Marshal() []byte {
	b := make([]byte, 0, 4096)
	b = append(b, stateVersion, byte(s.chains.direction), byte(s.braid.state))
	b = binary.AppendUvarint(b, s.braid.epoch)
	b = append(b, s.braid.auth.root[:]...)
	b = append(b, s.braid.auth.mac[:]...)
	b = append(b, s.braid.seed[:]...)
	b = append(b, s.braid.header[:]...)
	b = append(b, s.braid.m[:]...)
	b = appendBytes(b, s.braid.ct1)
	b = appendBytes(b, s.braid.vector)
	b = appendBytes(b, s.braid.sending.message)
	b = binary.AppendUvarint(b, uint64(s.braid.sending.next))
	b = binary.AppendUvarint(b, uint64(s.braid.pending.size))
	b = binary.AppendUvarint(b, uint64(len(s.braid.pending.chunks)))
	for _, c := range s.braid.pending.chunks {
		b = binary.BigEndian.AppendUint16(b, c.index)
		b = append(b, c.data[:]...)
	}

	b = append(b, s.chains.nextRoot[:]...)
	b = binary.AppendUvarint(b, s.chains.first)
	b = binary.AppendUvarint(b, s.chains.sending)
	b = binary.AppendUvarint(b, uint64(len(s.chains.epochs)))
	for _, e := range s.chains.epochs {
		var done byte
		if e.sendDone {
			done = 1
		}
		b = append(b, done)
		for _, c := range []chain{e.send, e.receive} {
			b = append(b, c.key[:]...)
			b = binary.BigEndian.AppendUint32(b, c.counter)
		}
		b = binary.AppendUvarint(b, uint64(len(e.skipped)))
		for _, index := range slices.Sorted(maps.Keys(e.skipped)) {
			key := e.skipped[index]
			b = binary.BigEndian.AppendUint32(b, index)
			b = append(b, key[:]...)
		}
	}
	return b
}

// Unmarshal reads what Marshal wrote.
func Unmarshal(data []byte) (*State, error) {
	r := reader{rest: data}
	if r.byte() != stateVersion {
		return nil, errState
	}
	s := new(State)
	s.chains.direction = Direction(r.byte())
	b := &s.braid
	b.state = braidState(r.byte())
	b.epoch = r.uvarint(1 << 63)
	r.fill(b.auth.root[:])
	r.fill(b.auth.mac[:])
	r.fill(b.seed[:])
	r.fill(b.header[:])
	r.fill(b.m[:])
	b.ct1 = r.bytes(ct1Size)
	b.vector = r.bytes(vectorSize)
	b.sending.message = r.bytes(vectorSize)
	b.sending.next = uint16(r.uvarint(1<<16 - 1))
	b.pending.size = int(r.uvarint(vectorSize))
	for range r.uvarint(vectorSize / chunkSize) {
		var c chunk
		c.index = r.uint16()
		r.fill(c.data[:])
		b.pending.chunks = append(b.pending.chunks, c)
	}

	c := &s.chains
	r.fill(c.nextRoot[:])
	c.first = r.uvarint(1 << 63)
	c.sending = r.uvarint(1 << 63)
	for range r.uvarint(8) {
		e := &keyEpoch{sendDone: r.byte() == 1}
		for _, c := range []*chain{&e.send, &e.receive} {
			r.fill(c.key[:])
			c.counter = r.uint32()
		}
		for range r.uvarint(maxStore) {
			index := r.uint32()
			var key [32]byte
			r.fill(key[:])
			if e.skipped == nil {
				e.skipped = map[uint32][32]byte{}
			}
			e.skipped[index] = key
		}
		c.epochs = append(c.epochs, e)
	}
	if r.failed || len(r.rest) != 0 || c.direction > BtoA || b.state > ct2Sampled || b.epoch == 0 || len(c.epochs) == 0 || !b.consistent() {
		return nil, errState
	}
	return s, nil
}

// consistent says whether the parts have the sizes that the state's code relies on.
func (b *braid) consistent() bool {
	message, pending, ct1, vector := 0, 0, 0, 0
	switch b.state {
	case keysSampled:
		message, vector = headerSize+macSize, vectorSize
	case headerSent:
		message, pending = vectorSize, ct1Size
	case ct1Received:
		message, ct1 = vectorSize, ct1Size
	case ekSentCt1Received:
		pending, ct1 = ct2Size+macSize, ct1Size
	case noHeaderReceived:
		pending = headerSize + macSize
	case headerReceived:
		pending = vectorSize
	case ct1Sampled:
		message, pending, ct1 = ct1Size, vectorSize, ct1Size
	case ekReceivedCt1Sampled:
		message, ct1, vector = ct1Size, ct1Size, vectorSize
	case ct1Acknowledged:
		pending, ct1 = vectorSize, ct1Size
	case ct2Sampled:
		message = ct2Size + macSize
	}
	return len(b.sending.message) == message && b.pending.size == pending && len(b.ct1) == ct1 && len(b.vector) == vector
}

func appendBytes(b, data []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(data))), data...)
}

// A reader takes fields off the front of data; after the first that is not there, everything is zero.
type reader struct {
	rest   []byte
	failed bool
}

func (r *reader) take(n int) []byte {
	if r.failed || len(r.rest) < n {
		r.failed = true
		return make([]byte, n)
	}
	out := r.rest[:n]
	r.rest = r.rest[n:]
	return out
}

func (r *reader) fill(out []byte) { copy(out, r.take(len(out))) }
func (r *reader) byte() byte      { return r.take(1)[0] }
func (r *reader) uint16() uint16  { return binary.BigEndian.Uint16(r.take(2)) }
func (r *reader) uint32() uint32  { return binary.BigEndian.Uint32(r.take(4)) }

func (r *reader) uvarint(limit uint64) uint64 {
	if r.failed {
		return 0
	}
	v, rest, err := uvarint(r.rest, limit)
	if err != nil {
		r.failed = true
		return 0
	}
	r.rest = rest
	return v
}

func (r *reader) bytes(limit uint64) []byte {
	n := r.uvarint(limit)
	if n == 0 {
		return nil
	}
	return append([]byte(nil), r.take(int(n))...)
}
