package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pion/turn/v5"

	"sotto/turncred"
)

// TestDrain: after the first signal a call goes on, a new one is refused with 508, and health says "draining"; a second signal ends it in order.
func TestDrain(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no process can be sent SIGTERM on Windows")
	}
	ours := make(chan os.Signal, 16) // a signal that comes before the drain listens must not end the test
	signal.Notify(ours, syscall.SIGTERM)
	defer signal.Stop(ours)

	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("a secret of at least 16 bytes\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, first := context.WithCancel(t.Context())
	said, stdout := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"turn", "--relay-listen", "127.0.0.1:0", "--relay-allow", "127.0.0.1/32", "--relay-secret-file", secret,
			"--metrics", "127.0.0.1:0", "--drain", "1m"}, stdout, io.Discard)
		stdout.Close()
	}()
	lines := bufio.NewScanner(said)
	next := func(pattern string) string {
		t.Helper()
		for lines.Scan() {
			if found := regexp.MustCompile(pattern).FindStringSubmatch(lines.Text()); found != nil {
				return found[1]
			}
		}
		t.Fatalf("the relay never said %q", pattern)
		return ""
	}
	relay, health := next(`turn:(\S+)\?transport=udp`), next(`(http://[^/]+)/`)+"/healthz"

	a, b := relayedConn(t, relay), relayedConn(t, relay)
	carries := func() {
		t.Helper()
		buf := make([]byte, 100)
		for _, way := range [][2]net.PacketConn{{a, b}, {b, a}} {
			if _, err := way[0].WriteTo([]byte("hello"), way[1].LocalAddr()); err != nil {
				t.Fatal(err)
			}
			_ = way[1].SetReadDeadline(time.Now().Add(5 * time.Second))
			if n, _, err := way[1].ReadFrom(buf); err != nil || string(buf[:n]) != "hello" {
				t.Fatalf("%q, %v", buf[:n], err)
			}
		}
	}
	_, _ = a.WriteTo([]byte("opens b's way in"), b.LocalAddr()) // nobody has permitted anybody yet: this one may be lost
	_, _ = b.WriteTo([]byte("opens a's way in"), a.LocalAddr())
	for _, c := range []net.PacketConn{a, b} {
		_ = c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		_, _, _ = c.ReadFrom(make([]byte, 100))
	}
	carries()
	if code, text := get(t, health); code != http.StatusOK || text != "ok" {
		t.Errorf("before: %d %q", code, text)
	}

	first()
	next("(second signal)")
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if code, text := get(t, health); code == http.StatusServiceUnavailable && text == "draining" {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("health says %d %q", code, text)
		}
	}
	carries()
	if _, err := relayClient(t, relay).Allocate(); err == nil || !strings.Contains(err.Error(), "508") {
		t.Errorf("a new allocation: %v", err)
	}
	select {
	case <-ended:
		t.Fatal("it did not wait for the call")
	default:
	}

	go io.Copy(io.Discard, said)
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.After(10 * time.Second); ; {
		if err := self.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		select {
		case code := <-ended:
			if code != exitDone {
				t.Errorf("exit code %d", code)
			}
			return
		case <-time.After(20 * time.Millisecond):
		case <-deadline:
			t.Fatal("the second signal does not end it")
		}
	}
}

func relayClient(t *testing.T, relay string) *turn.Client {
	t.Helper()
	username, password := turncred.Mint([]byte("a secret of at least 16 bytes"), "alice", time.Minute, time.Now())
	return relayClientOf(t, relay, username, password)
}

func relayClientOf(t *testing.T, relay, username, password string) *turn.Client {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	client, err := turn.NewClient(&turn.ClientConfig{TURNServerAddr: relay, Conn: conn, Username: username, Password: password})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); conn.Close() })
	if err := client.Listen(); err != nil {
		t.Fatal(err)
	}
	return client
}

func relayedConn(t *testing.T, relay string) net.PacketConn {
	t.Helper()
	conn, err := relayClient(t, relay).Allocate()
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func get(t *testing.T, url string) (code int, text string) {
	t.Helper()
	answer, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, strings.TrimSpace(string(body))
}
