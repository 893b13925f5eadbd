package path

import (
	"fmt"
	"net"
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
