package turnserver

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/pion/stun/v4"
	"github.com/pion/turn/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"sotto/turncred"
)

// testStrangersGetLittle floods the relay with every request that somebody without a credential can make it answer, the shortest possible,
// and counts what comes back: never more than 3.2 times as much, and after a burst next to nothing. The client of an allocation at the same
// address does not suffer.
func testStrangersGetLittle(t *testing.T, plane string) {
	s := startRelay(t, plane, func(c *Config) { c.Realm = strings.Repeat("r", maxRealm) })
	alice := newRawClient(t, s, "alice")
	alice.mustSucceed(stun.MethodAllocate, udpTransport)
	conn, err := world.dial(s.Addrs().UDP[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	requests := map[string][]stun.Setter{
		"Binding":                {stun.BindingRequest},
		"Allocate":               {stun.NewType(stun.MethodAllocate, stun.ClassRequest), udpTransport},
		"Allocate, no transport": {stun.NewType(stun.MethodAllocate, stun.ClassRequest)},
		"Refresh":                {stun.NewType(stun.MethodRefresh, stun.ClassRequest)},
		"CreatePermission":       {stun.NewType(stun.MethodCreatePermission, stun.ClassRequest)},
		"ChannelBind":            {stun.NewType(stun.MethodChannelBind, stun.ClassRequest)},
		"Connect":                {stun.NewType(stun.MethodConnect, stun.ClassRequest)},
		"unknown attributes": {stun.NewType(stun.MethodAllocate, stun.ClassRequest), udpTransport,
			stun.RawAttribute{Type: 0x7001}, stun.RawAttribute{Type: 0x7002}, stun.RawAttribute{Type: 0x7003}},
	}
	for _, method := range []stun.Method{stun.MethodRefresh, stun.MethodCreatePermission, stun.MethodChannelBind} { // answered, for they might be a lost client's
		attrs := []stun.Setter{stun.NewType(method, stun.ClassRequest), stun.NewNonce("x")}
		if method != stun.MethodRefresh {
			attrs = append(attrs, peer("9.9.9.9:1"))
		}
		if method == stun.MethodChannelBind {
			attrs = append(attrs, channelAttr(0x4000))
		}
		requests[method.String()+", signed with anything"] = append(attrs, stun.MessageIntegrity("anything"))
	}
	buf := make([]byte, 2048)
	for name, setters := range requests {
		m, _ := stun.Build(append([]stun.Setter{stun.TransactionID}, setters...)...)
		_, _ = conn.Write(m.Raw)
		_ = conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		n, err := conn.Read(buf)
		for err == nil && !bytes.Equal(buf[8:20], m.TransactionID[:]) { // another's, and late
			n, err = conn.Read(buf)
		}
		if err == nil {
			t.Logf("%s: %d bytes for %d, %.2f times", name, n, len(m.Raw), float64(n)/float64(len(m.Raw)))
			if n*10 > len(m.Raw)*32 {
				t.Errorf("%s is amplified", name)
			}
		}
	}
	m, _ := stun.Build(append([]stun.Setter{stun.TransactionID}, requests["Allocate"]...)...)
	const flood = 3000
	start, answers := time.Now(), 0
	for range flood / 50 {
		for range 50 {
			_, _ = conn.Write(m.Raw)
		}
		for {
			_ = conn.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
			if _, err := conn.Read(buf); err != nil {
				break
			}
			answers++
		}
	}
	if most := strangerBurst + int(time.Since(start)/strangerInterval) + 1; answers > most || answers < strangerBurst/2 {
		t.Errorf("%d answers to %d requests, want %d at most", answers, flood, most)
	}
	t.Logf("%d answers to %d requests", answers, flood)
	alice.mustSucceed(stun.MethodRefresh)
	alice.mustSucceed(stun.MethodCreatePermission, peer("127.0.0.2:1"))
	if testutil.ToFloat64(s.metrics.droppedSilenced) == 0 {
		t.Error("silence is not counted")
	}
}

// testGuessingIsSilenced: wrong passwords are answered like any stranger.
func testGuessingIsSilenced(t *testing.T, plane string) {
	s := startRelay(t, plane, nil)
	mallory := newRawClient(t, s, "alice")
	mallory.password = "guess"
	answered := 0
	for range strangerBurst + 8 {
		if codeOf(mallory.request(stun.MethodAllocate, udpTransport)) == 401 {
			answered++
		} else {
			break
		}
	}
	if answered > strangerBurst+4 || testutil.ToFloat64(s.metrics.refusedAuth) < float64(answered) {
		t.Errorf("%d guesses answered, %v counted", answered, testutil.ToFloat64(s.metrics.refusedAuth))
	}
}

// TestBucket: a burst, then one for each interval.
func TestBucket(t *testing.T) {
	b := new(bucket)
	now := time.Now()
	for range 64 {
		if !b.has(now, 64, time.Second) || !b.take(now, 1, 64, time.Second) {
			t.Fatal("the burst is not given")
		}
	}
	if b.has(now, 64, time.Second) || b.take(now, 1, 64, time.Second) {
		t.Error("more than the burst is given")
	}
	if now = now.Add(time.Second); !b.take(now, 1, 64, time.Second) || b.take(now, 1, 64, time.Second) {
		t.Error("an interval does not give exactly one")
	}
}

// testBandwidth: what exceeds the bound of an allocation is lost, each way.
func testBandwidth(t *testing.T, plane string) {
	frozen := time.Now()
	s := startRelay(t, plane, func(cfg *Config) {
		cfg.Bandwidth = 10_000
		cfg.tune.now = func() time.Time { return frozen }
	})
	alice := newRawClient(t, s, "alice")
	alice.mustSucceed(stun.MethodAllocate, udpTransport)
	other := listenOn(t, "127.0.0.2")
	alice.mustSucceed(stun.MethodCreatePermission, peerAttr(addrPort(other.LocalAddr())))
	for range 30 {
		send(alice, addrPort(other.LocalAddr()), strings.Repeat("x", 1000))
	}
	eventually(t, "all sent or lost", func() bool {
		return testutil.ToFloat64(s.metrics.toPeer)+testutil.ToFloat64(s.metrics.droppedBandwidth) == 30
	})
	if got := testutil.ToFloat64(s.metrics.toPeer); got != 10 {
		t.Errorf("%v of 30 packets passed, want 10", got)
	}
}

// TestPermissionRace holds a permission between its publication and the start of its timer until the allocation's time is over. Up to
// v5.1.2 pion panics there, which TestBarePionPanics shows, and this package does not.
func TestPermissionRace(t *testing.T) {
	t.Parallel()
	forEachDataPlane(t, testPermissionRace)
}

func testPermissionRace(t *testing.T, plane string) {
	t.Parallel()
	release := make(chan struct{})
	s := startRelay(t, plane, func(c *Config) { c.tune.onPermission = func() { <-release } })
	alice := newRawClient(t, s, "alice")
	alice.mustSucceed(stun.MethodAllocate, udpTransport, lifetime(1))
	r := relaysOf(s)[0]
	if code := codeOf(alice.request(stun.MethodCreatePermission, peer("127.0.0.2:1"))); code != -1 {
		t.Fatalf("the permission was not held: code %d", code)
	}
	// The allocation's timer fires after a second, and its Close waits in forget; the relay is
	// still there to be seen.
	eventually(t, "the allocation's Close waits", func() bool { return inForget(r) })
	if s.table.byPublic(r.public) == nil {
		t.Error("the allocation closed in the middle of a permission")
	}
	close(release)
	eventually(t, "the allocation closes", func() bool { return s.table.byPublic(r.public) == nil })
	newRawClient(t, s, "alice").mustSucceed(stun.MethodAllocate, udpTransport) // and the relay is well
}

// inForget says whether a goroutine is in forget of this relay.
func inForget(r *relay) bool {
	stacks := make([]byte, 1<<20)
	return bytes.Contains(stacks[:runtime.Stack(stacks, true)], fmt.Appendf(nil, "(*relay).forget(%p", r))
}

// TestPermissionsMadeOnceMore: one request renews permissions while its allocation closes, which takes them away one by one. pion then makes
// some of them a second time, for an allocation that is no more.
func TestPermissionsMadeOnceMore(t *testing.T) {
	t.Parallel()
	forEachDataPlane(t, testPermissionsMadeOnceMore)
}

func testPermissionsMadeOnceMore(t *testing.T, plane string) {
	t.Parallel()
	known := []stun.Setter{peer("127.0.0.2:1")}
	for n := range 8 {
		known = append(known, peer(fmt.Sprintf("127.0.1.%d:1", n)))
	}
	held, release := make(chan struct{}, 1), make(chan struct{})
	var hold atomic.Bool
	s := startRelay(t, plane, func(c *Config) {
		c.tune.foreign = prefixes("127.0.0.0/16")
		c.tune.onPermission = func() {
			if hold.CompareAndSwap(true, false) {
				held <- struct{}{}
				<-release
			}
		}
	})
	alice := newRawClient(t, s, "alice")
	alice.mustSucceed(stun.MethodAllocate, udpTransport, lifetime(1))
	r := relaysOf(s)[0]
	alice.mustSucceed(stun.MethodCreatePermission, known...)
	hold.Store(true)
	go alice.request(stun.MethodCreatePermission, append([]stun.Setter{peer("127.0.2.1:1")}, known...)...) // a new one first
	<-held
	// The allocation's timer fires after a second; its Close takes away what it comes to before the new one, for which it waits.
	eventually(t, "the allocation's Close waits", func() bool { return inForget(r) })
	close(release)
	eventually(t, "the allocation is closed", func() bool { return s.table.byPublic(r.public) == nil })
	newRawClient(t, s, "alice").mustSucceed(stun.MethodAllocate, udpTransport) // and the relay is well
}

// TestNothingIsBoundAfterTheEnd: what a request still asks of an allocation that has ended opens nothing.
func TestNothingIsBoundAfterTheEnd(t *testing.T) {
	s := startRelay(t, planeAuto, nil)
	alice := newRawClient(t, s, "alice")
	alice.mustSucceed(stun.MethodAllocate, udpTransport)
	r, at := relaysOf(s)[0], netip.MustParseAddrPort("127.0.0.2:1")
	alice.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(at))
	r.end()
	r.bind(0x4001, at)
	r.permit(at.Addr(), s.now().Add(time.Hour))
	if r.channel(0x4000) != nil || r.channel(0x4001) != nil || r.channelTo(at) != nil {
		t.Error("a channel of an allocation that has ended")
	}
}

// TestTheClockIsSet: the machine's clock is set forward by an hour. Credentials are over, of course; what was permitted is not.
func TestTheClockIsSet(t *testing.T) {
	var wall clock
	s := startRelay(t, planeAuto, func(c *Config) { c.tune.wall = wall.now })
	alice, echo := newRawClient(t, s, "alice"), echoPeer(t, "127.0.0.2")
	alice.mustSucceed(stun.MethodAllocate, udpTransport)
	alice.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(addrPort(echo)))
	wall.advance(time.Hour)
	_, _ = alice.conn.Write([]byte("\x40\x00\x00\x04text"))
	if got := alice.next(); string(got) != "\x40\x00\x00\x04text" {
		t.Errorf("% x", got)
	}
	if code := codeOf(newRawClient(t, s, "bob").request(stun.MethodAllocate, udpTransport)); code != 401 {
		t.Errorf("an expired credential: code %d", code)
	}
}

// TestBarePionPanics is the same with pion alone, in a process of its own.
func TestBarePionPanics(t *testing.T) {
	t.Parallel()
	if os.Getenv("SOTTO_BARE_PION") != "" {
		barePionRace(t)
		return
	}
	test := exec.Command(os.Args[0], "-test.run=^TestBarePionPanics$")
	test.Env = append(os.Environ(), "SOTTO_BARE_PION=1")
	if out, err := test.CombinedOutput(); err == nil || !strings.Contains(string(out), "nil pointer dereference") {
		t.Errorf("pion alone survives: is the guard still needed? %v\n%s", err, out)
	}
}

func barePionRace(t *testing.T) {
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	username, password := turncred.Mint(testSecret, "alice", time.Minute, time.Now())
	_, err = turn.NewServer(turn.ServerConfig{
		Realm: "bare", LoggerFactory: silence{},
		AuthHandler: func(a *turn.RequestAttributes) (string, []byte, bool) {
			return "alice", turncred.Key(a.Username, a.Realm, password), true
		},
		EventHandler: turn.EventHandler{OnPermissionCreated: func(_, _ net.Addr, _, _, _ string, _ net.Addr, _ net.IP) { time.Sleep(3 * time.Second) }},
		PacketConnConfigs: []turn.PacketConnConfig{{PacketConn: conn, RelayAddressGenerator: &turn.RelayAddressGeneratorStatic{
			RelayAddress: net.IPv4(127, 0, 0, 1), Address: "127.0.0.1",
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	c := &rawClient{t: t, username: username, password: password}
	if c.conn, err = net.Dial("udp4", conn.LocalAddr().String()); err != nil {
		t.Fatal(err)
	}
	c.mustSucceed(stun.MethodAllocate, udpTransport, lifetime(1))
	c.request(stun.MethodCreatePermission, peer("127.0.0.2:1"))
	time.Sleep(2 * time.Second)
	os.Exit(0)
}

// TestLateCreationIsWaitedFor is the earlier half of the same instant: forget comes before publish.
func TestLateCreationIsWaitedFor(t *testing.T) {
	r := new(relay)
	done := make(chan struct{})
	go func() { r.forget(fromIP(net.IPv4(9, 9, 9, 9))); close(done) }()
	eventually(t, "forget waits", func() bool { r.mu.RLock(); defer r.mu.RUnlock(); return len(r.permissions) == 1 })
	select {
	case <-done:
		t.Fatal("forget did not wait")
	default:
	}
	close(r.publish(fromIP(net.IPv4(9, 9, 9, 9))))
	<-done
}

// privateOf are addresses of a machine in a private network.
var privateOf = map[string]netip.Addr{
	"udp4": netip.MustParseAddr("10.0.0.2"), "udp6": netip.MustParseAddr("fd00::2"),
}

// TestErrorsSayWhatToDo: each names the thing that is wrong and the way out.
func TestErrorsSayWhatToDo(t *testing.T) {
	s := startRelay(t, planeAuto, func(c *Config) { overStreams(t, c) })
	base := Config{UDP: []string{"127.0.0.1:0"}, Secrets: [][]byte{testSecret}, AllowPeers: loopback}
	for _, c := range []struct {
		name   string
		change func(*Config)
		want   []string
	}{
		{"UDP port in use", func(c *Config) { c.UDP = []string{s.Addrs().UDP[0].String()} }, []string{s.Addrs().UDP[0].String(), "uses that port", "choose another port"}},
		{"TCP port in use", func(c *Config) { c.TCP = []string{s.Addrs().TCP[0].String()} }, []string{s.Addrs().TCP[0].String(), "uses that port"}},
		{"not our address", func(c *Config) { c.UDP = []string{"192.0.2.77:0"} }, []string{"192.0.2.77", "no such address", "external"}},
		{"a name", func(c *Config) { c.UDP = []string{"localhost:3478"} }, []string{"localhost:3478", "IP address and port"}},
		{"no external address", func(c *Config) { c.AllowPeers = nil }, []string{"no external address", "127.0.0.1", "set External", "AllowPeers"}},
		{"a private external address", func(c *Config) {
			c.External = []netip.Addr{netip.MustParseAddr("::ffff:192.168.1.5")}
		}, []string{"192.168.1.5", "External is to be", "AllowPeers"}},
		{"a private network of both families", func(c *Config) {
			c.UDP = []string{":0"}
			c.tune.source = func(network, _ string) netip.Addr { return privateOf[network] }
		}, []string{"10.0.0.2", "set External"}},
		{"the same with a private external address", func(c *Config) {
			c.UDP = []string{":0"}
			c.External = []netip.Addr{netip.MustParseAddr("fd00::5")}
			c.tune.source = func(network, _ string) netip.Addr { return privateOf[network] }
		}, []string{"fd00::5", "External is to be"}},
		{"nothing to listen on", func(c *Config) { c.UDP = nil }, []string{"no address to listen on"}},
		{"no secret", func(c *Config) { c.Secrets = nil }, []string{"no secret"}},
		{"weak secret", func(c *Config) { c.Secrets = [][]byte{[]byte("secret")} }, []string{"shorter than 16"}},
		{"TLS without certificate", func(c *Config) { c.TLS = []string{"127.0.0.1:0"} }, []string{"certificate"}},
		{"long realm", func(c *Config) { c.Realm = strings.Repeat("r", maxRealm+1) }, []string{"28 bytes"}},
		{"empty range", func(c *Config) { c.RelayPorts = PortRange{10, 9} }, []string{"10-9"}},
		{"two external IPv4", func(c *Config) {
			c.External = []netip.Addr{netip.MustParseAddr("9.9.9.9"), netip.MustParseAddr("8.8.8.8")}
		}, []string{"external", "one IPv4"}},
	} {
		cfg := base
		c.change(&cfg)
		_, err := New(cfg)
		if err == nil {
			t.Errorf("%s: accepted", c.name)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q does not mention %q", c.name, err, want)
			}
		}
	}
}

// testPortsRunOut: the range is used up to its last port, and says so.
func testPortsRunOut(t *testing.T, plane string) {
	probe := listenOn(t, "127.0.0.1")
	port := addrPort(probe.LocalAddr()).Port()
	_ = probe.Close()
	s := startRelay(t, plane, func(c *Config) { c.RelayPorts = PortRange{port, port} })
	alice := newRawClient(t, s, "alice")
	if got := relayedAddr(t, alice.mustSucceed(stun.MethodAllocate, udpTransport)).Port(); got != port {
		t.Errorf("port %d, want %d", got, port)
	}
	if code := codeOf(newRawClient(t, s, "bob").request(stun.MethodAllocate, udpTransport)); code != 508 {
		t.Errorf("no port left: code %d", code)
	}
	alice.mustSucceed(stun.MethodRefresh, lifetime(0))
	newRawClient(t, s, "bob").mustSucceed(stun.MethodAllocate, udpTransport)
}

// testOtherErrorsEndTheSearchForAPort: a port in use is passed over; any other error, here of an address that this machine has not, ends
// the search at the first of 16,384 ports, for the goroutine that serves all clients is waiting.
func testOtherErrorsEndTheSearchForAPort(t *testing.T, plane string) {
	s := startRelay(t, plane, func(c *Config) { c.RelayPorts = PortRange{} })
	at := (*s.relays.Load())[0]
	if _, err := s.table.open(s, relayAddr{netip.MustParseAddr("192.0.2.77"), at.public}, false, openUDPPort); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("%v, want the first port's error", err)
	} else if strings.Contains(err.Error(), "192.0.2.77") {
		t.Errorf("%v: this will be logged", err)
	}
	for _, e := range []error{syscall.EADDRINUSE, syscall.EACCES} {
		if !portTaken(&net.OpError{Op: "listen", Err: os.NewSyscallError("bind", e)}) {
			t.Errorf("%v ends the search", e)
		}
	}
	if portTaken(os.NewSyscallError("socket", syscall.EMFILE)) {
		t.Error("out of descriptors, and on it goes")
	}
}

// testMetrics: they obey Prometheus's conventions, and no series is named after anybody.
func testMetrics(t *testing.T, plane string) {
	s := startRelay(t, plane, nil)
	newRawClient(t, s, "alice").mustSucceed(stun.MethodAllocate, udpTransport)
	if got := testutil.ToFloat64(s.metrics.allocations); got != 1 {
		t.Errorf("%v allocations", got)
	}
	problems, err := testutil.CollectAndLint(s)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Error(p)
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(s)
	families, err := registry.Gather()
	if text := fmt.Sprint(families); err != nil || !strings.Contains(text, "sotto_turn_allocations") ||
		strings.Contains(text, "alice") || strings.Contains(text, "127.0.0.1") {
		t.Errorf("%v\n%s", err, text)
	}
}
