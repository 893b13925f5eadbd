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
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sotto/signaling"
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

// Somebody whose certificate the client trusts ends TLS in between and passes everything on, byte for byte.
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

	between, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate(t, roots)}})
	if err != nil {
		t.Fatal(err)
	}
	var relaying sync.WaitGroup
	relaying.Go(func() {
		for {
			client, err := between.Accept()
			if err != nil {
				return
			}
			upstream, err := tls.Dial("tcp", strings.TrimPrefix(server, "https://"), &tls.Config{RootCAs: roots})
			if err != nil {
				t.Error(err)
				return
			}
			relaying.Go(func() { io.Copy(upstream, client); upstream.Close() })
			relaying.Go(func() { io.Copy(client, upstream); client.Close() })
		}
	})
	if alice, err = Open(dir, o); err != nil {
		t.Fatal(err)
	}
	alice.account.Server = "https://" + between.Addr().String()
	if err := alice.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := alice.WaitConnected(patience(t)); !errors.Is(err, ErrUnauthenticated) {
		t.Errorf("with somebody in between: %v", err)
	}
	if down := expect[LinkDown](t, &person{Client: alice}); !down.Final {
		t.Errorf("link down: %+v", down)
	}
	alice.Close()
	between.Close()
	relaying.Wait()
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
