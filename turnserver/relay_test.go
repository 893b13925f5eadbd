package turnserver

import (
	"bytes"
	"net"
	"testing"
	"time"

	"github.com/pion/stun/v4"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func exchangeBothWays(t *testing.T, a net.PacketConn, toB net.Addr, b net.PacketConn, toA net.Addr) {
	t.Helper()
	buf := make([]byte, 1500)
	for range 20 {
		for _, way := range []struct {
			from, to net.PacketConn
			addr     net.Addr
			text     string
		}{{a, b, toB, "there"}, {b, a, toA, "back"}} {
			if _, err := way.from.WriteTo([]byte(way.text), way.addr); err != nil {
				t.Fatal(err)
			}
			_ = way.to.SetReadDeadline(time.Now().Add(3 * time.Second))
			n, from, err := way.to.ReadFrom(buf)
			if err != nil || !bytes.Equal(buf[:n], []byte(way.text)) {
				t.Fatalf("%s: %q, %v", way.text, buf[:n], err)
			}
			if want := way.from.LocalAddr().String(); from.String() != want {
				t.Errorf("came from %v, want %v", from, want)
			}
		}
	}
}

// testClientToPeer is the plain case: the other end has an address of its own.
func testClientToPeer(t *testing.T, plane string) {
	s := startRelay(t, plane, nil)
	client := allocate(t, pionClient(t, s, "alice"))
	other := listenOn(t, "127.0.0.2")
	exchangeBothWays(t, client, other.LocalAddr(), other, client.LocalAddr())
	eventually(t, "all packets and bytes are counted", func() bool { // after they are sent
		return testutil.ToFloat64(s.metrics.toPeer) >= 20 && testutil.ToFloat64(s.metrics.fromPeerBytes) >= 20*4
	})
}

// testRelayToRelay is a call with both ends relayed at this server: each is the other's peer, at the relay's own address.
func testRelayToRelay(t *testing.T, plane string) {
	s := startRelay(t, plane, nil)
	alice, bob := allocate(t, pionClient(t, s, "alice")), allocate(t, pionClient(t, s, "bob"))
	// Each opens the path for the other, as ICE checks do.
	for _, first := range []struct {
		from net.PacketConn
		to   net.Addr
	}{{alice, bob.LocalAddr()}, {bob, alice.LocalAddr()}} {
		if _, err := first.from.WriteTo([]byte("open"), first.to); err != nil {
			t.Fatal(err)
		}
	}
	drain(alice)
	drain(bob)
	exchangeBothWays(t, alice, bob.LocalAddr(), bob, alice.LocalAddr())
}

// testIPv6: a client that comes by IPv6 is relayed by IPv6.
func testIPv6(t *testing.T, plane string) {
	s := startRelay(t, plane, func(c *Config) {
		c.UDP = []string{"[::1]:0"}
		c.AllowPeers = prefixes("::1/128")
	})
	alice, bob := newRawClient(t, s, "alice"), newRawClient(t, s, "bob")
	a := relayedAddr(t, alice.mustSucceed(stun.MethodAllocate, udpTransport))
	b := relayedAddr(t, bob.mustSucceed(stun.MethodAllocate, udpTransport))
	if a.Addr() != s.Addrs().UDP[0].Addr() {
		t.Fatalf("relayed address %v", a)
	}
	alice.mustSucceed(stun.MethodCreatePermission, peerAttr(b))
	bob.mustSucceed(stun.MethodCreatePermission, peerAttr(a))
	send(alice, b, "hello")
	if got := bob.next(); !bytes.Contains(got, []byte("hello")) {
		t.Errorf("got % x", got)
	}
	if code := codeOf(alice.request(stun.MethodCreatePermission, peer("9.9.9.9:1"))); code != 443 {
		t.Errorf("an IPv4 peer of an IPv6 allocation: code %d", code)
	}
}

// testRelayToRelayBehindNAT: the public address is on no interface, so it leads nowhere; the relay knows itself by it.
func testRelayToRelayBehindNAT(t *testing.T, plane string) {
	s := startRelay(t, plane, func(c *Config) { c.External = append(c.External, loopback[0].Addr().Next().Next().Next()) }) // 127.0.0.3
	alice, bob := newRawClient(t, s, "alice"), newRawClient(t, s, "bob")
	a := relayedAddr(t, alice.mustSucceed(stun.MethodAllocate, udpTransport))
	b := relayedAddr(t, bob.mustSucceed(stun.MethodAllocate, udpTransport))
	if a.Addr().String() != "127.0.0.3" {
		t.Fatalf("relayed address %v, want the external one", a)
	}
	alice.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(b))
	bob.mustSucceed(stun.MethodChannelBind, channelAttr(0x4001), peerAttr(a))
	_, _ = alice.conn.Write([]byte{0x40, 0x00, 0, 2, 'h', 'i', 0, 0})
	if got := bob.next(); !bytes.HasPrefix(got, []byte{0x40, 0x01, 0, 2, 'h', 'i'}) { // padded or not (RFC 8656 section 12.5)
		t.Errorf("got % x", got)
	}
}

// next is the next thing that arrives, nil if nothing does.
func (c *rawClient) next() []byte {
	buf := make([]byte, 2048)
	_ = c.conn.SetReadDeadline(time.Now().Add(time.Second))
	n, err := c.conn.Read(buf)
	if err != nil {
		return nil
	}
	return buf[:n]
}

func drain(c net.PacketConn) {
	buf := make([]byte, 1500)
	_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
	for {
		if _, _, err := c.ReadFrom(buf); err != nil {
			return
		}
	}
}
