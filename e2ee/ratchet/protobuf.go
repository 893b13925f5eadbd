package ratchet

import (
	"errors"

	"google.golang.org/protobuf/encoding/protowire"
)

// The few forms of protobuf that messages and records need, varints and bytes, with the field order and the encoding of each value
// under our control.

var errMalformed = errors.New("malformed protobuf")

func appendVarint(b []byte, number protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, number, protowire.VarintType), v)
}

func appendBytes(b []byte, number protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, number, protowire.BytesType), v)
}

// eachField hands over the fields of b in order; of varint and value the one of the field's type is set. The value is part of b.
func eachField(b []byte, field func(number protowire.Number, varint uint64, value []byte) error) error {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errMalformed
		}
		b = b[n:]
		var varint uint64
		var value []byte
		switch kind {
		case protowire.VarintType:
			varint, n = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			value, n = protowire.ConsumeBytes(b)
		default:
			return errMalformed
		}
		if n < 0 {
			return errMalformed
		}
		b = b[n:]
		if err := field(number, varint, value); err != nil {
			return err
		}
	}
	return nil
}
