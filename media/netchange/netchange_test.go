package netchange

import (
	"bufio"
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestMain also is the process that watches, in a network namespace of a test's.
func TestMain(m *testing.M) {
	if os.Getenv("SOTTO_NETCHANGE_WATCH") == "" {
		goleak.VerifyTestMain(m)
		return
	}
	changes, err := Watch(context.Background(), nil)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("watching")
	for range changes {
		fmt.Println("changed")
	}
}

func TestChangesInANamespace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making network namespaces needs root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("making network namespaces needs ip, of iproute2")
	}
	namespace := fmt.Sprintf("sottonc%d", os.Getpid()%100000)
	if out, err := exec.Command("ip", "netns", "add", namespace).CombinedOutput(); err != nil {
		t.Skipf("network namespaces cannot be made here: %s", strings.TrimSpace(string(out)))
	}
	t.Cleanup(func() { ip(t, "netns", "delete", namespace) })
	in := func(args ...string) { ip(t, append([]string{"-n", namespace}, args...)...) }
	for _, link := range []string{"one", "two"} {
		in("link", "add", link, "type", "veth", "peer", "name", link+"peer")
		in("link", "set", link, "addrgenmode", "none") // no link-local address comes by itself, later
		in("link", "set", link, "up")
		in("link", "set", link+"peer", "up")
	}

	watcher := exec.Command("ip", "netns", "exec", namespace, os.Args[0])
	watcher.Env = append(os.Environ(), "SOTTO_NETCHANGE_WATCH=1")
	out, err := watcher.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := watcher.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string)
	go func() {
		defer close(lines)
		for scanner := bufio.NewScanner(out); scanner.Scan(); {
			lines <- scanner.Text()
		}
	}()
	t.Cleanup(func() {
		watcher.Process.Kill()
		for range lines {
		}
		watcher.Wait()
	})
	if line := <-lines; line != "watching" {
		t.Fatal(line)
	}

	for _, step := range []struct {
		name    string
		args    []string
		changes bool
	}{
		{"an address comes", []string{"address", "add", "198.51.100.1/24", "dev", "one"}, true},
		{"a route to the world", []string{"route", "add", "default", "via", "198.51.100.254", "dev", "one", "metric", "100"}, true},
		{"a route to somewhere", []string{"route", "add", "203.0.113.0/24", "via", "198.51.100.254"}, false},
		{"a link-local address", []string{"address", "add", "fe80::1/64", "dev", "one"}, false},
		{"a lease is renewed", []string{"address", "replace", "198.51.100.1/24", "dev", "one", "valid_lft", "3600", "preferred_lft", "1800"}, false},
		{"a second address", []string{"address", "add", "198.51.101.1/24", "dev", "two"}, true},
		{"a better route", []string{"route", "add", "default", "via", "198.51.101.254", "dev", "two", "metric", "50"}, true},
		{"an address goes", []string{"address", "delete", "198.51.101.1/24", "dev", "two"}, true},
		{"the link goes down", []string{"link", "set", "one", "down"}, true},
	} {
		begin := time.Now()
		in(step.args...)
		patience := 10 * time.Second
		if !step.changes {
			patience = 500 * time.Millisecond
		}
		select {
		case line, ok := <-lines:
			if !step.changes || !ok {
				t.Errorf("%s: %q", step.name, line)
			}
			t.Logf("%s: told after %v, the command included", step.name, time.Since(begin).Round(time.Millisecond))
		case <-time.After(patience):
			if step.changes {
				t.Errorf("%s: not noticed", step.name)
			}
		}
	}
}

func TestWatchEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	changes, err := Watch(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	for range changes { // one may have been under way
	}
}

func TestPicturesAreCompared(t *testing.T) {
	one, two := netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("198.51.100.2")
	base := picture{addresses: []netip.Addr{one}, preferred: [2]netip.Addr{one}}
	for _, other := range []picture{{}, {addresses: []netip.Addr{one}}, {addresses: []netip.Addr{one, two}, preferred: base.preferred}} {
		if base.equal(other) {
			t.Errorf("%v is taken for the same", other)
		}
	}
	if !base.equal(picture{addresses: []netip.Addr{one}, preferred: [2]netip.Addr{one}}) {
		t.Error("the same is taken for another")
	}
	if p := take(); !p.equal(take()) {
		t.Error("the network changes by looking at it")
	}
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}
