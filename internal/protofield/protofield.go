// Package protofield writes and reads the few forms of protobuf that signed and authenticated messages need, varints, fixed64 and
// bytes, with the field order and the encoding of each value under the caller's control.
//
// Reading does not enforce one encoding; callers do, by comparing what they have read with how they would write it: Same (docs/protocol.md,
// "One encoding").
package protofield

import (
	"bytes"
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

// A Writer takes fields one after the other. It appends them, or compares them with bytes that are there.
type Writer struct {
	out       []byte
	rest      []byte // still to be compared
	comparing bool
	differs   bool
}

// Append appends the fields that write hands to the Writer.
func Append(b []byte, write func(*Writer)) []byte {
	w := Writer{out: b}
	write(&w)
	return w.out
}

// Same reports whether b is what Append would give, without making it: a value may be long, and b not be authenticated yet.
func Same(b []byte, write func(*Writer)) bool {
	w := Writer{rest: b, comparing: true}
	write(&w)
	return !w.differs && len(w.rest) == 0
}

// Varint writes a varint field.
func (w *Writer) Varint(number int, v uint64) {
	if !w.comparing {
		w.out = AppendVarint(w.out, number, v)
		return
	}
	var buffer [20]byte
	w.compare(AppendVarint(buffer[:0], number, v))
}

// Bytes writes a bytes or string field.
func (w *Writer) Bytes(number int, v []byte) {
	if !w.comparing {
		w.out = AppendBytes(w.out, number, v)
		return
	}
	var buffer [20]byte
	tag := protowire.AppendTag(buffer[:0], protowire.Number(number), protowire.BytesType)
	w.compare(protowire.AppendVarint(tag, uint64(len(v))))
	w.compare(v)
}

func (w *Writer) compare(next []byte) {
	rest, same := bytes.CutPrefix(w.rest, next)
	w.rest, w.differs = rest, w.differs || !same
}
