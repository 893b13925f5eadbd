package demo

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"
)

// TestSearchFinds shows that a secret is found wherever it lies and whatever part of it, and nothing is found in noise.
func TestSearchFinds(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	noise := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(random.IntN(256))
		}
		return b
	}
	long := noise(1000)
	s, err := newSearch([]secret{{"messages", []byte("call me")}, {"video", long}})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		in   []byte
		kind string
		want int
	}{
		{"noise", noise(1 << 20), "", 0},
		{"a short one at the end", append(noise(77), "call me"...), "messages", 1},
		{"a long one, whole, at an odd offset", append(noise(13), long...), "video", 62},
		{"31 bytes out of the middle", append(append(noise(5), long[333:364]...), noise(9)...), "video", 1},
		{"one byte wrong in a short one", []byte("call mE"), "messages", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			found := map[string]int{}
			s.in(test.in, found)
			if found[test.kind] != test.want || total(found) != test.want {
				t.Errorf("found %v, want %d", found, test.want)
			}
		})
	}
	if _, err := newSearch([]secret{{"messages", []byte("hi")}}); err == nil {
		t.Error("a secret that chance would find was accepted")
	}
}

// TestWebsocketMessages takes a stream apart that was made by hand from RFC 6455 section 5.2.
func TestWebsocketMessages(t *testing.T) {
	frame := func(first byte, payload []byte) []byte {
		mask := [4]byte{1, 2, 3, 4}
		b := []byte{first, 0x80 | 126}
		b = binary.BigEndian.AppendUint16(b, uint16(len(payload)))
		b = append(b, mask[:]...)
		for i, c := range payload {
			b = append(b, c^mask[i%4])
		}
		return b
	}
	stream := []byte("GET /v1/link HTTP/1.1\r\nUpgrade: websocket\r\n\r\n")
	stream = append(stream, frame(0x02, []byte("in two "))...) // binary, more follows
	stream = append(stream, frame(0x89, []byte("ping"))...)    // control frames may come in between
	stream = append(stream, frame(0x80, []byte("pieces"))...)
	stream = append(stream, 0x82, 5, 'p', 'l', 'a', 'i', 'n')
	stream = append(stream, frame(0x82, []byte("cut off"))[:9]...)
	got := websocketMessages(stream)
	if len(got) != 2 || !bytes.Equal(got[0], []byte("in two pieces")) || !bytes.Equal(got[1], []byte("plain")) {
		t.Errorf("got %q", got)
	}
	if websocketMessages([]byte("POST /v1/accounts HTTP/1.1\r\n\r\nbody")) != nil {
		t.Error("a request without upgrade is no websocket")
	}
}

func FuzzWebsocketMessages(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n\x82\x05plain"))
	f.Add([]byte("GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, stream []byte) {
		sum := 0
		for _, message := range websocketMessages(stream) {
			sum += len(message)
		}
		if sum > len(stream) {
			t.Errorf("%d bytes of messages from %d of stream", sum, len(stream))
		}
	})
}

func FuzzRelayed(f *testing.F) {
	f.Add([]byte{0x40, 0, 0, 4, 1, 2, 3, 4})
	f.Add([]byte{0x40, 0, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, datagram []byte) {
		var view relayView
		view.add(datagram)
		if view.datagrams != 1 {
			t.Error("not counted")
		}
	})
}
