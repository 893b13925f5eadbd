package turnserver

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"sotto/turncred"
)

// chromiumFlags let it run as root, without a screen, with a microphone and a camera that are made up, on a network that may be loopback; and
// not speak to anybody else.
var chromiumFlags = []string{
	"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
	"--disable-component-update", "--disable-sync", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
	"--allow-loopback-in-peer-connection", "--ignore-certificate-errors",
}

// testChromium has Chromium call itself through the relay, over each transport that it knows, with sound, pictures and text (testdata/call.html).
func testChromium(t *testing.T, plane string) {
	program, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("chromium is not installed (Debian package chromium)")
	}
	s := startRelay(t, plane, func(c *Config) { overStreams(t, c) })
	var servers []map[string]string // RTCIceServer
	for _, url := range s.URLs() {
		dtls, tcp := strings.HasPrefix(url, "turns:") && strings.HasSuffix(url, "udp"), strings.HasSuffix(url, "tcp")
		if !dtls && !(tcp && world.offloads) { // Chromium has no TURN over DTLS, and the lab's clients are on another machine than the streams
			username, password := turncred.Mint(testSecret, "alice", time.Minute, time.Now())
			servers = append(servers, map[string]string{"urls": url, "username": username, "credential": password})
		}
	}

	results := make(chan []byte, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, "testdata/call.html") })
	mux.HandleFunc("GET /servers", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(servers) })
	mux.HandleFunc("POST /result", func(_ http.ResponseWriter, r *http.Request) {
		var body bytes.Buffer
		_, _ = body.ReadFrom(r.Body)
		results <- body.Bytes()
	})
	var pages net.Listener
	if err := world.among(func() (err error) {
		pages, err = net.Listen("tcp", "127.0.0.1:0")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	go func() { _ = http.Serve(pages, mux) }()
	t.Cleanup(func() { _ = pages.Close() })

	before := testutil.ToFloat64(s.metrics.toPeer)
	var said bytes.Buffer
	browser := exec.Command(program, append(chromiumFlags, "--user-data-dir="+t.TempDir(), "http://"+pages.Addr().String()+"/")...)
	browser.Stderr = &said
	if err := world.among(browser.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = browser.Process.Kill()
		_ = browser.Wait()
	})
	var came []struct {
		Error, Text string
		Seen        []struct {
			Audio, Video int
			Path         string
		}
	}
	select {
	case body := <-results:
		if err := json.Unmarshal(body, &came); err != nil || len(came) != len(servers) {
			t.Fatalf("%v: %s", err, body)
		}
	case <-time.After(2 * time.Minute):
		_ = browser.Process.Kill()
		_ = browser.Wait()
		t.Fatalf("Chromium did not finish:\n%s", &said)
	}
	for i, c := range came {
		if c.Error != "" || c.Text != "heard hello" {
			t.Errorf("%s: %q, %s", servers[i]["urls"], c.Text, c.Error)
			continue
		}
		for _, end := range c.Seen {
			if !strings.HasPrefix(end.Path, "relay relay by ") {
				t.Errorf("%s: an end's path is %q", servers[i]["urls"], end.Path)
			}
		}
		t.Logf("%s: %+v", servers[i]["urls"], c.Seen)
	}
	if testutil.ToFloat64(s.metrics.toPeer) < before+50 && !world.offloads {
		t.Error("the relay carried nothing")
	}
}
