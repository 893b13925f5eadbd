package xdp

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"
)

// decoded is a UDP datagram as the program may carry it.
type decoded struct {
	from, to netip.AddrPort
	payload  string
	zero     bool // no checksum
	whole    bool // a right one
	hardware bool // one that looks as if it were left to hardware
}

// decode reads an Ethernet frame by the book. Not ok: the program must leave it alone.
func decode(b []byte) (d decoded, ok bool) {
	if len(b) < 14+20+8 || b[0]&1 != 0 {
		return d, false
	}
	ip, udp := b[14:], []byte(nil)
	var from, to netip.Addr
	switch protocol := binary.BigEndian.Uint16(b[12:]); {
	case protocol == 0x0800:
		length, flags := int(binary.BigEndian.Uint16(ip[2:])), binary.BigEndian.Uint16(ip[6:])
		if ip[0] != 0x45 || ip[9] != 17 || flags&^0x4000 != 0 || length < 28 || length > len(ip) {
			return d, false
		}
		from, to, udp = netip.AddrFrom4([4]byte(ip[12:])), netip.AddrFrom4([4]byte(ip[16:])), ip[20:length]
	case protocol == 0x86DD && len(ip) >= 40+8:
		length := int(binary.BigEndian.Uint16(ip[4:]))
		if ip[0]>>4 != 6 || ip[6] != 17 || length < 8 || 40+length > len(ip) {
			return d, false
		}
		from, to, udp = netip.AddrFrom16([16]byte(ip[8:])), netip.AddrFrom16([16]byte(ip[24:])), ip[40:40+length]
	default:
		return d, false
	}
	if int(binary.BigEndian.Uint16(udp[4:])) != len(udp) || len(udp)-8 >= 1600 {
		return d, false
	}
	d.from, d.to = netip.AddrPortFrom(from, binary.BigEndian.Uint16(udp)), netip.AddrPortFrom(to, binary.BigEndian.Uint16(udp[2:]))
	d.payload = string(udp[8:])
	check := binary.BigEndian.Uint16(udp[6:])
	d.zero, d.whole = check == 0, pseudo(ip, udp) == 0xFFFF
	addresses := ip[12:20]
	if from.Is6() {
		addresses = ip[8:40]
	}
	d.hardware = check == checksum(addresses, 17+uint32(len(udp))) && !d.whole
	return d, !(d.zero && from.Is6()) && !d.hardware
}

// expect is what load's flows make of a datagram.
func expect(d decoded) (from, to netip.AddrPort, payload string, ok bool) {
	data, channel := d.payload, 0
	if len(data) >= 4 && data[0]&0xC0 == 0x40 && int(binary.BigEndian.Uint16([]byte(data[2:]))) == len(data)-4 {
		channel, data = int(binary.BigEndian.Uint16([]byte(data))), data[4:]
	}
	type ends struct {
		from, to netip.AddrPort
		channel  int
	}
	const mtu, headers = 1500, 28
	switch (ends{d.from, d.to, channel}) {
	case ends{client, listener, 0x4000}:
		return relayed, peer, data, len(data)+headers <= mtu
	case ends{client, listener, 0x4001}:
		return listener, second, header(0x5002, len(data)) + data, len(data)+4+headers <= mtu
	case ends{client6, listener6, 0x4000}:
		return relayed6, peer6, data, len(data)+headers+20 <= mtu
	}
	switch (ends{d.from, d.to, 0}) {
	case ends{peer, relayed, 0}:
		return listener, client, header(0x4000, len(d.payload)) + d.payload, len(d.payload)+4+headers <= mtu
	case ends{peer6, relayed6, 0}:
		return listener6, client6, header(0x4000, len(d.payload)) + d.payload, len(d.payload)+4+headers+20 <= mtu
	}
	return from, to, "", false
}

// FuzzProgram holds the program in the kernel to a reading of the same packet in Go: it sends exactly what a flow is for, rewritten rightly, and leaves everything
// else as it came. A damaged checksum stays damaged.
func FuzzProgram(f *testing.F) {
	o := load(f, nil)
	hello := header(0x4000, 5) + "hello"
	for _, b := range [][]byte{
		datagram(client, listener, hello), datagram(client, listener, header(0x4001, 5)+"hello"), datagram(client6, listener6, hello),
		datagram(peer, relayed, "hello"), datagram(peer, relayed, hello), datagram(peer6, relayed6, "hello"), datagram(second, listener, hello),
		datagram(client, listener, header(0x4000, 6)+"hello"), datagram(peer, relayed, string(make([]byte, 1468))),
	} {
		for mode := range byte(3) {
			f.Add(b, mode)
		}
	}
	f.Fuzz(func(t *testing.T, packet []byte, mode byte) {
		if len(packet) < 14 || len(packet) > 3000 { // what the kernel takes for a test run
			return
		}
		packet = bytes.Clone(packet)
		if d, ok := decode(packet); ok && mode%3 > 0 { // mutations seldom find a right checksum
			ip, udp := parts(packet)
			copy(udp[6:], []byte{0, 0})
			if mode%3 == 1 || d.from.Addr().Is6() {
				binary.BigEndian.PutUint16(udp[6:], nonzero(^pseudo(ip, udp[:8+len(d.payload)])))
			}
		}
		verdict, out := o.run(t, packet)
		d, ok := decode(packet)
		from, to, payload, forward := expect(d)
		if !ok || !forward {
			if verdict != pass || !bytes.Equal(out, packet) {
				t.Fatalf("verdict %d, changed %v, of what is the system's", verdict, !bytes.Equal(out, packet))
			}
			return
		}
		if verdict != sent {
			t.Fatalf("verdict %d of a packet of a flow", verdict)
		}
		got, _ := decode(out)
		if got.from != from || got.to != to || got.payload != payload || got.zero != d.zero || !d.zero && got.whole != d.whole {
			t.Fatalf("%+v became %+v", d, got)
		}
		if ip, _ := parts(out); ip[0]>>4 == 4 && checksum(ip[:20], 0) != 0xFFFF {
			t.Fatal("a wrong header checksum")
		}
	})
}
