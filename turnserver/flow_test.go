package turnserver

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/stun/v4"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// testEndsUnderTraffic ends what lets packets pass, while packets pass in both directions: then none does any more, at once, and what is
// renewed passes again.
func testEndsUnderTraffic(t *testing.T, plane string) {
	for _, c := range []struct {
		name       string
		change     func(*Config)
		end, renew func(alice *rawClient, c *clock, at netip.AddrPort)
	}{
		{"permission expires", nil, func(_ *rawClient, c *clock, _ netip.AddrPort) { c.advance(5*time.Minute + time.Second) },
			func(alice *rawClient, _ *clock, at netip.AddrPort) {
				alice.mustSucceed(stun.MethodCreatePermission, peerAttr(at))
			}},
		{"channel expires", func(cfg *Config) { cfg.tune.channel = 500 * time.Millisecond },
			func(*rawClient, *clock, netip.AddrPort) { time.Sleep(700 * time.Millisecond) },
			func(alice *rawClient, _ *clock, at netip.AddrPort) {
				alice.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(at))
			}},
		{"allocation is deleted", nil, func(alice *rawClient, _ *clock, _ netip.AddrPort) { alice.mustSucceed(stun.MethodRefresh, lifetime(0)) }, nil},
		{"allocation expires", func(cfg *Config) { cfg.tune.lifetime = time.Second },
			func(*rawClient, *clock, netip.AddrPort) { time.Sleep(1200 * time.Millisecond) }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			var now clock
			s := startRelay(t, plane, func(cfg *Config) {
				cfg.tune.now = now.now
				if c.change != nil {
					c.change(cfg)
				}
			})
			alice, other := newRawClient(t, s, "alice"), listenOn(t, "127.0.0.2")
			at := addrPort(other.LocalAddr())
			relayed := relayedAddr(t, alice.mustSucceed(stun.MethodAllocate, udpTransport))
			alice.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(at))
			heard := traffic(t, alice, other, relayed)
			eventually(t, "packets pass", func() bool { return heard.Load() > 50 })
			alice.empty()
			c.end(alice, &now, at)
			settled(t, s)
			before := heard.Load()
			time.Sleep(100 * time.Millisecond)
			if n := heard.Load() - before; n > 0 {
				t.Errorf("%d packets passed afterwards", n)
			}
			if c.renew != nil {
				alice.empty()
				c.renew(alice, &now, at)
				eventually(t, "packets pass again", func() bool { return heard.Load() > before+50 })
			} else {
				eventually(t, "the relay is gone", func() bool { return len(relaysOf(s)) == 0 })
			}
		})
	}
}

// traffic has client and peer send through channel 0x4000 until the test ends, and counts what the peer hears. What the client asks
// meanwhile is answered in between.
func traffic(t *testing.T, client *rawClient, other *net.UDPConn, relayed netip.AddrPort) *atomic.Int64 {
	var heard atomic.Int64
	stop, done := make(chan struct{}), make(chan struct{}, 3)
	t.Cleanup(func() {
		close(stop)
		_ = other.SetReadDeadline(time.Unix(1, 0))
		for range cap(done) {
			<-done
		}
	})
	repeat := func(send func()) {
		defer func() { done <- struct{}{} }()
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				send()
			}
		}
	}
	go repeat(func() { _, _ = client.conn.Write([]byte{0x40, 0, 0, 4, 'd', 'a', 't', 'a'}) })
	go repeat(func() { _, _ = other.WriteToUDPAddrPort([]byte("data"), relayed) })
	go func() {
		defer func() { done <- struct{}{} }()
		buf := make([]byte, 100)
		for {
			if _, err := other.Read(buf); errors.Is(err, os.ErrDeadlineExceeded) {
				return
			}
			heard.Add(1)
		}
	}()
	return &heard
}

// empty reads what has come, so that there is room for an answer.
func (c *rawClient) empty() {
	buf := make([]byte, 2048)
	for n := 0; n < 1000; n++ {
		_ = c.conn.SetReadDeadline(time.Now().Add(100 * time.Microsecond))
		if _, err := c.conn.Read(buf); err != nil {
			return
		}
	}
}

// settled waits until what was under way has been dropped: packets are dropped now.
func settled(t *testing.T, s *Server) {
	m := s.metrics
	dropped := func() float64 {
		return testutil.ToFloat64(m.droppedPermission) + testutil.ToFloat64(m.droppedNoChannel) + testutil.ToFloat64(m.droppedNoAllocation)
	}
	before := dropped()
	eventually(t, "packets are dropped", func() bool { return dropped() > before+20 })
}

// testChannelRebinding: a channel is bound to one peer and a peer to one channel (RFC 8656 section 12.2), until the binding expires.
func testChannelRebinding(t *testing.T, plane string) {
	s := startRelay(t, plane, func(cfg *Config) { cfg.tune.channel = 400 * time.Millisecond })
	alice, first, second := newRawClient(t, s, "alice"), listenOn(t, "127.0.0.2"), listenOn(t, "127.0.0.2")
	alice.mustSucceed(stun.MethodAllocate, udpTransport)
	a, b := peerAttr(addrPort(first.LocalAddr())), peerAttr(addrPort(second.LocalAddr()))
	hears := func(peer *net.UDPConn) bool {
		_, _ = alice.conn.Write([]byte{0x40, 0, 0, 1, 'x'})
		_ = peer.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		_, err := peer.Read(make([]byte, 10))
		return err == nil
	}
	alice.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), a)
	alice.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), a)
	if code := codeOf(alice.request(stun.MethodChannelBind, channelAttr(0x4000), b)); code != 400 {
		t.Errorf("a bound channel to another peer: code %d", code)
	}
	if code := codeOf(alice.request(stun.MethodChannelBind, channelAttr(0x4001), a)); code != 400 {
		t.Errorf("another channel to a bound peer: code %d", code)
	}
	if !hears(first) {
		t.Error("the first peer hears nothing")
	}
	r := relaysOf(s)[0]
	eventually(t, "the channel expires", func() bool { return r.channel(0x4000) == nil })
	alice.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), b)
	if !hears(second) || hears(first) {
		t.Error("the channel leads to its old peer")
	}
}

// testMixedTransports: clients of different listeners hear each other: by UDP on two addresses and on all of them, and by TCP.
func testMixedTransports(t *testing.T, plane string) {
	s := startRelay(t, plane, func(c *Config) {
		overStreams(t, c)
		c.UDP = []string{"127.0.0.1:0", "127.0.0.3:0", ":0"}
	})
	reach := func(network string, to netip.AddrPort, id string) (*rawClient, netip.AddrPort) {
		c := newRawClient(t, s, id)
		conn, err := net.Dial(network, to.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		c.conn = conn
		return c, relayedAddr(t, c.mustSucceed(stun.MethodAllocate, udpTransport))
	}
	var clients []*rawClient
	var relayed []netip.AddrPort
	add := func(network string, to netip.AddrPort) {
		c, at := reach(network, to, fmt.Sprint("user", len(clients)))
		clients, relayed = append(clients, c), append(relayed, at)
	}
	for range 8 { // on a machine with several cores, several loops
		add("udp4", s.Addrs().UDP[0])
	}
	add("udp4", s.Addrs().UDP[1])
	add("udp4", netip.AddrPortFrom(s.Addrs().UDP[0].Addr(), s.Addrs().UDP[2].Port())) // an IPv6 socket that serves IPv4
	add("tcp4", s.Addrs().TCP[0])
	for i, from := range clients {
		for j, to := range clients {
			if i == j {
				continue
			}
			from.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000+uint16(j)), peerAttr(relayed[j]))
			to.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000+uint16(i)), peerAttr(relayed[i]))
			message := []byte{0x40, byte(j), 0, 4, byte(i), byte(j), 'h', 'i'}
			_, _ = from.conn.Write(message)
			if got := to.next(); len(got) < 8 || got[1] != byte(i) || string(got[4:8]) != string(message[4:8]) {
				t.Errorf("from %d to %d: % x", i, j, got)
			}
		}
	}
}

// testUnreachablePeer: errors that the network reports for one peer (ICMP) take nothing from the others.
func testUnreachablePeer(t *testing.T, plane string) {
	s := startRelay(t, plane, nil)
	alice, other, gone := newRawClient(t, s, "alice"), listenOn(t, "127.0.0.2"), listenOn(t, "127.0.0.2")
	alice.mustSucceed(stun.MethodAllocate, udpTransport)
	alice.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(addrPort(other.LocalAddr())))
	alice.mustSucceed(stun.MethodChannelBind, channelAttr(0x4001), peerAttr(addrPort(gone.LocalAddr())))
	_ = gone.Close()
	buf := make([]byte, 10)
	for i := range 50 {
		_, _ = alice.conn.Write([]byte{0x40, 1, 0, 1, 'x'})
		_, _ = alice.conn.Write([]byte{0x40, 0, 0, 1, byte(i)})
		_ = other.SetReadDeadline(time.Now().Add(3 * time.Second))
		if n, err := other.Read(buf); err != nil || n != 1 || buf[0] != byte(i) {
			t.Fatalf("packet %d: % x, %v", i, buf[:n], err)
		}
	}
}

// testSizes: packets of every kind of length pass whole and in order, empty ones too; the longest that are dropped are the same in all data
// planes.
func testSizes(t *testing.T, plane string) {
	s := startRelay(t, plane, nil)
	alice, other := newRawClient(t, s, "alice"), listenOn(t, "127.0.0.2")
	relayed := relayedAddr(t, alice.mustSucceed(stun.MethodAllocate, udpTransport))
	alice.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(addrPort(other.LocalAddr())))
	up, down := make([]byte, 4+1700), make([]byte, 1700)
	buf := make([]byte, 4000)
	sizes := []int{0, 1, 2, 3, 4, 0, 0, 100, 100, 100, 99, 100, 100, 101, 1200, 1200, 1200, 1595, 0, 7}
	for i := range up {
		up[i] = byte(i)
	}
	for i := range down {
		down[i] = byte(i)
	}
	for range 3 {
		for _, n := range append(sizes, 1596, 1599, 1650) {
			binary.BigEndian.PutUint16(up, 0x4000)
			binary.BigEndian.PutUint16(up[2:], uint16(n))
			_, _ = alice.conn.Write(up[:4+n])
			if n != 1596 && n != 1599 {
				_, _ = other.WriteToUDPAddrPort(down[:n], relayed)
			}
		}
		for _, want := range sizes {
			_ = other.SetReadDeadline(time.Now().Add(3 * time.Second))
			n, err := other.Read(buf)
			if err != nil || string(buf[:n]) != string(up[4:4+want]) {
				t.Fatalf("to the peer: %d bytes, want %d, %v", n, want, err)
			}
			_ = alice.conn.SetReadDeadline(time.Now().Add(3 * time.Second))
			n, err = alice.conn.Read(buf)
			if err != nil || n < 4+want || int(binary.BigEndian.Uint16(buf[2:])) != want || string(buf[4:4+want]) != string(down[:want]) {
				t.Fatalf("to the client: %d bytes, want %d, %v", n, want, err)
			}
		}
	}
	eventually(t, "too long ones are counted", func() bool { return testutil.ToFloat64(s.metrics.droppedSize) == 3*(3+1) })
}

// testDataIndications: without a channel the client gets what the peer sent in a Data indication.
func testDataIndications(t *testing.T, plane string) {
	s := startRelay(t, plane, nil)
	alice, other := newRawClient(t, s, "alice"), listenOn(t, "127.0.0.2")
	relayed := relayedAddr(t, alice.mustSucceed(stun.MethodAllocate, udpTransport))
	alice.mustSucceed(stun.MethodCreatePermission, peerAttr(addrPort(other.LocalAddr())))
	for _, want := range []string{"", "a", "ab", "abc", "abcd", string(make([]byte, 1400))} {
		_, _ = other.WriteToUDPAddrPort([]byte(want), relayed)
		m := &stun.Message{Raw: alice.next()}
		if err := m.Decode(); err != nil || m.Type != stun.NewType(stun.MethodData, stun.ClassIndication) {
			t.Fatalf("%q: %v, %v", want, m, err)
		}
		var from stun.XORMappedAddress
		data, err := m.Get(stun.AttrData)
		if err != nil || string(data) != want || from.GetFromAs(m, stun.AttrXORPeerAddress) != nil ||
			addrPort(&net.UDPAddr{IP: from.IP, Port: from.Port}) != addrPort(other.LocalAddr()) {
			t.Errorf("%q from %v, %v", data, from, err)
		}
	}
}
