package proxyproto

import (
	"bufio"
	"bytes"
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"
)

const (
	v1   = "PROXY TCP4 192.0.2.1 198.51.100.7 56324 3478\r\n"
	v1v6 = "PROXY TCP6 2001:db8::1 2001:db8::7 56324 3478\r\n"
	v2   = "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x01\xc6\x33\x64\x07\xdc\x04\x0d\x96"
	v2v6 = "\r\n\r\n\x00\r\nQUIT\n\x21\x21\x00\x27" +
		"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" +
		"\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07" +
		"\xdc\x04\x0d\x96" + "\x04\x00\x00" // and a TLV
	local = "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"
)

// TestHeader: both versions, and what is neither.
func TestHeader(t *testing.T) {
	four, six := "192.0.2.1:56324", "[2001:db8::1]:56324"
	for _, c := range []struct{ header, client string }{
		{v1, four}, {v1v6, six}, {v2, four}, {v2v6, six},
		{"PROXY UNKNOWN\r\n", "none"}, {"PROXY UNKNOWN 1 2 3 4\r\n", "none"}, {local, "none"},
		{"PROXY TCP4 2001:db8::1 2001:db8::7 1 2\r\n", ""},
		{"PROXY TCP6 192.0.2.1 192.0.2.1 1 2\r\n", ""},
		{"PROXY TCP4 192.0.2.1 192.0.2.1 1\r\n", ""},
		{"PROXY TCP4 192.0.2.1 192.0.2.1 65536 1\r\n", ""},
		{"PROXY TCP4 192.0.2.1 192.0.2.1 1 1\n", ""},
		{"PROXY TCP6 fe80::1%eth0 fe80::1 1 1\r\n", ""},
		{"PROXY " + string(bytes.Repeat([]byte("x"), 120)) + "\r\n", ""},
		{"GET / HTTP/1.1\r\n\r\n", ""},
		{v2[:12] + "\x22" + v2[13:], ""}, {v2[:15] + "\x0b" + v2[16:], ""},
		{v2[:14] + "\xff\xff" + v2[16:], ""}, {v2[:20], ""},
		{v2v6[:15] + "\x23" + v2v6[16:], ""}, // a byte short of ports
	} {
		r := bufio.NewReaderSize(bytes.NewReader([]byte(c.header+"rest")), maxHeader)
		if c.header == v2[:20] {
			r = bufio.NewReader(bytes.NewReader([]byte(c.header)))
		}
		client, err := readHeader(r)
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

// FuzzHeader holds both readers to never taking more than the header, nor naming an address that is
// none.
func FuzzHeader(f *testing.F) {
	for _, s := range []string{v1, v1v6, v2, v2v6, local, "PROXY UNKNOWN\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		client, err := readHeader(bufio.NewReaderSize(bytes.NewReader(b), maxHeader))
		ip := client.Addr()
		if client.IsValid() && (err != nil || ip.Zone() != "" || ip.Is4In6()) {
			t.Fatalf("%v, %v", client, err)
		}
	})
}

// TestClose: whoever has not sent its header when the listener closes is not waited for.
func TestClose(t *testing.T) {
	bound, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := Listen(bound, []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}).(*listener)
	conn, err := net.Dial("tcp", bound.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(v1[:10])); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for ; len(l.waiting) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nobody waits")
		}
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accepting: %v", err)
	}
	if n, err := conn.Read(make([]byte, 1)); err == nil {
		t.Errorf("read %d bytes of a connection that should be closed", n)
	}
}
