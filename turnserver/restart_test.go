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

type relaySettings struct {
	UDP                       []string
	AllowPeers                []netip.Prefix
	DataPlane, Offload, Mode  string
	MaxPerUser, MaxPerAddress int
	RelayPorts                PortRange
}

// serveUntilKilled says where it listens and what carries packets; then, for each line that it reads, how many the driver has carried.
func serveUntilKilled(settings string) {
	var c relaySettings
	err := json.Unmarshal([]byte(settings), &c)
	if err == nil {
		var s *Server
		if s, err = New(Config{
			UDP: c.UDP, AllowPeers: c.AllowPeers, DataPlane: c.DataPlane, Offload: c.Offload, Secrets: [][]byte{testSecret}, RelayPorts: c.RelayPorts,
			MaxPerUser: c.MaxPerUser, MaxPerAddress: c.MaxPerAddress, tune: tuning{foreign: elsewhere, offloadMode: c.Mode},
		}); err == nil {
			fmt.Println(s.Addrs().UDP[0], s.Offload())
			for in := bufio.NewScanner(os.Stdin); in.Scan(); {
				fmt.Println(world.driver(s))
			}
			os.Exit(0)
		}
	}
	fmt.Println(err)
	os.Exit(1)
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
	cfg := Config{UDP: []string{at}, AllowPeers: loopback, DataPlane: plane}
	if change != nil {
		change(&cfg)
	}
	world.relay(&cfg)
	settings, err := json.Marshal(relaySettings{
		cfg.UDP, cfg.AllowPeers, cfg.DataPlane, cfg.Offload, cfg.tune.offloadMode, cfg.MaxPerUser, cfg.MaxPerAddress, cfg.RelayPorts})
	if err != nil {
		t.Fatal(err)
	}
	p := &relayProcess{command: exec.Command(os.Args[0])}
	p.command.Env = append(os.Environ(), labVariable+"=", processVariable+"="+string(settings))
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

// carried is how many packets its driver has carried.
func (p *relayProcess) carried(t testing.TB) (n int) {
	t.Helper()
	_, _ = io.WriteString(p.in, "\n")
	if _, err := fmt.Sscan(p.line(t), &n); err != nil {
		t.Fatal(err)
	}
	return n
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
				return p.carried(t) > 0
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
	if n := again.carried(t); n != 0 {
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
	if code := codeOf(alice.request(stun.MethodRefresh)); code != 438 { // the nonce was the dead process's (RFC 8489 section 9.2.4)
		t.Errorf("code %d, want 438", code)
	}
	alice.nonce = nil
	if code := codeOf(alice.request(stun.MethodRefresh)); code != 437 {
		t.Errorf("code %d, want 437", code)
	}
	alice.mustSucceed(stun.MethodAllocate, udpTransport)
}
