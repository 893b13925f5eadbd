package turnserver

import (
	"bufio"
	"bytes"
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
	proxyV1v6 = "PROXY TCP6 2001:db8::1 2001:db8::7 56324 3478\r\n"
	proxyV2   = "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\xc6\x33\x64\x07\xdc\x04\x0d\x96"
	proxyV2v6 = "\r\n\r\n\x00\r\nQUIT\n\x21\x21\x00\x27" + "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" +
		"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07\xdc\x04\x0d\x96" + "\x04\x00\x00" // and a TLV
	proxyLocal = "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
)

// TestProxyHeader: both versions, and what is neither.
func TestProxyHeader(t *testing.T) {
	four, six := "192.0.2.1:56324", "[2001:db8::1]:56324"
	for _, c := range []struct{ header, client string }{
		{proxyV1, four}, {proxyV1v6, six}, {proxyV2, four}, {proxyV2v6, six},
		{"PROXY UNKNOWN\r\n", "none"}, {"PROXY UNKNOWN 1 2 3 4\r\n", "none"}, {proxyLocal, "none"},
		{"PROXY TCP4 2001:db8::1 2001:db8::7 1 2\r\n", ""}, {"PROXY TCP6 192.0.2.1 192.0.2.1 1 2\r\n", ""}, {"PROXY TCP4 192.0.2.1 192.0.2.1 1\r\n", ""},
		{"PROXY TCP4 192.0.2.1 192.0.2.1 65536 1\r\n", ""}, {"PROXY TCP4 192.0.2.1 192.0.2.1 1 1\n", ""}, {"PROXY TCP6 fe80::1%eth0 fe80::1 1 1\r\n", ""},
		{"PROXY " + string(bytes.Repeat([]byte("x"), 120)) + "\r\n", ""}, {"GET / HTTP/1.1\r\n\r\n", ""},
		{proxyV2[:12] + "\x22" + proxyV2[13:], ""}, {proxyV2[:15] + "\x0b" + proxyV2[16:], ""}, {proxyV2[:14] + "\xff\xff" + proxyV2[16:], ""}, {proxyV2[:20], ""},
	} {
		r := bufio.NewReaderSize(bytes.NewReader([]byte(c.header+"rest")), maxProxy)
		if c.header == proxyV2[:20] {
			r = bufio.NewReader(bytes.NewReader([]byte(c.header)))
		}
		client, err := readProxyHeader(r)
		got := client.String()
		switch {
		case err != nil:
			got = ""
		case !client.IsValid():
			got = "none"
		}
		if got != c.client {
			t.Errorf("%q: %q, want %q", c.header, got, c.client)
		}
		if rest, _ := r.Peek(4); err == nil && string(rest) != "rest" {
			t.Errorf("%q leaves %q", c.header, rest)
		}
	}
}

// FuzzProxyHeader holds both readers to never taking more than the header, nor naming an address that is none.
func FuzzProxyHeader(f *testing.F) {
	for _, s := range []string{proxyV1, proxyV1v6, proxyV2, proxyV2v6, proxyLocal, "PROXY UNKNOWN\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		client, err := readProxyHeader(bufio.NewReaderSize(bytes.NewReader(b), maxProxy))
		if err != nil && client.IsValid() || client.IsValid() && (client.Addr().Zone() != "" || client.Addr().Is4In6()) {
			t.Fatalf("%v, %v", client, err)
		}
	})
}

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
