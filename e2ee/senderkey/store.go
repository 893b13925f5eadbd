package senderkey

import (
	"bytes"
	"encoding/binary"
	"math"

	"sotto/e2ee/ratchet"
	"sotto/internal/protofield"
)

// A stored state is a version byte and a protobuf, in one encoding:
//
//	sender    1 distribution id 2 chain id 3 iteration 4 chain key 5 signing private key
//	receiver  1 distribution id 2 key (repeated, newest first)
//	key       1 chain id 2 iteration 3 chain key 4 signing public key 5 skipped seeds: iteration [4, big endian] || seed [32], ascending
const stateVersion = 1

const skippedSize = 4 + 32

// Marshal returns the Sender for an encrypted store: it holds secrets.
func (s *Sender) Marshal() []byte {
	b := []byte{stateVersion}
	b = protofield.AppendBytes(b, 1, s.distribution[:])
	b = protofield.AppendVarint(b, 2, uint64(s.chainID))
	b = protofield.AppendVarint(b, 3, uint64(s.iteration))
	b = protofield.AppendBytes(b, 4, s.chainKey[:])
	return protofield.AppendBytes(b, 5, s.signing.Marshal())
}

// UnmarshalSender reads what Marshal wrote. It fails with ErrBadState.
func UnmarshalSender(b []byte) (*Sender, error) {
	if len(b) == 0 || b[0] != stateVersion {
		return nil, ErrBadState
	}
	s := new(Sender)
	err := protofield.Each(b[1:], func(number int, integer uint64, value []byte) (err error) {
		switch number {
		case 1:
			copy(s.distribution[:], value)
		case 2:
			s.chainID = uint32(integer)
		case 3:
			s.iteration = uint32(integer)
		case 4:
			copy(s.chainKey[:], value)
		case 5:
			s.signing, err = ratchet.UnmarshalKeyPair(value)
		}
		return err
	})
	if err != nil || s.signing == nil || s.iteration == math.MaxUint32 || !bytes.Equal(s.Marshal(), b) {
		return nil, ErrBadState
	}
	return s, nil
}

// Marshal returns the Receiver for an encrypted store: it holds secrets.
func (r *Receiver) Marshal() []byte {
	b := []byte{stateVersion}
	b = protofield.AppendBytes(b, 1, r.distribution[:])
	for _, k := range r.keys {
		b = protofield.AppendBytes(b, 2, k.marshal())
	}
	return b
}

// UnmarshalReceiver reads what Marshal wrote. It fails with ErrBadState.
func UnmarshalReceiver(b []byte) (*Receiver, error) {
	if len(b) == 0 || b[0] != stateVersion {
		return nil, ErrBadState
	}
	r := new(Receiver)
	err := protofield.Each(b[1:], func(number int, _ uint64, value []byte) error {
		switch number {
		case 1:
			copy(r.distribution[:], value)
		case 2:
			k, err := unmarshalKey(value)
			if err != nil || len(r.keys) == maxKeys || r.find(k.chainID) >= 0 {
				return ErrBadState
			}
			r.keys = append(r.keys, k)
		}
		return nil
	})
	if err != nil || !bytes.Equal(r.Marshal(), b) {
		return nil, ErrBadState
	}
	return r, nil
}

func (k *receivingKey) marshal() []byte {
	b := make([]byte, 0, 6+6+34+2+ratchet.PublicKeySize+4+len(k.skipped)*skippedSize)
	b = protofield.AppendVarint(b, 1, uint64(k.chainID))
	b = protofield.AppendVarint(b, 2, uint64(k.iteration))
	b = protofield.AppendBytes(b, 3, k.chainKey[:])
	b = protofield.AppendBytes(b, 4, k.signing.Bytes())
	skipped := make([]byte, 0, len(k.skipped)*skippedSize)
	defer clear(skipped[:cap(skipped)])
	for i := range k.skipped {
		skipped = binary.BigEndian.AppendUint32(skipped, k.skipped[i].iteration)
		skipped = append(skipped, k.skipped[i].seed[:]...)
	}
	return protofield.AppendBytes(b, 5, skipped)
}

func unmarshalKey(b []byte) (*receivingKey, error) {
	k := new(receivingKey)
	err := protofield.Each(b, func(number int, integer uint64, value []byte) (err error) {
		switch number {
		case 1:
			k.chainID = uint32(integer)
		case 2:
			k.iteration = uint32(integer)
		case 3:
			copy(k.chainKey[:], value)
		case 4:
			k.signing, err = ratchet.ParsePublicKey(value)
		case 5:
			k.skipped, err = unmarshalSkipped(value)
		}
		return err
	})
	if err != nil || k.signing.IsZero() {
		return nil, ErrBadState
	}
	if n := len(k.skipped); n > 0 && k.skipped[n-1].iteration >= k.iteration {
		return nil, ErrBadState
	}
	return k, nil
}

func unmarshalSkipped(b []byte) ([]skippedSeed, error) {
	if len(b)%skippedSize != 0 || len(b)/skippedSize > maxSkipped {
		return nil, ErrBadState
	}
	skipped := make([]skippedSeed, len(b)/skippedSize)
	for i := range skipped {
		s := &skipped[i]
		s.iteration, s.seed = binary.BigEndian.Uint32(b[i*skippedSize:]), [32]byte(b[i*skippedSize+4:])
		if i > 0 && skipped[i-1].iteration >= s.iteration {
			return nil, ErrBadState
		}
	}
	return skipped, nil
}
