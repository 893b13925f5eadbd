package xdp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// These tests run the program in the kernel on single packets (BPF_PROG_TEST_RUN), on no interface.

const (
	drop = 1
	pass = 2
	sent = 3
)

var (
	client   = netip.MustParseAddrPort("192.0.2.10:1111")
	second   = netip.MustParseAddrPort("192.0.2.11:2222")
	listener = netip.MustParseAddrPort("192.0.2.1:3478")
	relayed  = netip.MustParseAddrPort("192.0.2.1:50000")
	outer    = netip.MustParseAddrPort("198.51.100.1:50000") // relayed, as a NAT shows it
	outer2   = netip.MustParseAddrPort("198.51.100.1:50001")
	peer     = netip.MustParseAddrPort("203.0.113.9:9999")
	gateway  = netip.MustParseAddr("192.0.2.254")

	client6   = netip.MustParseAddrPort("[2001:db8::10]:1111")
	listener6 = netip.MustParseAddrPort("[2001:db8::1]:3478")
	relayed6  = netip.MustParseAddrPort("[2001:db8::1]:50000")
	peer6     = netip.MustParseAddrPort("[2001:db8:9::9]:9999")
	gateway6  = netip.MustParseAddr("2001:db8::254")

	here, router = [6]byte{2, 0, 0, 0, 0, 1}, [6]byte{2, 0, 0, 0, 0, 2}
)

// load makes an Offload with a channel 0x4000 to peer, 0x4001 to another client and its 0x5002 back, and the same 0x4000 in IPv6.
func load(t testing.TB, change func(*Config)) *Offload {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root may load programs into the kernel")
	}
	cfg := Config{Flows: 64, Accounts: 4, LongestDatagram: 1600}
	if change != nil {
		change(&cfg)
	}
	o, err := Load(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	if err := o.SetClock(time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, g := range []netip.Addr{gateway, gateway6} {
		n, h := neighbour{g.As16(), 1}, hardware{router, here} // a test run comes in by interface 1
		if err := o.near.Put(&n, &h); err != nil {
			t.Fatal(err)
		}
	}
	until := time.Now().Add(time.Minute)
	way, way6 := Route{next: gateway, out: 1, mtu: 1500}, Route{next: gateway6, out: 1, mtu: 1500}
	put(t, o, Key{Remote: client, Local: listener, Channel: 0x4000}, Flow{From: relayed, To: peer, Until: until, Route: way})
	put(t, o, Key{Remote: peer, Local: relayed}, Flow{From: listener, To: client, Channel: 0x4000, Until: until, Route: way})
	put(t, o, Key{Remote: client, Local: listener, Channel: 0x4001}, Flow{From: outer, To: outer2, Hairpin: true, Until: until})
	put(t, o, Key{Remote: outer, Local: outer2, Inside: true}, Flow{From: listener, To: second, Channel: 0x5002, Until: until, Payers: [Payers]uint32{1}, Route: way})
	put(t, o, Key{Remote: client6, Local: listener6, Channel: 0x4000}, Flow{From: relayed6, To: peer6, Until: until, Route: way6})
	put(t, o, Key{Remote: peer6, Local: relayed6}, Flow{From: listener6, To: client6, Channel: 0x4000, Until: until, Route: way6})
	return o
}

func put(t testing.TB, o *Offload, k Key, f Flow) {
	t.Helper()
	if err := o.Put(k, f); err != nil {
		t.Fatal(err)
	}
}

// run gives the program a packet and returns its verdict and the packet as it leaves.
func (o *Offload) run(t testing.TB, packet []byte) (uint32, []byte) {
	t.Helper()
	verdict, out, err := o.program.Test(packet)
	if err != nil {
		t.Fatal(err)
	}
	return verdict, out
}

// datagram is a whole Ethernet frame.
func datagram(from, to netip.AddrPort, payload string, change ...func([]byte)) []byte {
	b := append(append([]byte(nil), here[:]...), router[:]...)
	length := uint16(8 + len(payload))
	if from.Addr().Is4() {
		b = append(b, 8, 0, 0x45, 0xBB)
		b = binary.BigEndian.AppendUint16(b, 20+length)
		b = append(b, 0x12, 0x34, 0, 0, 7, 17, 0, 0)
	} else {
		b = append(b, 0x86, 0xDD, 0x6B, 0xB1, 0x23, 0x45)
		b = binary.BigEndian.AppendUint16(b, length)
		b = append(b, 17, 7)
	}
	b = append(append(b, from.Addr().AsSlice()...), to.Addr().AsSlice()...)
	b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, from.Port()), to.Port())
	b = append(binary.BigEndian.AppendUint16(b, length), 0, 0)
	b = append(b, payload...)
	ip, udp := parts(b)
	if from.Addr().Is4() {
		binary.BigEndian.PutUint16(ip[10:], ^checksum(ip[:20], 0))
	}
	binary.BigEndian.PutUint16(udp[6:], nonzero(^pseudo(ip, udp)))
	for _, c := range change {
		c(b)
	}
	return b
}

func parts(frame []byte) (ip, udp []byte) {
	ip = frame[14:]
	if ip[0]>>4 == 4 {
		return ip, ip[20:]
	}
	return ip, ip[40:]
}

// pseudo is the sum of a UDP datagram with its pseudo-header.
func pseudo(ip, udp []byte) uint16 {
	addresses := ip[12:20]
	if ip[0]>>4 == 6 {
		addresses = ip[8:40]
	}
	return checksum(udp, uint32(checksum(addresses, 17+uint32(binary.BigEndian.Uint16(udp[4:])))))
}

func checksum(b []byte, sum uint32) uint16 {
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) > 0 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xFFFF {
		sum = sum>>16 + sum&0xFFFF
	}
	return uint16(sum)
}

func nonzero(sum uint16) uint16 {
	if sum == 0 {
		return 0xFFFF
	}
	return sum
}

func header(channel, length int) string {
	return string([]byte{byte(channel >> 8), byte(channel), byte(length >> 8), byte(length)})
}

// TestForwarding: what leaves is the datagram with the right ends and lengths and right checksums, in class, congestion marks and DF as it came.
func TestForwarding(t *testing.T) {
	o := load(t, nil)
	df := func(b []byte) {
		b[14+6] |= 0x40
		b[14+10], b[14+11] = 0, 0
		binary.BigEndian.PutUint16(b[14+10:], ^checksum(b[14:34], 0))
	}
	noSum := func(b []byte) { _, udp := parts(b); udp[6], udp[7] = 0, 0 }
	for _, c := range []struct {
		name     string
		in       []byte
		from, to netip.AddrPort
		payload  string
	}{
		{"to the peer", datagram(client, listener, header(0x4000, 5)+"hello"), relayed, peer, "hello"},
		{"to the peer, nothing", datagram(client, listener, header(0x4000, 0)), relayed, peer, ""},
		{"to the peer, DF", datagram(client, listener, header(0x4000, 5)+"hello", df), relayed, peer, "hello"},
		{"to the peer, no checksum", datagram(client, listener, header(0x4000, 5)+"hello", noSum), relayed, peer, "hello"},
		{"from the peer", datagram(peer, relayed, "hello"), listener, client, header(0x4000, 5) + "hello"},
		{"from the peer, nothing", datagram(peer, relayed, ""), listener, client, header(0x4000, 0)},
		{"from the peer, like ChannelData", datagram(peer, relayed, header(0x4000, 1)+"x"), listener, client, header(0x4000, 5) + header(0x4000, 1) + "x"},
		{"from the peer, DF", datagram(peer, relayed, "hello", df), listener, client, header(0x4000, 5) + "hello"},
		{"between clients", datagram(client, listener, header(0x4001, 5)+"hello"), listener, second, header(0x5002, 5) + "hello"},
		{"to the peer, IPv6", datagram(client6, listener6, header(0x4000, 5)+"hello"), relayed6, peer6, "hello"},
		{"from the peer, IPv6", datagram(peer6, relayed6, "hell"), listener6, client6, header(0x4000, 4) + "hell"},
	} {
		t.Run(c.name, func(t *testing.T) {
			verdict, out := o.run(t, c.in)
			if verdict != sent {
				t.Fatalf("verdict %d", verdict)
			}
			want := datagram(c.from, c.to, c.payload, func(b []byte) {
				copy(b, router[:])
				copy(b[6:], here[:])
				if c.from.Addr().Is6() {
					b[15], b[16], b[17], b[14+7] = 0xB0, 0, 0, 64 // the flow label was the sender's
					return
				}
				b[14+6], b[14+8] = c.in[14+6], 64
				copy(b[14+4:], out[14+4:14+6]) // any id
				if b[14+6]&0x40 != 0 {
					b[14+4], b[14+5] = 0, 0
				}
				b[14+10], b[14+11] = 0, 0
				binary.BigEndian.PutUint16(b[14+10:], ^checksum(b[14:34], 0))
			})
			if _, udp := parts(c.in); udp[6] == 0 && udp[7] == 0 {
				noSum(want)
			}
			if !bytes.Equal(out[:min(len(out), len(want))], want) {
				t.Errorf("got\n% x, want\n% x", out, want)
			}
		})
	}
	if got, want := o.Carried(), [2]Tally{{6, 25}, {6, 24}}; got != want {
		t.Errorf("counted %v, want %v", got, want)
	}
}

// TestChecksumThatLooksUnfinished: a complete checksum that happens to be the sum of the pseudo-header is recognised as complete.
func TestChecksumThatLooksUnfinished(t *testing.T) {
	o := load(t, nil)
	for _, size := range []int{4, 7, 1198, 1201} {
		var found []byte
		for i := 0; ; i++ {
			if i == 1<<16 {
				t.Fatal("there is none")
			}
			data := make([]byte, size)
			binary.BigEndian.PutUint16(data[2:], uint16(i))
			found = datagram(peer, relayed, string(data))
			if ip, udp := parts(found); binary.BigEndian.Uint16(udp[6:]) == checksum(ip[12:20], 17+uint32(8+size)) {
				break
			}
		}
		verdict, out := o.run(t, found)
		if verdict != sent {
			t.Fatalf("%d bytes: verdict %d", size, verdict)
		}
		if ip, udp := parts(out); pseudo(ip, udp) != 0xFFFF {
			t.Errorf("%d bytes: the checksum is wrong", size)
		}
	}
}

// TestLeftToTheSystem: everything else goes on as it came.
func TestLeftToTheSystem(t *testing.T) {
	o := load(t, nil)
	hello := header(0x4000, 5) + "hello"
	at := func(offset int, value ...byte) func([]byte) { return func(b []byte) { copy(b[offset:], value) } }
	const ip, udp = 14, 34
	for name, packet := range map[string][]byte{
		"another client":                datagram(second, listener, hello),
		"another port":                  datagram(client, relayed, hello),
		"another channel":               datagram(client, listener, header(0x4002, 5)+"hello"),
		"a STUN message":                datagram(client, listener, "\x00\x01\x00\x00"+string(make([]byte, 16))),
		"padding":                       datagram(client, listener, hello+"\x00\x00\x00"),
		"less data than it says":        datagram(client, listener, header(0x4000, 6)+"hello"),
		"another peer":                  datagram(second, relayed, "hello"),
		"our own address, from outside": datagram(outer, outer2, "hello"),
		"a fragment":                    datagram(client, listener, hello, at(ip+6, 0x20)),
		"a later fragment":              datagram(client, listener, hello, at(ip+6, 0, 1)),
		"IP options":                    datagram(client, listener, hello, at(ip, 0x46)),
		"TCP":                           datagram(client, listener, hello, at(ip+9, 6)),
		"a VLAN":                        datagram(client, listener, hello, at(12, 0x81, 0)),
		"more length than IP has":       datagram(client, listener, hello, at(udp+4, 0, 99)),
		"more length than there is":     datagram(client, listener, hello, at(udp+4, 0, 99), at(ip+2, 0, 119)),
		"a length of nothing":           datagram(client, listener, hello, at(udp+4, 0, 0), at(ip+2, 0, 20)),
		"Ethernet multicast":            datagram(client, listener, hello, at(0, 1)),
		"too long to become longer":     datagram(peer, relayed, string(make([]byte, 1500-28-3))),
		"longer than the relay carries": datagram(peer, relayed, string(make([]byte, 1600))),
		"extension headers, IPv6":       datagram(client6, listener6, hello, at(ip+6, 0)),
		"no checksum, IPv6":             datagram(client6, listener6, hello, at(ip+46, 0, 0)),
		"IPv6 that says it is IPv4":     datagram(client6, listener6, hello, at(ip, 0x4B)),
		"a checksum for hardware": datagram(client, listener, hello, func(b []byte) {
			ip, udp := parts(b)
			binary.BigEndian.PutUint16(udp[6:], checksum(ip[12:20], 17+uint32(binary.BigEndian.Uint16(udp[4:]))))
		}),
		"short": datagram(client, listener, hello)[:40],
	} {
		if verdict, out := o.run(t, packet); verdict != pass || !bytes.Equal(out, packet) {
			t.Errorf("%s: verdict %d, changed %v", name, verdict, !bytes.Equal(out, packet))
		}
	}
	if c := o.Carried(); c != ([2]Tally{}) {
		t.Errorf("counted %v", c)
	}
}

// TestSaysWhy: each packet that is left to the system counts for one reason.
func TestSaysWhy(t *testing.T) {
	o := load(t, func(c *Config) { c.Rates[0] = Rate{Byte: time.Hour, ByteBurst: 20 * time.Hour} })
	hello := header(0x4000, 5) + "hello"
	there := datagram(client, listener, hello)
	flow := Flow{
		From: relayed, To: peer, Until: time.Now().Add(time.Minute), Payers: [Payers]uint32{3},
		Route: Route{next: gateway, out: 1, mtu: 1500},
	}
	changed := func(change func(*Flow)) func() {
		return func() {
			f := flow
			change(&f)
			put(t, o, Key{Remote: client, Local: listener, Channel: 0x4000}, f)
		}
	}
	hairpin := func(f *Flow) { f.From, f.To, f.Hairpin = outer2, outer, true }
	want := make(map[string]uint64)
	for _, c := range []struct {
		reason  string
		prepare func()
		packet  []byte
	}{
		{"", nil, there},
		{"not_udp", nil, datagram(client, listener, hello, func(b []byte) { b[14+9] = 6 })},
		{"not_udp", nil, datagram(client, listener, hello, func(b []byte) { b[12], b[13] = 8, 6 })}, // ARP
		{"size", nil, datagram(client, listener, string(make([]byte, 1600)))},
		{"size", nil, datagram(peer, relayed, string(make([]byte, 1500-28-3)))},
		{"checksum", nil, datagram(client, listener, hello, func(b []byte) {
			ip, udp := parts(b)
			binary.BigEndian.PutUint16(udp[6:], checksum(ip[12:20], 17+uint32(binary.BigEndian.Uint16(udp[4:]))))
		})},
		{"no_flow", nil, datagram(second, listener, hello)},
		{"expired", changed(func(f *Flow) { f.Until = time.Now().Add(-time.Second) }), there},
		{"other_end", changed(hairpin), there},
		{"neighbour", changed(func(f *Flow) { f.Route.next = peer.Addr() }), there},
		{"interface", changed(func(f *Flow) { f.Route.out, f.Route.leave = 2, sentBack }), there},
		{"limit", changed(func(*Flow) {
			o.Account(3)[0][0].Store(time.Now().Add(18 * time.Hour).UnixNano())
		}), there},
	} {
		if c.prepare != nil {
			c.prepare()
		}
		verdict, _ := o.run(t, c.packet)
		if (verdict == sent) != (c.reason == "") {
			t.Errorf("%q: verdict %d", c.reason, verdict)
		}
		if c.reason != "" {
			want[c.reason]++
		}
		for i, n := range o.Passed() {
			if n != want[Reasons[i]] {
				t.Errorf("after %q: %d for %s, want %d", c.reason, n, Reasons[i], want[Reasons[i]])
			}
		}
	}
}

// TestFlowsEnd: at their time, by themselves; and by word of the relay. Between clients either end counts.
func TestFlowsEnd(t *testing.T) {
	o := load(t, nil)
	there, across := datagram(client, listener, header(0x4000, 1)+"x"), datagram(client, listener, header(0x4001, 1)+"x")
	expect := func(when string, packet []byte, want uint32) {
		t.Helper()
		if got, _ := o.run(t, packet); got != want {
			t.Errorf("%s: verdict %d, want %d", when, got, want)
		}
	}
	expect("before", there, sent)
	expect("before", across, sent)
	if err := o.SetClock(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	expect("after their time", there, pass)
	expect("after their time", across, pass)
	if err := o.SetClock(time.Now()); err != nil {
		t.Fatal(err)
	}
	expect("once more", across, sent)
	o.Delete(Key{Remote: outer, Local: outer2, Inside: true})
	expect("without the other end", across, pass)
	expect("another", there, sent)
	o.Delete(Key{Remote: client, Local: listener, Channel: 0x4000})
	expect("deleted", there, pass)

	gone := neighbour{gateway.As16(), 1}
	back := datagram(peer, relayed, "x")
	expect("with a neighbour", back, sent)
	if err := o.near.Delete(&gone); err != nil {
		t.Fatal(err)
	}
	expect("without", back, pass)
}

// TestBandwidth: buckets are those of the allocation, each direction has one, and between clients both ends pay or none.
func TestBandwidth(t *testing.T) {
	o := load(t, func(c *Config) { c.Rates[0] = Rate{Byte: time.Hour, ByteBurst: 100 * time.Hour} })
	count := func(packet []byte) (n int) {
		for range 30 {
			if verdict, _ := o.run(t, packet); verdict == sent {
				n++
			}
		}
		return n
	}
	there, back := datagram(client, listener, header(0x4000, 10)+"0123456789"), datagram(peer, relayed, "0123456789")
	across := datagram(client, listener, header(0x4001, 10)+"0123456789")
	now := time.Now().UnixNano()
	o.Account(0)[0][0].Store(now + int64(50*time.Hour)) // what the sockets have spent
	o.Account(1)[1][0].Store(now + int64(80*time.Hour))
	if n := count(across); n != 2 {
		t.Errorf("%d between clients, want 2", n)
	}
	if n := count(there); n != 3 { // the refused ones between clients cost nothing
		t.Errorf("%d to the peer, want 3", n)
	}
	if n := count(back); n != 10 {
		t.Errorf("%d from the peer, want 10", n)
	}
	if full := o.Account(0)[1][0].Load() - now; full < int64(99*time.Hour) || full > int64(101*time.Hour) {
		t.Errorf("the account says %v", time.Duration(full))
	}
}

// TestPayers: the accounts of a flow, with bounds of bytes and of packets, all pay for a packet or none does; and between clients neither do those of the other end.
func TestPayers(t *testing.T) {
	const start = 100 // bytes and packets in each account, a packet of 10 bytes for each
	o := load(t, func(c *Config) {
		for i := range c.Rates {
			c.Rates[i] = Rate{Byte: time.Hour, ByteBurst: start * time.Hour, Packet: 10 * time.Hour, PacketBurst: start * time.Hour}
		}
		c.Accounts = 6
	})
	until, way := time.Now().Add(time.Minute), Route{next: gateway, out: 1, mtu: 1500}
	payers, others := [Payers]uint32{0, 1, 2}, [Payers]uint32{3, 4, 5}
	put(t, o, Key{Remote: client, Local: listener, Channel: 0x4000}, Flow{From: relayed, To: peer, Until: until, Route: way, Payers: payers})
	put(t, o, Key{Remote: client, Local: listener, Channel: 0x4001}, Flow{From: outer, To: outer2, Hairpin: true, Until: until, Payers: payers})
	put(t, o, Key{Remote: outer, Local: outer2, Inside: true}, Flow{From: listener, To: second, Channel: 0x5002, Until: until, Route: way, Payers: others})
	there := datagram(client, listener, header(0x4000, 10)+"0123456789")
	across := datagram(client, listener, header(0x4001, 10)+"0123456789")
	for account := range uint32(6) {
		for kind := range 2 {
			direction, packet := 0, there
			if account > 2 {
				direction, packet = 1, across
			}
			now := time.Now().UnixNano()
			for n := range uint32(6) {
				for d := range 2 {
					o.Account(n)[d][0].Store(now)
					o.Account(n)[d][1].Store(now)
				}
			}
			o.Account(account)[direction][kind].Store(now + int64(75*time.Hour)) // two packets are left
			passed := 0
			for range 5 {
				if verdict, _ := o.run(t, packet); verdict == sent {
					passed++
				}
			}
			if passed != 2 {
				t.Errorf("account %d, bucket %d: %d packets passed, want 2", account, kind, passed)
			}
			for n := range uint32(6) {
				for d := range 2 {
					for k := range 2 {
						spent := time.Duration(o.Account(n)[d][k].Load() - now)
						want := time.Duration(0)
						if d == 0 && n < 3 || d == 1 && n >= 3 && account > 2 {
							want = 20 * time.Hour
						}
						if n == account && d == direction && k == kind {
							want += 75 * time.Hour
						}
						if spent < want || spent > want+time.Minute {
							t.Errorf("account %d, bucket %d: of account %d, direction %d, bucket %d %v is spent, want %v", account, kind, n, d, k, spent, want)
						}
					}
				}
			}
		}
	}
}

// TestFull: what finds no room is an error, and takes nothing from the others.
func TestFull(t *testing.T) {
	o := load(t, func(c *Config) { c.Flows = 6 })
	err := o.Put(Key{Remote: second, Local: listener, Channel: 0x4000}, Flow{From: relayed, To: peer})
	if !errors.Is(err, unix.E2BIG) {
		t.Errorf("error %v", err)
	}
	if verdict, _ := o.run(t, datagram(client, listener, header(0x4000, 1)+"x")); verdict != sent || o.Flows() != 6 {
		t.Errorf("verdict %d, %d flows", verdict, o.Flows())
	}
}

// BenchmarkProgram is the program alone: what it adds to a packet of each kind. The kernel runs it again on what the last run made, so here flows
// lead in a circle: to a peer and back again as if from one, and from client to client.
func BenchmarkProgram(b *testing.B) {
	data := string(make([]byte, 172))
	for name, packet := range map[string][]byte{
		"peers":    datagram(client, listener, header(0x4000, 172)+data),
		"hairpin":  datagram(client, listener, header(0x4001, 172)+data),
		"stranger": datagram(second, listener, header(0x4000, 172)+data),
	} {
		b.Run(name, func(b *testing.B) {
			o := load(b, nil)
			until, way := time.Now().Add(time.Hour), Route{next: gateway, out: 1, mtu: 1500}
			put(b, o, Key{Remote: relayed, Local: peer}, Flow{From: client, To: listener, Channel: 0x4000, Until: until, Route: way})
			put(b, o, Key{Remote: listener, Local: second, Channel: 0x5002}, Flow{From: outer, To: outer2, Hairpin: true, Until: until})
			const runs = 1_000_000
			_, each, err := o.program.Benchmark(packet, runs, func() {})
			if err != nil {
				b.Fatal(err)
			}
			if c := o.Carried(); name != "stranger" && c[0].Packets+c[1].Packets < runs {
				b.Fatalf("carried %v", c)
			}
			b.ReportMetric(float64(each.Nanoseconds()), "ns/packet")
			b.ReportMetric(0, "ns/op")
		})
	}
}
