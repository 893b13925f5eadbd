package signaling

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"testing"
	"time"
)

// aBinding is a STUN Binding request (RFC 8489 section 5).
var aBinding = append([]byte{0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42}, make([]byte, 12)...)

// sharedPort answers HTTP with what it knows of TLS, and TURN with what it was told.
func sharedPort(t *testing.T, within time.Duration) *Listener {
	t.Helper()
	files, err := LoadCertificate(writeCertificate(t, t.TempDir(), 1))
	if err != nil {
		t.Fatal(err)
	}
	l, err := Listen(ListenConfig{Address: "127.0.0.1:0", Certificate: files, ConnectionsPer: 20})
	if err != nil {
		t.Fatal(err)
	}
	l.Share(func(c net.Conn) {
		go func() {
			defer c.Close()
			b := make([]byte, len(aBinding))
			n, _ := io.ReadFull(c, b)
			fmt.Fprintf(c, "TURN %x", b[:n])
		}()
	})
	l.sorter.within = within
	l.start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil {
			fmt.Fprint(w, "HTTP without TLS")
			return
		}
		key, err := r.TLS.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32) // RFC 9266
		fmt.Fprintf(w, "HTTP %x %v", key, err)
	}))
	return l
}

// TestSharedPort: TURN and HTTP come to one port, whether or not they say so in the handshake, and
// a request's channel binding is that of its connection.
func TestSharedPort(t *testing.T) {
	l := sharedPort(t, time.Minute)
	get := "GET / HTTP/1.0\r\n\r\n"
	for _, c := range []struct {
		name    string
		version uint16
		offered []string
		said    string
		want    string // "": closed
	}{
		{"TURN by ALPN", tls.VersionTLS13, []string{alpnTURN}, string(aBinding), "TURN"},
		{"TURN by ALPN, TLS 1.2", tls.VersionTLS12, []string{alpnTURN}, string(aBinding), "TURN"},
		{"TURN", tls.VersionTLS13, nil, string(aBinding), "TURN"},
		{"TURN, TLS 1.2", tls.VersionTLS12, nil, string(aBinding), "TURN"},
		{"HTTP by ALPN", tls.VersionTLS13, []string{"h2", alpnHTTP}, get, "HTTP"},
		{"HTTP", tls.VersionTLS13, nil, get, "HTTP"},
		{"HTTP by ALPN, TLS 1.2", tls.VersionTLS12, []string{alpnHTTP}, get, ""},
		{"HTTP, TLS 1.2", tls.VersionTLS12, nil, get, ""},
		{"neither by ALPN", tls.VersionTLS13, []string{"acme-tls/1"}, get, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{
				InsecureSkipVerify: true, MaxVersion: c.version, NextProtos: c.offered,
			})
			if err != nil {
				if c.want != "" {
					t.Error(err)
				}
				return
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
			if _, err := conn.Write([]byte(c.said)); err != nil {
				t.Fatal(err)
			}
			want := []byte(nil)
			switch c.want {
			case "TURN":
				want = fmt.Appendf(nil, "TURN %x", aBinding)
			case "HTTP":
				state := conn.ConnectionState()
				key, err := state.ExportKeyingMaterial("EXPORTER-Channel-Binding", nil, 32)
				want = fmt.Appendf(nil, "HTTP %x %v", key, err)
			}
			got, err := io.ReadAll(conn)
			right := bytes.HasSuffix(got, want) && (len(want) > 0 || len(got) == 0)
			if !right || errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%q, %v, want %q", got, err, want)
			}
		})
	}
}

// TestSharedPortKeepsAlive: a connection that is HTTP's serves more than one request.
func TestSharedPortKeepsAlive(t *testing.T) {
	l := sharedPort(t, time.Minute)
	conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	answers := bufio.NewReader(conn)
	var bodies []string
	for range 2 {
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		response, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, string(body))
	}
	if bodies[0] != bodies[1] || slices.Contains(bodies, "HTTP without TLS") {
		t.Errorf("%q", bodies)
	}
}

// TestSharedPortIsBounded: who says nothing is closed, before and after the handshake, and gives
// its place back.
func TestSharedPortIsBounded(t *testing.T) {
	l := sharedPort(t, 500*time.Millisecond)
	for range 15 {
		plain, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer plain.Close()
		secured, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err) // the place of the one before is free again
		}
		defer secured.Close()
		for _, conn := range []net.Conn{secured, plain} {
			_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
			if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal("a silent connection stays")
			}
		}
	}
}

// TestSharedPortCloses: at once, whoever has said nothing yet.
func TestSharedPortCloses(t *testing.T) {
	var silent net.Conn
	t.Cleanup(func() { silent.Close() }) // after the listener
	l := sharedPort(t, time.Hour)
	var err error
	if silent, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
}
