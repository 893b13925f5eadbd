package turnserver

import (
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"

	"github.com/pion/stun/v4"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// serveOthers hands the connections of a TLS listener to the relay, as a shared port does.
func serveOthers(t *testing.T, s *Server) (address string) {
	t.Helper()
	config := &tls.Config{Certificates: []tls.Certificate{selfSigned(t, 1)}}
	l, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				if conn.(*tls.Conn).Handshake() == nil {
					s.ServeConn(conn)
				} else {
					conn.Close()
				}
			}()
		}
	}()
	return l.Addr().String()
}

// TestServeConn: a connection that another listener accepted is like one of the relay's own, within
// the limits of its address; and is closed if it says nothing, or the relay drains.
func TestServeConn(t *testing.T) {
	s := startRelay(t, planeAuto, func(c *Config) {
		c.MaxConnectionsPerAddress, c.tune.firstFrame = 2, 2*time.Second
	})
	address := serveOthers(t, s)
	dial := func() net.Conn {
		t.Helper()
		conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	closed := func(conn net.Conn) bool {
		_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
		_, err := conn.Read(make([]byte, 1))
		return err == io.EOF
	}
	client := func() *rawClient {
		c := newRawClient(t, s, "alice")
		c.conn = dial()
		return c
	}
	alice := client()
	alice.mustSucceed(stun.MethodAllocate, udpTransport)
	other := listenOn(t, "127.0.0.2")
	at := addrPort(other.LocalAddr())
	alice.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(at))
	_, _ = alice.conn.Write([]byte("\x40\x00\x00\x04data"))
	_ = other.SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, err := other.Read(make([]byte, 100)); err != nil {
		t.Error(err)
	}
	silent := dial()
	eventually(t, "two connections are there", func() bool {
		return testutil.ToFloat64(s.metrics.connections) == 2
	})
	if third := dial(); !closed(third) || testutil.ToFloat64(s.metrics.refusedConnection) != 1 {
		t.Error("a third is served, above the limit of its address")
	}
	if !closed(silent) {
		t.Error("a silent one stays")
	}
	client().mustSucceed(stun.MethodAllocate, udpTransport) // in its place
	s.draining.Store(true)
	if late := dial(); !closed(late) {
		t.Error("a connection is served while the relay drains")
	}
}
