package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestSharedPort: a server with its relay at one port serves devices and TURN over TLS there, and
// gives that address out; its certificate is also that of the relay's own TLS port.
func TestSharedPort(t *testing.T) {
	certificate, key := writeCertificate(t, t.TempDir(), 1)
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := free.Addr().String()
	free.Close()
	data := t.TempDir()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	said, stdout := io.Pipe()
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{
			"serve", "--listen", at, "--name", "127.0.0.1", "--data", data,
			"--tls-cert", certificate, "--tls-key", key, "--relay-tls-listen", at + ",127.0.0.1:0",
			"--metrics", "off", "--drain", "0s",
		}, stdout, io.Discard)
		stdout.Close()
	}()
	var urls []string
	url := regexp.MustCompile(`turns?:\S+`)
	for lines := bufio.NewScanner(said); len(urls) < 4 && lines.Scan(); {
		urls = append(urls, url.FindAllString(lines.Text(), -1)...)
	}
	go io.Copy(io.Discard, said)
	shared := "turns:" + at + "?transport=tcp"
	if len(urls) != 4 || !slices.Contains(urls, shared) || slices.Index(urls, shared) != 3 {
		t.Fatalf("it says %q, and not %s", urls, shared)
	}
	roots, err := authorities(certificate)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true,
	}}
	answer, err := client.Get("https://" + at + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Errorf("health: %s", answer.Status)
	}
	secret, err := (&relayFlags{secretFile: data + "/relay-secret"}).secrets()
	if err != nil {
		t.Fatal(err)
	}
	lines, code := checkAt(t, secret[0], certificate, urls[2:]...)
	if code != exitDone || len(lines) != 2 {
		t.Errorf("exit code %d, %+v", code, lines)
	}
	stop()
	if code := <-ended; code != exitDone {
		t.Errorf("exit code %d", code)
	}
}

// TestShare: what is the same address, and what is none.
func TestShare(t *testing.T) {
	for _, c := range []struct {
		listen, asked string
		port          string
	}{
		{":443", ":443", "443"},
		{":443", "0.0.0.0:443", "443"},
		{"[::]:443", ":443", "443"},
		{"192.0.2.1:443", "192.0.2.1:443", "443"},
		{":443", ":5349", ""},
		{":443", "192.0.2.1:443", ""},
		{"127.0.0.1:0", "127.0.0.1:0", ""},
	} {
		f := serveFlags{listen: c.listen, relay: relayFlags{tlsListen: []string{c.asked, ":5350"}}}
		f.share()
		left := strings.Join(f.relay.tlsListen, " ")
		want := ":5350"
		if c.port == "" {
			want = c.asked + " :5350"
		}
		if f.relay.sharedPort != c.port || left != want {
			t.Errorf("%s and %s: port %q, left %s", c.listen, c.asked, f.relay.sharedPort, left)
		}
	}
}
