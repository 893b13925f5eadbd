package turnserver

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/pion/stun/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"

	"sotto/turncred"
)

// processVariable makes the test program a relay and nothing else, which can be killed.
const processVariable = "SOTTO_TEST_RELAY"

func TestMain(m *testing.M) {
	if c := os.Getenv(processVariable); c != "" {
		serveUntilKilled(c)
	}
	goleak.VerifyTestMain(m)
}

// settings are a Config on its way to the other process.
type settings struct {
	Config
	OffloadMode string
	TLSConfig   *struct{} // stands before Config's, which JSON cannot carry
}

// status is what the relay says of itself.
type status struct {
	Allocations, Goroutines, Descriptors, Heap, Resident int
	Flows, Accounts                                      int // of the driver: entries of the map, and accounts that are taken
	Driver                                               uint64
	Dropped                                              float64
}

// serveUntilKilled says where it listens and what carries packets; then, for each line that it reads, how it is.
func serveUntilKilled(text string) {
	var c settings
	err := json.Unmarshal([]byte(text), &c)
	var s *Server
	if err == nil {
		c.Secrets, c.tune = [][]byte{testSecret}, tuning{
			foreign: elsewhere, offloadMode: c.OffloadMode, shortest: time.Second,
		}
		s, err = New(c.Config)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(s.Addrs().UDP[0], s.Offload())
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		f, m := measure(), s.metrics
		now := status{
			Allocations: len(relaysOf(s)), Goroutines: f.goroutines, Descriptors: f.descriptors, Heap: f.heap, Resident: f.resident,
			Flows: world.flows(s), Driver: world.driver(s),
			Dropped: sum(m.droppedMalformed, m.droppedSilenced, m.droppedNoAllocation, m.droppedNoChannel, m.droppedPeer, m.droppedPermission,
				m.droppedBandwidth, m.droppedPackets, m.droppedSize),
		}
		s.accounts.mu.Lock()
		now.Accounts = len(s.accounts.held)
		s.accounts.mu.Unlock()
		line, _ := json.Marshal(now)
		fmt.Println(string(line))
	}
	os.Exit(0)
}

func sum(counters ...prometheus.Counter) (total float64) {
	for _, c := range counters {
		total += testutil.ToFloat64(c)
	}
	return total
}

// relayProcess is a relay in a process of its own.
type relayProcess struct {
	at      netip.AddrPort
	offload string
	command *exec.Cmd
	in      io.Writer
	out     *bufio.Reader
}

func startProcess(t testing.TB, plane, at string, change func(*Config)) *relayProcess {
	t.Helper()
	cfg := Config{UDP: []string{at}, AllowPeers: loopback, DataPlane: plane, Dedicated: true}
	if change != nil {
		change(&cfg)
	}
	world.relay(&cfg)
	text, err := json.Marshal(settings{Config: cfg, OffloadMode: cfg.tune.offloadMode})
	if err != nil {
		t.Fatal(err)
	}
	p := &relayProcess{command: exec.Command(os.Args[0])}
	p.command.Env = append(os.Environ(), labVariable+"=", processVariable+"="+string(text))
	p.command.Stderr = os.Stderr
	out, err := p.command.StdoutPipe()
	if err == nil {
		p.in, err = p.command.StdinPipe()
	}
	if err == nil {
		err = p.command.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	p.out = bufio.NewReader(out)
	line := p.line(t)
	where, offload, _ := strings.Cut(line, " ")
	if p.at, err = netip.ParseAddrPort(where); err != nil {
		t.Fatal(line)
	}
	p.offload = offload
	return p
}

func (p *relayProcess) line(t testing.TB) string {
	t.Helper()
	line, err := p.out.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

func (p *relayProcess) status(t testing.TB) (now status) {
	t.Helper()
	_, _ = io.WriteString(p.in, "\n")
	if err := json.Unmarshal([]byte(p.line(t)), &now); err != nil {
		t.Fatal(err)
	}
	return now
}

// kill is kill -9.
func (p *relayProcess) kill() {
	_ = p.command.Process.Kill()
	_ = p.command.Wait()
}

// testRestart: the relay is killed, and started again at the same address. Nothing of its calls is left, in the kernel neither: on the old channel and from the
// old peer nothing passes. The client of ICE agents asks, is told 437 (Allocation Mismatch, RFC 8656 section 5), and allocates anew.
func testRestart(t *testing.T, plane string) {
	p := startProcess(t, plane, "127.0.0.1:0", nil)
	client := pionClientOf(t, p.at, "alice", time.Now())
	first, other := allocate(t, client), listenOn(t, "127.0.0.2")
	inUse := func(p *relayProcess, conn net.PacketConn) {
		t.Helper()
		exchangeBothWays(t, conn, other.LocalAddr(), other, conn.LocalAddr())
		if world.offloads {
			eventually(t, "the driver carries", func() bool {
				exchangeBothWays(t, conn, other.LocalAddr(), other, conn.LocalAddr())
				return p.status(t).Driver > 0
			})
		}
	}
	inUse(p, first)
	nothingPasses := func(when string) {
		t.Helper()
		_, _ = other.WriteTo([]byte("from before"), first.LocalAddr())
		_, _ = first.WriteTo([]byte("from before"), other.LocalAddr()) // by channel: the client knows no better
		buf := make([]byte, 100)
		for _, c := range []net.PacketConn{other, first} {
			_ = c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
			if n, _, err := c.ReadFrom(buf); err == nil {
				t.Errorf("%s %q passes", when, buf[:n])
			}
		}
	}
	p.kill()
	nothingPasses("with the relay dead")
	again := startProcess(t, plane, p.at.String(), nil)
	nothingPasses("after the restart")
	if n := again.status(t).Driver; n != 0 {
		t.Errorf("the driver carried %d packets that belong to nothing", n)
	}
	err := client.CreatePermission(other.LocalAddr())
	if err != nil && err.Error() == "try again" { // with the nonce that came with 438
		err = client.CreatePermission(other.LocalAddr())
	}
	if err == nil || !strings.Contains(err.Error(), fmt.Sprint(int(stun.CodeAllocMismatch))) {
		t.Errorf("a permission for the old allocation: %v, want 437", err)
	}
	_ = first.Close()
	inUse(again, allocate(t, client))
}

// TestSecretsOutliveARestart: clients whose credential was made before it begin anew with it.
func TestSecretsOutliveARestart(t *testing.T) {
	p := startProcess(t, planeAuto, "127.0.0.1:0", nil)
	dial := func() *rawClient {
		conn, err := world.dial(p.at)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return &rawClient{t: t, conn: conn}
	}
	alice := dial()
	alice.username, alice.password = turncred.Mint(testSecret, "alice", time.Minute, time.Now())
	alice.mustSucceed(stun.MethodAllocate, udpTransport)
	p.kill()
	startProcess(t, planeAuto, p.at.String(), nil)
	if code := codeOf(alice.once(stun.MethodRefresh)); code != 438 { // the nonce was the dead process's (RFC 8489 section 9.2.4)
		t.Errorf("code %d, want 438", code)
	}
	alice.nonce = nil
	if code := codeOf(alice.request(stun.MethodRefresh)); code != 437 {
		t.Errorf("code %d, want 437", code)
	}
	alice.mustSucceed(stun.MethodAllocate, udpTransport)
}
