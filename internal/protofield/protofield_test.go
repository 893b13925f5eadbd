package protofield

import (
	"bytes"
	"errors"
	"testing"
)

// A field as Each hands it over.
type field struct {
	number  int
	integer uint64
	value   []byte
}

func read(b []byte) (fields []field, err error) {
	err = Each(b, func(number int, integer uint64, value []byte) error {
		fields = append(fields, field{number, integer, value})
		return nil
	})
	return fields, err
}

func TestEach(t *testing.T) {
	b := AppendVarint(nil, 1, 300)
	b = AppendFixed64(b, 2, 1<<63)
	b = AppendBytes(b, 16, []byte("x"))
	b = AppendBytes(b, 16, nil)
	fields, err := read(b)
	if err != nil || len(fields) != 4 ||
		fields[0].integer != 300 || fields[1].integer != 1<<63 || string(fields[2].value) != "x" || len(fields[3].value) != 0 {
		t.Fatalf("%+v, %v", fields, err)
	}
	for name, b := range map[string][]byte{
		"half a tag":       {0x80},
		"field 0":          {0x00, 1},
		"no varint":        {0x08},
		"endless varint":   {0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01},
		"short fixed64":    {0x09, 1, 2, 3},
		"fixed32":          {0x0d, 1, 2, 3, 4},
		"group":            {0x0b, 0x0c},
		"too long a value": {0x0a, 2, 1},
		"huge length":      {0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f},
	} {
		if _, err := read(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	stop := errors.New("stop")
	if err := Each(b, func(int, uint64, []byte) error { return stop }); err != stop {
		t.Errorf("the caller's error became %v", err)
	}
}

func TestSame(t *testing.T) {
	write := func(w *Writer) {
		w.Varint(1, 300)
		w.Bytes(2, []byte("value"))
		w.Bytes(16, nil)
	}
	b := Append([]byte("in front"), write)[len("in front"):]
	if want := AppendBytes(AppendBytes(AppendVarint(nil, 1, 300), 2, []byte("value")), 16, nil); !bytes.Equal(b, want) {
		t.Fatalf("%x, want %x", b, want)
	}
	if !Same(b, write) {
		t.Error("not the same as itself")
	}
	for i := range b {
		if Same(b[:i], write) {
			t.Errorf("the same when cut to %d bytes", i)
		}
		altered := bytes.Clone(b)
		altered[i] ^= 1
		if Same(altered, write) {
			t.Errorf("the same with byte %d altered", i)
		}
	}
	if Same(append(bytes.Clone(b), 0), write) || Same(append([]byte{0}, b...), write) {
		t.Error("the same with a byte more")
	}
}

func FuzzEach(f *testing.F) {
	f.Add(AppendBytes(AppendFixed64(AppendVarint(nil, 1, 1), 2, 2), 3, []byte("value")))
	f.Fuzz(func(t *testing.T, b []byte) {
		var size int
		fields, err := read(b)
		for _, field := range fields {
			size += 2 + len(field.value) // at least a tag and a length, or an integer
		}
		if size > len(b) || err == nil && len(b) > 0 && size == 0 {
			t.Fatalf("%d fields from %d bytes", len(fields), len(b))
		}
	})
}
