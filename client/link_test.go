package client

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
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sotto/e2ee/linking"
	"sotto/signaling"
	"sotto/wire"
)

// certificate makes one for 127.0.0.1 that roots trusts.
func certificate(t testing.TB, roots *x509.CertPool) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// overTLS serves the world by TLS too and returns the URL.
func (w *world) overTLS(t testing.TB, cert tls.Certificate) string {
	t.Helper()
	dir := t.TempDir()
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, block := range map[string]*pem.Block{
		certFile: {Type: "CERTIFICATE", Bytes: cert.Certificate[0]}, keyFile: {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	files, err := signaling.LoadCertificate(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	l, err := signaling.Listen(signaling.ListenConfig{Address: "127.0.0.1:0", Certificate: files})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- l.Serve(w.server.Handler()) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = l.Shutdown(ctx) // links are ended by the server, later
		<-served
	})
	return l.URL("127.0.0.1")
}

// endsTLS is a proxy whose certificate the client trusts, and which passes on byte for byte what it
// reads in TLS: over TLS of its own, or in the clear if the server's URL is http.
func endsTLS(t testing.TB, server string, roots *x509.CertPool) (url string) {
	t.Helper()
	config := &tls.Config{Certificates: []tls.Certificate{certificate(t, roots)}}
	between, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	dial := func() (net.Conn, error) {
		return tls.Dial("tcp", server[len("https://"):], &tls.Config{RootCAs: roots})
	}
	if plain, ok := strings.CutPrefix(server, "http://"); ok {
		dial = func() (net.Conn, error) { return net.Dial("tcp", plain) }
	}
	var relaying sync.WaitGroup
	t.Cleanup(func() {
		between.Close()
		relaying.Wait()
	})
	relaying.Go(func() {
		for {
			client, err := between.Accept()
			if err != nil {
				return
			}
			upstream, err := dial()
			if err != nil {
				t.Error(err)
				return
			}
			relaying.Go(func() { io.Copy(upstream, client); upstream.Close() })
			relaying.Go(func() { io.Copy(client, upstream); client.Close() })
		}
	})
	return "https://" + between.Addr().String()
}

// Somebody ends TLS between a device and its server: it does not log in, and says why.
func TestManInTheMiddleOfTLS(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	roots := x509.NewCertPool()
	server := w.overTLS(t, certificate(t, roots))
	o := w.options()
	o.TLS = &tls.Config{RootCAs: roots}
	dir := t.TempDir()
	alice, err := Register(t.Context(), dir, RegisterOptions{Options: o, Server: server, Username: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	honest := &person{Client: alice}
	honest.start(t)
	if err := alice.Close(); err != nil {
		t.Fatal(err)
	}

	between := endsTLS(t, server, roots)
	if alice, err = Open(dir, o); err != nil {
		t.Fatal(err)
	}
	defer alice.Close()
	alice.account.Server = between
	if err := alice.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	down := expect[LinkDown](t, &person{Client: alice})
	if !errors.Is(down.Err, ErrTLSEnded) || down.Final {
		t.Errorf("link down: %+v; on another network it may come up", down)
	}
}

// TestRegisteringWhereTLSEnds: the refusal comes before the name and the invitation are used up,
// and so it is with a new device and its code.
func TestRegisteringWhereTLSEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(cfg *signaling.Config) { cfg.OpenRegistration = false })
	token, err := w.server.NewInvitation(time.Hour, 1)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	server := w.overTLS(t, certificate(t, roots))
	o := RegisterOptions{Options: w.options(), Server: server, Username: "alice", Invitation: token}
	o.TLS = &tls.Config{RootCAs: roots}
	dir := t.TempDir()
	for _, behind := range []string{server, w.url()} {
		through := o
		through.Server = endsTLS(t, behind, roots)
		if _, err := Register(t.Context(), dir, through); !errors.Is(err, ErrTLSEnded) {
			t.Fatalf("through a proxy that ends TLS in front of %s: %v", behind, err)
		}
	}
	alice, err := Register(t.Context(), dir, o)
	if err != nil {
		t.Fatalf("name, invitation and directory are not free: %v", err)
	}
	p := &person{Client: alice, dir: dir}
	defer p.Close()
	p.start(t)

	// The code names the server; this one's user goes through the proxy.
	codes := make(chan string, 1)
	adding, cancel := context.WithCancel(patience(t))
	defer cancel()
	added := make(chan error, 1)
	go func() {
		_, err := p.AddDevice(adding, AddDeviceOptions{
			Show:    func(code string) { codes <- code },
			Confirm: func(context.Context, string) bool { return true },
		})
		added <- err
	}()
	code := <-codes
	second := t.TempDir()
	_, secret, _ := strings.Cut(code, "#")
	through := LinkOptions{Options: o.Options, Code: endsTLS(t, server, roots) + "#" + secret}
	if _, err := Link(patience(t), second, through); !errors.Is(err, ErrTLSEnded) {
		t.Errorf("a new device through a proxy that ends TLS: %v", err)
	}
	linked, err := Link(patience(t), second, LinkOptions{Options: o.Options, Code: code})
	if err != nil {
		t.Fatalf("the code is used up: %v", err)
	}
	defer linked.Close()
	if err := <-added; err != nil {
		t.Error(err)
	}
}

// TestServersOfTLS12: whoever meets one, which may be a proxy, hears what is missing.
func TestServersOfTLS12(t *testing.T) {
	t.Parallel()
	roots := x509.NewCertPool()
	old := httptest.NewUnstartedServer(http.NotFoundHandler())
	own := []tls.Certificate{certificate(t, roots)}
	old.TLS = &tls.Config{Certificates: own, MaxVersion: tls.VersionTLS12}
	old.Config.ErrorLog = log.New(io.Discard, "", 0)
	old.StartTLS()
	defer old.Close()
	o := RegisterOptions{Server: old.URL, Username: "alice"}
	o.TLS = &tls.Config{RootCAs: roots}
	_, err := Register(t.Context(), t.TempDir(), o)
	if err == nil || !strings.Contains(err.Error(), "TLS 1.3") {
		t.Errorf("%v", err)
	}
	for _, alert := range []byte{40, 70} { // handshake_failure, protocol_version
		o.Server = answersAlert(t, alert)
		_, err := Register(t.Context(), t.TempDir(), o)
		if err == nil || !strings.Contains(err.Error(), "TLS 1.3") {
			t.Errorf("alert %d: %v", alert, err)
		}
	}
}

// answersAlert is a server that answers each ClientHello with a fatal alert (RFC 8446 section 6.2).
func answersAlert(t testing.TB, alert byte) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() { l.Close(); serving.Wait() })
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Read(make([]byte, 4096))
			_, _ = conn.Write([]byte{21, 3, 3, 0, 2, 2, alert})
			_ = conn.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, conn)
			conn.Close()
		}
	})
	return "https://" + l.Addr().String()
}

func TestServerOfAnotherName(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(cfg *signaling.Config) { cfg.Names = []string{"sotto.example"} })
	_, err := Register(t.Context(), t.TempDir(), RegisterOptions{Options: w.options(), Server: w.url(), Username: "alice"})
	var refusal *ServerError
	if !errors.As(err, &refusal) {
		t.Errorf("registering: %v", err)
	}
}

func TestSecondProcess(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice := w.online("alice")
	if _, err := Open(alice.dir, w.options()); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("opened twice: %v", err)
	}
	// A copy of the directory gets past the lock, and replaces the link: the first one must not fight for it.
	copied := copyDir(t, alice.dir)
	second, err := Open(copied, w.options())
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	(&person{Client: second}).start(t)
	for down := expect[LinkDown](t, alice); ; down = expect[LinkDown](t, alice) {
		if errors.Is(down.Err, ErrReplaced) && down.Final {
			break
		}
	}
	if err := alice.WaitConnected(patience(t)); !errors.Is(err, ErrReplaced) {
		t.Errorf("the first one: %v", err)
	}
	if _, err := alice.Call(patience(t), "bob", CallOptions{}); !errors.Is(err, ErrReplaced) {
		t.Errorf("calling: %v", err)
	}
}

func TestRegistration(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(cfg *signaling.Config) { cfg.OpenRegistration = false })
	token, err := w.server.NewInvitation(time.Hour, 2)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	o := RegisterOptions{Options: w.options(), Server: w.url(), Username: "alice", Invitation: "mistyped"}
	if _, err := Register(t.Context(), dir, o); err == nil {
		t.Fatal("registered with a wrong invitation")
	}
	if _, err := Open(dir, w.options()); err == nil || !strings.Contains(err.Error(), "register one first") {
		t.Errorf("opening what is not registered: %v", err)
	}
	// Refused, or never sent: the directory is free for another name or server.
	o.Invitation = token
	for _, server := range []string{"http://127.0.0.1:1", w.url()} {
		refused := o
		refused.Server, refused.Username, refused.Invitation = server, "another", ""
		if _, err := Register(t.Context(), dir, refused); err == nil {
			t.Fatal("registered without an invitation")
		}
	}
	alice, err := Register(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	alice.Close()
	if _, err := Register(t.Context(), dir, o); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("registered twice: %v", err)
	}
	if _, err := Register(t.Context(), t.TempDir(), o); err == nil {
		t.Error("registered a name that is taken")
	}
	o.Username = "Alice!"
	if _, err := Register(t.Context(), t.TempDir(), o); err == nil {
		t.Error("registered an impossible name")
	}
	for server, part := range map[string]string{
		"http://sotto.example": "plain", "sotto.example": "URL", "ftp://x": "URL", "https://user@x": "URL", "http://127.0.0.1:1": "reached",
	} {
		o := RegisterOptions{Options: w.options(), Server: server, Username: "dora"}
		if _, err := Register(t.Context(), t.TempDir(), o); err == nil || !strings.Contains(err.Error(), part) {
			t.Errorf("%s: %v", server, err)
		}
	}
}

// A refusal reaches a device that has much to send, and settles what was left open before.
func TestRegistrationIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(cfg *signaling.Config) {
		cfg.OpenRegistration = false
		cfg.Limits.Registrations = signaling.Rate{Burst: 100, Every: time.Minute}
	})
	for range 20 {
		elsewhere := strings.Replace(w.url(), "127.0.0.1", "localhost", 1)
		o := RegisterOptions{Options: w.options(), Server: elsewhere, Username: "alice"}
		_, err := Register(t.Context(), t.TempDir(), o)
		if err == nil || !strings.Contains(err.Error(), "does not go by that name") {
			t.Fatalf("by another name: %v", err)
		}
	}

	dir := t.TempDir()
	server, err := parseServer(w.url(), false)
	if err != nil {
		t.Fatal(err)
	}
	s, err := openStore(dir, Key{}, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := draft(s, server, "alice", "mistyped"); err != nil { // and no answer came
		t.Fatal(err)
	}
	s.close()
	o := RegisterOptions{Options: w.options(), Server: w.url(), Username: "alice"}
	if o.Invitation, err = w.server.NewInvitation(time.Hour, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := Register(t.Context(), dir, o); !refused(err, wire.Error_FORBIDDEN) {
		t.Fatalf("what was left open: %v", err)
	}
	alice, err := Register(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	alice.Close()
}

// A server that cannot be reached at all is told of at once: the code works on.
func TestLinkingWithoutAServer(t *testing.T) {
	t.Parallel()
	code, err := linking.NewCode("http://127.0.0.1:1", [33]byte{5})
	if err != nil {
		t.Fatal(err)
	}
	o := LinkOptions{Options: Options{Loopback: true}, Code: code.String()}
	if _, err := Link(patience(t), t.TempDir(), o); err == nil || !strings.Contains(err.Error(), "reached") {
		t.Errorf("nobody is there: %v", err)
	}
}

// The process dies between the server's answer and storing it.
func TestRegistrationIsFinishedAfterCrash(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := t.TempDir()
	o := RegisterOptions{Options: w.options(), Server: w.url(), Username: "alice"}
	server, err := parseServer(o.Server, false)
	if err != nil {
		t.Fatal(err)
	}
	s, err := openStore(dir, o.Key, true)
	if err != nil {
		t.Fatal(err)
	}
	a, err := draft(s, server, o.Username, "")
	if err != nil {
		t.Fatal(err)
	}
	result, _, err := postRegistration(t.Context(), server, nil, a.Registration)
	if err != nil {
		t.Fatal(err)
	}
	s.close()
	if _, err := Open(dir, w.options()); err == nil || !strings.Contains(err.Error(), "register again") {
		t.Errorf("opening what is not registered: %v", err)
	}
	other := o
	other.Username = "bob"
	if _, err := Register(t.Context(), dir, other); err == nil || !strings.Contains(err.Error(), "not known") {
		t.Errorf("registering another name over it: %v", err)
	}

	alice, err := Register(t.Context(), dir, o)
	if err != nil {
		t.Fatal(err)
	}
	defer alice.Close()
	if id := alice.Account(); string(id[:]) != string(result.Account) {
		t.Error("another account was made")
	}
	(&person{Client: alice}).start(t)
	bob := w.online("bob")
	bob.send(t, "alice", "welcome")
	(&person{Client: alice}).hears(t, "welcome")
}

// TestNetworkChangesDuringADial: an attempt over a way into the network that is gone would take until handshakeTimeout, with nobody reachable
// meanwhile. It is given up at the change.
func TestNetworkChangesDuringADial(t *testing.T) {
	w := newWorld(t)
	alice := w.online("alice")
	if err := alice.WaitConnected(patience(t)); err != nil {
		t.Fatal(err)
	}
	w.stop()
	silent, err := net.Listen("tcp", w.address)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	attempt := func() {
		t.Helper()
		_ = silent.(*net.TCPListener).SetDeadline(time.Now().Add(handshakeTimeout / 2))
		conn, err := silent.Accept() // and no word
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
	}
	attempt()
	for range 3 {
		alice.networkChanged()
		attempt()
	}
	silent.Close()
	w.start()
	alice.networkChanged()
	ctx, cancel := context.WithTimeout(t.Context(), handshakeTimeout/2)
	defer cancel()
	if err := alice.WaitConnected(ctx); err != nil {
		t.Error(err)
	}
	if len(alice.networkNew) > 0 {
		t.Error("a change that was followed would end the pause after the next link")
	}
}

// Two copies of a directory are used in turn, and each is told of the other; who merely reconnects
// is not.
func TestDirectoryCopied(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice := w.online("alice")
	expect[LinkUp](t, alice)
	alice.Close()
	copied := &person{dir: copyDir(t, alice.dir)}
	open := func(p *person) {
		t.Helper()
		var err error
		if p.Client, err = Open(p.dir, w.options()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close() })
	}
	told := func(p *person) (copied bool) {
		t.Helper()
		open(p)
		p.start(t)
		defer p.Close()
		for {
			select {
			case e := <-p.Events():
				switch e.(type) {
				case DirectoryCopied:
					copied = true
				case LinkUp:
					return copied
				}
			case <-patience(t).Done():
				t.Fatal("no link")
			}
		}
	}
	for i, test := range []struct {
		p    *person
		want bool
	}{{alice, false}, {copied, true}, {copied, false}, {alice, true}, {alice, false}, {copied, true}} {
		if got := told(test.p); got != test.want {
			t.Errorf("%d: told %v, want %v", i, got, test.want)
		}
	}
}
