package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"sotto/turnserver"
)

// TestRelayOfAServerOnLoopback: it is opened to the addresses it listens on and to no other: not to the rest of 127.0.0.0/8, and to nothing on
// loopback if it was told to listen elsewhere, as behind a proxy.
func TestRelayOfAServerOnLoopback(t *testing.T) {
	for _, c := range []struct {
		name        string
		given, want relayFlags
	}{
		{"nothing said", relayFlags{}, relayFlags{listen: []string{"127.0.0.1:0"}, allow: []string{"127.0.0.1/32"}}},
		{"a port", relayFlags{listen: []string{"127.0.0.1:3478", "[::1]:3478"}}, relayFlags{allow: []string{"127.0.0.1/32", "::1/128"}}},
		{"for TLS", relayFlags{listen: []string{":3478"}, tlsListen: []string{"127.0.0.1:5349"}}, relayFlags{allow: []string{"127.0.0.1/32"}}},
		{"every address", relayFlags{listen: []string{":3478"}}, relayFlags{}},
		{"another", relayFlags{listen: []string{"192.0.2.1:3478"}, allow: []string{"10.0.0.0/8"}}, relayFlags{allow: []string{"10.0.0.0/8"}}},
	} {
		got := c.given
		got.onLoopback()
		if c.want.listen == nil {
			c.want.listen = c.given.listen
		}
		if !slices.Equal(got.listen, c.want.listen) || !slices.Equal(got.allow, c.want.allow) {
			t.Errorf("%s: listens on %q, open to %q", c.name, got.listen, got.allow)
		}
	}
}

// TestHangupReloadsTheRelaysCertificate sends this process the signal, as a renewal's hook would, and asks the relay for its certificate.
func TestHangupReloadsTheRelaysCertificate(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no SIGHUP")
	}
	ours := make(chan os.Signal, 1) // a signal that comes before untilStopped listens must not end the test
	signal.Notify(ours, syscall.SIGHUP)
	defer signal.Stop(ours)

	directory := t.TempDir()
	cert, key := writeCertificate(t, directory, 1)
	certificate, err := certificateFiles(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	flags := relayFlags{tlsListen: []string{"127.0.0.1:0"}, ports: "49152-65535"}
	flags.onLoopback()
	relay, err := flags.start([][]byte{[]byte("a secret of at least 16 bytes")}, relayTLS(certificate.Get), testLog())
	if err != nil {
		t.Fatal(err)
	}
	defer stopRelay(relay)
	serial := func() int64 {
		conn, err := tls.Dial("tcp", relay.Addrs().TLS[0].String(), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
	}
	ctx, stop := context.WithCancel(t.Context())
	stopped, out := make(chan error), newOutput(io.Discard, io.Discard, false)
	again := reloads(certificate, nil, nil)
	go func() { stopped <- untilStopped(ctx, again, nil, out, testLog()) }()

	if n := serial(); n != 1 {
		t.Errorf("certificate %d before", n)
	}
	writeCertificate(t, directory, 2)
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); serial() != 2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the relay goes on with the old certificate")
		}
		if err := self.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// TestFollowMoves: once a relay has moved devices are sent to where it is, and the operator sees it.
func TestFollowMoves(t *testing.T) {
	moved := make(chan struct{}, 2)
	moved <- struct{}{}
	moved <- struct{}{}
	close(moved)
	var told [][]string
	at := []string{"turn:192.0.2.2:3478?transport=udp"}
	var stdout, stderr strings.Builder
	out, urls := newOutput(&stdout, &stderr, false), func() []string { return at }
	followMoves(out, moved, urls, func(urls []string) error {
		if told = append(told, urls); len(told) == 2 {
			return errors.New("no")
		}
		return nil
	})
	if len(told) != 2 || !slices.Equal(told[0], at) {
		t.Errorf("told %q", told)
	}
	want := "relay at  " + at[0] + "\n"
	if stdout.String() != want || !strings.Contains(stderr.String(), "where it was: no") {
		t.Errorf("%q, %q", &stdout, &stderr)
	}
}

// TestPortRange: what is not FIRST-LAST whole is refused.
func TestPortRange(t *testing.T) {
	got, err := portRange("50000-50009")
	if err != nil || got != (turnserver.PortRange{Min: 50000, Max: 50009}) {
		t.Error(got, err)
	}
	for _, bad := range []string{
		"", "-", "1-2-3", "50000-50009x", "50000-50009 60000-60009", "50000", "50000-", "-50000",
		"0-9", "9-1", "1-65536", "+1-2", "a-b",
	} {
		if got, err := portRange(bad); err == nil || !strings.Contains(err.Error(), "FIRST-LAST") {
			t.Errorf("%q is %v, %v", bad, got, err)
		}
	}
}

// TestChainGap: an intermediate that the file lacks is named.
func TestChainGap(t *testing.T) {
	type signed struct {
		*x509.Certificate
		key *ecdsa.PrivateKey
	}
	issue := func(name string, by *signed) *signed {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
			NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		}
		if by == nil {
			by = &signed{template, key}
		}
		der, err := x509.CreateCertificate(rand.Reader, template, by.Certificate, key.Public(), by.key)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return &signed{c, key}
	}
	root := issue("root", nil)
	middle := issue("middle", root)
	leaf := issue("leaf", middle)
	known := x509.NewCertPool()
	known.AddCert(root.Certificate)
	for _, c := range []struct {
		chain []*signed
		roots *x509.CertPool
		want  string
	}{
		{[]*signed{leaf, middle}, known, ""},
		{[]*signed{leaf}, known, "CN=middle"},
		{[]*signed{leaf, root}, known, "CN=middle"},
		{[]*signed{leaf, middle}, x509.NewCertPool(), "CN=root"},
		{[]*signed{leaf, middle, root}, x509.NewCertPool(), ""}, // an authority of one's own
		{[]*signed{root}, x509.NewCertPool(), ""},
	} {
		var chain [][]byte
		for _, certificate := range c.chain {
			chain = append(chain, certificate.Raw)
		}
		if got := chainGap(chain, c.roots); got != c.want {
			t.Errorf("%d certificates: %q, want %q", len(chain), got, c.want)
		}
	}
}

// TestInvitationErrors: only a server that is not there is said not to be there.
func TestInvitationErrors(t *testing.T) {
	ask := func(directory string) string {
		_, err := askForInvitation(t.Context(), directory, time.Hour, 1)
		if err == nil {
			t.Fatal("there is an invitation")
		}
		return err.Error()
	}
	directory, err := os.MkdirTemp("", "sotto") // t.TempDir is too long for a socket on some systems
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(directory)
	if got := ask(directory); !strings.Contains(got, "no server is running") {
		t.Errorf("no socket: %q", got)
	}

	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: controlSocket(directory), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	go func() {
		if conn, err := listener.Accept(); err == nil {
			conn.Close() // busy, or stopping
		}
	}()
	if got := ask(directory); strings.Contains(got, "no server is running") || !strings.Contains(got, "cannot be asked") || strings.Contains(got, "http") {
		t.Errorf("no answer: %q", got)
	}
	listener.Close()
	if got := ask(directory); !strings.Contains(got, "no server is running") {
		t.Errorf("the socket of a server that died: %q", got)
	}
	// Root, which tests may run as, is refused nothing; so this one is made up.
	denied := &net.OpError{Op: "dial", Net: "unix", Err: os.NewSyscallError("connect", syscall.EACCES)}
	if got := controlError(denied, directory).Error(); !strings.Contains(got, "the user that the server runs as") {
		t.Errorf("not allowed: %q", got)
	}
}

func writeCertificate(t *testing.T, directory string, serial int64) (certFile, keyFile string) {
	t.Helper()
	return writeCertificateFor(t, directory, serial)
}

// writeCertificateFor makes one for host names, or for 127.0.0.1.
func writeCertificateFor(
	t *testing.T, directory string, serial int64, names ...string,
) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotAfter: time.Now().Add(time.Hour), IsCA: true,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true,
	}
	if len(names) > 0 {
		template.DNSNames, template.IPAddresses = names, nil
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile = filepath.Join(directory, "cert.pem"), filepath.Join(directory, "key.pem")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: cert}, keyFile: {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// A relay alone has its metrics where Prometheus looks for them.
func TestMetricsOfTheRelayAlone(t *testing.T) {
	relay, err := turnserver.New(turnserver.Config{UDP: []string{"127.0.0.1:0"}, Secrets: [][]byte{make([]byte, 32)}, AllowPeers: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}})
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Shutdown(t.Context())
	listener, err := listenMetrics("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error)
	go func() { served <- serveMetrics(listener, nil, relay) }()
	for _, path := range []string{"/metrics", "/metrics/relay"} {
		response, err := http.Get("http://" + listener.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		if response.Body.Close(); err != nil || !strings.Contains(string(body), "\nsotto_turn_allocations 0\n") {
			t.Errorf("%s: %v\n%s", path, err, body)
		}
	}
	listener.Close()
	if err := <-served; err != nil {
		t.Error(err)
	}
}

// TestRelaySecretIsKept: the next start makes credentials that the one before would have made, and
// nobody else reads the secret.
func TestRelaySecretIsKept(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	var secrets [2]string
	for i := range secrets {
		var r relayFlags
		if err := r.keepSecret(data); err != nil {
			t.Fatal(err)
		}
		found, err := r.secrets()
		if err != nil || len(found) != 1 || len(found[0]) < 32 {
			t.Fatal(found, err)
		}
		secrets[i] = string(found[0])
	}
	if secrets[0] != secrets[1] {
		t.Error("the second start has another secret")
	}
	info, err := os.Stat(filepath.Join(data, "relay-secret"))
	if err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
		t.Error(info, err)
	}
	if left, _ := filepath.Glob(filepath.Join(data, "relay-secret.*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	own := relayFlags{secretFile: "somewhere"}
	if err := own.keepSecret(data); err != nil || own.secretFile != "somewhere" {
		t.Error(own.secretFile, err)
	}
}
