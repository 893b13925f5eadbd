package path

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pion/transport/v4/stdnet"

	"sotto/turncred"
	"sotto/turnserver"
)

var relaySecret = []byte("a secret of the tests of relays")

// startRelay serves on loopback, over everything that a relay speaks, and returns who signs for it.
func startRelay(t *testing.T) (*turnserver.Server, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	both := []string{"127.0.0.1:0", "[::1]:0"}
	relay, err := turnserver.New(turnserver.Config{
		UDP: both, TCP: both, TLS: both, DTLS: both, Secrets: [][]byte{relaySecret},
		TLSConfig:  &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}},
		AllowPeers: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = relay.Shutdown(ctx)
	})
	roots := x509.NewCertPool()
	roots.AddCert(certificate)
	return relay, roots
}

func withCredentials(secret []byte, urls ...string) (relays []Relay) {
	username, password := turncred.Mint(secret, "somebody", time.Minute, time.Now())
	for _, url := range urls {
		relays = append(relays, Relay{URL: url, Username: username, Password: password})
	}
	return relays
}

// watched is a path whose candidates, and what it says of relays, can be waited for.
type watched struct {
	*Path
	candidates chan string
	failures   chan error
	received   chan string
}

func newWatched(t *testing.T, cfg Config) *watched {
	t.Helper()
	w := &watched{candidates: make(chan string, 64), failures: make(chan error, 64), received: make(chan string, 64)}
	cfg.OnCandidate = func(c string) { w.candidates <- c }
	cfg.OnRelayFailed = func(url string, err error) { w.failures <- err }
	cfg.OnState = func(State, error) {}
	cfg.Handle = func(_ Kind, b []byte) { w.received <- string(b) }
	var err error
	if w.Path, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

func await[T any](t *testing.T, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(20 * time.Second):
		t.Fatalf("no %s in time", what)
		panic("unreachable")
	}
}

// Two devices that may use relays only meet over each transport and family that a relay can be
// reached by.
func TestRelaysOverEveryTransport(t *testing.T) {
	relay, roots := startRelay(t)
	urls := relay.URLs()
	if len(urls) != 8 {
		t.Fatalf("the relay is at %v", urls)
	}
	for _, url := range urls {
		t.Run(url, func(t *testing.T) {
			var ends [2]*watched
			for i := range ends {
				ends[i] = newWatched(t, Config{
					Controlling: i == 0, RelayOnly: true, LocalRelays: true, RelayRoots: roots,
					Relays: withCredentials(relaySecret, url),
				})
				if err := ends[i].Gather(); err != nil {
					t.Fatal(err)
				}
			}
			for i, end := range ends {
				candidate := await(t, "candidate", end.candidates)
				if six := strings.Contains(candidate, "::1"); !strings.Contains(candidate, "typ relay") ||
					six && !strings.Contains(url, "[::1]") {
					t.Errorf("candidate %q", candidate)
				}
				other := ends[1-i]
				if err := other.AddRemoteCandidate(candidate); err != nil {
					t.Fatal(err)
				}
				go func() { // the second one, if there are two families
					for {
						select {
						case c := <-end.candidates:
							_ = other.AddRemoteCandidate(c)
						case <-t.Context().Done():
							return
						}
					}
				}()
			}
			for i, end := range ends {
				if err := end.Connect(ends[1-i].Credentials()); err != nil {
					t.Fatal(err)
				}
			}
			for i, end := range ends {
				await(t, "path", end.Ready())
				text := "\x80\x6f an RTP packet, if only by its first bytes"
				for sent := false; !sent; {
					if err := end.Write([]byte(text)); err != nil && !errors.Is(err, ErrNotReady) {
						t.Fatal(err)
					}
					select {
					case got := <-ends[1-i].received:
						if sent = true; got != text {
							t.Errorf("received %q", got)
						}
					case <-time.After(20 * time.Millisecond):
					}
				}
			}
		})
	}
}

// A relay over IPv6 gives an address of each family: the other end may have no other.
func TestRelayOverIPv6GivesBothFamilies(t *testing.T) {
	relay, _ := startRelay(t)
	var six string
	for _, url := range relay.URLs() {
		if strings.HasPrefix(url, "turn:[::1]") && strings.HasSuffix(url, "udp") {
			six = url
		}
	}
	p := newWatched(t, Config{RelayOnly: true, LocalRelays: true, Relays: withCredentials(relaySecret, six)})
	if err := p.Gather(); err != nil {
		t.Fatal(err)
	}
	one, other := await(t, "candidate", p.candidates), await(t, "second candidate", p.candidates)
	if strings.Contains(one, "::1") == strings.Contains(other, "::1") {
		t.Errorf("candidates %q and %q", one, other)
	}
}

func TestWhyARelayIsOfNoUse(t *testing.T) {
	relay, _ := startRelay(t)
	urls := relay.URLs()
	find := func(prefix, suffix string) string {
		for _, url := range urls {
			if strings.HasPrefix(url, prefix) && strings.HasSuffix(url, suffix) {
				return url
			}
		}
		t.Fatal(prefix, suffix)
		return ""
	}
	silent, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	closed, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	for name, c := range map[string]struct {
		relay Relay
		want  string
	}{
		"wrong credentials": {withCredentials([]byte("another secret of the tests"), find("turn:127", "udp"))[0],
			ErrRelayCredentials.Error()},
		"unknown authority":         {withCredentials(relaySecret, find("turns:127", "tcp"))[0], "unknown authority"},
		"unknown authority by DTLS": {withCredentials(relaySecret, find("turns:127", "udp"))[0], "unknown authority"},
		"nobody there":              {withCredentials(relaySecret, "turn:"+closed.Addr().String()+"?transport=tcp")[0], "cannot be reached"},
		"no answer":                 {withCredentials(relaySecret, "turn:"+silent.LocalAddr().String()+"?transport=udp")[0], "does not answer"},
		"no such name":              {withCredentials(relaySecret, "turn:nobody.invalid:3478?transport=udp")[0], "name"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newWatched(t, Config{RelayOnly: true, LocalRelays: true, Relays: []Relay{c.relay}})
			if err := p.Gather(); err != nil {
				t.Fatal(err)
			}
			if err := await(t, "failure", p.failures); !strings.Contains(err.Error(), c.want) {
				t.Errorf("failed with %q, want %q", err, c.want)
			}
			began := time.Now()
			if err := p.Close(); err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took > time.Second {
				t.Errorf("closing took %v", took)
			}
		})
	}
}

// A server that lies about its relays cannot have a device send into the network it is in, nor fail
// a call by one bad entry.
func TestRelaysThatAreLeftOut(t *testing.T) {
	for url, local := range map[string]bool{ // whether it serves where the server is local itself
		"turn:10.0.0.1:3478?transport=udp":             true,
		"turn:127.0.0.1:3478?transport=udp":            true,
		"turns:[::1]:5349?transport=tcp":               true,
		"turn:169.254.169.254:80?transport=tcp":        true,
		"turn:[::ffff:192.168.1.1]:3478?transport=udp": true,
		"turn:0.0.0.0:3478?transport=udp":              false,
		"turn:224.0.0.1:3478?transport=udp":            false,
		"stun:192.0.2.1:3478":                          false,
		"https://192.0.2.1":                            false,
		"turn:":                                        false,
		"":                                             false,
		"turn:host:99999?transport=udp":                false,
	} {
		for _, at := range []bool{false, true} {
			good := withCredentials(relaySecret, url, "turn:8.8.8.8:3478?transport=udp")
			var mu sync.Mutex
			var named []string
			d := newRelayDialer(Config{Relays: good, LocalRelays: at, OnRelayFailed: func(url string, _ error) {
				mu.Lock()
				defer mu.Unlock()
				named = append(named, url)
			}}, nil)
			want := 1
			if at && local {
				want = 2
			}
			if len(d.relays) != want || len(named) != 2-want || len(named) == 1 && named[0] != url {
				t.Errorf("%q with local relays %v: %d are used, %q named", url, at, len(d.relays), named)
			}
			d.close()
		}
	}
	d := newRelayDialer(Config{Relays: withCredentials(relaySecret, "turn:localhost:3478?transport=udp")}, nil)
	defer d.close()
	if _, err := d.Dial("tcp4", readyForTURN+":1"); !errors.Is(err, errRelayLocal) {
		t.Errorf("a name that leads to this machine: %v", err)
	}
}

func FuzzWholeMessage(f *testing.F) {
	f.Add([]byte{0x40, 0, 0, 5, 1, 2, 3, 4, 5})
	f.Add([]byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, datagram []byte) {
		b := make([]byte, len(datagram)+8)
		n := wholeMessage(b, copy(b, datagram))
		if n > len(datagram)+3 || n < 0 || n > 0 && b[0] >= 0x50 {
			t.Errorf("%x: %d bytes", datagram, n)
		}
	})
}

// A relay whose name has addresses of both families is asked over both: one of them may be dead.
func TestRelayNameOfBothFamilies(t *testing.T) {
	machine, err := stdnet.NewNet()
	if err != nil {
		t.Fatal(err)
	}
	d := newRelayDialer(Config{
		LocalRelays: true, Relays: withCredentials(relaySecret, "turn:relay.example:3478"),
	}, machine)
	d.names = func(context.Context, string, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("::1")}, nil
	}
	for wantsIPv6, want := range map[bool]string{false: "127.0.0.1:3478", true: "[::1]:3478"} {
		c, err := d.connect(0, wantsIPv6)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if at := c.RemoteAddr().String(); at != want {
			t.Errorf("wants IPv6: %v, asked at %s", wantsIPv6, at)
		}
	}
	d.names = func(context.Context, string, string) ([]netip.Addr, error) {
		return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
	}
	if _, err := d.connect(0, true); !errors.Is(err, errOtherFamily) {
		t.Errorf("a relay without IPv6 is asked for it: %v", err)
	}
}
