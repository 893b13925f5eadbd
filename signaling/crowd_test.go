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
		_, _, err := s.admit(r, sourceOf(address), s.strangers)
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
