package spqr

import (
	"encoding/binary"
	"errors"
)

// version is the only one there is.
const version = 1

// payload says what a message carries for the braid.
type payload uint8

const (
	payloadNone  payload = iota
	payloadHdr           // chunk of header || header MAC
	payloadEk            // chunk of the ek vector
	payloadEkAck         // the same, and ct1 has arrived
	payloadAck           // ct1 has arrived; no chunk
	payloadCt1           // chunk of ct1
	payloadCt2           // chunk of ct2 || ciphertext MAC
)

func (p payload) hasChunk() bool {
	return p != payloadNone && p != payloadAck
}

var errMessage = errors.New("spqr: malformed message")

// A message is field 5 of a SignalMessage:
//
//	0x01 || varint epoch || varint index || payload[1] [ || varint chunk number || chunk[32] ]
type message struct {
	epoch   uint64
	index   uint32 // of the key, from 1
	payload payload
	chunk   chunk // if payload.hasChunk
}

func (m *message) append(b []byte) []byte {
	b = append(b, version)
	b = binary.AppendUvarint(b, m.epoch)
	b = binary.AppendUvarint(b, uint64(m.index))
	b = append(b, byte(m.payload))
	if m.payload.hasChunk() {
		b = binary.AppendUvarint(b, uint64(m.chunk.index))
		b = append(b, m.chunk.data[:]...)
	}
	return b
}

// parseMessage is strict: one encoding for each message, so that no bit can change unnoticed. Index 0, which older peers used for
// "no post-quantum key", is refused: it would let whoever breaks the classical ratchet alone write messages that pass.
func parseMessage(b []byte) (m message, err error) {
	if len(b) == 0 || b[0] != version {
		return m, errMessage
	}
	b = b[1:]
	var index, number uint64
	if m.epoch, b, err = uvarint(b, 1<<63); err != nil || m.epoch == 0 {
		return m, errMessage
	}
	if index, b, err = uvarint(b, 1<<32-1); err != nil || index == 0 {
		return m, errMessage
	}
	m.index = uint32(index)
	if len(b) == 0 || payload(b[0]) > payloadCt2 {
		return m, errMessage
	}
	m.payload, b = payload(b[0]), b[1:]
	if m.payload.hasChunk() {
		if number, b, err = uvarint(b, 1<<16-1); err != nil || len(b) < chunkSize {
			return m, errMessage
		}
		m.chunk = chunk{index: uint16(number), data: [chunkSize]byte(b[:chunkSize])}
		b = b[chunkSize:]
	}
	if len(b) != 0 {
		return m, errMessage
	}
	return m, nil
}

// uvarint takes a shortest-form varint of at most limit off b.
func uvarint(b []byte, limit uint64) (uint64, []byte, error) {
	v, size := binary.Uvarint(b)
	if size <= 0 || v > limit || size > 1 && b[size-1] == 0 {
		return 0, nil, errMessage
	}
	return v, b[size:], nil
}
