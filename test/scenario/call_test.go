package scenario

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A world says where the three processes run and how they reach each other.
type world struct {
	server, alice, bob string // network namespaces; empty: this one
	address            string // of the server and the relay
	serve              []string
	call               []string
}

// TestCallBetweenProcesses is server, listener and caller in three processes, over TLS on loopback.
func TestCallBetweenProcesses(t *testing.T) {
	for _, test := range []struct {
		name, path string
		call       []string
	}{
		{"through the relay", "relay", []string{"--relay-only"}},
		{"wherever it can", "", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			summary := callBetween(t, world{address: "127.0.0.1", serve: []string{"--relay-listen", "127.0.0.1:0"}, call: test.call})
			if path := summary["path"]; test.path != "" && path != test.path {
				t.Errorf("the call took the path %q, want %q", path, test.path)
			}
		})
	}
}

// TestCallAcrossNamespaces puts server and relay into a network between those of the two ends, which reach nothing else: packets
// are not forwarded. The relay is the only way through, and the call must find it without being told.
//
//	alice's namespace 10.93.1.2 ─── 10.93.1.1 middle: 10.93.0.1 10.93.2.1 ─── 10.93.2.2 bob's namespace
func TestCallAcrossNamespaces(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making network namespaces needs root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("making network namespaces needs ip, of iproute2")
	}
	name := fmt.Sprintf("sotto%d", os.Getpid()%100000)
	middle, alice, bob := name+"m", name+"a", name+"b"
	if out, err := exec.Command("ip", "netns", "add", middle).CombinedOutput(); err != nil {
		t.Skipf("network namespaces cannot be made here: %s", strings.TrimSpace(string(out)))
	}
	t.Cleanup(func() { ip(t, "netns", "delete", middle) })
	ip(t, "-n", middle, "link", "set", "lo", "up")
	ip(t, "-n", middle, "address", "add", "10.93.0.1/32", "dev", "lo")
	for i, end := range []string{alice, bob} {
		ip(t, "netns", "add", end)
		t.Cleanup(func() { ip(t, "netns", "delete", end) })
		near, far := fmt.Sprintf("10.93.%d.2/24", i+1), fmt.Sprintf("10.93.%d.1", i+1)
		ip(t, "link", "add", end, "netns", middle, "type", "veth", "peer", "name", "eth0", "netns", end)
		ip(t, "-n", middle, "address", "add", far+"/24", "dev", end)
		ip(t, "-n", middle, "link", "set", end, "up")
		ip(t, "-n", end, "address", "add", near, "dev", "eth0")
		ip(t, "-n", end, "link", "set", "lo", "up")
		ip(t, "-n", end, "link", "set", "eth0", "up")
		ip(t, "-n", end, "route", "add", "default", "via", far)
	}
	forwarding, err := exec.Command("ip", "netns", "exec", middle, "cat", "/proc/sys/net/ipv4/ip_forward").Output()
	if err != nil || strings.TrimSpace(string(forwarding)) != "0" {
		t.Fatalf("packets are forwarded between alice and bob (%q, %v): the test would prove nothing", forwarding, err)
	}

	summary := callBetween(t, world{
		server: middle, alice: alice, bob: bob, address: "10.93.0.1",
		serve: []string{"--relay-listen", "10.93.0.1:0", "--relay-allow", "10.93.0.0/16"},
	})
	if summary["path"] != "relay" {
		t.Errorf("the call took the path %q, but there is only the relay", summary["path"])
	}
}

// callBetween starts a server, registers alice and bob, lets bob listen and alice call, with sound and pictures both ways, and
// returns alice's summary when both ends agree about the call.
func callBetween(t *testing.T, w world) line {
	directory := t.TempDir()
	cert, key := certificate(t, w.address)
	server := start(t, w.server, append([]string{"serve", "--listen", net.JoinHostPort(w.address, "0"), "--metrics", "off",
		"--data", filepath.Join(directory, "server"), "--tls-cert", cert, "--tls-key", key}, w.serve...)...)
	url := server.event("server")["url"].(string)
	token := server.event("invitation")["token"].(string)
	as := func(name string) []string { return []string{"--account", filepath.Join(directory, name), "--ca", cert} }
	for name, namespace := range map[string]string{"alice": w.alice, "bob": w.bob} {
		run(t, namespace, append([]string{"register", name, "--server", url, "--invitation", token}, as(name)...)...)
	}

	clip, err := filepath.Abs("../../cmd/sotto/sample")
	if err != nil {
		t.Fatal(err)
	}
	media := func(name string) []string {
		return []string{"--audio", filepath.Join(clip, "speech-"+name+".ogg"), "--video", filepath.Join(clip, "picture-"+name+".ivf"),
			"--record", filepath.Join(directory, name+"-heard")}
	}
	bob := start(t, w.bob, append(append([]string{"listen", "--answer"}, media("bob")...), as("bob")...)...)
	bob.event("link_up")
	alice := start(t, w.alice, append(append(append([]string{"call", "bob", "--for", "3s"}, media("alice")...), as("alice")...), w.call...)...)

	code := alice.event("verified")["verification_code"]
	summary, other := alice.event("summary"), bob.event("summary")
	if err := alice.wait(); err != nil {
		t.Errorf("alice's call ended with %v: %s", err, alice.errs)
	}
	if code == "" || code != other["verification_code"] {
		t.Errorf("alice sees the code %q, bob %q", code, other["verification_code"])
	}
	for name, s := range map[string]line{"alice": summary, "bob": other} {
		if s["reason"] != "hung up" || s["cipher"] != "AEAD_AES_256_GCM" || s["path"] != summary["path"] {
			t.Errorf("%s's summary is %v", name, s)
		}
		if heard, seen := number(t, s, "audio.frames_received"), number(t, s, "video.frames_received"); heard < 100 || seen < 50 {
			t.Errorf("%s heard %.0f frames of 3 s of sound and saw %.0f pictures", name, heard, seen)
		}
		for _, file := range s["recorded"].([]any) {
			if info, err := os.Stat(file.(string)); err != nil || info.Size() < 10_000 {
				t.Errorf("%s's recording %s is missing or empty", name, file)
			}
		}
	}

	// Every process ends in order when it is told to.
	for _, p := range []*process{bob, server} {
		p.cmd.Process.Signal(syscall.SIGTERM)
		if err := p.wait(); err != nil {
			t.Errorf("%s ended with %v: %s", p.name, err, p.errs)
		}
	}
	return summary
}
