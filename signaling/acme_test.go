package signaling

import (
	"crypto/tls"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestACME gets a certificate from a real ACME server, Let's Encrypt's Pebble, by tls-alpn-01 (RFC 8737), and from the cache the second
// time. It needs the programs pebble and pebble-challtestsrv (a DNS server that answers 127.0.0.1) in PATH.
func TestACME(t *testing.T) {
	for _, program := range []string{"pebble", "pebble-challtestsrv"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed (go install github.com/letsencrypt/pebble/v2/cmd/%s@v2.10.1)", program, program)
		}
	}
	ours, directory, management, dns := freePort(t), freePort(t), freePort(t), freePort(t)
	dir := t.TempDir()
	cert, key := writeCertificate(t, dir, 1) // the ACME server's own
	config := filepath.Join(dir, "pebble.json")
	err := os.WriteFile(config, fmt.Appendf(nil, `{"pebble": {
		"listenAddress": "127.0.0.1:%d", "managementListenAddress": "127.0.0.1:%d", "certificate": %q, "privateKey": %q,
		"httpPort": 1, "tlsPort": %d, "retryAfter": {"authz": 1, "order": 1}, "keyAlgorithm": "ecdsa",
		"profiles": {"default": {"description": "default", "validityPeriod": 7776000}}}}`,
		directory, management, cert, key, ours), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("SSL_CERT_FILE", cert)
	background(t, "pebble-challtestsrv", "-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-http01", "", "-https01", "", "-tlsalpn01", "",
		"-doh", "", "-dnsserver", fmt.Sprintf("127.0.0.1:%d", dns), "-management", fmt.Sprintf("127.0.0.1:%d", freePort(t)))
	background(t, "pebble", "-config", config, "-dnsserver", fmt.Sprintf("127.0.0.1:%d", dns))
	waitFor(t, directory)

	var first *big.Int
	for range 2 {
		l, err := Listen(ListenConfig{
			Address: fmt.Sprintf("127.0.0.1:%d", ours), ACME: []string{"chat.sotto.test"}, ACMEDir: filepath.Join(dir, "acme"),
			ACMEDirectory: fmt.Sprintf("https://127.0.0.1:%d/dir", directory),
		})
		if err != nil {
			t.Fatal(err)
		}
		l.Share(func(c net.Conn) { c.Close() }) // the challenge comes to a port that is shared
		done := make(chan error, 1)
		go func() { done <- l.Serve(http.NotFoundHandler()) }()
		c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{ServerName: "chat.sotto.test", InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		leaf := c.ConnectionState().PeerCertificates[0]
		c.Close()
		if err := leaf.VerifyHostname("chat.sotto.test"); err != nil || !strings.Contains(leaf.Issuer.CommonName, "Pebble") {
			t.Errorf("a certificate by %s: %v", leaf.Issuer, err)
		}
		if first != nil && leaf.SerialNumber.Cmp(first) != 0 {
			t.Error("the second start did not use the kept certificate")
		}
		first = leaf.SerialNumber
		relays, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{GetCertificate: l.GetCertificate()})
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			if c, err := relays.Accept(); err == nil {
				_ = c.(*tls.Conn).Handshake()
				c.Close()
			}
		}()
		c, err = tls.Dial("tcp", relays.Addr().String(), &tls.Config{
			ServerName: "chat.sotto.test", InsecureSkipVerify: true,
		})
		if err != nil {
			t.Fatal(err)
		}
		if shown := c.ConnectionState().PeerCertificates[0].SerialNumber; shown.Cmp(first) != 0 {
			t.Errorf("another listener with its certificates shows %v, not %v", shown, first)
		}
		c.Close()
		relays.Close()
		if c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{ServerName: "other.sotto.test", InsecureSkipVerify: true}); err == nil {
			c.Close()
			t.Error("a name that is not ours got a certificate")
		}
		if err := l.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections() // autocert's
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// background runs a program until the test ends.
func background(t *testing.T, program string, args ...string) {
	t.Helper()
	c := exec.Command(program, args...)
	c.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1")
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
	})
}

func waitFor(t *testing.T, port int) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}
