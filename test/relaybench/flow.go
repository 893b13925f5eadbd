//go:build linux

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// traffic is a kind of packets.
type traffic struct {
	size    int
	window  int // packets of one client under way
	burst   int
	joined  bool // a burst is one send (UDP_SEGMENT), and is received as such (UDP_GRO)
	hairpin bool // from client to client
}

// flow is a client whose packets come back to it, from a peer that echoes them; or whose packets go to another client, and stay there.
//
// Each packet carries the number of its flow and its place in it, then a pattern. Both ends check all of it.
type flow struct {
	traffic
	id         uint64
	sockets    []*socket
	client     *session
	peer       *socket
	pattern    []byte // of a payload
	sent       uint64
	up         way // from the client to the peer, or to the other client
	down       way
	arrived    uint64 // at either end
	lost       uint64
	writtenOff uint64 // packets before this one that have not come count as lost
	trip       func(time.Duration)
}

// way is what one end has seen.
type way struct{ expected uint64 }

const (
	number     = 0x4000 // the channel of every client
	numbered   = 16     // bytes of flow and place
	timestamps = 24     // and of the time of sending
)

func (t traffic) open(p *process, n int) (flows []*flow, err error) {
	for i := range n {
		f, err := t.flow(p, i)
		if err != nil {
			closeAll(flows)
			return nil, err
		}
		flows = append(flows, f)
	}
	return flows, nil
}

func (t traffic) flow(p *process, i int) (*flow, error) {
	f := &flow{traffic: t, id: uint64(i), pattern: make([]byte, t.size)}
	for at := range f.pattern {
		f.pattern[at] = byte(at*7 + i)
	}
	slot := 2048
	if t.joined {
		slot = 1 << 16
	}
	var err error
	if p.role != asBare {
		if f.client, err = allocate(i); err != nil {
			return nil, err
		}
	}
	if t.hairpin {
		other, err := allocate(1000 + i)
		if err != nil {
			return nil, err
		}
		f.peer = other.socket
		if err := errors.Join(f.client.bind(number, other.relayed), other.bind(number, f.client.relayed)); err != nil {
			return nil, err
		}
	} else {
		if f.peer, err = open(fmt.Sprint(othersIP, 201+i%50), 0); err != nil {
			return nil, err
		}
		if p.role == asBare {
			f.client, err = forwarded(i, f.peer.local)
		} else {
			err = f.client.bind(number, f.peer.local)
		}
		if err != nil {
			return nil, err
		}
		if err := f.peer.connect(f.client.relayed); err != nil {
			return nil, err
		}
	}
	f.sockets = []*socket{f.client.socket, f.peer}
	for _, s := range f.sockets {
		s.prepare(slot)
		if t.joined {
			if err := unix.SetsockoptInt(s.fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1); err != nil {
				return nil, err
			}
		}
	}
	return f, nil
}

// room is how many more packets may be under way.
func (f *flow) room() int {
	if f.hairpin {
		return f.window - int(f.sent-f.up.expected)
	}
	return f.window - int(f.sent-f.down.expected)
}

// send has the client send n packets.
func (f *flow) send(n int) error {
	now := uint64(time.Now().UnixNano())
	for i := range n {
		b := f.client.slot(i)
		binary.BigEndian.PutUint16(b, number)
		binary.BigEndian.PutUint16(b[2:], uint16(f.size))
		f.fill(b[4:], f.sent+uint64(i), now)
	}
	f.sent += uint64(n)
	return f.client.send(n, 4+f.size, f.joined)
}

func (f *flow) fill(b []byte, place, now uint64) {
	copy(b[:f.size], f.pattern)
	binary.BigEndian.PutUint64(b, f.id)
	binary.BigEndian.PutUint64(b[8:], place)
	binary.BigEndian.PutUint64(b[16:], now)
}

// errLate is of a packet that comes after it was written off.
var errLate = errors.New("late")

// check holds a payload to what was sent.
func (f *flow) check(w *way, b []byte) (sent time.Time, err error) {
	if len(b) != f.size || binary.BigEndian.Uint64(b) != f.id || !bytes.Equal(b[timestamps:], f.pattern[timestamps:]) {
		return sent, fmt.Errorf("a packet of %d bytes that nobody sent", len(b))
	}
	place := binary.BigEndian.Uint64(b[8:])
	if place < f.writtenOff {
		return sent, errLate
	}
	if place < w.expected {
		return sent, fmt.Errorf("packet %d after packet %d", place, w.expected-1)
	}
	f.lost += place - w.expected
	w.expected = place + 1
	f.arrived++
	return time.Unix(0, int64(binary.BigEndian.Uint64(b[16:]))), nil
}

// unwrap takes a ChannelData message apart.
func (f *flow) unwrap(b []byte) ([]byte, error) {
	if len(b) < 4+f.size || binary.BigEndian.Uint16(b) != number || int(binary.BigEndian.Uint16(b[2:])) != f.size || len(b) > 4+(f.size+3)&^3 {
		return nil, errors.New("not ChannelData of the channel")
	}
	return b[4 : 4+f.size], nil
}

// receive takes what has come at both ends, and has the peer echo.
func (f *flow) receive() error {
	if f.hairpin {
		return f.peer.receive(func(b []byte) error {
			b, err := f.unwrap(b)
			if err == nil {
				_, err = f.check(&f.up, b)
			}
			return unlessLate(err)
		})
	}
	echo, places := 0, [batch * 8][2]uint64{}
	err := f.peer.receive(func(b []byte) error {
		sent, err := f.check(&f.up, b)
		if err != nil {
			return unlessLate(err)
		}
		places[echo%len(places)] = [2]uint64{f.up.expected - 1, uint64(sent.UnixNano())}
		echo++
		return nil
	})
	for at := 0; at < echo && err == nil; {
		n := min(echo-at, batch)
		if f.joined {
			n = min(n, f.burst)
		}
		for i := range n {
			f.fill(f.peer.slot(i), places[at+i][0], places[at+i][1])
		}
		err = f.peer.send(n, f.size, f.joined)
		at += n
	}
	if err != nil {
		return err
	}
	return f.client.receive(func(b []byte) error {
		b, err := f.unwrap(b)
		if err != nil {
			return err
		}
		sent, err := f.check(&f.down, b)
		if err == nil && f.trip != nil {
			f.trip(time.Since(sent))
		}
		return unlessLate(err)
	})
}

func unlessLate(err error) error {
	if err == errLate {
		return nil
	}
	return err
}

// writeOff counts what has not come by now as lost.
func (f *flow) writeOff() {
	f.lost += f.sent - f.down.expected
	f.up.expected, f.down.expected, f.writtenOff = f.sent, f.sent, f.sent
}
