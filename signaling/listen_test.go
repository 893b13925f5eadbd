package signaling

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// writeCertificate makes a self-signed certificate with a serial number, and returns its files.
func writeCertificate(t *testing.T, dir string, serial int64) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial),
		Subject:      pkix.Name{CommonName: "127.0.0.1"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// start serves until the test ends.
func (l *Listener) start(t *testing.T, handler http.Handler) {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- l.Serve(handler) }()
	t.Cleanup(func() {
		if err := l.Shutdown(t.Context()); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestListenWithFilesAndReload(t *testing.T) {
	dir := t.TempDir()
	cert, key := writeCertificate(t, dir, 1)
	files, err := LoadCertificate(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := Listen(ListenConfig{Address: "127.0.0.1:0", Certificate: files})
	if err != nil {
		t.Fatal(err)
	}
	l.start(t, http.NotFoundHandler())
	if url := l.URL("127.0.0.1"); !strings.HasPrefix(url, "https://127.0.0.1:") {
		t.Errorf("URL %s", url)
	}
	serial := func(max uint16) (int64, error) {
		c, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true, MaxVersion: max, NextProtos: []string{"h2", "http/1.1"}})
		if err != nil {
			return 0, err
		}
		defer c.Close()
		if p := c.ConnectionState().NegotiatedProtocol; p != "http/1.1" {
			t.Errorf("the server agreed to %q", p)
		}
		return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64(), nil
	}
	if n, err := serial(tls.VersionTLS13); n != 1 {
		t.Errorf("certificate %d, %v", n, err)
	}
	if _, err := serial(tls.VersionTLS12); err == nil {
		t.Error("TLS 1.2 was accepted")
	}
	writeCertificate(t, dir, 2)
	if err := files.Reload(); err != nil {
		t.Fatal(err)
	}
	if n, err := serial(tls.VersionTLS13); n != 2 {
		t.Errorf("after Reload: certificate %d, %v", n, err)
	}
	if err := os.WriteFile(key, []byte("broken"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := files.Reload(); err == nil {
		t.Error("a broken key was taken")
	}
	if n, err := serial(tls.VersionTLS13); n != 2 {
		t.Errorf("after a failed Reload: certificate %d, %v", n, err)
	}
}

func TestCertificateFilesAreChecked(t *testing.T) {
	cert, _ := writeCertificate(t, t.TempDir(), 1)
	for name, files := range map[string][2]string{"missing": {"/nowhere/a", "/nowhere/b"}, "without its key": {cert, ""}} {
		if _, err := LoadCertificate(files[0], files[1]); err == nil || !strings.Contains(err.Error(), "certificate files") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestListenRefuses(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, c := range []struct {
		name string
		cfg  ListenConfig
		want string
	}{
		{"plain on all addresses", ListenConfig{Address: ":0"}, "not a loopback address"},
		{"plain on another address", ListenConfig{Address: "192.0.2.1:0"}, "not a loopback address"},
		{"two ways at once", ListenConfig{Address: "127.0.0.1:0", Certificate: &CertificateFiles{}, ACME: []string{"chat.example"}}, "exclude each other"},
		{"ACME without a directory", ListenConfig{Address: "127.0.0.1:0", ACME: []string{"chat.example"}}, "needs a directory"},
		{"port in use", ListenConfig{Address: taken.Addr().String()}, "in use"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := Listen(c.cfg)
			if err == nil {
				l.net.Close()
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	for _, address := range []string{"127.0.0.1:0", "[::1]:0", "localhost:0"} {
		if l, err := Listen(ListenConfig{Address: address}); err != nil {
			t.Logf("%s: %v", address, err) // a machine without IPv6
		} else {
			l.net.Close()
		}
	}
	l, err := Listen(ListenConfig{Address: "0.0.0.0:0", InsecurePlain: true})
	if err != nil {
		t.Fatal(err)
	}
	l.net.Close()
}

func TestConfigIsChecked(t *testing.T) {
	dir := t.TempDir()
	names := []string{"127.0.0.1"}
	for name, cfg := range map[string]Config{
		"no directory":      {Names: names},
		"no name":           {DataDir: dir},
		"a bad name":        {DataDir: dir, Names: []string{"a b"}},
		"a relay, no URL":   {DataDir: dir, Names: names, Relay: &RelayConfig{Secret: make([]byte, 32)}},
		"a weak secret":     {DataDir: dir, Names: names, Relay: &RelayConfig{URLs: []string{"turn:a"}, Secret: []byte("short")}},
		"not a directory":   {DataDir: "/dev/null", Names: names},
		"directory in use?": {DataDir: "", Names: names},
	} {
		if s, err := New(cfg); err == nil {
			s.Shutdown(t.Context())
			t.Errorf("%s was taken", name)
		}
	}
	s, err := New(Config{DataDir: dir, Names: names})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{DataDir: dir, Names: names}); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second server on the same directory: %v", err)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// TestProxies: who comes through a listed proxy is who its header says, before TLS, and is limited
// as such; elsewhere a header is no request, and a listed proxy must send one.
func TestProxies(t *testing.T) {
	files, err := LoadCertificate(writeCertificate(t, t.TempDir(), 1))
	if err != nil {
		t.Fatal(err)
	}
	l, err := Listen(ListenConfig{
		Address: "127.0.0.1:0", Certificate: files, ConnectionsPer: 1,
		Proxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")},
	})
	if err != nil {
		t.Fatal(err)
	}
	l.start(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, r.RemoteAddr)
	}))
	// ask says what address the server sees, and keeps the connection open.
	ask := func(from, header string) string {
		t.Helper()
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		conn, err := dialer.Dial("tcp4", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		conn.SetDeadline(time.Now().Add(time.Minute))
		io.WriteString(conn, header)
		over := tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
		request, _ := http.NewRequest("GET", "https://127.0.0.1/", nil)
		if request.Write(over) != nil {
			return ""
		}
		response, err := http.ReadResponse(bufio.NewReader(over), request)
		if err != nil {
			return ""
		}
		seen, _ := io.ReadAll(response.Body)
		return string(seen)
	}
	const two = "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x03\xc6\x33\x64\x07\xdc\x04\x01\xbb"
	const one = "PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"
	for _, c := range []struct{ name, from, header, want string }{
		{"version 1", "127.0.0.1", one, "192.0.2.1:56324"},
		{"another of its clients", "127.0.0.1", strings.Replace(one, "2.1", "2.2", 1), "192.0.2.2:56324"},
		{"the first one once more", "127.0.0.1", one, ""},
		{"version 2", "127.0.0.1", two, "192.0.2.3:56324"},
		{"a proxy that names nobody", "127.0.0.1", "", ""},
		{"a header from elsewhere", "127.0.0.2", one, ""},
	} {
		if got := ask(c.from, c.header); got != c.want {
			t.Errorf("%s: seen as %q, want %q", c.name, got, c.want)
		}
	}
	if got := ask("127.0.0.3", ""); !strings.HasPrefix(got, "127.0.0.3:") {
		t.Errorf("somebody else without a header: %q", got)
	}
}
