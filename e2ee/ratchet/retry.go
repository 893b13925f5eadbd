package ratchet

import (
	"bytes"
	"fmt"
	"log/slog"
	"math"

	"sotto/internal/protofield"
)

// When a message does not decrypt although it was meant to, both sides mend it together:
//
//  1. The recipient makes a DecryptionError of it and sends that to the sender as plaintext content. No session can carry it, since
//     the session is what may be broken: the caller seals it (package sealed), which authenticates it.
//  2. The sender asks Record.Current whether the failed message's ratchet key is the one it sends with now. If so, the session is
//     broken: Record.Archive, then a new bundle and Initiate. If not, the session was replaced before.
//  3. In either case it encrypts the same content anew, in the session that is then current.

// PlaintextContent is what is sent without a session's encryption, of message type 8:
//
//	0xC0 || protobuf { 8: DecryptionErrorMessage } || 0x80
const (
	plaintextType    = 0xC0
	plaintextPadding = 0x80
)

// A DecryptionError says that a message could not be decrypted:
//
//	1 ratchet key (absent for a group message)    2 timestamp    3 device
type DecryptionError struct {
	RatchetKey PublicKey // of the message; zero if it has none
	Timestamp  uint64    // what the sender knows the message by. Libsignal for JavaScript reads at most 53 bits
	Device     uint32    // the message's sender's
}

// PlaintextContent returns the form that is sealed.
func (e *DecryptionError) PlaintextContent() []byte {
	message := e.encode()
	b := make([]byte, 0, 1+2+len(message)+1)
	b = protofield.AppendBytes(append(b, plaintextType), 8, message)
	return append(b, plaintextPadding)
}

func (e *DecryptionError) encode() []byte {
	b := make([]byte, 0, 2+PublicKeySize+11+6)
	if !e.RatchetKey.IsZero() {
		b = protofield.AppendBytes(b, 1, e.RatchetKey.bytes[:])
	}
	b = protofield.AppendVarint(b, 2, e.Timestamp)
	return protofield.AppendVarint(b, 3, uint64(e.Device))
}

// ParseDecryptionError reads plaintext content, and accepts the one encoding that PlaintextContent gives. It fails with
// ErrUndecryptable.
func ParseDecryptionError(b []byte) (*DecryptionError, error) {
	if len(b) < 2 || b[0] != plaintextType {
		return nil, ErrUndecryptable
	}
	var e *DecryptionError
	err := protofield.Each(b[1:len(b)-1], func(number int, _ uint64, value []byte) (err error) {
		if number == 8 {
			e, err = parseDecryptionError(value)
		}
		return err
	})
	if err != nil || e == nil || !bytes.Equal(e.PlaintextContent(), b) {
		return nil, ErrUndecryptable
	}
	return e, nil
}

// parseDecryptionError leaves it to its caller to compare encodings.
func parseDecryptionError(b []byte) (*DecryptionError, error) {
	e := new(DecryptionError)
	err := protofield.Each(b, func(number int, integer uint64, value []byte) (err error) {
		switch number {
		case 1:
			e.RatchetKey, err = ParsePublicKey(value)
		case 2:
			e.Timestamp = integer
		case 3:
			if integer > math.MaxUint32 {
				return ErrUndecryptable
			}
			e.Device = uint32(integer)
		}
		return err
	})
	return e, err
}

// RatchetKey returns the ratchet key that a message of the given type names, without any other check or work: a DecryptionError takes
// it along. It fails with ErrUndecryptable if the message is malformed, and so can be nobody's.
func RatchetKey(typ uint32, message []byte) (PublicKey, error) {
	if typ == TypePreKeyMessage {
		outer, err := parsePreKeyMessage(message)
		if err != nil {
			return PublicKey{}, err
		}
		typ, message = TypeMessage, outer.message
	}
	if typ != TypeMessage {
		return PublicKey{}, ErrUndecryptable
	}
	m, err := parseSignalMessage(message)
	if err != nil {
		return PublicKey{}, err
	}
	return m.ratchetKey, nil
}

// Current reports whether Encrypt would now send under this ratchet key.
func (r *Record) Current(ratchetKey PublicKey) bool {
	return r.current != nil && r.current.ratchet.public.Equal(ratchetKey)
}

// Format writes the type alone, whatever the verb.
func (e DecryptionError) Format(f fmt.State, _ rune) { fmt.Fprint(f, "ratchet.DecryptionError") }

// LogValue is the type alone.
func (e DecryptionError) LogValue() slog.Value { return slog.StringValue("ratchet.DecryptionError") }
