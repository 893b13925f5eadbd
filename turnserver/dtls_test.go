package turnserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/stun/v4"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// dialDTLS is a DTLS connection to the relay from an address of loopback.
func dialDTLS(t testing.TB, s *Server, from string) (*dtls.Conn, error) {
	t.Helper()
	return dialDTLSAt(t, s.Addrs().DTLS[0], from)
}

func dialDTLSAt(t testing.TB, at netip.AddrPort, from string) (*dtls.Conn, error) {
	t.Helper()
	conn := listenOn(t, from)
	secured, err := dtls.ClientWithOptions(conn, net.UDPAddrFromAddrPort(at),
		dtls.WithInsecureSkipVerify(true), dtls.WithLoggerFactory(silence{}), dtls.WithFlightInterval(100*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = secured.Close() })
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	return secured, secured.HandshakeContext(ctx)
}

func dtlsClient(t testing.TB, s *Server, id string) *rawClient {
	t.Helper()
	c := newRawClient(t, s, id)
	_ = c.conn.Close()
	conn, err := dialDTLS(t, s, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	c.conn = conn
	return c
}

// TestDTLS: a call over DTLS, both ways, by indications and by channel; it lives through a change of the certificate, which new clients see.
func TestDTLS(t *testing.T) {
	var current atomic.Pointer[tls.Certificate]
	one, two := selfSigned(t, 1), selfSigned(t, 2)
	current.Store(&one)
	s := startRelay(t, planeAuto, func(c *Config) {
		c.DTLS = []string{"127.0.0.1:0"}
		c.TLSConfig = &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return current.Load(), nil }}
	})
	serial := func(c *rawClient) int64 {
		state, ok := c.conn.(*dtls.Conn).ConnectionState()
		if !ok {
			t.Fatal("no handshake")
		}
		certificate, err := x509.ParseCertificate(state.PeerCertificates[0])
		if err != nil {
			t.Fatal(err)
		}
		return certificate.SerialNumber.Int64()
	}
	alice := dtlsClient(t, s, "alice")
	relayed := relayedAddr(t, alice.mustSucceed(stun.MethodAllocate, udpTransport))
	other := listenOn(t, "127.0.0.2")
	at := addrPort(other.LocalAddr())
	alice.mustSucceed(stun.MethodCreatePermission, peerAttr(at))
	current.Store(&two)
	if a, b := serial(alice), serial(dtlsClient(t, s, "bob")); a != 1 || b != 2 {
		t.Errorf("certificates %d and %d, want 1 and 2", a, b)
	}

	buf := make([]byte, 100)
	hears := func(want string) {
		t.Helper()
		_ = other.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, from, err := other.ReadFromUDPAddrPort(buf); err != nil || string(buf[:n]) != want || from != relayed {
			t.Fatalf("the peer got %q from %v, %v", buf[:n], from, err)
		}
	}
	send(alice, at, "by indication")
	hears("by indication")
	alice.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(at))
	if _, err := alice.conn.Write([]byte("\x40\x00\x00\x05hello")); err != nil { // not padded, as over UDP
		t.Fatal(err)
	}
	hears("hello")
	if _, err := other.WriteToUDPAddrPort([]byte("back"), relayed); err != nil {
		t.Fatal(err)
	}
	if got := alice.next(); string(got) != "\x40\x00\x00\x04back" {
		t.Errorf("the client got %q", got)
	}

	_ = alice.conn.Close() // close_notify ends the allocation at once
	eventually(t, "no allocation", func() bool { return testutil.ToFloat64(s.metrics.allocations) == 0 })
}

// TestDTLSLimits: what does not return the cookie gets one short answer each and is held in small number for a short time only; what has does no more than a TCP
// connection may.
func TestDTLSLimits(t *testing.T) {
	t.Parallel()
	s := startRelay(t, planeAuto, func(c *Config) {
		overStreams(t, c)
		c.tune.firstFrame = 2 * time.Second
		c.MaxConnectionsPerAddress = 1
	})
	at := net.UDPAddrFromAddrPort(s.Addrs().DTLS[0])

	// A real ClientHello, to be sent again from elsewhere.
	sniffer := listenOn(t, "127.0.0.2")
	client, err := dtls.ClientWithOptions(listenOn(t, "127.0.0.2"), sniffer.LocalAddr(), dtls.WithInsecureSkipVerify(true), dtls.WithLoggerFactory(silence{}))
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = client.Handshake() }()
	hello := make([]byte, 2048)
	_ = sniffer.SetReadDeadline(time.Now().Add(5 * time.Second))
	n, _, err := sniffer.ReadFromUDPAddrPort(hello)
	if err != nil {
		t.Fatal(err)
	}
	_ = client.Close()
	hello = hello[:n]

	sessions := func() (all, unproven int) {
		l := s.secured[0]
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.sessions), l.unproven.Len()
	}
	stranger := listenOn(t, "127.0.0.2")
	for _, b := range [][]byte{{}, {22}, []byte("\x00\x01\x00\x00\x21\x12\xa4\x42............"), hello[:30], append([]byte{23}, hello[1:]...), append(hello[:len(hello):len(hello)], 0)[:len(hello)-1]} {
		_, _ = stranger.WriteTo(b, at)
	}
	_, _ = stranger.WriteTo(hello, at)
	buf := make([]byte, 2048)
	_ = stranger.SetReadDeadline(time.Now().Add(5 * time.Second))
	n, _, err = stranger.ReadFromUDPAddrPort(buf)
	if err != nil || buf[recordHeader] != helloVerifyRequest || n > len(hello) {
		t.Fatalf("%d bytes to a hello of %d: % x, %v", n, len(hello), buf[:n], err)
	}
	_ = stranger.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	if n, _, err := stranger.ReadFromUDPAddrPort(buf); err == nil {
		t.Errorf("%d bytes more", n)
	}
	if all, unproven := sessions(); all != 1 || unproven != 1 || testutil.ToFloat64(s.metrics.droppedMalformed) < 5 {
		t.Errorf("%d sessions, %d unproven, %v malformed", all, unproven, testutil.ToFloat64(s.metrics.droppedMalformed))
	}

	// Many sources. The deal runs on this goroutine as it does on the listener's, so that none is lost on the way.
	for i := range 2000 {
		from := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)}), 9)
		if i%100 == 0 {
			time.Sleep(helloInterval)
		}
		s.secured[0].s.hellos.full.Store(0)
		s.secured[0].deal(tuple{client: from}, hello)
		if _, unproven := sessions(); unproven > maxUnproven {
			t.Fatalf("%d unproven sessions", unproven)
		}
	}
	if got := testutil.ToFloat64(s.metrics.connections); got != 0 {
		t.Errorf("%v strangers count as connections", got)
	}
	first, err := dialDTLS(t, s, "127.0.0.1") // while all that is there
	if err != nil {
		t.Fatalf("a client with the cookie: %v", err)
	}
	eventually(t, "strangers forgotten", func() bool { all, _ := sessions(); return all <= 1 })

	// That client says nothing and is closed too; one at its address waits until then.
	if second, err := dialDTLS(t, s, "127.0.0.1"); err == nil && testutil.ToFloat64(s.metrics.connections) > 1 {
		_ = second.Close()
		t.Error("two connections of one address")
	}
	_ = first.SetReadDeadline(time.Now().Add(8 * time.Second))
	if _, err := first.Read(buf); err == nil || isTimeout(err) {
		t.Errorf("a silent client is kept: %v", err)
	}
	eventually(t, "no connection", func() bool { return testutil.ToFloat64(s.metrics.connections) == 0 })
}

// FuzzDTLS throws datagrams at the DTLS listener, from strangers and from within a session's address: it must still take a client.
func FuzzDTLS(f *testing.F) {
	f.Add([]byte{22, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{22, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 13, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0xFF})
	f.Add([]byte{21, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 40})
	f.Add([]byte{23, 0xFE, 0xFD, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0})
	f.Add([]byte{})
	s := startRelay(f, planeAuto, func(c *Config) { overStreams(f, c); c.tune.now = flying() })
	alice := dtlsClient(f, s, "alice")
	alice.mustSucceed(stun.MethodAllocate, udpTransport)
	session := func() tuple {
		l := s.secured[0]
		l.mu.Lock()
		defer l.mu.Unlock()
		for at := range l.sessions {
			return at
		}
		panic("no session")
	}()
	source := uint16(0)
	f.Fuzz(func(t *testing.T, b []byte) {
		source++
		l := s.secured[0]
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 3, byte(source >> 8), byte(source)}), 9)
		l.deal(tuple{client: at}, b)
		l.deal(session, b)
		again := *alice
		again.t = t
		for range 3 {
			if codeOf(again.ask(stun.BindingRequest)) == 0 {
				return
			}
		}
		t.Fatal("the relay does not answer any more")
	})
}

// TestForgedRecords: nobody ends another's session by records in the clear under its address, most of which pion/dtls would obey.
func TestForgedRecords(t *testing.T) {
	s := startRelay(t, planeAuto, func(c *Config) { overStreams(t, c) })
	alice := dtlsClient(t, s, "alice")
	alice.mustSucceed(stun.MethodAllocate, udpTransport)
	record := func(kind byte, content ...byte) []byte {
		return append([]byte{kind, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 9, 0, byte(len(content))}, content...)
	}
	for name, b := range map[string][]byte{
		"a fatal alert":               record(21, 2, 40),
		"close_notify":                record(21, 1, 0),
		"close_notify behind another": append(record(20, 1), record(21, 1, 0)...),
		"ChangeCipherSpec":            record(20, 1),
		"data":                        record(23, 'x'),
		"a ClientHello":               record(22, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
		"an empty handshake":          record(22),
	} {
		s.secured[0].deal(tuple{client: addrPort(alice.conn.LocalAddr())}, b)
		for range 2 { // an end may come just behind the first answer
			if codeOf(alice.ask(stun.BindingRequest)) != 0 {
				t.Fatalf("%s ended the session", name)
			}
		}
	}
	alice.mustSucceed(stun.MethodRefresh)
}
