// Package protofield writes and reads the few forms of protobuf that signed and authenticated messages need, varints, fixed64 and
// bytes, with the field order and the encoding of each value under the caller's control.
//
// It does not enforce one encoding; its callers do, by encoding again what they have read and comparing (docs/protocol.md, "One
// encoding").
package protofield

import (
	"errors"

	"google.golang.org/protobuf/encoding/protowire"
)

// ErrMalformed says that the bytes are not fields of those forms. Callers turn it into an error of their own.
var ErrMalformed = errors.New("malformed protobuf")

// AppendVarint appends a varint field.
func AppendVarint(b []byte, number int, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, protowire.Number(number), protowire.VarintType), v)
}

// AppendFixed64 appends a fixed64 field.
func AppendFixed64(b []byte, number int, v uint64) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(b, protowire.Number(number), protowire.Fixed64Type), v)
}

// AppendBytes appends a bytes or string field.
func AppendBytes(b []byte, number int, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, protowire.Number(number), protowire.BytesType), v)
}

// Each hands over the fields of b in order, and stops at the first error. Of integer and value the one of the field's type is set;
// the value is part of b.
func Each(b []byte, field func(number int, integer uint64, value []byte) error) error {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return ErrMalformed
		}
		b = b[n:]
		var integer uint64
		var value []byte
		switch kind {
		case protowire.VarintType:
			integer, n = protowire.ConsumeVarint(b)
		case protowire.Fixed64Type:
			integer, n = protowire.ConsumeFixed64(b)
		case protowire.BytesType:
			value, n = protowire.ConsumeBytes(b)
		default:
			return ErrMalformed
		}
		if n < 0 {
			return ErrMalformed
		}
		b = b[n:]
		if err := field(int(number), integer, value); err != nil {
			return err
		}
	}
	return nil
}
