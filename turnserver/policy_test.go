package turnserver

import (
	"bytes"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/stun/v4"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// forbidden are the kinds of peers that no relay may reach on its own. (own is what the test's relay advertises.)
var forbidden = []struct{ kind, addr string }{
	{"unspecified", "0.0.0.0"},
	{"this network", "0.1.2.3"},
	{"loopback", "127.0.0.1"},
	{"loopback, another", "127.8.8.8"},
	{"RFC 1918, 10/8", "10.1.2.3"},
	{"RFC 1918, 172.16/12", "172.31.255.1"},
	{"RFC 1918, 192.168/16", "192.168.1.1"},
	{"carrier-grade NAT", "100.64.0.1"},
	{"link-local", "169.254.1.1"},
	{"metadata", "169.254.169.254"},
	{"metadata, another cloud's", "100.100.100.200"},
	{"metadata, a third", "168.63.129.16"},
	{"IETF assignments", "192.0.0.8"},
	{"documentation", "192.0.2.1"},
	{"documentation, second", "198.51.100.1"},
	{"documentation, third", "203.0.113.1"},
	{"benchmarking", "198.19.0.1"},
	{"6to4 relays", "192.88.99.1"},
	{"multicast", "224.0.0.1"},
	{"reserved", "240.0.0.1"},
	{"broadcast", "255.255.255.255"},
	{"IPv4-mapped loopback", "::ffff:127.0.0.1"},
	{"IPv4-mapped private", "::ffff:10.0.0.1"},
	{"unspecified, IPv6", "::"},
	{"loopback, IPv6", "::1"},
	{"IPv4-compatible", "::8.8.8.8"},
	{"NAT64 of loopback", "64:ff9b::127.0.0.1"},
	{"NAT64 of a global address", "64:ff9b::8.8.8.8"},
	{"local NAT64", "64:ff9b:1::10.0.0.1"},
	{"discard-only", "100::1"},
	{"Teredo", "2001:0:4136:e378:8000:63bf:80ff:fffe"},
	{"ORCHID", "2001:20::1"},
	{"benchmarking, IPv6", "2001:2::1"},
	{"documentation, IPv6", "2001:db8::1"},
	{"documentation, IPv6, second", "3fff::1"},
	{"6to4 of private", "2002:a00:1::1"},
	{"6to4 of a global address", "2002:808:808::1"},
	{"unique local", "fd00::1"},
	{"metadata, IPv6", "fd00:ec2::254"},
	{"link-local, IPv6", "fe80::1"},
	{"site-local", "fec0::1"},
	{"multicast, IPv6", "ff02::1"},
	{"segment routing", "5f00::1"},
	{"the relay's own address", "11.22.33.44"},
	{"the relay's own address, IPv4-mapped", "::ffff:11.22.33.44"},
	{"the relay's own address, IPv6", "2600::7"},
}

var globalPeers = []string{"8.8.8.8", "1.1.1.1", "100.63.255.255", "100.128.0.1", "172.32.0.1", "198.20.0.1", "223.255.255.255", "2600::8", "2a00:1450::1", "::ffff:8.8.8.8"}

// testForbiddenPeers asks a relay with nothing opened for each of them in every way there is, and then tries to send anyway.
func testForbiddenPeers(t *testing.T, plane string) {
	var now clock
	s := startRelay(t, plane, func(c *Config) {
		c.UDP = []string{"127.0.0.1:0", "[::1]:0"}
		c.AllowPeers, c.tune.now = nil, now.now
		c.External = []netip.Addr{netip.MustParseAddr("11.22.33.44"), netip.MustParseAddr("2600::7")}
	})
	clients := map[byte]*rawClient{1: newRawClient(t, s, "alice"), 2: newRawClient(t, s, "bob")}
	for family, c := range clients {
		c.mustSucceed(stun.MethodAllocate, udpTransport,
			stun.RawAttribute{Type: stun.AttrRequestedAddressFamily, Value: []byte{family, 0, 0, 0}})
	}
	// One relayed address for each family: its own owner must not loop through it either.
	for _, f := range forbidden {
		t.Run(f.kind, func(t *testing.T) {
			addr := netip.MustParseAddr(f.addr)
			if a := addr.Unmap(); s.policy.allows(a) && !s.policy.isOwn(a) {
				t.Error("policy allows it")
			}
			to := peerAttr(netip.AddrPortFrom(addr, 9))
			now.advance(2 * strangerInterval) // for the answers that are not signed
			for family, c := range clients {
				if code := codeOf(c.request(stun.MethodCreatePermission, to)); code != 403 && code != 443 {
					t.Errorf("CreatePermission, family %d: code %d", family, code)
				}
				if code := codeOf(c.request(stun.MethodChannelBind, channelAttr(0x4000), to)); code != 403 && code != 443 {
					t.Errorf("ChannelBind, family %d: code %d", family, code)
				}
			}
			// As if a channel and a permission had slipped through: by channel, by indication, and straight at the relay.
			sent := testutil.ToFloat64(s.metrics.toPeer)
			for _, r := range relaysOf(s) {
				r.bind(0x4000, netip.AddrPortFrom(addr.Unmap(), 9))
				r.permit(addr.Unmap(), time.Now().Add(time.Minute))
				_, _ = r.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 9)))
			}
			for _, c := range clients {
				_, _ = c.conn.Write([]byte{0x40, 0, 0, 1, 'x'})
				send(c, netip.AddrPort(to), "x")
				c.mustSucceed(stun.MethodRefresh) // then what came before it is through
			}
			if testutil.ToFloat64(s.metrics.toPeer) != sent {
				t.Error("a packet left")
			}
			world.carried(t, s, 0)
			for _, r := range relaysOf(s) {
				r.unbind(0x4000)
			}
		})
	}
	for _, a := range globalPeers {
		family := byte(1)
		if netip.MustParseAddr(a).Unmap().Is6() {
			family = 2
		}
		if code := codeOf(clients[family].request(stun.MethodCreatePermission, peerAttr(netip.AddrPortFrom(netip.MustParseAddr(a), 9)))); code != 0 {
			t.Errorf("global peer %s: code %d", a, code)
		}
	}
	// One bad peer spoils the whole request.
	c := clients[1]
	if code := codeOf(c.request(stun.MethodCreatePermission, peer("9.9.9.9:1"), peer("10.0.0.1:1"))); code != 403 {
		t.Errorf("a good and a bad peer: code %d", code)
	}
	for _, r := range relaysOf(s) {
		if r.permits(netip.MustParseAddr("9.9.9.9"), time.Now()) {
			t.Error("the good one of them was let through")
		}
	}
}

// TestOpenedRangesDecodeEmbeddedAddresses: to open NAT64 is not to open what lies behind it.
func TestOpenedRangesDecodeEmbeddedAddresses(t *testing.T) {
	p := &policy{}
	p.local.Store(&localAddrs{
		own:       map[netip.Addr]bool{netip.MustParseAddr("11.22.33.44"): true},
		broadcast: map[netip.Addr]bool{netip.MustParseAddr("10.7.255.255"): true},
	})
	p.open(prefixes("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96", "10.7.0.0/16", "0.0.0.0/8", "224.0.0.0/4", "ff00::/8"))
	for addr, want := range map[string]bool{
		"64:ff9b::8.8.8.8": true, "64:ff9b::127.0.0.1": false, "64:ff9b::10.0.0.1": false, "64:ff9b::10.7.0.1": true,
		"64:ff9b::11.22.33.44": false, "64:ff9b:1::8.8.8.8": true, "64:ff9b:1::192.168.0.1": false,
		"2002:808:808::1": true, "2002:7f00:1::1": false, "::10.0.0.1": false,
		"2001:0:4136:e378:8000:63bf:f7f7:f7f7": true, "2001:0:4136:e378:8000:63bf:80ff:fffe": false,
		"10.7.0.1": true, "10.7.255.255": false, "10.8.0.1": false, "0.0.0.0": false, "224.0.0.1": false, "ff02::1": false,
	} {
		if got := p.allows(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %v, want %v", addr, got, want)
		}
	}
}

// testOwnServicesStayOutOfReach: 127.0.0.0/8 is opened and a service listens on 127.0.0.1, as signaling does in the demo. Neither can a
// client speak to it, by any method, nor can it speak to a client; nor is the relay's own listening port a peer.
func testOwnServicesStayOutOfReach(t *testing.T, plane string) {
	s := startRelay(t, plane, nil)
	service := listenOn(t, "127.0.0.1")
	alice, bob := newRawClient(t, s, "alice"), newRawClient(t, s, "bob")
	a := relayedAddr(t, alice.mustSucceed(stun.MethodAllocate, udpTransport))
	at := addrPort(service.LocalAddr())
	if code := codeOf(alice.request(stun.MethodCreatePermission, peerAttr(at))); code != 403 {
		t.Errorf("permission for the only relayed address: code %d", code)
	}
	b := relayedAddr(t, bob.mustSucceed(stun.MethodAllocate, udpTransport))
	alice.mustSucceed(stun.MethodCreatePermission, peerAttr(b)) // now it must be given, and names no port
	for _, to := range []netip.AddrPort{at, s.Addrs().UDP[0]} {
		if code := codeOf(alice.request(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(to))); code == 0 {
			t.Errorf("a channel was bound to a port that is no allocation")
		}
		send(alice, to, "to the service")
	}
	if _, err := service.WriteToUDPAddrPort([]byte("to the client"), a); err != nil {
		t.Fatal(err)
	}
	eventually(t, "three refusals", func() bool { return testutil.ToFloat64(s.metrics.droppedPeer) >= 3 })
	_ = service.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, _, err := service.ReadFrom(make([]byte, 100)); err == nil {
		t.Errorf("the service received %d bytes", n)
	}
	if got := alice.next(); got != nil {
		t.Errorf("the client received % x", got)
	}
	// The path that the permission was for works.
	bob.mustSucceed(stun.MethodCreatePermission, peerAttr(a))
	send(alice, b, "to bob")
	if got := bob.next(); !bytes.Contains(got, []byte("to bob")) {
		t.Errorf("bob received %q", got)
	}
}

// testLoopbackIsThisMachine: a service bound to all addresses, or to a loopback address that no interface names, such as a resolver's
// 127.0.0.53, is as much out of reach as one on 127.0.0.1. That another client is relayed here changes nothing.
func testLoopbackIsThisMachine(t *testing.T, plane string) {
	s := startRelay(t, plane, nil)
	alice, bob := newRawClient(t, s, "alice"), newRawClient(t, s, "bob")
	a := relayedAddr(t, alice.mustSucceed(stun.MethodAllocate, udpTransport))
	bob.mustSucceed(stun.MethodAllocate, udpTransport)
	for _, bound := range []string{"0.0.0.0", "127.0.0.53"} {
		service := listenOn(t, bound)
		at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.53"), addrPort(service.LocalAddr()).Port())
		if code := codeOf(alice.request(stun.MethodCreatePermission, peerAttr(at))); code != 403 {
			t.Errorf("%s: CreatePermission: code %d", bound, code)
		}
		if code := codeOf(alice.request(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(at))); code != 403 {
			t.Errorf("%s: ChannelBind: code %d", bound, code)
		}
		behind := alice.request(stun.MethodCreatePermission, peer("127.0.0.2:9"), peerAttr(at))
		if code := codeOf(behind); code != 403 {
			t.Errorf("%s: CreatePermission behind another peer: code %d", bound, code)
		}
		// As if a permission had slipped through.
		dropped := testutil.ToFloat64(s.metrics.droppedPeer)
		for _, r := range relaysOf(s) {
			r.permit(at.Addr(), time.Now().Add(time.Minute))
			_, _ = r.WriteTo([]byte("to the service"), net.UDPAddrFromAddrPort(at))
		}
		if _, err := service.WriteToUDPAddrPort([]byte("to the client"), a); err != nil {
			t.Fatal(err)
		}
		eventually(t, "three refusals", func() bool { return testutil.ToFloat64(s.metrics.droppedPeer) >= dropped+3 })
		_ = service.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if n, _, err := service.ReadFrom(make([]byte, 100)); err == nil {
			t.Errorf("%s: the service received %d bytes", bound, n)
		}
	}
}

// TestNetworksOfLoopbackInterfaces: what is put on a loopback interface with a prefix is this machine's as a whole.
func TestNetworksOfLoopbackInterfaces(t *testing.T) {
	l := newLocalAddrs()
	l.add(&net.IPNet{IP: net.ParseIP("10.9.0.1"), Mask: net.CIDRMask(16, 32)}, true)
	l.add(&net.IPNet{IP: net.ParseIP("fd00:9::1"), Mask: net.CIDRMask(64, 128)}, true)
	l.add(&net.IPNet{IP: net.ParseIP("10.8.0.1"), Mask: net.CIDRMask(16, 32)}, false)
	p := &policy{}
	p.local.Store(l)
	for addr, want := range map[string]bool{
		"10.9.0.1": true, "10.9.200.200": true, "fd00:9::2": true, "10.8.0.1": true, "10.8.0.2": false, "10.10.0.1": false, "fd00:8::1": false,
		"127.0.0.1": true, "127.0.0.53": true, "127.255.255.254": true, "::1": true,
	} {
		if got := p.isOwn(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: %v, want %v", addr, got, want)
		}
	}
}

// testPermissionsExpire: five minutes after the last CreatePermission nothing passes, on a channel neither, though pion would let it.
func testPermissionsExpire(t *testing.T, plane string) {
	c := &clock{}
	s := startRelay(t, plane, func(cfg *Config) { cfg.tune.now = c.now })
	alice := newRawClient(t, s, "alice")
	relayed := relayedAddr(t, alice.mustSucceed(stun.MethodAllocate, udpTransport))
	other := listenOn(t, "127.0.0.2")
	at := addrPort(other.LocalAddr())
	hears := func() bool {
		_, _ = alice.conn.Write([]byte{0x40, 0, 0, 4, 'd', 'a', 't', 'a'})
		_ = other.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		_, _, err := other.ReadFrom(make([]byte, 100))
		_, _ = other.WriteToUDPAddrPort([]byte("data"), relayed)
		return err == nil && alice.next() != nil
	}
	alice.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(at))
	if !hears() {
		t.Fatal("nothing passes a fresh channel")
	}
	c.advance(5*time.Minute + time.Second)
	if hears() {
		t.Error("a channel works without a permission")
	}
	alice.mustSucceed(stun.MethodCreatePermission, peerAttr(at))
	if !hears() {
		t.Error("the renewed permission does not open it")
	}
}

// testPermissionsBothWays: without a permission nothing passes, in either direction, by Send and
// Data indications as on a channel (RFC 8656 sections 11.2, 11.4, 12.5 and 12.6).
func testPermissionsBothWays(t *testing.T, plane string) {
	c := &clock{}
	s := startRelay(t, plane, func(cfg *Config) { cfg.tune.now = c.now })
	alice, other := newRawClient(t, s, "alice"), listenOn(t, "127.0.0.2")
	relayed := relayedAddr(t, alice.mustSucceed(stun.MethodAllocate, udpTransport))
	at := addrPort(other.LocalAddr())
	ways := map[string]func(){
		"Send": func() { send(alice, at, "data") },
		"data": func() { _, _ = alice.conn.Write([]byte{0x40, 0, 0, 4, 'd', 'a', 't', 'a'}) },
		"back": func() { _, _ = other.WriteToUDPAddrPort([]byte("data"), relayed) },
	}
	m := s.metrics
	passed := func() float64 {
		return testutil.ToFloat64(m.toPeer) + testutil.ToFloat64(m.fromPeer)
	}
	check := func(when string, passes bool, names ...string) {
		t.Helper()
		for _, name := range names {
			before, dropped := passed(), testutil.ToFloat64(m.droppedPermission)
			ways[name]()
			if passes || name == "back" {
				eventually(t, name+" is dealt with", func() bool {
					return passed() > before || testutil.ToFloat64(m.droppedPermission) > dropped
				})
			}
			alice.mustSucceed(stun.MethodRefresh) // is behind what alice has sent
			if got := passed() > before; got != passes {
				t.Errorf("%s: %s passes: %v", when, name, got)
			}
		}
	}
	check("before any permission", false, "Send", "back")
	alice.mustSucceed(stun.MethodCreatePermission, peerAttr(at))
	check("with a permission", true, "Send", "back")
	c.advance(s.cfg.tune.permission + time.Second)
	check("when it is over", false, "Send", "back")
	alice.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(at))
	check("with a channel", true, "Send", "data", "back")
	c.advance(s.cfg.tune.permission + time.Second)
	check("when the channel's permission is over", false, "Send", "data", "back")
}

// testPermissionsAreBounded: one allocation cannot make the relay remember without end.
func testPermissionsAreBounded(t *testing.T, plane string) {
	c := &clock{}
	s := startRelay(t, plane, func(cfg *Config) { cfg.tune.now = c.now })
	alice := newRawClient(t, s, "alice")
	alice.mustSucceed(stun.MethodAllocate, udpTransport)
	next := netip.MustParseAddr("9.0.0.0")
	const atOnce = 64 // more than 32
	for range maxPermissions / atOnce {
		var peers []stun.Setter
		for range atOnce {
			next = next.Next()
			peers = append(peers, peerAttr(netip.AddrPortFrom(next, 1)))
		}
		alice.mustSucceed(stun.MethodCreatePermission, peers...)
	}
	more := peerAttr(netip.AddrPortFrom(next.Next(), 1))
	if code := codeOf(alice.request(stun.MethodCreatePermission, more)); code != 508 {
		t.Errorf("one permission too many: code %d", code)
	}
	if code := codeOf(alice.request(stun.MethodChannelBind, channelAttr(0x4000), more)); code != 508 {
		t.Errorf("a channel for it: code %d", code)
	}
	alice.mustSucceed(stun.MethodCreatePermission, peerAttr(netip.AddrPortFrom(next, 1)))

	c.advance(s.cfg.tune.permission + time.Second)
	alice.mustSucceed(stun.MethodCreatePermission, more) // those that are over make room

	bob := newRawClient(t, s, "bob")
	bob.mustSucceed(stun.MethodAllocate, udpTransport)
	bind := func(i int) int {
		to := peerAttr(netip.AddrPortFrom(next, uint16(i+1)))
		return codeOf(bob.request(stun.MethodChannelBind, channelAttr(0x4000+uint16(i)), to))
	}
	for i := range maxChannels {
		if code := bind(i); code != 0 {
			t.Fatalf("channel %d: code %d", i, code)
		}
	}
	if code := bind(maxChannels); code != 508 {
		t.Errorf("one channel too many: code %d", code)
	}
	if code := bind(0); code != 0 {
		t.Errorf("one that is there, once more: code %d", code)
	}
}

func TestBroadcastAddresses(t *testing.T) {
	l := newLocalAddrs()
	_, n, _ := net.ParseCIDR("192.0.2.128/26")
	l.add(&net.IPNet{IP: net.ParseIP("192.0.2.130"), Mask: n.Mask}, false)
	for _, a := range []string{"192.0.2.128", "192.0.2.191"} {
		if !l.broadcast[netip.MustParseAddr(a)] {
			t.Errorf("%s is not seen as a broadcast address", a)
		}
	}
	if len(l.broadcast) != 2 || len(l.own) != 1 {
		t.Errorf("%v", l)
	}
}

// send sends a Send indication.
func send(c *rawClient, to netip.AddrPort, data string) {
	m, _ := stun.Build(stun.TransactionID, stun.NewType(stun.MethodSend, stun.ClassIndication), peerAttr(to),
		stun.RawAttribute{Type: stun.AttrData, Value: []byte(data)})
	_, _ = c.conn.Write(m.Raw)
}
