package scenario

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Two ends have a link of IPv6 each, and a dozen bridges with addresses of IPv4, the same at both,
// that lead nowhere. The relay, half a second away and back, has both families. The bridges must
// not cost the call its start: when each of the peer's addresses was asked for at the relay one
// after the other, nothing at all was heard in these 8 s.
func TestBridgesThatLeadNowhere(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making network namespaces needs root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("making network namespaces needs ip, of iproute2")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip("a slow link needs /dev/net/tun")
	}
	name := fmt.Sprintf("sottb%d", os.Getpid()%100000)
	ends := []string{name + "m", name + "a", name + "b"}
	for _, end := range ends {
		if out, err := exec.Command("ip", "netns", "add", end).CombinedOutput(); err != nil {
			t.Skipf("network namespaces cannot be made here: %s", strings.TrimSpace(string(out)))
		}
		t.Cleanup(func() { ip(t, "netns", "delete", end) })
		ip(t, "-n", end, "link", "set", "lo", "up")
	}
	ip(t, "-n", ends[0], "address", "add", "10.99.0.1/32", "dev", "lo")
	for _, end := range ends[1:] {
		for i := range 12 {
			addBridge(t, end, i)
		}
	}
	slowLinks(t, 250*time.Millisecond, ends)
	s := callBetweenContacts(t, ends)
	heard := number(t, s, "audio.frames_received")
	t.Logf("%.0f frames were heard in 8 s, the first after %v ms", heard, s["connect_to_media_ms"])
	if heard < 100 {
		t.Errorf("only %.0f frames were heard: %v", heard, s)
	}
}

func addBridge(t *testing.T, end string, i int) {
	bridge, inner, outer := fmt.Sprintf("br%d", i), fmt.Sprintf("in%d", i), fmt.Sprintf("out%d", i)
	ip(t, "-n", end, "link", "add", bridge, "type", "bridge")
	ip(t, "-n", end, "address", "add", fmt.Sprintf("172.%d.0.1/16", 17+i), "dev", bridge)
	ip(t, "-n", end, "link", "add", outer, "type", "veth", "peer", "name", inner)
	ip(t, "-n", end, "link", "set", outer, "master", bridge)
	for _, device := range []string{bridge, outer, inner} {
		ip(t, "-n", end, "link", "set", device, "up")
	}
}

// callBetweenContacts lets alice call bob for 8 s, and returns her summary. Server and relay are in
// the first namespace.
func callBetweenContacts(t *testing.T, ends []string) line {
	const address = "fd94::1"
	directory := t.TempDir()
	cert, key := certificate(t, address)
	server := start(t, ends[0], "serve", "--listen", net.JoinHostPort(address, "0"), "--metrics", "off",
		"--data", filepath.Join(directory, "server"), "--tls-cert", cert, "--tls-key", key,
		"--relay-listen", "[fd94::1]:3478,10.99.0.1:3478", "--relay-allow", "fd94::/16,172.16.0.0/12,10.99.0.0/16")
	url := server.event("server")["url"].(string)
	token := server.event("invitation")["token"].(string)
	as := func(name string) []string {
		return []string{"--account", filepath.Join(directory, name), "--ca", cert}
	}
	for i, name := range []string{"alice", "bob"} {
		run(t, ends[i+1], append([]string{"register", name, "--server", url, "--invitation", token}, as(name)...)...)
	}
	bob := start(t, ends[2], append([]string{"listen", "--answer", "--once", "--audio", "tone"}, as("bob")...)...)
	bob.event("link_up")
	alice := start(t, ends[1], append([]string{"call", "bob", "--for", "8s", "--audio", "tone"}, as("alice")...)...)
	return alice.event("summary")
}

// slowLinks gives each namespace a link of IPv6 to the others, over which a packet takes a while.
func slowLinks(t *testing.T, delay time.Duration, ends []string) {
	links := map[netip.Addr]*os.File{}
	for i, end := range ends {
		address := fmt.Sprintf("fd94:0:0:%d::1", i)
		links[netip.MustParseAddr(address)] = openTunnel(t, end)
		ip(t, "-n", end, "address", "add", address+"/64", "dev", "uplink", "nodad")
		ip(t, "-n", end, "link", "set", "uplink", "up")
		ip(t, "-n", end, "-6", "route", "add", "default", "dev", "uplink")
	}
	for _, link := range links {
		go carry(link, links, delay)
	}
}

// A parcel is a packet under way.
type parcel struct {
	due    time.Time
	packet []byte
	to     *os.File
}

// carry takes what comes out of one namespace to the others, in order, until its device is closed.
func carry(from *os.File, links map[netip.Addr]*os.File, delay time.Duration) {
	under := make(chan parcel, 1<<14)
	defer close(under)
	go func() {
		for p := range under {
			time.Sleep(time.Until(p.due))
			_, _ = p.to.Write(p.packet) // an end that is gone gets nothing
		}
	}()
	buffer := make([]byte, 1<<16)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		if n < 40 || buffer[0]>>4 != 6 {
			continue
		}
		if to := links[netip.AddrFrom16([16]byte(buffer[24:40]))]; to != nil { // RFC 8200 section 3
			select {
			case under <- parcel{time.Now().Add(delay), append([]byte(nil), buffer[:n]...), to}:
			default: // full, as a router's queue may be
			}
		}
	}
}

// openTunnel makes the device "uplink" in a namespace. The thread that goes there does not come back.
func openTunnel(t *testing.T, namespace string) *os.File {
	t.Helper()
	type result struct {
		device *os.File
		err    error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread()
		device, err := tunnelIn(namespace)
		made <- result{device, err}
	}()
	r := <-made
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { r.device.Close() })
	return r.device
}

func tunnelIn(namespace string) (*os.File, error) {
	entry, err := os.Open(filepath.Join("/var/run/netns", namespace))
	if err != nil {
		return nil, err
	}
	defer entry.Close()
	if err := unix.Setns(int(entry.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	request, err := unix.NewIfreq("uplink")
	if err == nil {
		request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "uplink"), nil // not before: an unattached device polls as broken
}
