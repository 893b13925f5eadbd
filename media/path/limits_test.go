package path

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"
)

// target is an address that a peer names although it is not the peer's.
func target(t *testing.T) *net.UDPConn {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// received counts datagrams until none has come for a while, or there are more than enough.
func received(t *testing.T, conn *net.UDPConn, enough int) int {
	t.Helper()
	buffer := make([]byte, 2048)
	for n := 0; ; n++ {
		if n > enough {
			return n
		}
		if err := conn.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(buffer); err != nil {
			return n
		}
	}
}

// A caller names 20 addresses of others: while it rings some of them get a few checks, the rest none before the accept.
func TestARingingPhoneFloodsNobody(t *testing.T) {
	t.Parallel()
	p, err := New(Config{Loopback: true, OnState: func(State, error) {}, Handle: func(Kind, []byte) {}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Gather(); err != nil {
		t.Fatal(err)
	}
	first, last := target(t), target(t)
	for i := range 20 {
		port := 9 // nobody's
		switch i {
		case 0:
			port = first.LocalAddr().(*net.UDPAddr).Port
		case 19:
			port = last.LocalAddr().(*net.UDPAddr).Port
		}
		candidate := fmt.Sprintf("%d 1 udp %d 127.0.0.1 %d typ host", i+1, 2130706431-i, port)
		if port == 9 {
			candidate = fmt.Sprintf("%d 1 udp %d 127.0.1.%d 9 typ host", i+1, 2130706431-i, i)
		}
		if err := p.AddRemoteCandidate(candidate); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Connect("caller", "a password of the caller"); err != nil {
		t.Fatal(err)
	}
	if n := received(t, first, maxCalleeChecks+1); n == 0 || n > maxCalleeChecks+1 {
		t.Errorf("an address got %d checks", n)
	}
	if n := received(t, last, 0); n != 0 {
		t.Error("too many addresses were checked before the accept")
	}
	p.Accepted()
	p.Accepted()
	if n := received(t, last, 0); n == 0 {
		t.Error("after the accept the rest is not checked")
	}
}

// Addresses that are learnt from the peer's checks are limited like those it announces.
func TestLearntAddressesAreLimited(t *testing.T) {
	p := new(Path)
	count := func() (n int) {
		for p.mayCheck(net.IPv4(192, 0, 2, 1)) {
			n++
		}
		return n
	}
	if n := count(); n != 2*maxRingCandidates {
		t.Errorf("%d addresses before the accept", n)
	}
	p.Accepted()
	if n := count(); n != 2*(maxRemoteCandidates-maxRingCandidates) {
		t.Errorf("%d more after it", n)
	}
}

// However many candidates the peer sends, also after the accept, no more than a call needs are
// taken.
func TestRemoteCandidatesAreLimited(t *testing.T) {
	cfg := Config{Loopback: true, OnState: func(State, error) {}, Handle: func(Kind, []byte) {}}
	p, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for i := range 3 * maxRemoteCandidates {
		if i == maxRingCandidates+1 {
			p.Accepted()
		}
		candidate := fmt.Sprintf("%d 1 udp 2130706431 127.0.0.1 %d typ host", i+1, i+1)
		err := p.AddRemoteCandidate(candidate)
		if (err == nil) != (i < maxRemoteCandidates) {
			t.Fatalf("candidate %d: %v", i+1, err)
		}
	}
}

// A path fails once, and not after its user has closed it.
func TestFailedOnce(t *testing.T) {
	for closed, want := range map[bool]int{false: 1, true: 0} {
		var states []State
		p, err := New(Config{
			Loopback: true, Handle: func(Kind, []byte) {},
			OnState: func(s State, _ error) { states = append(states, s) },
		})
		if err != nil {
			t.Fatal(err)
		}
		if closed {
			p.Close()
		}
		for range 3 {
			p.fail(ErrConsentExpired)
		}
		if len(states) != want {
			t.Errorf("closed %v: told %v", closed, states)
		}
		p.Close()
	}
}

// Of which addresses of this device candidates may be made, and which servers are asked for more.
func TestWhatAPathMayUse(t *testing.T) {
	avoided, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	loopback := netip.MustParseAddr("127.0.0.1")
	for _, c := range []struct {
		cfg  Config
		a    netip.Addr
		want bool
	}{
		{Config{Avoid: []netip.Addr{avoided}}, avoided, false},
		{Config{Avoid: []netip.Addr{avoided}}, other, true},
		{Config{}, avoided, true},
		{Config{Loopback: true}, loopback, true},
		{Config{Loopback: true}, other, false},
	} {
		if got := c.cfg.mayUse(c.a); got != c.want {
			t.Errorf("avoiding %v, loopback %v: %v may be used: %v",
				c.cfg.Avoid, c.cfg.Loopback, c.a, got)
		}
	}
	var relays []Relay
	for _, url := range []string{
		"turn:203.0.114.1:3478?transport=udp", "turn:203.0.114.1:3478?transport=tcp",
		"turns:203.0.114.1:5349",
	} {
		relays = append(relays, Relay{URL: url, Username: "user", Password: "password"})
	}
	d := newRelayDialer(Config{Relays: relays}, nil)
	defer d.stop()
	if asked := d.reflexive(false); len(asked) != 1 || asked[0].Port != 3478 || len(d.relays) != 3 {
		t.Errorf("%v are asked for this device's public address", asked)
	}
	if asked := d.reflexive(true); len(asked) != 0 {
		t.Errorf("a relay-only path asks %v", asked)
	}
}
