package scenario

import (
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var long = flag.Bool("long", false, "cut the network for as long as a call is kept, and longer")

// town is a server and relay in the middle, and two ends in namespaces of their own, which reach nothing else.
type town struct {
	middle, alice, bob string
}

// newTown makes the namespaces, or skips the test.
func newTown(t *testing.T) town {
	if os.Geteuid() != 0 {
		t.Skip("making network namespaces needs root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("making network namespaces needs ip, of iproute2")
	}
	name := fmt.Sprintf("sottn%d", os.Getpid()%100000)
	w := town{name + "m", name + "a", name + "b"}
	if out, err := exec.Command("ip", "netns", "add", w.middle).CombinedOutput(); err != nil {
		t.Skipf("network namespaces cannot be made here: %s", strings.TrimSpace(string(out)))
	}
	t.Cleanup(func() { ip(t, "netns", "delete", w.middle) })
	ip(t, "-n", w.middle, "link", "set", "lo", "up")
	ip(t, "-n", w.middle, "address", "add", "10.94.0.1/32", "dev", "lo")
	for i, end := range []string{w.alice, w.bob} {
		ip(t, "netns", "add", end)
		t.Cleanup(func() { ip(t, "netns", "delete", end) })
		ip(t, "-n", end, "link", "set", "lo", "up")
		w.wire(t, end, "eth0", i+1)
	}
	return w
}

// wire connects an end to the middle, over which its traffic then goes.
func (w town) wire(t *testing.T, end, device string, network int) {
	near, far := fmt.Sprintf("10.94.%d.2/24", network), fmt.Sprintf("10.94.%d.1", network)
	there := fmt.Sprintf("to%d", network)
	ip(t, "-n", w.middle, "link", "add", there, "type", "veth", "peer", "name", device, "netns", end)
	ip(t, "-n", w.middle, "address", "add", far+"/24", "dev", there)
	ip(t, "-n", w.middle, "link", "set", there, "up")
	ip(t, "-n", end, "address", "add", near, "dev", device)
	ip(t, "-n", end, "link", "set", device, "up")
	ip(t, "-n", end, "route", "replace", "default", "via", far)
}

// call lets alice call bob, who answers, and returns when both hear each other. What they hear, a tone, is recorded.
func (w town) call(t *testing.T, length time.Duration) (alice, bob *process) {
	directory := t.TempDir()
	cert, key := certificate(t, "10.94.0.1")
	server := start(t, w.middle, "serve", "--listen", net.JoinHostPort("10.94.0.1", "0"), "--metrics", "off",
		"--data", filepath.Join(directory, "server"), "--tls-cert", cert, "--tls-key", key,
		"--relay-listen", "10.94.0.1:0", "--relay-allow", "10.94.0.0/16")
	url := server.event("server")["url"].(string)
	token := server.event("invitation")["token"].(string)
	as := func(name string) []string {
		return []string{"--account", filepath.Join(directory, name), "--ca", cert, "--audio", "tone", "--record", filepath.Join(directory, name+"-heard")}
	}
	for name, namespace := range map[string]string{"alice": w.alice, "bob": w.bob} {
		run(t, namespace, append([]string{"register", name, "--server", url, "--invitation", token}, as(name)[:4]...)...)
	}
	bob = start(t, w.bob, append([]string{"listen", "--answer", "--once"}, as("bob")...)...)
	bob.event("link_up")
	alice = start(t, w.alice, append([]string{"call", "bob", "--for", length.String()}, as("alice")...)...)
	for _, p := range []*process{alice, bob} {
		p.event("first_media")
	}
	return alice, bob
}

// Alice walks out of her network into another one while she speaks with bob. The call goes on.
func TestCallMovesToAnotherNetwork(t *testing.T) {
	w := newTown(t)
	const length = 12 * time.Second
	alice, bob := w.call(t, length)
	time.Sleep(time.Second) // of the call as it began
	w.wire(t, w.alice, "eth1", 3)
	ip(t, "-n", w.alice, "link", "delete", "eth0")
	alice.event("connected")
	for name, p := range map[string]*process{"alice": alice, "bob": bob} {
		summary := p.event("summary")
		heard, made := number(t, summary, "audio.frames_received"), number(t, summary, "audio.frames_concealed")
		t.Logf("%s: %v; heard %.0f frames, and %.0f were made up", name, summary["reason"], heard, made)
		if summary["reason"] != "hung up" || heard < 0.75*float64(length/(20*time.Millisecond)) {
			t.Errorf("%s's summary is %v", name, summary)
		}
	}
}

// The network is away for a while. A call survives that for half a minute; then both ends give it
// up, each by itself, for the same reason. After 6 s the old path may come back before an end calls
// it interrupted: what counts is that the tone is heard again.
func TestCallIsCut(t *testing.T) {
	cuts := []struct {
		cut    time.Duration
		reason string
	}{{6 * time.Second, "hung up"}}
	if *long {
		cuts = append(cuts, struct {
			cut    time.Duration
			reason string
		}{20 * time.Second, "hung up"}, struct {
			cut    time.Duration
			reason string
		}{40 * time.Second, "connection lost"})
	}
	for _, test := range cuts {
		t.Run(test.cut.String(), func(t *testing.T) {
			w := newTown(t)
			alice, bob := w.call(t, test.cut+15*time.Second)
			ip(t, "-n", w.alice, "link", "set", "eth0", "down")
			time.Sleep(test.cut) // what is tested
			ip(t, "-n", w.alice, "link", "set", "eth0", "up")
			ip(t, "-n", w.alice, "route", "replace", "default", "via", "10.94.1.1")
			for name, p := range map[string]*process{"alice": alice, "bob": bob} {
				summary := p.event("summary")
				if p.isStill("interrupted", "connected") && test.reason == "hung up" {
					t.Errorf("%s: interrupted, and then never connected: %v", name, p.seen)
				}
				if summary["reason"] != test.reason {
					t.Errorf("%s's summary is %v", name, summary)
				}
				if test.reason == "hung up" {
					isHeardAgain(t, name, summary)
				}
			}
		})
	}
}
