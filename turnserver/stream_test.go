package turnserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/stun/v4"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// selfSigned is a certificate for 127.0.0.1.
func selfSigned(t testing.TB, serial int64) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func overStreams(t testing.TB, c *Config) {
	cert := selfSigned(t, 1)
	c.TCP, c.TLS, c.DTLS = []string{"127.0.0.1:0"}, []string{"127.0.0.1:0"}, []string{"127.0.0.1:0"}
	c.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}}
}

// TestSilentConnectionsAreClosed opens many connections that say one byte, or half a message, or a bit at a time, in plain TCP and below
// TLS: ten seconds later the relay holds none of them.
func TestSilentConnectionsAreClosed(t *testing.T) {
	if testing.Short() {
		t.Skip("takes ten seconds")
	}
	t.Parallel()
	const connections = 2000
	s := startRelay(t, planeAuto, func(c *Config) { overStreams(t, c); c.MaxConnectionsPerAddress = connections })
	start := time.Now()
	var wg sync.WaitGroup
	var slowest atomic.Int64
	for i := range connections {
		address := s.Addrs().TCP[0]
		if i%2 == 1 {
			address = s.Addrs().TLS[0]
		}
		conn, err := net.Dial("tcp4", address.String())
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			defer conn.Close()
			opened := time.Now()
			drip := []byte{0x00, 0x03, 0x00, 0x08, 0x21, 0x12, 0xA4, 0x42, 0, 0, 0, 0, 0, 0, 0}
			_, _ = conn.Write(drip[:1])
			for _, b := range drip[1 : 1+i%8] { // some keep dripping
				_ = conn.SetReadDeadline(time.Now().Add(time.Second))
				if _, err := conn.Read(make([]byte, 64)); err != nil && !isTimeout(err) {
					break
				}
				_, _ = conn.Write([]byte{b})
			}
			_ = conn.SetReadDeadline(time.Now().Add(12 * time.Second))
			for {
				if _, err := conn.Read(make([]byte, 64)); err != nil {
					if isTimeout(err) {
						t.Error("still open")
					}
					break
				}
			}
			for took := int64(time.Since(opened)); ; {
				old := slowest.Load()
				if took <= old || slowest.CompareAndSwap(old, took) {
					break
				}
			}
		})
	}
	eventually(t, "all connections accepted or closed", func() bool {
		return testutil.ToFloat64(s.metrics.connections) == connections || time.Since(start) > 8*time.Second
	})
	wg.Wait()
	if d := time.Duration(slowest.Load()); d > 10*time.Second {
		t.Errorf("a connection lived for %v", d)
	}
	eventually(t, "no connection", func() bool { return testutil.ToFloat64(s.metrics.connections) == 0 })
}

func isTimeout(err error) bool {
	n, ok := err.(net.Error)
	return ok && n.Timeout()
}

// TestIdleConnectionsAreClosed: one that spoke and holds no allocation, and one whose allocation is over; but not one with an allocation.
func TestIdleConnectionsAreClosed(t *testing.T) {
	s := startRelay(t, planeAuto, func(c *Config) { overStreams(t, c); c.tune.idle = 300 * time.Millisecond })
	dial := func(id string) *rawClient {
		c := newRawClient(t, s, id)
		_ = c.conn.Close()
		conn, err := net.Dial("tcp4", s.Addrs().TCP[0].String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		c.conn = conn
		return c
	}
	stranger, alice, bob := dial("carol"), dial("alice"), dial("bob")
	if code := codeOf(stranger.ask(stun.BindingRequest)); code != 0 {
		t.Fatalf("Binding: code %d", code)
	}
	alice.mustSucceed(stun.MethodAllocate, udpTransport)
	bob.mustSucceed(stun.MethodAllocate, udpTransport)
	bob.mustSucceed(stun.MethodRefresh, lifetime(0))
	eventually(t, "two connections closed", func() bool { return testutil.ToFloat64(s.metrics.connections) == 1 })
	for _, c := range []*rawClient{stranger, bob} {
		_ = c.conn.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := c.conn.Read(make([]byte, 10)); err != io.EOF {
			t.Errorf("an idle connection: %v", err)
		}
	}
	alice.mustSucceed(stun.MethodRefresh)
}

// TestConnectionsAreLimited: above the limit of an address a connection is closed at once, and a closed one makes room.
func TestConnectionsAreLimited(t *testing.T) {
	s := startRelay(t, planeAuto, func(c *Config) { overStreams(t, c); c.MaxConnectionsPerAddress = 3 })
	var conns []net.Conn
	for range 4 {
		conn, err := net.Dial("tcp4", s.Addrs().TCP[0].String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns = append(conns, conn)
		eventually(t, "it is counted", func() bool {
			return testutil.ToFloat64(s.metrics.connections)+testutil.ToFloat64(s.metrics.refusedConnection) == float64(len(conns))
		})
	}
	_ = conns[3].SetReadDeadline(time.Now().Add(2 * time.Second))
	if _, err := conns[3].Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("the fourth connection: %v", err)
	}
	_ = conns[0].Close()
	eventually(t, "room again", func() bool { return testutil.ToFloat64(s.metrics.connections) == 2 })
}

// TestBrokenFramesCloseTheConnection: what begins with no message of ours is closed. The second one
// made pion v5.1.1's own reader spin for ever: 65,516 + 20 is 0 in sixteen bits.
func TestBrokenFramesCloseTheConnection(t *testing.T) {
	s := startRelay(t, planeAuto, func(c *Config) {
		overStreams(t, c)
		c.tune.firstFrame, c.tune.restOfFrame = time.Hour, time.Hour
	})
	for name, frame := range map[string]string{
		"neither STUN nor ChannelData": "\xff\xff\xff\xff",
		"a length that wraps around":   "\x00\x01\xff\xec\x21\x12\xa4\x42",
		"longer than any message":      "\x40\x00\xff\xff",
	} {
		for _, behind := range []bool{false, true} {
			conn, err := net.Dial("tcp4", s.Addrs().TCP[0].String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if behind { // a whole message, of a client without an allocation
				c := &rawClient{t: t, conn: conn}
				if code := codeOf(c.ask(stun.BindingRequest)); code != 0 {
					t.Fatalf("Binding: code %d", code)
				}
			}
			_, _ = io.WriteString(conn, frame)
			_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
			if _, err := conn.Read(make([]byte, 1)); err == nil || isTimeout(err) {
				t.Errorf("%s, behind a message: %t: %v", name, behind, err)
			}
		}
	}
}

// TestLongFramesAreSkipped: what is too long for a datagram is lost, and the call goes on.
func TestLongFramesAreSkipped(t *testing.T) {
	s := startRelay(t, planeAuto, func(c *Config) { overStreams(t, c) })
	conn, err := net.Dial("tcp4", s.Addrs().TCP[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := newRawClient(t, s, "alice")
	c.conn = conn
	c.mustSucceed(stun.MethodAllocate, udpTransport)
	c.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peer("127.0.0.2:9"))
	for _, size := range []int{1593, 2000, 4000, 65535} {
		_, _ = conn.Write(append([]byte{0x40, 0, byte(size >> 8), byte(size)}, make([]byte, (size+3)&^3)...))
		c.mustSucceed(stun.MethodRefresh)
	}
	m, err := stun.Build(stun.TransactionID, stun.NewType(stun.MethodSend, stun.ClassIndication), peer("127.0.0.2:9"),
		stun.RawAttribute{Type: stun.AttrData, Value: make([]byte, 3000)})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = conn.Write(m.Raw)
	c.mustSucceed(stun.MethodRefresh)
}

// TestHalfAMessageClosesTheConnection: a client without an allocation has seconds for the rest of
// any message, not only of its first.
func TestHalfAMessageClosesTheConnection(t *testing.T) {
	s := startRelay(t, planeAuto, func(c *Config) {
		overStreams(t, c)
		c.tune.restOfFrame = 250 * time.Millisecond
	})
	conn, err := net.Dial("tcp4", s.Addrs().TCP[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := &rawClient{t: t, conn: conn}
	if code := codeOf(c.ask(stun.BindingRequest)); code != 0 {
		t.Fatalf("Binding: code %d", code)
	}
	_, _ = conn.Write([]byte{0x00, 0x01, 0x00})
	_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, err := conn.Read(make([]byte, 64)); err == nil || isTimeout(err) {
		t.Errorf("the connection is open: %v", err)
	}
}

// TestAnOutageEndsNoCall: a client over TCP is away for longer than a message may take otherwise,
// with half a message on the way and more waiting for it than buffers hold.
func TestAnOutageEndsNoCall(t *testing.T) {
	s := startRelay(t, planeAuto, func(c *Config) {
		overStreams(t, c)
		c.tune.restOfFrame = 250 * time.Millisecond
	})
	conn, err := net.Dial("tcp4", s.Addrs().TCP[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.(*net.TCPConn).SetReadBuffer(4096)
	c := newRawClient(t, s, "alice")
	c.conn = conn
	other := listenOn(t, "127.0.0.2")
	relayed := relayedAddr(t, c.mustSucceed(stun.MethodAllocate, udpTransport))
	c.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(addrPort(other.LocalAddr())))
	frame := []byte{0x40, 0, 0, 4, 'd', 'a', 't', 'a'}
	_, _ = conn.Write(frame[:5])
	for away := time.Now(); time.Since(away) < time.Second; time.Sleep(time.Millisecond) {
		for range 20 {
			_, _ = other.WriteToUDPAddrPort(make([]byte, 1400), relayed)
		}
	}
	_, _ = conn.Write(frame[5:])
	_ = other.SetReadDeadline(time.Now().Add(3 * time.Second))
	if _, err := other.Read(make([]byte, 100)); err != nil {
		t.Errorf("what was half sent does not arrive: %v", err)
	}
	if n := testutil.ToFloat64(s.metrics.connections); n != 1 {
		t.Errorf("%v connections", n)
	}
}

// TestFramesInPieces: messages arrive split and joined at every byte, the shortest ChannelData among them.
func TestFramesInPieces(t *testing.T) {
	s := startRelay(t, planeAuto, func(c *Config) { overStreams(t, c) })
	c := newRawClient(t, s, "alice")
	_ = c.conn.Close()
	conn, err := net.Dial("tcp4", s.Addrs().TCP[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c.conn = conn
	other := listenOn(t, "127.0.0.2")
	c.mustSucceed(stun.MethodAllocate, udpTransport)
	c.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(addrPort(other.LocalAddr())))
	joined := []byte{0x40, 0, 0, 1, 'a', 0, 0, 0, 0x40, 0, 0, 0, 0x40, 0, 0, 5, 'b', 'c', 'd', 'e', 'f', 0, 0, 0}
	for split := range joined {
		_, _ = conn.Write(joined[:split])
		_, _ = conn.Write(joined[split:])
		for _, want := range []string{"a", "", "bcdef"} {
			buf := make([]byte, 100)
			_ = other.SetReadDeadline(time.Now().Add(2 * time.Second))
			n, err := other.Read(buf)
			if err != nil || string(buf[:n]) != want {
				t.Fatalf("split at %d: %q, %v, want %q", split, buf[:n], err, want)
			}
		}
	}
}

// TestBusyConnectionsLive: a connection on which no read ever ends at the end of a message has a deadline for each message, not for all.
func TestBusyConnectionsLive(t *testing.T) {
	s := startRelay(t, planeAuto, func(c *Config) {
		overStreams(t, c)
		c.tune.firstFrame, c.tune.restOfFrame = 250*time.Millisecond, 250*time.Millisecond
	})
	conn, err := net.Dial("tcp4", s.Addrs().TCP[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	frame := []byte{0x40, 0, 0, 4, 'd', 'a', 't', 'a'}
	_, _ = conn.Write(frame[:5])
	for start := time.Now(); time.Since(start) < 750*time.Millisecond; time.Sleep(10 * time.Millisecond) {
		if _, err := conn.Write(slices.Concat(frame[5:], frame[:5])); err != nil {
			t.Fatalf("closed after %v: %v", time.Since(start), err)
		}
	}
	_, _ = conn.Write(frame[5:])
	c := &rawClient{t: t, conn: conn}
	if code := codeOf(c.ask(stun.BindingRequest)); code != 0 {
		t.Errorf("Binding at the end: code %d", code)
	}
}

// TestCertificateReload: a new certificate serves new connections, and an old connection goes on.
func TestCertificateReload(t *testing.T) {
	var current atomic.Pointer[tls.Certificate]
	first, second := selfSigned(t, 1), selfSigned(t, 2)
	current.Store(&first)
	s := startRelay(t, planeAuto, func(c *Config) {
		overStreams(t, c)
		c.TLSConfig = &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return current.Load(), nil }}
	})
	dial := func() *tls.Conn {
		conn, err := tls.Dial("tcp4", s.Addrs().TLS[0].String(), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	serial := func(c *tls.Conn) int64 { return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64() }
	old := dial()
	current.Store(&second)
	if a, b := serial(old), serial(dial()); a != 1 || b != 2 {
		t.Errorf("certificates %d and %d, want 1 and 2", a, b)
	}
	c := newRawClient(t, s, "alice")
	_ = c.conn.Close()
	c.conn = old
	c.mustSucceed(stun.MethodAllocate, udpTransport)
}

// testShutdown: with a live call it waits as long as it may and says that it cut it off; without one it returns at once; and the ports are free.
func testShutdown(t *testing.T, plane string) {
	s := startRelay(t, plane, func(c *Config) { overStreams(t, c) })
	alice := newRawClient(t, s, "alice")
	alice.mustSucceed(stun.MethodAllocate, udpTransport)
	done := make(chan error)
	go func() { done <- s.Shutdown(t.Context()) }()
	eventually(t, "draining", s.Draining)
	alice.mustSucceed(stun.MethodRefresh) // the call goes on
	if code := codeOf(newRawClient(t, s, "bob").request(stun.MethodAllocate, udpTransport)); code != 508 {
		t.Errorf("a new allocation while draining: code %d", code)
	}
	select {
	case err := <-done:
		t.Fatalf("Shutdown did not wait: %v", err)
	default:
	}
	if n := testutil.ToFloat64(s.metrics.refusedDraining); n != 1 {
		t.Errorf("%v allocations counted as refused", n)
	}
	if conn, err := net.Dial("tcp4", s.Addrs().TCP[0].String()); err == nil {
		conn.Close()
		t.Error("a new connection while draining")
	}
	alice.mustSucceed(stun.MethodRefresh, lifetime(0))
	if err := <-done; err != nil {
		t.Error(err)
	}
	again, err := New(Config{UDP: []string{s.Addrs().UDP[0].String()}, Secrets: [][]byte{testSecret}, AllowPeers: loopback})
	if err != nil {
		t.Fatalf("the port is not free: %v", err)
	}
	newRawClient(t, again, "alice").mustSucceed(stun.MethodAllocate, udpTransport)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := again.Shutdown(ctx); err != context.DeadlineExceeded {
		t.Errorf("a call was cut off: %v", err)
	}
}
