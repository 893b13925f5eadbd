package signaling

import (
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// TestListenerBoundsConnections: connections beyond the bounds are closed unanswered, those within are answered, and a place comes
// back when a connection ends, also one that has become a link.
func TestListenerBoundsConnections(t *testing.T) {
	s := serve(t)
	l, err := Listen(ListenConfig{Address: "127.0.0.1:0", Connections: 5, ConnectionsPer: 3})
	if err != nil {
		t.Fatal(err)
	}
	l.start(t, s.Handler())
	link, _, err := websocket.DefaultDialer.Dial("ws://"+l.Addr().String()+"/v1/link", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close()

	// open asks for something and keeps the connection.
	open := func(from string) (net.Conn, error) {
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		c, err := dialer.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(patience))
		fmt.Fprint(c, "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
		_, err = c.Read(make([]byte, 1))
		if e := net.Error(nil); errors.As(err, &e) && e.Timeout() {
			t.Fatal(err)
		}
		return c, err
	}
	// again waits until a place that was given up counts.
	again := func(from string) {
		t.Helper()
		for deadline := time.Now().Add(patience); ; {
			if _, err := open(from); err == nil {
				return
			} else if time.Now().After(deadline) {
				t.Fatalf("from %s: %v", from, err)
			}
		}
	}
	must := func(from string) net.Conn {
		t.Helper()
		c, err := open(from)
		if err != nil {
			t.Fatalf("from %s: %v", from, err)
		}
		return c
	}
	refused := func(from string) {
		t.Helper()
		if _, err := open(from); err == nil {
			t.Errorf("one more from %s was answered", from)
		}
	}
	first := must("127.0.0.1")
	must("127.0.0.1")
	refused("127.0.0.1") // the link counts
	other := net.IPv4(127, 0, 0, 2).String()
	if probe, err := net.Listen("tcp", other+":0"); err != nil {
		other = "" // not everywhere is all of 127.0.0.0/8 this machine
	} else {
		probe.Close()
		must(other)
		must(other)
		refused(other) // five in all
	}
	first.Close()
	again("127.0.0.1")
	refused("127.0.0.1")
	link.Close()
	again("127.0.0.1")
	refused("127.0.0.1")
}

// TestListenerLeavesDescriptors: what is configured yields to what the process may have.
func TestListenerLeavesDescriptors(t *testing.T) {
	l, err := Listen(ListenConfig{Address: "127.0.0.1:0", Connections: 1 << 40})
	if err != nil {
		t.Fatal(err)
	}
	defer l.net.Close()
	if got := l.net.(door).inside.most; got != descriptors()/2 {
		t.Errorf("%d connections of %d descriptors", got, descriptors())
	}
}

// TestOneSubscriberIsNotTheWorld: the 256 /64 of a residential /56 get what ten addresses get, of each thing strangers may have.
func TestOneSubscriberIsNotTheWorld(t *testing.T) {
	s := serve(t, func(c *Config, _ *timing) {
		c.Limits.Attempts, c.Limits.Registrations = Rate{30, time.Hour}, Rate{2, time.Hour}
		c.Limits.Unauthenticated, c.Limits.UnauthenticatedPer = 500, 20
	})
	held, registered := 0, 0
	attempt := func(address string) error {
		r := httptest.NewRequest("GET", "/v1/link", nil)
		r.Host, r.RemoteAddr = "127.0.0.1", address
		_, _, err := s.admit(r, func() bool { return s.strangers.enter(sourceOf(address), s.now()) })
		return err
	}
	register := func(address string) error {
		r := httptest.NewRequest("POST", "/v1/accounts", strings.NewReader("x"))
		r.Host, r.RemoteAddr = "127.0.0.1", address
		_, err := s.Server.register(httptest.NewRecorder(), r)
		if err == errMalformed { // it was read
			return nil
		}
		return err
	}
	for i := range 256 {
		address := fmt.Sprintf("[2a00:1:2:33%02x::1]:5", i)
		for range 10 {
			if attempt(address) == nil {
				held++
			}
			if register(address) == nil {
				registered++
			}
		}
	}
	if held != 10*20 || registered != 10*2 {
		t.Errorf("one /56 holds %d links and tried %d registrations; want 200 and 20", held, registered)
	}
	for _, address := range []string{"8.8.8.8:5", "[2a00:1:3::1]:5"} {
		if err := errors.Join(attempt(address), register(address)); err != nil {
			t.Errorf("from %s: %v", address, err)
		}
	}
}

func TestSourceOf(t *testing.T) {
	for address, want := range map[string]source{
		"192.0.2.7:80":              {near: netip.MustParsePrefix("192.0.2.7/32")},
		"[::ffff:192.0.2.7]:80":     {near: netip.MustParsePrefix("192.0.2.7/32")},
		"[2001:db8:1:2:3::9%e0]:80": {netip.MustParsePrefix("2001:db8:1:2::/64"), netip.MustParsePrefix("2001:db8:1::/48")},
		"@":                         {},
	} {
		if got := sourceOf(address); got != want {
			t.Errorf("%s: %v, want %v", address, got, want)
		}
	}
}

// TestIdleLinksMakeRoom: a hundred addresses with as many idle links as they may have do not keep
// anybody out. Who has been silent longest goes, of the sources that have the most; who came a
// moment ago, or is alone at its address, stays.
func TestIdleLinksMakeRoom(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	l := &lobby{crowd: newCrowd(20, 2000), grace: 2 * time.Second}
	closed := map[string]bool{}
	enter := func(address string) *waiting {
		from := sourceOf(address)
		if !l.enter(from, now) {
			return nil
		}
		return l.wait(from, closer(func() { closed[address] = true }), now)
	}
	honest := enter("9.9.9.9:1")
	for i := range 1999 {
		now = now.Add(time.Millisecond)
		if enter(fmt.Sprintf("10.0.%d.1:%d", i/20, i)) == nil {
			t.Fatal("no room for", i)
		}
	}
	now = now.Add(2 * time.Second)
	if w := enter("8.8.8.8:1"); w == nil || !closed["10.0.0.1:0"] || closed["9.9.9.9:1"] {
		t.Fatalf("%d closed", len(closed))
	}
	l.done(honest) // it has authenticated
	if enter("7.7.7.7:1") == nil || len(closed) != 1 {
		t.Errorf("a place that was given back is not to be had; %d closed", len(closed))
	}
	if enter("10.0.5.1:999"); len(closed) != 2 || !closed["10.0.5.1:100"] {
		t.Errorf("a source with all its places closes another's: %v", closed)
	}

	l = &lobby{crowd: newCrowd(20, 3), grace: 2 * time.Second}
	for i := range 3 {
		enter(fmt.Sprintf("10.1.%d.1:1", i))
	}
	if enter("8.8.8.8:2") != nil {
		t.Error("a link is ended before it had time to authenticate")
	}
	now = now.Add(2 * time.Second)
	if enter("8.8.8.8:2") == nil || !closed["10.1.0.1:1"] {
		t.Error("nobody makes room after that")
	}
}

// TestOnlyTheSilentMakeRoom: a link whose signature is being looked at is not ended, and where a
// /64 has all that it may have a link of another /64 is not ended in vain.
func TestOnlyTheSilentMakeRoom(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	l := &lobby{crowd: newCrowd(2, 1000), grace: time.Second}
	closed := map[string]int{}
	enter := func(address string) *waiting {
		from := sourceOf(address)
		if !l.enter(from, now) {
			return nil
		}
		return l.wait(from, closer(func() { closed[address]++ }), now)
	}
	first, _ := enter("9.9.9.9:1"), enter("9.9.9.9:2")
	now = now.Add(2 * time.Second)
	if !l.hear(first) || enter("9.9.9.9:3") == nil || closed["9.9.9.9:1"] != 0 || closed["9.9.9.9:2"] != 1 {
		t.Errorf("closed: %v", closed)
	}
	silent := enter("8.8.8.8:1")
	enter("8.8.8.8:2")
	now = now.Add(2 * time.Second)
	if enter("8.8.8.8:3") == nil || l.hear(silent) {
		t.Error("a link that was asked to go is heard")
	}

	enter("[2a00:1:2:1::1]:1") // a neighbour in the same /48, silent for long
	now = now.Add(2 * time.Second)
	enter("[2a00:1:2:2::1]:1")
	enter("[2a00:1:2:2::1]:2")
	if enter("[2a00:1:2:2::1]:3") != nil || closed["[2a00:1:2:1::1]:1"] != 0 {
		t.Errorf("a neighbour was ended in vain: %v", closed)
	}
}

type closer func()

func (c closer) Close() error { c(); return nil }
