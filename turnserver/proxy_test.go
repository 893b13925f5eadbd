package turnserver

import (
	"crypto/tls"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/stun/v4"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

const (
	proxyV1   = "PROXY TCP4 192.0.2.1 198.51.100.7 56324 3478\r\n"
	proxyV2   = "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\xc6\x33\x64\x07\xdc\x04\x0d\x96"
	proxyV2v6 = "\r\n\r\n\x00\r\nQUIT\n\x21\x21\x00\x27" + "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" +
		"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07\xdc\x04\x0d\x96" + "\x04\x00\x00" // and a TLV
)

// TestProxies: behind a listed proxy a client is who the header says, over TCP and TLS, and is limited as such; from elsewhere a header is no message.
func TestProxies(t *testing.T) {
	s := startRelay(t, planeAuto, func(c *Config) {
		overStreams(t, c)
		c.Proxies, c.MaxConnectionsPerAddress, c.tune.firstFrame = prefixes("127.0.0.1/32"), 1, time.Second
	})
	dial := func(from string, at netip.AddrPort, header string) *rawClient {
		t.Helper()
		conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).Dial("tcp4", at.String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if _, err := conn.Write([]byte(header)); err != nil {
			t.Fatal(err)
		}
		if at == s.Addrs().TLS[0] {
			conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
		}
		c := newRawClient(t, s, "alice")
		_ = c.conn.Close()
		c.conn = conn
		return c
	}
	mapped := func(c *rawClient) string {
		t.Helper()
		var x stun.XORMappedAddress
		m := c.ask(stun.BindingRequest)
		if m == nil || x.GetFrom(m) != nil {
			return ""
		}
		return addrPort(&net.UDPAddr{IP: x.IP, Port: x.Port}).String()
	}
	plain, secured := s.Addrs().TCP[0], s.Addrs().TLS[0]
	if got := mapped(dial("127.0.0.1", plain, proxyV1)); got != "192.0.2.1:56324" {
		t.Errorf("version 1 over TCP: %q", got)
	}
	if got := mapped(dial("127.0.0.1", secured, proxyV2v6)); got != "[2001:db8::1]:56324" {
		t.Errorf("version 2 over TLS: %q", got)
	}
	if got := mapped(dial("127.0.0.1", plain, proxyV2)); got != "" {
		t.Errorf("a second connection of one client, whom the proxy names: %q", got)
	}
	for name, c := range map[string]*rawClient{
		"a proxy that names nobody":       dial("127.0.0.1", plain, ""),
		"a header from somewhere else":    dial("127.0.0.2", plain, proxyV1),
		"half a header, and then nothing": dial("127.0.0.1", plain, proxyV2[:14]),
	} {
		if got := mapped(c); got != "" {
			t.Errorf("%s: %q", name, got)
		}
	}
	if got := mapped(dial("127.0.0.2", plain, "")); got == "" {
		t.Error("somebody else without a header is not served")
	}
	eventually(t, "no header waited for", func() bool { s.headers.mu.Lock(); defer s.headers.mu.Unlock(); return s.headers.total == 0 })
	if testutil.ToFloat64(s.metrics.refusedConnection) != 1 {
		t.Errorf("%v connections refused", testutil.ToFloat64(s.metrics.refusedConnection))
	}
}
