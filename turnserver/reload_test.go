package turnserver

import (
	"errors"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/pion/stun/v4"

	"sotto/turncred"
)

// testReload: what an operator changes holds for the next request and the next packet, and the rest is named.
func testReload(t *testing.T, plane string) {
	s := startRelay(t, plane, func(c *Config) { c.MaxPerUser = 1 })
	alice, other := newRawClient(t, s, "alice"), listenOn(t, "127.0.0.2")
	alice.mustSucceed(stun.MethodAllocate, udpTransport)
	bind := func() int {
		return codeOf(alice.request(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(addrPort(other.LocalAddr()))))
	}
	again := func() int { return codeOf(newRawClient(t, s, "alice").request(stun.MethodAllocate, udpTransport)) }
	passes := func() bool {
		_, _ = alice.conn.Write([]byte("\x40\x00\x00\x04data"))
		_ = other.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		_, err := other.Read(make([]byte, 100))
		return err == nil
	}
	if code := bind(); code != 0 || !passes() || again() != 486 {
		t.Fatalf("before: code %d", code)
	}

	cfg := s.cfg
	cfg.MaxPerUser = 2
	peers := netip.PrefixFrom(addrPort(other.LocalAddr()).Addr(), 24).Masked()
	cfg.AllowPeers = slices.DeleteFunc(slices.Clone(cfg.AllowPeers), peers.Overlaps)
	if err := s.Reload(cfg); err != nil {
		t.Fatal(err)
	}
	if n := world.flows(s); passes() || n != 0 {
		t.Errorf("a peer that is no longer allowed is reached, by %d flows", n)
	}
	if code := bind(); code != 403 {
		t.Errorf("and gets a channel: code %d", code)
	}
	if code := again(); code != 0 {
		t.Errorf("a second allocation: code %d", code)
	}

	cfg.AllowPeers, cfg.MaxPerUser, cfg.Realm, cfg.Bandwidth = append(cfg.AllowPeers, peers), 1, "another", 1000
	cfg.TLS = []string{"127.0.0.1:0"}
	err := s.Reload(cfg)
	if want := "only a restart changes TLS, Realm, Bandwidth"; !errors.Is(err, ErrNeedsRestart) || err.Error() != want {
		t.Errorf("%q, not %q", err, want)
	}
	if code := bind(); code != 0 || !passes() {
		t.Errorf("the peer that is allowed again is not reached: code %d", code)
	}
	cfg.MaxPerUser, cfg.Secrets = 9, [][]byte{[]byte("short")}
	if err := s.Reload(cfg); err == nil || errors.Is(err, ErrNeedsRestart) || again() != 486 {
		t.Errorf("with a short secret: %v", err)
	}
	cfg.MaxPerUser, cfg.Secrets = 9, [][]byte{[]byte("the secret that replaces it")}
	if err := s.Reload(cfg); !errors.Is(err, ErrNeedsRestart) {
		t.Errorf("with another secret: %v", err)
	}
	if code := again(); code != 401 {
		t.Errorf("the secret that is gone: code %d", code)
	}
	carol := newRawClient(t, s, "carol")
	carol.username, carol.password = turncred.Mint(cfg.Secrets[0], "carol", time.Minute, s.now())
	carol.mustSucceed(stun.MethodAllocate, udpTransport)
	cfg.MaxPerUser, cfg.Secrets = -1, nil
	if err := s.Reload(cfg); err == nil || errors.Is(err, ErrNeedsRestart) {
		t.Errorf("with a negative bound: %v", err)
	}
}
