package safety

import (
	"bytes"
	"crypto/subtle"
	"errors"
	"fmt"

	"sotto/internal/protofield"
)

// What comparing a scanned code can come to, besides nil.
var (
	// ErrMismatch is the alarm. Codes are hashes, so one that is for other people cannot always be told from one that somebody in
	// between has caused: what is not surely harmless counts as this.
	ErrMismatch = errors.New("the safety numbers differ: make sure that you have what their device shows for you; " +
		"if so, somebody may stand between you, so trust no message or call until you have compared side by side")
	// ErrOthers says that the code is surely not the contact's: it says nothing about them, good or bad.
	ErrOthers = errors.New("this code is for other people")
	// ErrVersion says that the other program makes codes of another kind.
	ErrVersion = errors.New("this code is of another version: compare the 60 digits, or use the same version of the program on both devices")
	// ErrMalformed says that it is no such code at all.
	ErrMalformed = errors.New("this is not the code of a safety number: scan the one that their device shows beside the 60 digits")
)

// codeVersion is the one that goes with raw UUIDs as identifiers.
const codeVersion = 2

// A Code is what one party's device shows to the other's: who it is, and whom it takes the other for. The content of the QR code is
// the protobuf message
//
//	1: version    2: {1: own [32]}    3: {1: peer [32]}
//
// where own and peer are the first half of the parties' fingerprints.
type Code struct {
	own, peer [32]byte
}

// NewCode makes what the local party shows. The parties are given as to Number.
func NewCode(localKey, remoteKey [33]byte, localID, remoteID []byte) Code {
	return Code{own: [32]byte(fingerprint(localKey, localID)), peer: [32]byte(fingerprint(remoteKey, remoteID))}
}

// Bytes is the content of the QR code, for its byte mode.
func (c Code) Bytes() []byte {
	b := protofield.AppendVarint(nil, 1, codeVersion)
	b = protofield.AppendBytes(b, 2, protofield.AppendBytes(nil, 1, c.own[:]))
	return protofield.AppendBytes(b, 3, protofield.AppendBytes(nil, 1, c.peer[:]))
}

// Compare returns nil if scanned is what the other party's device shows when both have each other's real key.
func (c Code) Compare(scanned []byte) error {
	theirs, err := parseCode(scanned)
	if err != nil {
		return err
	}
	// All of it is compared before anything is said, in constant time.
	match := subtle.ConstantTimeCompare(theirs.own[:], c.peer[:]) & subtle.ConstantTimeCompare(theirs.peer[:], c.own[:])
	mine := subtle.ConstantTimeCompare(theirs.own[:], c.own[:])
	switch {
	case match == 1:
		return nil
	case mine == 1:
		return fmt.Errorf("%w: your own device shows it; scan the one on theirs", ErrOthers)
	}
	return ErrMismatch
}

// parseCode accepts the one encoding that Bytes makes. Of another version nothing but the number is known.
func parseCode(b []byte) (Code, error) {
	var c Code
	var version uint64
	err := protofield.Each(b, func(number int, integer uint64, value []byte) error {
		switch number {
		case 1:
			version = integer
		case 2:
			return parseHalf(c.own[:], value)
		case 3:
			return parseHalf(c.peer[:], value)
		}
		return nil
	})
	switch {
	case err == nil && version != codeVersion && bytes.HasPrefix(b, protofield.AppendVarint(nil, 1, version)):
		return Code{}, ErrVersion
	case err != nil || !bytes.Equal(c.Bytes(), b):
		return Code{}, ErrMalformed
	}
	return c, nil
}

// parseHalf takes what it finds: whether that is all and nothing but it, encoding again shows.
func parseHalf(half, b []byte) error {
	return protofield.Each(b, func(_ int, _ uint64, value []byte) error {
		copy(half, value)
		return nil
	})
}
