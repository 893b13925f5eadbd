package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/pion/turn/v5"

	"sotto/turncred"
	"sotto/turnserver"
)

var checkSecret = []byte("a secret of at least 16 bytes")

// checkAt runs "sotto turn --check" and returns what it says to scripts, and its exit code.
func checkAt(t *testing.T, secret []byte, ca string, addresses ...string) (lines []checkLine, code int) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, secret, 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"turn", "--json", "--relay-secret-file", file, "--check", strings.Join(addresses, ",")}
	if ca != "" {
		args = append(args, "--ca", ca)
	}
	var stdout, stderr bytes.Buffer
	code = run(t.Context(), args, &stdout, &stderr)
	for decoder := json.NewDecoder(&stdout); decoder.More(); {
		var line checkLine
		if err := decoder.Decode(&line); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line)
	}
	return lines, code
}

func startCheckedRelay(t *testing.T, certificate, key string) *turnserver.Server {
	t.Helper()
	files, err := certificateFiles(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	flags := relayFlags{tlsListen: []string{"127.0.0.1:0"}, dtlsListen: []string{"127.0.0.1:0"}, ports: "49152-65535"}
	flags.onLoopback()
	relay, err := flags.start([][]byte{checkSecret}, relayTLS(files.Get), testLog())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stopRelay(relay) })
	return relay
}

// TestCheck: each transport of a relay passes by the addresses that it printed itself.
func TestCheck(t *testing.T) {
	certificate, key := writeCertificate(t, t.TempDir(), 1)
	relay := startCheckedRelay(t, certificate, key)
	lines, code := checkAt(t, checkSecret, certificate, relay.URLs()...)
	if code != exitDone || len(lines) != len(relay.URLs()) {
		t.Fatalf("exit code %d, %+v", code, lines)
	}
	for _, line := range lines {
		if !line.OK || line.Lost != 0 || line.RTT <= 0 || !strings.Contains(line.Ports, "own machine") {
			t.Errorf("%+v", line)
		}
	}
}

// TestCheckSaysWhatToDo: one sentence for each thing that goes wrong.
func TestCheckSaysWhatToDo(t *testing.T) {
	certificate, key := writeCertificate(t, t.TempDir(), 1)
	another, _ := writeCertificate(t, t.TempDir(), 2)
	relay := startCheckedRelay(t, certificate, key)
	draining := startCheckedRelay(t, certificate, key)
	defer relayedConn(t, draining.Addrs().UDP[0].String()).Close()
	done, cancel := context.WithCancel(t.Context())
	cancel()
	_ = draining.Drain(done)
	silent, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()

	udp, tcp, tls := relay.Addrs().UDP[0].String(), relay.Addrs().TCP[0].String(), relay.Addrs().TLS[0].String()
	dtls := relay.URLs()[3]
	for _, c := range []struct{ name, address, secret, ca, want string }{
		{"another secret", "turn:" + udp + "?transport=udp", "not the secret of that relay", "", "does not take the credential"},
		{"nothing there", "turn:127.0.0.1:1?transport=tcp", string(checkSecret), "", "nothing listens on TCP port 1"},
		{"silence", "turn:" + silent.LocalAddr().String() + "?transport=udp", string(checkSecret), "", "let the firewall pass it"},
		{"no TLS there", "turns:" + tcp + "?transport=tcp", string(checkSecret), certificate, "cannot be reached over tls"},
		{"an unknown authority", "turns:" + tls + "?transport=tcp", string(checkSecret), another, "certificate is not good for 127.0.0.1"},
		{"another name", "turns:localhost:" + tls[strings.LastIndex(tls, ":")+1:] + "?transport=tcp", string(checkSecret), certificate, "certificate is not good for localhost"},
		{"DTLS, an unknown authority", dtls, string(checkSecret), another, "certificate is not good for 127.0.0.1"},
		{"DTLS, another name", strings.Replace(dtls, "127.0.0.1", "localhost", 1), string(checkSecret), certificate, "certificate is not good for localhost"},
		{"draining", "turn:" + draining.Addrs().UDP[0].String() + "?transport=udp", string(checkSecret), "", "it has no capacity"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			lines, code := checkAt(t, []byte(c.secret), c.ca, c.address)
			if code != exitFailed || len(lines) != 1 || lines[0].OK || !strings.Contains(lines[0].Error, c.want) {
				t.Errorf("exit code %d, %+v", code, lines)
			}
		})
	}
	if _, code := checkAt(t, checkSecret, "", "http://relay.example"); code != exitUsage {
		t.Errorf("an address that is none: exit code %d", code)
	}
}

// TestCheckOfAnAddress: what a relay with an ordinary certificate is called is told by that. Its
// address is not what clients can use.
func TestCheckOfAnAddress(t *testing.T) {
	certificate, key := writeCertificateFor(t, t.TempDir(), 1, "localhost")
	relay := startCheckedRelay(t, certificate, key)
	for i, at := range []string{relay.Addrs().TLS[0].String(), relay.Addrs().DTLS[0].String()} {
		by := []string{"tcp", "udp"}[i]
		lines, code := checkAt(t, checkSecret, certificate, "turns:"+at+"?transport="+by)
		named := "turns:localhost:" + at[strings.LastIndex(at, ":")+1:] + "?transport=" + by
		want := "check " + named + ", "
		if code != exitFailed || len(lines) != 1 || !strings.Contains(lines[0].Error, want) {
			t.Errorf("exit code %d, %+v", code, lines)
		}
	}
	files, err := certificateFiles(certificate, key)
	if err != nil {
		t.Fatal(err)
	}
	urls := new(relayFlags).urls(relay, nameIn(files)) // as it prints
	lines, code := checkAt(t, checkSecret, certificate, urls...)
	if code != exitDone || len(lines) != 4 {
		t.Errorf("%q: exit code %d, %+v", urls, code, lines)
	}
}

// TestCheckTriesPorts: a relay at another address is tried at a relayed port too. It is pion's own, at 127.0.0.2, with and without a firewall.
func TestCheckTriesPorts(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("127.0.0.2 is an address of this machine on Linux only")
	}
	for _, c := range []struct {
		name     string
		firewall bool
		refuse   bool
		ok       bool
		want     string
	}{
		{"open", false, false, true, "reachable"},
		{"behind a firewall", true, false, false, "nothing arrives at its relayed port"},
		{"not to here", false, true, true, "may not send to this machine"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			lines, _ := checkAt(t, checkSecret, "", "turn:"+anotherRelay(t, c.firewall, c.refuse)+"?transport=udp")
			if len(lines) != 1 || lines[0].OK != c.ok || !strings.Contains(lines[0].Ports+lines[0].Error, c.want) {
				t.Errorf("%+v", lines)
			}
		})
	}
}

func anotherRelay(t *testing.T, firewall, refuse bool) string {
	t.Helper()
	listener, err := net.ListenPacket("udp4", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	server, err := turn.NewServer(turn.ServerConfig{
		Realm: "another", LoggerFactory: quiet(),
		AuthHandler: func(a *turn.RequestAttributes) (string, []byte, bool) {
			return "check", turncred.Key(a.Username, a.Realm, turncred.Password(checkSecret, a.Username)), true
		},
		PacketConnConfigs: []turn.PacketConnConfig{{
			PacketConn:            listener,
			RelayAddressGenerator: ports{&turn.RelayAddressGeneratorStatic{RelayAddress: net.IPv4(127, 0, 0, 2), Address: "127.0.0.2"}, firewall},
			PermissionHandler:     func(_ net.Addr, peer net.IP) bool { return !refuse || !peer.Equal(net.IPv4(127, 0, 0, 1)) },
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	return listener.LocalAddr().String()
}

// ports are relayed ports with a firewall in front, which lets pass only what comes from the relay itself.
type ports struct {
	*turn.RelayAddressGeneratorStatic
	firewall bool
}

func (p ports) AllocatePacketConn(c turn.AllocateListenerConfig) (net.PacketConn, net.Addr, error) {
	conn, addr, err := p.RelayAddressGeneratorStatic.AllocatePacketConn(c)
	if p.firewall && err == nil {
		conn = firewalled{conn}
	}
	return conn, addr, err
}

type firewalled struct{ net.PacketConn }

func (f firewalled) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, from, err := f.PacketConn.ReadFrom(b)
		if err != nil || host(from).Equal(net.IPv4(127, 0, 0, 2)) {
			return n, from, err
		}
	}
}
