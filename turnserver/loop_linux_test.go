package turnserver

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/pion/stun/v4"
	"golang.org/x/sys/unix"
)

func init() {
	behaviours = append(behaviours,
		behaviour{"joined datagrams", testJoinedDatagrams, carries},
		behaviour{"service class and congestion", testServiceClassAndCongestion, carries},
		behaviour{"don't fragment", testDontFragment, carries})
}

// testDontFragment looks at the IP headers of what peers get. The driver copies the DF bit (RFC 8656 section 16, the preferred behaviour).
// A program does not see it, so what sockets send has the system's: set, with path MTU discovery, after which the system itself makes
// fragments. Either way the packet arrives.
func testDontFragment(t *testing.T, plane string) {
	if os.Getuid() != 0 {
		t.Skip("only root may look at packets")
	}
	s := startRelay(t, plane, nil)
	alice, other := newRawClient(t, s, "alice"), listenOn(t, "127.0.0.2")
	at := addrPort(other.LocalAddr())
	a := relayedAddr(t, alice.mustSucceed(stun.MethodAllocate, udpTransport))
	alice.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(at))
	seen, err := world.watch()
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(seen)
	for _, df := range []bool{false, true} {
		mode := unix.IP_PMTUDISC_DONT
		if df {
			mode = unix.IP_PMTUDISC_DO
		}
		set(t, alice.conn.(*net.UDPConn), unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, mode)
		pass := func() {
			_, _ = alice.conn.Write([]byte("\x40\x00\x00\x04data"))
			_ = other.SetReadDeadline(time.Now().Add(3 * time.Second))
			if _, err := other.Read(make([]byte, 100)); err != nil {
				t.Fatal(err)
			}
		}
		pass()
		found, passed := false, 1
		for b := make([]byte, 2000); !found; {
			n, _, err := unix.Recvfrom(seen, b, unix.MSG_DONTWAIT)
			if err == unix.EAGAIN && passed < 50 { // all that was seen is of others, who may have filled the socket's queue
				pass()
				passed++
				continue
			}
			if err != nil {
				t.Fatalf("the packet is not seen: %v", err)
			}
			if n < 28 || b[0] != 0x45 || b[9] != 17 || netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[12:])), binary.BigEndian.Uint16(b[20:])) != a {
				continue
			}
			found = true
			if got := b[6]&0x40 != 0; got != (df || !world.offloads) {
				t.Errorf("from a client whose packet has DF %v the peer gets one with DF %v", df, got)
			}
		}
	}
}

// watchPackets is a socket that sees the IPv4 packets of this thread's network.
func watchPackets() (int, error) {
	const anything = 0x0008 // ETH_P_IP in network order
	return unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, anything)
}

// testServiceClassAndCongestion: DSCP and ECN of a packet are those of the packet that it came in (RFC 8656 section 16), each way and
// between clients. The portable data plane does not know them.
func testServiceClassAndCongestion(t *testing.T, plane string) {
	for _, family := range []struct {
		name, relay, peer     string
		level, field, receive int
	}{
		{"IPv4", "127.0.0.1:0", "127.0.0.2", unix.IPPROTO_IP, unix.IP_TOS, unix.IP_RECVTOS},
		{"IPv6", "[::1]:0", "::1", unix.IPPROTO_IPV6, unix.IPV6_TCLASS, unix.IPV6_RECVTCLASS},
	} {
		t.Run(family.name, func(t *testing.T) {
			s := startRelay(t, plane, func(c *Config) {
				c.UDP, c.AllowPeers = []string{family.relay}, append(prefixes("::1/128"), c.AllowPeers...)
				c.tune.foreign = append(prefixes("::1/128"), c.tune.foreign...)
			})
			alice, bob, other := newRawClient(t, s, "alice"), newRawClient(t, s, "bob"), listenOn(t, family.peer)
			a := relayedAddr(t, alice.mustSucceed(stun.MethodAllocate, udpTransport))
			b := relayedAddr(t, bob.mustSucceed(stun.MethodAllocate, udpTransport))
			alice.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(addrPort(other.LocalAddr())))
			alice.mustSucceed(stun.MethodChannelBind, channelAttr(0x4001), peerAttr(b))
			bob.mustSucceed(stun.MethodCreatePermission, peerAttr(a))
			conns := map[string]*net.UDPConn{"alice": alice.conn.(*net.UDPConn), "bob": bob.conn.(*net.UDPConn), "peer": other}
			for _, c := range conns {
				set(t, c, family.level, family.receive, 1)
			}
			for _, tos := range []int{0, 0xB8, 0x02, 0xBB, 0} { // EF, ECT(0), EF with CE
				want := tos
				if plane == planePortable {
					want = 0
				}
				for _, way := range []struct {
					from, to string
					send     func()
				}{
					{"alice", "peer", func() { _, _ = alice.conn.Write([]byte{0x40, 0, 0, 1, 'x'}) }},
					{"peer", "alice", func() { _, _ = other.WriteToUDPAddrPort([]byte("x"), a) }},
					{"alice", "bob", func() { _, _ = alice.conn.Write([]byte{0x40, 1, 0, 1, 'x'}) }},
				} {
					set(t, conns[way.from], family.level, family.field, tos)
					way.send()
					buf, oob := make([]byte, 100), make([]byte, 100)
					_ = conns[way.to].SetReadDeadline(time.Now().Add(3 * time.Second))
					_, n, _, _, err := conns[way.to].ReadMsgUDPAddrPort(buf, oob)
					if err != nil {
						t.Fatal(err)
					}
					messages, err := unix.ParseSocketControlMessage(oob[:n])
					if err != nil || len(messages) != 1 || int(messages[0].Data[0]) != want {
						t.Errorf("%s to %s: %v, %v, want %#x", way.from, way.to, messages, err, want)
					}
				}
			}
		})
	}
}

func set(t *testing.T, c *net.UDPConn, level, option, value int) {
	t.Helper()
	raw, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if e := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), level, option, value) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
}

// testJoinedDatagrams: a burst that the sender hands to the kernel as one (UDP_SEGMENT) arrives as its datagrams, a shorter last one too,
// whichever of the ends can take it joined.
func testJoinedDatagrams(t *testing.T, plane string) {
	s := startRelay(t, plane, nil)
	alice, other := newRawClient(t, s, "alice"), listenOn(t, "127.0.0.2")
	relayed := relayedAddr(t, alice.mustSucceed(stun.MethodAllocate, udpTransport))
	alice.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(addrPort(other.LocalAddr())))
	const size, count, last = 1000, 30, 333
	conn := alice.conn.(*net.UDPConn)
	set(t, conn, unix.IPPROTO_UDP, unix.UDP_SEGMENT, 4+size)
	set(t, other, unix.IPPROTO_UDP, unix.UDP_SEGMENT, size)
	set(t, other, unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<20)
	set(t, conn, unix.SOL_SOCKET, unix.SO_RCVBUF, 1<<20)
	var up, down []byte
	for i := range count {
		n := size
		if i == count-1 {
			n = last
		}
		data := bytes.Repeat([]byte{byte(i + 1)}, n)
		up = append(append(up, 0x40, 0, byte(n>>8), byte(n)), data...)
		down = append(down, data...)
	}
	if _, err := conn.Write(up); err != nil {
		t.Fatal(err)
	}
	if _, err := other.WriteToUDPAddrPort(down, relayed); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 4000)
	for i := range count {
		n := size
		if i == count-1 {
			n = last
		}
		want := bytes.Repeat([]byte{byte(i + 1)}, n)
		_ = other.SetReadDeadline(time.Now().Add(3 * time.Second))
		if got, err := other.Read(buf); err != nil || !bytes.Equal(buf[:got], want) {
			t.Fatalf("packet %d to the peer: %d bytes, %v", i, got, err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(3 * time.Second))
		if got, err := conn.Read(buf); err != nil || !bytes.HasPrefix(buf[4:got], want) || got > 4+(n+3)&^3 { // padded or not
			t.Fatalf("packet %d to the client: %d bytes, %v", i, got, err)
		}
	}
}

// TestDeparturesAreWhole: datagrams for several destinations, of all sizes, headed and not, arrive as they were posted, joined or one by
// one.
func TestDeparturesAreWhole(t *testing.T) {
	for name, whole := range map[string]bool{"joined": false, "one by one": true} {
		t.Run(name, func(t *testing.T) {
			from, to := listenOn(t, "127.0.0.1"), []*net.UDPConn{listenOn(t, "127.0.0.2"), listenOn(t, "127.0.0.2")}
			fd, err := duplicate(from)
			if err != nil {
				t.Fatal(err)
			}
			o := &outlet{fd: fd}
			defer o.shut()
			d := &departures{whole: whole}
			var want [2][][]byte
			memory := bytes.Repeat([]byte("0123456789"), 7000)
			for i, size := range []int{5, 5, 5, 3, 3, 0, 0, 7, 9, 9, 9, 9, 65_000, 1, 1, 1, 1000, 1000, 1000} {
				which := i / 4 % 2
				p := datagram{data: memory[i : i+size], to: addrPort(to[which].LocalAddr()), tos: byte(i / 6 * 4)}
				all := p.data
				if i%3 == 0 {
					p.headed, p.head = true, [4]byte{1, 2, 3, byte(i)}
					all = append(p.head[:], all...)
				}
				want[which] = append(want[which], all)
				d.post(o, p)
			}
			sent := 0
			o.sent = func(packets, _, lost int) { sent += packets + lost*1000 }
			d.flush()
			if sent != len(want[0])+len(want[1]) {
				t.Errorf("%d sent", sent)
			}
			buf := make([]byte, 1<<16)
			for i := range to {
				for _, w := range want[i] {
					_ = to[i].SetReadDeadline(time.Now().Add(3 * time.Second))
					if n, err := to[i].Read(buf); err != nil || !bytes.Equal(buf[:n], w) {
						t.Fatalf("%d bytes, want %d, %v", n, len(w), err)
					}
				}
			}
		})
	}
}

// TestDescriptorsAreGivenBack: allocations under traffic come and go, by their clients' wish and by time, and leave no descriptor and no
// goroutine.
func TestDescriptorsAreGivenBack(t *testing.T) {
	s := startRelay(t, planeAuto, nil)
	other := listenOn(t, "127.0.0.2")
	open := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	var clients []*rawClient
	for range 20 {
		clients = append(clients, newRawClient(t, s, "alice"))
	}
	before := open()
	for round := range 3 {
		var relayed []netip.AddrPort
		for _, c := range clients {
			relayed = append(relayed, relayedAddr(t, c.mustSucceed(stun.MethodAllocate, udpTransport, lifetime(1))))
			c.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(addrPort(other.LocalAddr())))
		}
		for i, c := range clients {
			for range 10 {
				_, _ = c.conn.Write([]byte{0x40, 0, 0, 1, 'x'})
				_, _ = other.WriteToUDPAddrPort([]byte("x"), relayed[i])
			}
			if i%2 == round%2 {
				c.mustSucceed(stun.MethodRefresh, lifetime(0))
			}
		}
		eventually(t, "all are gone", func() bool { return len(relaysOf(s)) == 0 })
	}
	eventually(t, "all descriptors are closed", func() bool { return open() <= before })
	for _, u := range s.udp {
		l := u.(*loop)
		l.mu.Lock()
		if len(l.ports) > 0 {
			t.Errorf("%d ports are still known", len(l.ports))
		}
		l.mu.Unlock()
	}
}

// FuzzDataIndication holds our Data indications to pion's reader.
func FuzzDataIndication(f *testing.F) {
	f.Add([]byte("data"), "9.9.9.9:7", 0)
	f.Add([]byte{}, "[2600::1]:65535", 40)
	f.Fuzz(func(t *testing.T, data []byte, peer string, before int) {
		from, err := netip.ParseAddrPort(peer)
		if err != nil || from.Addr().Zone() != "" || len(data) >= maxDatagram || before < 0 || before > 1000 {
			return
		}
		from = plain(from)
		memory := make([]byte, before&^3)
		m := &stun.Message{Raw: appendDataIndication(memory, from, data)[len(memory):]}
		if err := m.Decode(); err != nil || m.Type != stun.NewType(stun.MethodData, stun.ClassIndication) {
			t.Fatalf("%v, %v", m, err)
		}
		var x stun.XORMappedAddress
		got, err := m.Get(stun.AttrData)
		if err != nil || !bytes.Equal(got, data) || x.GetFromAs(m, stun.AttrXORPeerAddress) != nil || addrPort(&net.UDPAddr{IP: x.IP, Port: x.Port}) != from {
			t.Fatalf("%q from %v, %v", got, x, err)
		}
	})
}

// FuzzControl: what the kernel says beside a datagram is taken apart without looking past its end.
func FuzzControl(f *testing.F) {
	var c control
	f.Add(append([]byte(nil), controlBytes(&c)[:c.put(0, unix.SOL_UDP, unix.UDP_GRO, 4, 100)]...))
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	a := newArrivals()
	f.Fuzz(func(t *testing.T, b []byte) {
		n := copy(controlBytes(&a.control[0]), b)
		a.headers[0].SetControllen(n)
		a.headers[0].n = 1000
		r := a.run(0)
		for total := 0; len(r.data) > 0; {
			if total += len(r.next()); total > 1000 {
				t.Fatal("more than there is")
			}
		}
	})
}

// FuzzSockaddr: an address is the same after the way through the kernel's form, by sockets of either family; and nothing that the kernel
// could say is misread.
func FuzzSockaddr(f *testing.F) {
	f.Add([]byte{2, 0, 1, 2, 127, 0, 0, 1}, true)
	f.Add([]byte{10, 0, 1, 2, 0, 0, 0, 0, 0x20, 1, 0xd, 0xb8, 15: 0, 23: 1}, true)
	f.Fuzz(func(t *testing.T, b []byte, v6 bool) {
		var name, again [sockaddrSize]byte
		copy(name[:], b)
		a := readSockaddr(&name)
		if !a.IsValid() || !v6 && a.Addr().Is6() {
			return
		}
		writeSockaddr(&again, a, v6)
		if got := readSockaddr(&again); got != a {
			t.Fatalf("%v became %v", a, got)
		}
	})
}
