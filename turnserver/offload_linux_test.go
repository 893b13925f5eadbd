package turnserver

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pion/stun/v4"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/vishvananda/netlink"
)

// inLab are the tests that run in the lab alone.
var inLab = []behaviour{
	{"two interfaces", testOffloadTwoInterfaces, carries},
	{"neighbours", testOffloadNeighbours, carries},
	{"interface change", testOffloadInterfaceChange, carries},
	{"more channels than room", testOffloadIsFull, carries},
	{"address change", testOffloadAddressChange, carries},
	{"says what it carries", testOffloadSays, carries},
	{"kill -9", testOffloadDiesWithItsProcess, watches},
}

// TestOffload runs the table of behaviours and these with the driver carrying packets, each kind of driver in a process and network of its
// own.
func TestOffload(t *testing.T) {
	if theLab != nil {
		for _, b := range slices.Concat(behaviours, inLab) {
			if theLab.carries = b.driver == carries; b.driver != absent {
				t.Run(b.name, func(t *testing.T) { b.test(t, planeAuto) })
			}
		}
		return
	}
	if os.Getuid() != 0 {
		t.Skip("only root may make network namespaces and load programs into the kernel")
	}
	for _, mode := range []string{"generic", "native"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			again := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestOffload$", "-test.v", fmt.Sprint("-flood=", *floodSize), fmt.Sprint("-flood-seed=", *floodSeed),
				fmt.Sprint("-soak=", *soakTime), fmt.Sprint("-soak-allocations=", *soakAllocations))
			again.Env = append(os.Environ(), labVariable+"="+mode)
			again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
			out, err := again.CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			for _, b := range slices.Concat(behaviours, inLab) {
				name := " TestOffload/" + strings.ReplaceAll(b.name, " ", "_") + " "
				if b.driver != absent && !strings.Contains(string(out), "--- PASS:"+name) && !strings.Contains(string(out), "--- SKIP:"+name) {
					t.Errorf("%q did not pass", b.name)
				}
			}
		})
	}
}

// TestOnlyPlainUDPIsOffloaded: the driver would send to a client of any other kind in the clear.
func TestOnlyPlainUDPIsOffloaded(t *testing.T) {
	for _, c := range []struct {
		socket socket
		want   bool
	}{{&loop{}, true}, {&datagrams{}, true}, {&stream{}, false}, {&dtlsSession{}, false}} {
		if got := offloadable(&relay{frontend: &frontend{socket: c.socket}}); got != c.want {
			t.Errorf("%T: %v", c.socket, got)
		}
	}
}

// testOffloadTwoInterfaces: peers are behind another interface than clients are, and the driver carries packets across.
func testOffloadTwoInterfaces(t *testing.T, plane string) {
	if err := theLab.connect("near2", "far2", []string{"198.18.8.1/24"}, []string{"198.18.8.3/24"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = commands("ip link delete near2") })
	s := startRelay(t, plane, func(c *Config) {
		c.UDP = []string{"198.18.8.1:0", "127.0.0.1:0"} // packets leave from a relayed address of labRelay by the way to its peer
		c.AllowPeers = append(c.AllowPeers, prefixes("198.18.8.0/24")...)
	})
	conn, err := theLab.dial(s.Addrs().UDP[1])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	alice, other := newRawClient(t, s, "alice"), listenOn(t, "198.18.8.3")
	alice.conn = conn
	relayed := relayedAddr(t, alice.mustSucceed(stun.MethodAllocate, udpTransport))
	if relayed.Addr().String() != labRelay {
		t.Fatalf("relayed at %v", relayed)
	}
	alice.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(addrPort(other.LocalAddr())))
	before := s.offload.x.Carried()
	const packets = 20
	for range packets {
		_, _ = conn.Write([]byte("\x40\x00\x00\x05hello"))
		_ = other.SetReadDeadline(time.Now().Add(3 * time.Second))
		buf := make([]byte, 100)
		n, from, err := other.ReadFromUDPAddrPort(buf)
		if err != nil || string(buf[:n]) != "hello" || plain(from) != relayed {
			t.Fatalf("%q from %v, %v", buf[:n], from, err)
		}
	}
	if c := s.offload.x.Carried(); c[toPeer].Packets-before[toPeer].Packets != packets {
		t.Errorf("the driver carried %d, want %d", c[toPeer].Packets-before[toPeer].Packets, packets)
	}
}

// driverCarries gives alice a channel to other, and tells whether a packet on it arrives without the sockets' help.
func driverCarries(t *testing.T, s *Server, alice *rawClient, other *net.UDPConn) func() bool {
	alice.mustSucceed(stun.MethodAllocate, udpTransport)
	alice.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(addrPort(other.LocalAddr())))
	return func() bool {
		before := s.offload.x.Carried()
		_, _ = alice.conn.Write([]byte("\x40\x00\x00\x05hello"))
		_ = other.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		_, err := other.Read(make([]byte, 100))
		return err == nil && s.offload.x.Carried()[toPeer].Packets == before[toPeer].Packets+1
	}
}

// testOffloadNeighbours: a neighbour that the kernel has not heard of for a while is asked whether it is still there; one that moved is
// found where it is.
func testOffloadNeighbours(t *testing.T, plane string) {
	if err := theLab.connect("near4", "far4", []string{"198.18.10.1/24"}, []string{"198.18.10.3/24"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = commands("ip link delete near4") })
	s := startRelay(t, plane, func(c *Config) {
		c.UDP = []string{"198.18.10.1:0"}
		c.AllowPeers = append(c.AllowPeers, prefixes("198.18.10.0/24")...)
	})
	alice, other := newRawClient(t, s, "alice"), listenOn(t, "198.18.10.3")
	carries := driverCarries(t, s, alice, other)
	eventually(t, "the driver carries", carries)
	for setting, value := range map[string]string{"delay_first_probe_time": "1", "ucast_solicit": "1", "retrans_time_ms": "100"} { // seconds less to wait
		if err := os.WriteFile("/proc/sys/net/ipv4/neigh/near4/"+setting, []byte(value), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := theLab.outside(func() error { return commands("ip link set far4 address 02:00:00:00:00:77") }); err != nil {
		t.Fatal(err)
	}
	if err := commands("ip neigh change 198.18.10.3 lladdr 02:00:00:00:00:02 dev near4 nud stale"); err != nil {
		t.Fatal(err)
	}
	if carries() {
		t.Error("the neighbour still hears")
	}
	eventually(t, "the driver carries to where it is now", carries)
}

// testOffloadInterfaceChange: the interface goes and comes back as another with the same address. The sockets find it at once, the driver
// soon after.
func testOffloadInterfaceChange(t *testing.T, plane string) {
	here, there := []string{"198.18.9.1/24"}, []string{"198.18.9.3/24"}
	plug := func() {
		if err := theLab.connect("near3", "far3", here, there); err != nil {
			t.Fatal(err)
		}
	}
	plug()
	t.Cleanup(func() { _ = commands("ip link delete near3") })
	s := startRelay(t, plane, func(c *Config) {
		c.UDP = []string{"198.18.9.1:0"}
		c.AllowPeers = append(c.AllowPeers, prefixes("198.18.9.0/24")...)
	})
	alice, other := newRawClient(t, s, "alice"), listenOn(t, "198.18.9.3")
	carries := driverCarries(t, s, alice, other)
	eventually(t, "the driver carries", carries)
	if err := commands("ip link delete near3"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the interface is gone", func() bool { return len(s.offload.x.Attached()) == 0 })
	plug()
	eventually(t, "the driver carries again", carries)
}

// testOffloadIsFull: channels that find no room in the driver's tables go through the sockets, and one whose place becomes free gets it.
func testOffloadIsFull(t *testing.T, plane string) {
	const room, channels = 4, 7
	s := startRelay(t, plane, func(c *Config) { c.MaxAllocations = 1 }) // eight flows, two of a channel
	alice := newRawClient(t, s, "alice")
	relayed := relayedAddr(t, alice.mustSucceed(stun.MethodAllocate, udpTransport))
	buf := make([]byte, 100)
	var peers []*net.UDPConn
	for i := range channels {
		peers = append(peers, listenOn(t, "127.0.0.2"))
		alice.mustSucceed(stun.MethodChannelBind, channelAttr(uint16(0x4000+i)), peerAttr(addrPort(peers[i].LocalAddr())))
	}
	echo := func(i int) (byDriver uint64) {
		before := s.offload.x.Carried()
		_, _ = alice.conn.Write([]byte{0x40, byte(i), 0, 4, 't', 'e', 'x', 't'})
		_ = peers[i].SetReadDeadline(time.Now().Add(3 * time.Second))
		if n, from, err := peers[i].ReadFromUDPAddrPort(buf); err != nil || string(buf[:n]) != "text" || plain(from) != relayed {
			t.Fatalf("channel %d, to the peer: %q from %v, %v", i, buf[:n], from, err)
		}
		_, _ = peers[i].WriteToUDPAddrPort([]byte("back"), relayed)
		if got := alice.next(); string(got) != string([]byte{0x40, byte(i), 0, 4})+"back" {
			t.Fatalf("channel %d, to the client: % x", i, got)
		}
		after := s.offload.x.Carried()
		return after[toPeer].Packets - before[toPeer].Packets + after[fromPeer].Packets - before[fromPeer].Packets
	}
	carried := uint64(0)
	for i := range channels {
		carried += echo(i)
	}
	if carried != 2*room {
		t.Errorf("of %d packets the driver carried %d, and has room for the flows of %d", 2*channels, carried, 2*room)
	}
	r := relaysOf(s)[0]
	r.unbind(0x4000) // as when it expires
	world.moved()
	if got := echo(room); got != 2 {
		t.Errorf("a channel that has room now: the driver carried %d packets", got)
	}
}

// testOffloadAddressChange: the machine gets another address, as by DHCP. What was relayed at the
// old one ends; the driver carries at the new one.
func testOffloadAddressChange(t *testing.T, plane string) {
	here, there := []string{"198.18.11.1/24"}, []string{"198.18.11.3/24"}
	if err := theLab.connect("near5", "far5", here, there); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = commands("ip link delete near5") })
	if err := commands("ip route add default via 198.18.11.3"); err != nil {
		t.Fatal(err)
	}
	s := startRelay(t, plane, func(c *Config) {
		c.UDP, c.tune.look = []string{":0"}, 50*time.Millisecond
		c.AllowPeers = append(c.AllowPeers, prefixes("198.18.11.0/24")...)
	})
	port := s.Addrs().UDP[0].Port()
	at := func(host string) *rawClient {
		client := newRawClient(t, s, "alice")
		conn, err := theLab.dial(netip.AddrPortFrom(netip.MustParseAddr(host), port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		client.conn = conn
		return client
	}
	other := listenOn(t, "198.18.11.3")
	carries := driverCarries(t, s, at("198.18.11.1"), other)
	eventually(t, "the driver carries", carries)
	if err := commands(
		"ip addr del 198.18.11.1/24 dev near5", "ip addr add 198.18.11.2/24 dev near5",
		"ip route add default via 198.18.11.3",
	); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what is at the old address ends", func() bool { return len(relaysOf(s)) == 0 })
	carries = driverCarries(t, s, at("198.18.11.2"), other)
	eventually(t, "the driver carries at the new address", carries)
	if r := relaysOf(s); len(r) != 1 || r[0].public.Addr().String() != "198.18.11.2" {
		t.Errorf("relayed at %v", r[0].public)
	}
}

// testOffloadSays: metrics and log tell what the driver carried, and why not the rest.
func testOffloadSays(t *testing.T, plane string) {
	var logged bytes.Buffer
	s, err := New(Config{
		UDP: []string{labRelay + ":0"}, TCP: []string{labRelay + ":0"}, Secrets: [][]byte{testSecret},
		AllowPeers: prefixes("198.18.7.0/24"), Offload: offloadRequired,
		Logger: slog.New(slog.NewTextHandler(&logged, nil)), tune: tuning{offloadMode: theLab.mode},
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := sync.OnceFunc(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = s.Shutdown(ctx)
	})
	defer ended()
	theLab.s.Store(s)
	alice, other := newRawClient(t, s, "alice"), listenOn(t, labPeer)
	carries := driverCarries(t, s, alice, other)
	eventually(t, "the driver carries", carries)
	s.offload.count()
	before := testutil.ToFloat64(s.metrics.offloaded.WithLabelValues("to_peer"))
	const packets = 10
	for range packets {
		if !carries() {
			t.Fatal("the driver carries no more")
		}
	}
	unknown := testutil.ToFloat64(s.metrics.notOffloaded.WithLabelValues("no_flow"))
	alice.mustSucceed(stun.MethodRefresh) // the sockets'

	var conn net.Conn
	if err := theLab.outside(func() (err error) {
		conn, err = net.Dial("tcp", s.Addrs().TCP[0].String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	bob := newRawClient(t, s, "bob")
	bob.conn = conn
	bob.mustSucceed(stun.MethodAllocate, udpTransport)
	bob.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(addrPort(other.LocalAddr())))

	s.offload.count()
	m := s.metrics
	for what, is := range map[string]bool{
		"packets":   testutil.ToFloat64(m.offloaded.WithLabelValues("to_peer")) == before+packets,
		"requests":  testutil.ToFloat64(m.notOffloaded.WithLabelValues("no_flow")) > unknown,
		"channel":   testutil.ToFloat64(m.offloadChannels.WithLabelValues("carried")) == 1,
		"over TCP":  testutil.ToFloat64(m.offloadChannels.WithLabelValues(leftTransport)) == 1,
		"by routes": testutil.ToFloat64(m.offloadChannels.WithLabelValues(leftRoute)) == 0,
	} {
		if !is {
			t.Errorf("%s: the metrics are wrong", what)
		}
	}
	bob.mustSucceed(stun.MethodRefresh, lifetime(0))
	s.offload.count()
	if n := testutil.ToFloat64(m.offloadChannels.WithLabelValues(leftTransport)); n != 0 {
		t.Errorf("%v channels over TCP are left", n)
	}
	ended()
	carried := s.offload.counted[toPeer].Packets
	for _, said := range []string{
		fmt.Sprintf("carried, and left to the sockets\" to_peer=%d", carried), " left_no_flow=",
	} {
		if text := logged.String(); !strings.Contains(text, said) {
			t.Errorf("the log lacks %q:\n%s", said, text)
		}
	}
}

// testOffloadDiesWithItsProcess: kill -9 leaves no program on the interface.
func testOffloadDiesWithItsProcess(t *testing.T, _ string) {
	attached := func() bool {
		l, err := netlink.LinkByName("near")
		if err != nil {
			t.Fatal(err)
		}
		return l.Attrs().Xdp != nil && l.Attrs().Xdp.Attached
	}
	p := startProcess(t, planeAuto, labRelay+":0", nil)
	if want := "XDP on near (" + theLab.mode + ")"; p.offload != want {
		t.Errorf("%q, want %q", p.offload, want)
	}
	if !attached() {
		t.Error("no program is attached")
	}
	p.kill()
	eventually(t, "the program is gone", func() bool { return !attached() })
}
