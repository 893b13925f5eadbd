package ratchet

import (
	"math"

	"sotto/internal/protofield"
)

// versionByte: the high nibble is the version of the message, the low one the highest its sender knows.
const versionByte = 0x44

const macSize = 8

// signalMessage is the message of an established session:
//
//	0x44 || protobuf || MAC [8]
type signalMessage struct {
	ratchetKey      PublicKey // 1
	counter         uint32    // 2: in the sending chain, from 0
	previousCounter uint32    // 3: not used by recipients
	ciphertext      []byte    // 4: AES-256-CBC, PKCS#7
	pq              []byte    // 5: the post-quantum ratchet's message
	addresses       []byte    // 6: [36] sender and recipient; only inside pre-key messages
	authenticated   []byte    // version byte and protobuf as received
	mac             []byte
}

// preKeyMessage wraps the messages of a session until the first reply:
//
//	0x44 || protobuf
type preKeyMessage struct {
	hasOneTime      bool
	oneTimeID       uint32    // 1: absent when the bundle had no one-time pre-key
	baseKey         PublicKey // 2
	identity        PublicKey // 3: the sender's
	message         []byte    // 4: a whole signalMessage
	registrationID  uint32    // 5: the sender's
	signedID        uint32    // 6
	kyberID         uint32    // 7
	kyberCiphertext []byte    // 8: [1569]
}

// encode returns version byte and protobuf, which is what the MAC covers.
func (m *signalMessage) encode() []byte {
	b := make([]byte, 0, 1+2+PublicKeySize+6+6+5+len(m.ciphertext)+5+len(m.pq)+2+len(m.addresses)+macSize)
	return protofield.Append(append(b, versionByte), m.write)
}

func (m *signalMessage) write(w *protofield.Writer) {
	w.Bytes(1, m.ratchetKey.bytes[:])
	w.Varint(2, uint64(m.counter))
	w.Varint(3, uint64(m.previousCounter))
	w.Bytes(4, m.ciphertext)
	w.Bytes(5, m.pq)
	if len(m.addresses) > 0 {
		w.Bytes(6, m.addresses)
	}
}

func (m *preKeyMessage) encode() []byte {
	b := make([]byte, 0, 1+6*6+2*(2+PublicKeySize)+5+len(m.message)+4+len(m.kyberCiphertext))
	return protofield.Append(append(b, versionByte), m.write)
}

func (m *preKeyMessage) write(w *protofield.Writer) {
	if m.hasOneTime {
		w.Varint(1, uint64(m.oneTimeID))
	}
	w.Bytes(2, m.baseKey.bytes[:])
	w.Bytes(3, m.identity.bytes[:])
	w.Bytes(4, m.message)
	w.Varint(5, uint64(m.registrationID))
	w.Varint(6, uint64(m.signedID))
	w.Varint(7, uint64(m.kyberID))
	w.Bytes(8, m.kyberCiphertext)
}

// parseSignalMessage accepts the one encoding that encode gives: no unknown, repeated, missing or misplaced field, no padded varint.
func parseSignalMessage(b []byte) (*signalMessage, error) {
	if len(b) < 1+macSize || b[0] != versionByte {
		return nil, ErrUndecryptable
	}
	body := b[:len(b)-macSize]
	m := &signalMessage{authenticated: body, mac: b[len(b)-macSize:]}
	err := protofield.Each(body[1:], func(number int, integer uint64, value []byte) (err error) {
		switch number {
		case 1:
			m.ratchetKey, err = ParsePublicKey(value)
		case 2:
			m.counter = uint32(integer)
		case 3:
			m.previousCounter = uint32(integer)
		case 4:
			m.ciphertext = value
		case 5:
			m.pq = value
		case 6:
			m.addresses = value
		}
		return err
	})
	if err != nil || m.ratchetKey.IsZero() || len(m.pq) == 0 || m.counter == math.MaxUint32 || !protofield.Same(body[1:], m.write) {
		return nil, ErrUndecryptable
	}
	return m, nil
}

// parsePreKeyMessage accepts one encoding, as parseSignalMessage does: nothing of the outer message is covered by a MAC.
func parsePreKeyMessage(b []byte) (*preKeyMessage, error) {
	if len(b) < 1 || b[0] != versionByte {
		return nil, ErrUndecryptable
	}
	m := new(preKeyMessage)
	err := protofield.Each(b[1:], func(number int, integer uint64, value []byte) (err error) {
		switch number {
		case 1:
			m.hasOneTime, m.oneTimeID = true, uint32(integer)
		case 2:
			m.baseKey, err = ParsePublicKey(value)
		case 3:
			m.identity, err = ParsePublicKey(value)
		case 4:
			m.message = value
		case 5:
			m.registrationID = uint32(integer)
		case 6:
			m.signedID = uint32(integer)
		case 7:
			m.kyberID = uint32(integer)
		case 8:
			m.kyberCiphertext = value
		}
		return err
	})
	if err != nil || m.baseKey.IsZero() || m.identity.IsZero() ||
		len(m.kyberCiphertext) != kyberCiphertextSize || m.kyberCiphertext[0] != kyberType || !protofield.Same(b[1:], m.write) {
		return nil, ErrUndecryptable
	}
	return m, nil
}

// addressBinding is field 6: sender service id [17] || device [1] || recipient service id [17] || device [1]. A service id is a kind
// byte, 0 for an account, and the UUID.
func addressBinding(sender, recipient Address) []byte {
	b := make([]byte, 0, 36)
	for _, a := range []Address{sender, recipient} {
		b = append(b, 0)
		b = append(b, a.Account[:]...)
		b = append(b, a.Device)
	}
	return b
}
