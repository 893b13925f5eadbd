package senderkey

import (
	"math"

	"sotto/e2ee/ratchet"
	"sotto/e2ee/xeddsa"
	"sotto/internal/protofield"
)

// versionByte: the high nibble is the version of the message, the low one the highest its sender knows.
const versionByte = 0x33

// distributionMessage hands a key to a member, as the plaintext of a one-to-one message:
//
//	0x33 || protobuf
type distributionMessage struct {
	distribution DistributionID    // 1: [16]
	chainID      uint32            // 2: names the key
	iteration    uint32            // 3: of the chain key: the first message this member can open
	chainKey     [32]byte          // 4
	signing      ratchet.PublicKey // 5
}

// message is a group message:
//
//	0x33 || protobuf || signature [64]
//
// The signature is over version byte and protobuf.
type message struct {
	distribution DistributionID // 1: [16]
	chainID      uint32         // 2
	iteration    uint32         // 3
	ciphertext   []byte         // 4: AES-256-CBC, PKCS#7
	signed       []byte         // version byte and protobuf as received
	signature    []byte
}

func (m *distributionMessage) encode() []byte {
	b := make([]byte, 0, 1+2+16+6+6+2+32+2+ratchet.PublicKeySize)
	return protofield.Append(append(b, versionByte), m.write)
}

func (m *distributionMessage) write(w *protofield.Writer) {
	w.Bytes(1, m.distribution[:])
	w.Varint(2, uint64(m.chainID))
	w.Varint(3, uint64(m.iteration))
	w.Bytes(4, m.chainKey[:])
	w.Bytes(5, m.signing.Bytes())
}

// encode returns version byte and protobuf, which is what is signed.
func (m *message) encode() []byte {
	b := make([]byte, 0, 1+2+16+6+6+5+len(m.ciphertext)+xeddsa.SignatureSize)
	return protofield.Append(append(b, versionByte), m.write)
}

func (m *message) write(w *protofield.Writer) {
	w.Bytes(1, m.distribution[:])
	w.Varint(2, uint64(m.chainID))
	w.Varint(3, uint64(m.iteration))
	w.Bytes(4, m.ciphertext)
}

// parseDistribution accepts the one encoding that encode gives, and a signing key that is a canonical point of prime order, as every
// honestly made one is.
func parseDistribution(b []byte) (*distributionMessage, error) {
	if len(b) < 1 || b[0] != versionByte {
		return nil, ErrBadDistribution
	}
	m := new(distributionMessage)
	err := protofield.Each(b[1:], func(number int, integer uint64, value []byte) (err error) {
		switch number {
		case 1:
			copy(m.distribution[:], value)
		case 2:
			m.chainID = uint32(integer)
		case 3:
			m.iteration = uint32(integer)
		case 4:
			copy(m.chainKey[:], value)
		case 5:
			m.signing, err = ratchet.ParsePublicKey(value)
		}
		return err
	})
	if err != nil || m.signing.IsZero() || m.iteration == math.MaxUint32 || !protofield.Same(b[1:], m.write) {
		return nil, ErrBadDistribution
	}
	if u := [32]byte(m.signing.Bytes()[1:]); !xeddsa.PrimeOrder(&u) {
		return nil, ErrBadDistribution
	}
	return m, nil
}

// parseMessage accepts the one encoding that encode gives: no unknown, repeated, missing or misplaced field, no padded varint.
func parseMessage(b []byte) (*message, error) {
	if len(b) < 1+xeddsa.SignatureSize || b[0] != versionByte {
		return nil, ErrUndecryptable
	}
	body := b[:len(b)-xeddsa.SignatureSize]
	m := &message{signed: body, signature: b[len(body):]}
	err := protofield.Each(body[1:], func(number int, integer uint64, value []byte) error {
		switch number {
		case 1:
			copy(m.distribution[:], value)
		case 2:
			m.chainID = uint32(integer)
		case 3:
			m.iteration = uint32(integer)
		case 4:
			m.ciphertext = value
		}
		return nil
	})
	if err != nil || m.iteration == math.MaxUint32 || !protofield.Same(body[1:], m.write) {
		return nil, ErrUndecryptable
	}
	return m, nil
}
