package turnserver

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"
)

// TestCoturnClient has coturn's own test client (turnutils_uclient, Debian package coturn) talk through the relay: with channels and with Send indications,
// over UDP, TCP, TLS and DTLS, to a peer and from client to client.
func TestCoturnClient(t *testing.T) {
	t.Parallel()
	forEachDataPlane(t, testCoturnClient)
}

func testCoturnClient(t *testing.T, plane string) {
	program, err := exec.LookPath("turnutils_uclient")
	if err != nil {
		t.Skip("turnutils_uclient is not installed (Debian package coturn)")
	}
	t.Parallel()
	s := startRelay(t, plane, func(c *Config) {
		overStreams(t, c)
		c.UDP = append(c.UDP, "[::1]:0")
		c.AllowPeers = append(c.AllowPeers, prefixes("::1/128")...)
	})
	certificate, key := certificateFiles(t)
	echo := echoPeer(t, "127.0.0.2")
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
	defer cancel()
	var clients sync.WaitGroup
	for _, c := range []struct {
		name string
		port uint16
		args []string
	}{
		{"UDP, channels", s.Addrs().UDP[0].Port(), echoAt(echo)},
		{"UDP, Send indications", s.Addrs().UDP[0].Port(), append(echoAt(echo), "-s")},
		{"UDP, extra requests", s.Addrs().UDP[0].Port(), append(echoAt(echo), "-G")},
		{"UDP, client to client", s.Addrs().UDP[0].Port(), []string{"-y"}},
		{"UDP, IPv6, client to client", s.Addrs().UDP[1].Port(), []string{"-y", "-x"}},
		{"TCP, channels", s.Addrs().TCP[0].Port(), append(echoAt(echo), "-t")},
		{"TCP, Send indications", s.Addrs().TCP[0].Port(), append(echoAt(echo), "-t", "-s")},
		{"TLS, channels", s.Addrs().TLS[0].Port(), append(echoAt(echo), "-t", "-S", "-i", certificate, "-k", key)},
		{"DTLS, channels", s.Addrs().DTLS[0].Port(), append(echoAt(echo), "-S", "-i", certificate, "-k", key)},
	} {
		server := "127.0.0.1"
		if c.port == s.Addrs().UDP[1].Port() {
			server = "::1"
		}
		args := append([]string{
			"-u", "alice", "-W", string(testSecret), "-p", strconv.Itoa(int(c.port)),
			"-L", server, "-c", "-n", "10", "-m", "2", "-l", "160",
		}, c.args...)
		clients.Go(func() { // all at once: each spends its seconds waiting
			out, err := exec.CommandContext(ctx, program, append(args, server)...).CombinedOutput()
			counts := regexp.MustCompile(`tot_send_msgs=(\d+), tot_recv_msgs=(\d+)`).FindAllSubmatch(out, -1)
			if err != nil || len(counts) == 0 {
				t.Errorf("%s: %v\n%s", c.name, err, out)
				return
			}
			if last := counts[len(counts)-1]; !bytes.Equal(last[1], last[2]) || string(last[1]) == "0" {
				t.Errorf("%s: %s sent, %s received\n%s", c.name, last[1], last[2], out)
			}
		})
	}
	clients.Wait()
}

func echoAt(at *net.UDPAddr) []string {
	return []string{"-e", at.IP.String(), "-r", strconv.Itoa(at.Port)}
}

// echoPeer sends back what it gets.
func echoPeer(t testing.TB, ip string) *net.UDPAddr {
	conn := listenOn(t, ip)
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = conn.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	return conn.LocalAddr().(*net.UDPAddr)
}

// certificateFiles are a client's, which uclient wants although nobody asks for them.
func certificateFiles(t *testing.T) (certificate, key string) {
	c := selfSigned(t, 3)
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	certificate, key = filepath.Join(t.TempDir(), "cert.pem"), filepath.Join(t.TempDir(), "key.pem")
	for file, block := range map[string]*pem.Block{
		certificate: {Type: "CERTIFICATE", Bytes: c.Certificate[0]},
		key:         {Type: "PRIVATE KEY", Bytes: der},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certificate, key
}
