package turnserver

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pion/stun/v4"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// A behaviour is what clients and peers see of the relay, whichever way it carries packets: TestBehaviour shows it of the portable data
// plane and of the loops, TestOffload of the network driver, on real interfaces.
type behaviour struct {
	name   string
	test   func(t *testing.T, plane string)
	driver part
}

// part is what the driver has to do in a test.
type part int

const (
	carries part = iota // some of the packets
	watches             // nothing: what it sees is the sockets'
	absent              // the test makes sense on loopback only
)

var behaviours = []behaviour{
	// Paths.
	{"paths", testPaths, carries},
	{"client to peer", testClientToPeer, carries},
	{"relay to relay", testRelayToRelay, carries},
	{"relay to relay behind NAT", testRelayToRelayBehindNAT, watches}, // one padded packet
	{"IPv6", testIPv6, watches},
	{"IPv4 to IPv6", testFamilies, watches},
	{"every address", testEveryAddress, absent},
	{"another address", testAnotherAddress, absent},
	{"mixed transports", testMixedTransports, absent},
	{"Chromium", testChromium, carries},
	{"sizes", testSizes, carries},
	{"Data indications", testDataIndications, watches},
	{"unreachable peer", testUnreachablePeer, carries},

	// Lifetimes.
	{"ends under traffic", testEndsUnderTraffic, carries},
	{"permissions expire", testPermissionsExpire, carries},
	{"permissions hold both ways", testPermissionsBothWays, watches},
	{"channel rebinding", testChannelRebinding, carries},
	{"call outlives its credential", testCallOutlivesItsCredential, watches},
	{"pion client refreshes after expiry", testPionClientRefreshesAfterExpiry, carries},
	{"secrets rotate", testSecretsRotate, carries},
	{"forms of credentials", testFormsOfCredentials, watches},
	{"users", testUsers, carries},
	{"no allocation", testNoAllocation, watches},
	{"even ports", testEvenPorts, watches},
	{"answers by the RFCs", testAnswers, watches},
	{"a nonce is its client's", testNonces, watches},
	{"many behind one address", testManyBehindOneAddress, watches},
	{"restart", testRestart, watches}, // the relay's driver is another process's
	{"shutdown", testShutdown, absent},

	// Peers.
	{"forbidden peers", testForbiddenPeers, watches},
	{"peers that become forbidden", testPeersBecomeForbidden, carries},
	{"reload", testReload, carries},
	{"own services stay out of reach", testOwnServicesStayOutOfReach, watches},
	{"loopback is this machine", testLoopbackIsThisMachine, absent},
	{"permissions are bounded", testPermissionsAreBounded, watches},

	// Limits.
	{"quotas", testQuotas, watches},
	{"bandwidth of the sockets", testBandwidth, watches},
	{"accounts", testAccounts, carries},
	{"strangers get little", testStrangersGetLittle, watches},
	{"guessing is silenced", testGuessingIsSilenced, watches},
	{"ports run out", testPortsRunOut, watches},
	{"other errors end the search for a port", testOtherErrorsEndTheSearchForAPort, absent},
	{"metrics", testMetrics, watches},
	{"flood", testFlood, carries},
	{"soak", testSoak, watches}, // likewise
}

func TestBehaviour(t *testing.T) {
	forEachDataPlane(t, func(t *testing.T, plane string) {
		for _, b := range behaviours {
			t.Run(b.name, func(t *testing.T) { b.test(t, plane) })
		}
	})
}

// testPaths: both directions and the path between two clients, IPv4 and IPv6, for packets of many lengths: content, source and order. The
// driver carries all of them, from the first one on. Whoever receives checks the checksums.
func testPaths(t *testing.T, plane string) {
	for _, family := range []struct{ name, relay, peer string }{{"IPv4", "127.0.0.1:0", "127.0.0.2"}, {"IPv6", "[::1]:0", "::1"}} {
		t.Run(family.name, func(t *testing.T) {
			s := startRelay(t, plane, func(c *Config) {
				c.UDP = []string{family.relay}
				c.AllowPeers = append(prefixes("::1/128"), c.AllowPeers...)
				c.tune.foreign = append(prefixes("::1/128"), c.tune.foreign...) // the peer's, and the relayed addresses too
			})
			alice, bob, other := newRawClient(t, s, "alice"), newRawClient(t, s, "bob"), listenOn(t, family.peer)
			a := relayedAddr(t, alice.mustSucceed(stun.MethodAllocate, udpTransport))
			b := relayedAddr(t, bob.mustSucceed(stun.MethodAllocate, udpTransport))
			alice.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(addrPort(other.LocalAddr())))
			alice.mustSucceed(stun.MethodChannelBind, channelAttr(0x4001), peerAttr(b))
			bob.mustSucceed(stun.MethodChannelBind, channelAttr(0x4002), peerAttr(a))
			buf := make([]byte, 2000)
			var rounds uint64
			for size := 4; size < 1400; size += 31 {
				data := strings.Repeat(fmt.Sprint(size), 1400)[:size]
				length := string([]byte{byte(size >> 8), byte(size)})
				_, _ = alice.conn.Write([]byte("\x40\x00" + length + data))
				_ = other.SetReadDeadline(time.Now().Add(3 * time.Second))
				n, from, err := other.ReadFromUDPAddrPort(buf)
				if err != nil || string(buf[:n]) != data || plain(from) != a {
					t.Fatalf("to the peer, %d bytes: %d from %v, %v", size, n, from, err)
				}
				_, _ = other.WriteToUDPAddrPort([]byte(data), a)
				if got := alice.next(); !strings.HasPrefix(string(got), "\x40\x00"+length+data) {
					t.Fatalf("to the client, %d bytes: % x", size, got)
				}
				_, _ = alice.conn.Write([]byte("\x40\x01" + length + data))
				if got := bob.next(); !strings.HasPrefix(string(got), "\x40\x02"+length+data) {
					t.Fatalf("between clients, %d bytes: % x", size, got)
				}
				rounds++
			}
			world.carried(t, s, 2*rounds)
			alice.mustSucceed(stun.MethodRefresh, lifetime(0))
			bob.mustSucceed(stun.MethodRefresh, lifetime(0))
			eventually(t, "no flow is left", func() bool { return world.flows(s) == 0 })
		})
	}
}

// testFamilies: a client that came by IPv4 and asked for a relayed IPv6 address (RFC 8656 section 18.8) reaches an IPv6 peer with channel
// and indications, and no IPv4 peer.
func testFamilies(t *testing.T, plane string) {
	s := startRelay(t, plane, func(c *Config) {
		c.UDP = []string{"127.0.0.1:0", "[::1]:0"}
		c.AllowPeers, c.tune.foreign = append(prefixes("::1/128"), c.AllowPeers...), append(prefixes("::1/128"), c.tune.foreign...)
	})
	alice, other := newRawClient(t, s, "alice"), listenOn(t, "::1")
	v6 := stun.RawAttribute{Type: stun.AttrRequestedAddressFamily, Value: []byte{2, 0, 0, 0}}
	a, at := relayedAddr(t, alice.mustSucceed(stun.MethodAllocate, udpTransport, v6)), addrPort(other.LocalAddr())
	if !a.Addr().Is6() {
		t.Fatalf("relayed at %v", a)
	}
	if code := codeOf(alice.request(stun.MethodChannelBind, channelAttr(0x4001), peer("9.9.9.9:1"))); code != 443 {
		t.Errorf("an IPv4 peer: code %d", code)
	}
	alice.mustSucceed(stun.MethodCreatePermission, peerAttr(at))
	hears := func(want string) {
		t.Helper()
		buf := make([]byte, 100)
		_ = other.SetReadDeadline(time.Now().Add(3 * time.Second))
		if n, from, err := other.ReadFromUDPAddrPort(buf); err != nil || string(buf[:n]) != want || plain(from) != a {
			t.Errorf("%q from %v, %v", buf[:n], from, err)
		}
	}
	send(alice, at, "indication")
	hears("indication")
	alice.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(at))
	_, _ = alice.conn.Write([]byte("\x40\x00\x00\x04data"))
	hears("data")
	_, _ = other.WriteToUDPAddrPort([]byte("back"), a)
	if got := alice.next(); !strings.HasPrefix(string(got), "\x40\x00\x00\x04back") {
		t.Errorf("got % x", got)
	}
}

// testPeersBecomeForbidden: a peer is allowed, has permission and channel, and packets pass. Then its address becomes one that policy
// forbids: nothing passes any more, by channel or indication, in either direction.
func testPeersBecomeForbidden(t *testing.T, plane string) {
	s := startRelay(t, plane, nil)
	alice, other := newRawClient(t, s, "alice"), listenOn(t, "127.0.0.2")
	at := addrPort(other.LocalAddr())
	a := relayedAddr(t, alice.mustSucceed(stun.MethodAllocate, udpTransport))
	alice.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(at))
	try := func() (there, again, back bool) {
		buf := make([]byte, 100)
		for _, heard := range []*bool{&there, &again} {
			if heard == &there {
				_, _ = alice.conn.Write([]byte("\x40\x00\x00\x04data"))
			} else {
				send(alice, at, "data")
			}
			_ = other.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			_, err := other.Read(buf)
			*heard = err == nil
		}
		_, _ = other.WriteToUDPAddrPort([]byte("data"), a)
		_ = alice.conn.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		_, err := alice.conn.Read(buf)
		return there, again, err == nil
	}
	if there, again, back := try(); !there || !again || !back {
		t.Fatalf("nothing passes: %v, %v, %v", there, again, back)
	}
	l := *s.policy.local.Load()
	l.broadcast = map[netip.Addr]bool{at.Addr(): true}
	s.policy.local.Store(&l)
	world.moved()
	if there, again, back := try(); there || again || back {
		t.Errorf("passes still: %v, %v, %v", there, again, back)
	}
	if n := world.flows(s); n != 0 {
		t.Errorf("%d flows", n)
	}
}

// testNoAllocation: a client whose allocation is gone, because the relay was started anew, is told so when it proves who it is (RFC 8656
// section 5); so is one that speaks of somebody else's. A stranger is asked to prove it.
func testNoAllocation(t *testing.T, plane string) {
	s := startRelay(t, plane, nil)
	alice := newRawClient(t, s, "alice")
	for method, attrs := range map[stun.Method][]stun.Setter{
		stun.MethodRefresh: nil, stun.MethodCreatePermission: {peer("9.9.9.9:1")}, stun.MethodChannelBind: {channelAttr(0x4000), peer("9.9.9.9:1")},
	} {
		if code := codeOf(alice.request(method, attrs...)); code != 437 {
			t.Errorf("%v: code %d, want 437", method, code)
		}
		stale := *alice
		stale.nonce = stun.NewNonce(strings.Repeat("0", len(alice.nonce))) // of the process before
		if code := codeOf(stale.once(method, attrs...)); code != 438 {
			t.Errorf("%v with an old nonce: code %d, want 438", method, code)
		}
		long := stun.RawAttribute{Type: 0xff00, Value: make([]byte, 40)} // else the answer would be too long for its question
		unsigned := append([]stun.Setter{stun.NewType(method, stun.ClassRequest), long}, attrs...)
		if code := codeOf(alice.ask(unsigned...)); code != 401 {
			t.Errorf("%v of a stranger: code %d, want 401", method, code)
		}
	}
	if n := testutil.ToFloat64(s.metrics.refusedAllocation); n != 3 {
		t.Errorf("%v counted", n)
	}
	alice.mustSucceed(stun.MethodAllocate, udpTransport)
	bob := newRawClient(t, s, "bob")
	bob.nonce, bob.realm, bob.conn = alice.nonce, alice.realm, alice.conn
	if code := codeOf(bob.request(stun.MethodRefresh, lifetime(0))); code != 441 {
		t.Errorf("somebody else's allocation: code %d, want 441", code)
	}
	alice.mustSucceed(stun.MethodRefresh)
}

// testAccounts: what a user may relay, and a client address, holds for all of its allocations together, in packets and in bytes, in each
// direction, and for what goes by channel and by indication. It has nothing to do with others.
func testAccounts(t *testing.T, plane string) {
	const size, perSecond = 200, 20
	for _, c := range []struct {
		name   string
		change func(*Config)
		second string // who has the second allocation
	}{
		{"packets of a user", func(c *Config) { c.UserPackets = perSecond }, "alice"},
		{"packets of an address", func(c *Config) { c.AddressPackets = perSecond }, "bob"},
		{"bandwidth of a user", func(c *Config) { c.UserBandwidth = perSecond * size }, "alice"},
		{"bandwidth of an address", func(c *Config) { c.AddressBandwidth = perSecond * size }, "bob"},
		{"bandwidth of an allocation", func(c *Config) { c.Bandwidth = perSecond * size }, ""},
		{"all of them", func(c *Config) {
			c.UserPackets, c.AddressPackets = 5*perSecond, perSecond
			c.Bandwidth, c.UserBandwidth, c.AddressBandwidth = 10*perSecond*size, 10*perSecond*size, 10*perSecond*size
		}, "bob"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startRelay(t, plane, c.change)
			other := listenOn(t, "127.0.0.2")
			at, users := addrPort(other.LocalAddr()), []string{"alice", c.second}
			if c.second == "" {
				users = users[:1]
			}
			var clients []*rawClient
			var relayed []netip.AddrPort
			for _, user := range users {
				client := newRawClient(t, s, user)
				relayed = append(relayed, relayedAddr(t, client.mustSucceed(stun.MethodAllocate, udpTransport)))
				client.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(at))
				clients = append(clients, client)
			}
			data := string(binary.BigEndian.AppendUint16([]byte{0x40, 0}, size)) + strings.Repeat("x", size)
			began := time.Now()
			for i := range 3 * perSecond {
				n := i % len(clients)
				_, _ = clients[n].conn.Write([]byte(data))
				send(clients[n], at, data[4:])
				_, _ = other.WriteToUDPAddrPort([]byte(data[4:]), relayed[n])
			}
			there, back := heard(other), 0
			most := perSecond + 1 + int(time.Since(began).Seconds()*perSecond)
			for _, client := range clients {
				back += heard(client.conn)
			}
			if there < perSecond || there > most {
				t.Errorf("%d packets went to the peer, want %d to %d", there, perSecond, most)
			}
			if back < perSecond || back > most {
				t.Errorf("%d packets came from the peer, want %d to %d", back, perSecond, most)
			}
			m := s.metrics
			if testutil.ToFloat64(m.droppedBandwidth)+testutil.ToFloat64(m.droppedPackets) < float64(6*perSecond-most) {
				t.Error("what was lost is not counted")
			}
			// Ending the allocation and making it anew gives no new second.
			clients[0].mustSucceed(stun.MethodRefresh, lifetime(0))
			s.accounts.mu.Lock()
			if c.second != "" && len(s.accounts.held) == 0 {
				t.Error("the account went with the allocation")
			}
			s.accounts.mu.Unlock()
			for _, client := range clients[1:] {
				client.mustSucceed(stun.MethodRefresh, lifetime(0))
			}
			eventually(t, "no account is held", func() bool {
				s.accounts.mu.Lock()
				defer s.accounts.mu.Unlock()
				return len(s.accounts.held) == 0 && len(s.accounts.free) == world.accounts(s)
			})
		})
	}
}

// heard counts what comes until nothing comes any more.
func heard(c net.Conn) (n int) {
	for buf := make([]byte, 2000); ; n++ {
		_ = c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		if _, err := c.Read(buf); err != nil {
			return n
		}
	}
}
