package turnserver

import (
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/stun/v4"
)

// testAnotherAddress: a relay on all addresses goes to where packets leave from now, and says so.
// What is relayed at an address that this machine has not any more ends, and nothing else.
func testAnotherAddress(t *testing.T, plane string) {
	var source atomic.Pointer[netip.Addr] // 127.0.0.1 is on an interface, others of loopback are not
	leaves := func(from string) {
		a := netip.Addr{}
		if from != "" {
			a = netip.MustParseAddr(from)
		}
		source.Store(&a)
	}
	leaves("127.0.0.1")
	s := startRelay(t, plane, func(c *Config) {
		c.UDP, c.tune.look = []string{":0"}, 20*time.Millisecond
		c.tune.source = func(network, _ string) netip.Addr {
			if network == "udp4" {
				return *source.Load()
			}
			return netip.Addr{}
		}
	})
	allocated := func(id string) (*rawClient, netip.AddrPort) {
		t.Helper()
		c := newRawClient(t, s, id)
		return c, relayedAddr(t, c.mustSucceed(stun.MethodAllocate, udpTransport))
	}
	moved := func(to string) {
		t.Helper()
		leaves(to)
		select {
		case <-s.Moved():
		case <-time.After(30 * time.Second):
			t.Fatal("it does not say that it moved")
		}
		if urls := s.URLs(); len(urls) != 1 || !strings.HasPrefix(urls[0], "turn:"+to+":") {
			t.Errorf("at %s it is reached by %q", to, urls)
		}
	}
	alice, at := allocated("alice")
	if at.Addr().String() != "127.0.0.1" {
		t.Fatalf("relayed at %v", at)
	}
	moved("127.0.0.3")
	bob, at := allocated("bob")
	if at.Addr().String() != "127.0.0.3" {
		t.Errorf("after the move relayed at %v", at)
	}
	leaves("") // the link is down, and comes back
	looks := s.policy.local.Load()
	for range 5 {
		eventually(t, "another look", func() bool { return s.policy.local.Load() != looks })
		looks = s.policy.local.Load()
	}
	if code := codeOf(bob.request(stun.MethodRefresh)); code != 0 {
		t.Errorf("without any address: code %d", code)
	}
	moved("127.0.0.4")
	eventually(t, "what is at the old address ends", func() bool { return len(relaysOf(s)) == 1 })
	if code := codeOf(bob.request(stun.MethodRefresh)); code != 437 {
		t.Errorf("a refresh of it: code %d", code)
	}
	alice.mustSucceed(stun.MethodRefresh)
	at = relayedAddr(t, bob.mustSucceed(stun.MethodAllocate, udpTransport))
	if at.Addr().String() != "127.0.0.4" {
		t.Errorf("anew it is relayed at %v", at)
	}
}

// TestOneLookIsNotEnough: an address may be away for a moment.
func TestOneLookIsNotEnough(t *testing.T) {
	source := netip.MustParseAddr("127.0.0.3")
	s := startRelay(t, planeAuto, func(c *Config) {
		c.UDP, c.tune.look = []string{":0"}, time.Hour
		c.tune.source = func(network, _ string) netip.Addr {
			if network == "udp4" {
				return source
			}
			return netip.Addr{}
		}
	})
	alice := newRawClient(t, s, "alice")
	alice.mustSucceed(stun.MethodAllocate, udpTransport)
	was := source
	for range 3 {
		source = netip.MustParseAddr("127.0.0.4")
		s.look()
		source = was
		s.look()
	}
	alice.mustSucceed(stun.MethodRefresh)
	source = netip.MustParseAddr("127.0.0.4")
	s.look()
	s.look()
	eventually(t, "it ends", func() bool { return len(relaysOf(s)) == 0 })
}
