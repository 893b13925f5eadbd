package ratchet

import (
	"encoding/binary"
	"errors"
	"math"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"sotto/e2ee/spqr"
	"sotto/internal/protofield"
)

// A stored record is a version byte and a protobuf:
//
//	record   1 current session (absent once archived), 2 archived session (repeated, newest first)
//	session  1 created (Unix seconds) 2 remote identity key 3 base key 4 outer digest (recipient only, as 3)
//	         5 pending pre-key message with an empty field 4 (initiator only, until answered)
//	         6 root key 7 ratchet private key 8 ratchet public key 9 sending chain key 10 sending index 11 previous counter
//	         12 receiving chain (repeated, oldest first) 13 state of the post-quantum ratchet
//	chain    1 ratchet key 2 chain key 3 index 4 skipped seeds: counter [4, big endian] || seed [32], ascending
const recordVersion = 1

const skippedSize = 4 + 32

// Marshal returns the record for an encrypted store: it holds the sessions' secrets.
func (r *Record) Marshal() []byte {
	b := []byte{recordVersion}
	for _, s := range r.sessions() {
		number := 2
		if s == r.current {
			number = 1
		}
		b = protofield.AppendBytes(b, number, s.marshal())
	}
	return b
}

// UnmarshalRecord reads what Marshal wrote. It fails with ErrBadRecord.
func UnmarshalRecord(b []byte) (*Record, error) {
	r := new(Record)
	if len(b) == 0 || b[0] != recordVersion {
		return nil, ErrBadRecord
	}
	err := protofield.Each(b[1:], func(number int, _ uint64, value []byte) error {
		s, err := unmarshalSession(value)
		switch {
		case err != nil:
			return err
		case number == 1 && r.current == nil && r.archived == nil:
			r.current = s
		case number == 2 && len(r.archived) < maxArchived:
			r.archived = append(r.archived, s)
		default:
			return ErrBadRecord
		}
		return nil
	})
	if err != nil {
		return nil, ErrBadRecord
	}
	return r, nil
}

func (s *session) marshal() []byte {
	b := protofield.AppendVarint(nil, 1, uint64(s.created.Unix()))
	b = protofield.AppendBytes(b, 2, s.identity.bytes[:])
	if !s.baseKey.IsZero() {
		b = protofield.AppendBytes(b, 3, s.baseKey.bytes[:])
		b = protofield.AppendBytes(b, 4, s.outer[:])
	}
	if s.pending != nil {
		b = protofield.AppendBytes(b, 5, s.pending.encode())
	}
	b = protofield.AppendBytes(b, 6, s.root[:])
	b = protofield.AppendBytes(b, 7, s.ratchet.private[:])
	b = protofield.AppendBytes(b, 8, s.ratchet.public.bytes[:])
	b = protofield.AppendBytes(b, 9, s.sending.key[:])
	b = protofield.AppendVarint(b, 10, uint64(s.sending.index))
	b = protofield.AppendVarint(b, 11, uint64(s.previousCounter))
	for _, c := range s.receiving {
		b = protofield.AppendBytes(b, 12, c.marshal())
	}
	return protofield.AppendBytes(b, 13, s.pq.Marshal())
}

func unmarshalSession(b []byte) (*session, error) {
	s := new(session)
	err := protofield.Each(b, func(number int, integer uint64, value []byte) (err error) {
		switch number {
		case 1:
			if integer > math.MaxInt64 {
				return ErrBadRecord
			}
			s.created = time.Unix(int64(integer), 0)
		case 2:
			s.identity, err = ParsePublicKey(value)
		case 3:
			s.baseKey, err = ParsePublicKey(value)
		case 4:
			err = copyKey(&s.outer, value)
		case 5:
			s.pending, err = parsePreKeyMessage(value)
		case 6:
			err = copyKey(&s.root, value)
		case 7:
			err = copyKey(&s.ratchet.private, value)
		case 8:
			s.ratchet.public, err = ParsePublicKey(value)
		case 9:
			err = copyKey(&s.sending.key, value)
		case 10:
			s.sending.index, err = toUint32(integer)
		case 11:
			s.previousCounter, err = toUint32(integer)
		case 12:
			var c *receivingChain
			if c, err = unmarshalChain(value); err == nil {
				s.receiving = append(s.receiving, c)
			}
		case 13:
			s.pq, err = spqr.Unmarshal(value)
		default:
			err = ErrBadRecord
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if s.pq == nil || s.identity.IsZero() || s.ratchet.public.IsZero() || len(s.receiving) > maxReceivingChains {
		return nil, ErrBadRecord
	}
	return s, nil
}

func (c *receivingChain) marshal() []byte {
	b := make([]byte, 0, 2*(2+PublicKeySize)+6+4+len(c.skipped)*skippedSize)
	b = protofield.AppendBytes(b, 1, c.ratchetKey.bytes[:])
	b = protofield.AppendBytes(b, 2, c.key[:])
	b = protofield.AppendVarint(b, 3, uint64(c.index))
	b = protowire.AppendTag(b, 4, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(len(c.skipped)*skippedSize))
	for i := range c.skipped {
		b = binary.BigEndian.AppendUint32(b, c.skipped[i].counter)
		b = append(b, c.skipped[i].seed[:]...)
	}
	return b
}

func unmarshalChain(b []byte) (*receivingChain, error) {
	c := new(receivingChain)
	err := protofield.Each(b, func(number int, integer uint64, value []byte) (err error) {
		switch number {
		case 1:
			c.ratchetKey, err = ParsePublicKey(value)
		case 2:
			err = copyKey(&c.key, value)
		case 3:
			c.index, err = toUint32(integer)
		case 4:
			c.skipped, err = unmarshalSkipped(value)
		default:
			err = ErrBadRecord
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if n := len(c.skipped); c.ratchetKey.IsZero() || n > 0 && c.skipped[n-1].counter >= c.index {
		return nil, ErrBadRecord
	}
	return c, nil
}

func unmarshalSkipped(b []byte) ([]skippedSeed, error) {
	if len(b)%skippedSize != 0 || len(b)/skippedSize > maxSkipped {
		return nil, ErrBadRecord
	}
	skipped := make([]skippedSeed, len(b)/skippedSize)
	for i := range skipped {
		s := &skipped[i]
		s.counter, s.seed = binary.BigEndian.Uint32(b[i*skippedSize:]), [32]byte(b[i*skippedSize+4:])
		if i > 0 && skipped[i-1].counter >= s.counter {
			return nil, ErrBadRecord
		}
	}
	return skipped, nil
}

func copyKey(key *[32]byte, b []byte) error {
	if len(b) != len(key) {
		return ErrBadRecord
	}
	copy(key[:], b)
	return nil
}

func toUint32(v uint64) (uint32, error) {
	if v > math.MaxUint32 {
		return 0, errors.New("out of range")
	}
	return uint32(v), nil
}
