//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/pion/stun/v4"
	"github.com/pion/turn/v5"
	"golang.org/x/sys/unix"

	"sotto/turncred"
)

const (
	secret = "a secret for comparing relays"
	realm  = "sotto"
	listen = relayIP + ":3478"
)

// relay is a program to measure.
type relay struct {
	name, dir string
	role      role
	command   []string
}

// role is what a relay stands for in goals. There may be several coturns, of which the first is compared to.
type role int

const (
	asSotto role = iota
	asOffload
	asCoturn
	asMultiplexed // coturn that shares a socket for all peers, which its defaults and TURN's permissions by socket do not
	asPion
	asBare
)

func nameOf(relays []relay, as role) string {
	for _, r := range relays {
		if r.role == as {
			return r.name
		}
	}
	return "nobody"
}

// makeRelays puts what they need into dir.
func makeRelays(c config, dir string) ([]relay, error) {
	if c.sotto == "" {
		c.sotto = filepath.Join(dir, "sotto")
		if out, err := exec.Command("go", "build", "-o", c.sotto, "sotto/cmd/sotto").CombinedOutput(); err != nil {
			return nil, fmt.Errorf("go build: %w\n%s", err, out)
		}
	}
	secretFile := filepath.Join(dir, "secret")
	if err := os.WriteFile(secretFile, []byte(secret), 0o600); err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	turn := []string{c.sotto, "turn", "--relay-listen", listen, "--relay-allow", relayIP + "/32," + othersIP + "0/24",
		"--relay-secret-file", secretFile, "--metrics", "off"}
	relays := []relay{
		{name: "sotto", role: asSotto, command: turn},
		{name: "sotto offload", role: asOffload, command: append(slices.Clone(turn), "--offload", "required")},
	}
	for i, command := range strings.Split(c.coturn, ",") {
		name, path, named := strings.Cut(command, "=")
		if !named {
			name, path = "coturn", command
			if i > 0 {
				name += strconv.Itoa(i + 1)
			}
		}
		words := strings.Fields(path)
		if len(words) == 0 {
			continue
		}
		coturn := relay{name: name, role: asCoturn, command: append(slices.Clip(words),
			"-n", "--use-auth-secret", "--static-auth-secret="+secret, "--realm="+realm, "--listening-ip="+relayIP, "--relay-ip="+relayIP,
			"--no-tls", "--log-file=/dev/null", "--simple-log", "--no-stdout-log", "--pidfile=/tmp/relaybench.pid", "--userdb=/tmp/relaybench.db")}
		relays = append(relays, coturn)
		help, _ := exec.Command(words[0], append(words[1:], "--help")...).CombinedOutput()
		if i == 0 && bytes.Contains(help, []byte("--multiplex-peer")) && bytes.Contains(help, []byte("--udp-gso")) { // since 4.17
			relays = append(relays, relay{name: name + " multiplexed", role: asMultiplexed, command: append(slices.Clip(coturn.command), "--multiplex-peer", "--udp-gso")})
		}
	}
	relays = append(relays,
		relay{name: "pion", role: asPion, command: []string{self, "-serve", "pion"}},
		relay{name: "bare", role: asBare, command: []string{self, "-serve", "bare"}})
	for i := range relays {
		relays[i].dir = dir
	}
	if c.relays != "" {
		relays = slices.DeleteFunc(relays, func(r relay) bool { return !slices.Contains(strings.Split(c.relays, ","), r.name) })
	}
	return relays, nil
}

// process is a relay that runs.
type process struct {
	relay
	cmd  *exec.Cmd
	said *bytes.Buffer
}

func (r relay) start() (*process, error) {
	runtime.LockOSThread() // the program inherits the processor of the thread that starts it
	defer runtime.UnlockOSThread()
	if err := pin(relayCPU); err != nil {
		return nil, err
	}
	p := &process{relay: r, cmd: exec.Command(r.command[0], r.command[1:]...), said: new(bytes.Buffer)}
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Dir = p.said, p.said, r.dir
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err := startApart(p.cmd)
	if err := errors.Join(err, pin(generatorCPU)); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		if r.answers() {
			return p, nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	p.stop()
	said, _, _ := strings.Cut(p.said.String(), "\n")
	return nil, fmt.Errorf("it does not answer: %s", said)
}

func (r relay) answers() bool {
	if r.role == asBare {
		s, err := forwarded(0, netip.MustParseAddrPort(othersIP+"1:9"))
		if err == nil {
			s.close()
		}
		return err == nil
	}
	s, err := dial(othersIP+"1", listen)
	if err != nil {
		return false
	}
	defer s.close()
	_, err = s.ask(stun.MustBuild(stun.TransactionID, stun.BindingRequest))
	return err == nil
}

// leave starts a program that leaves only so much of its processor to the relay.
func leave(share string) (stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.Command(self, "-serve", share)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := errors.Join(pin(relayCPU), cmd.Start(), pin(generatorCPU)); err != nil {
		return nil, err
	}
	return func() { _, _ = cmd.Process.Kill(), cmd.Wait() }, nil
}

// spin leaves the rest, again and again, and goes before everything else on its processor, kernel threads that receive included.
func spin(slice, rested time.Duration) error {
	runtime.LockOSThread()
	first := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 50}
	if err := unix.SchedSetAttr(0, &first, 0); err != nil {
		return err
	}
	rest := unix.NsecToTimespec(rested.Nanoseconds())
	for {
		_, _, _ = unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&rest)), 0, 0)
		for woke := time.Now(); time.Since(woke) < slice; {
		}
	}
}

func pin(cpu int) error {
	var set unix.CPUSet
	set.Set(cpu)
	return unix.SchedSetaffinity(0, &set)
}

func (p *process) stop() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// cpu is the processor time that the relay has used: on loopback it pays for delivering what it sends, too, and apart for the kernel's thread that
// receives for it.
func (p *process) cpu() time.Duration {
	used := cpuOf(p.cmd.Process.Pid)
	if driver != 0 {
		used += cpuOf(driver)
	}
	return used
}

func cpuOf(pid int) time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &t); err != nil { // CPUCLOCK_SCHED of the process
		panic(err)
	}
	return time.Duration(t.Nano())
}

// resident is VmRSS in bytes.
func (p *process) resident() (float64, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	return kilobytes(string(status), "VmRSS:")
}

// kilobytes is a value of /proc in bytes.
func kilobytes(text, key string) (float64, error) {
	_, rest, _ := strings.Cut(text, key)
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0, errors.New("no " + key)
	}
	kb, err := strconv.ParseFloat(fields[0], 64)
	return kb * 1024, err
}

// slab is what the kernel's objects take, in bytes: of all programs.
func slab() (float64, error) {
	info, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	return kilobytes(string(info), "Slab:")
}

// servePion is pion's example "simple", with the credentials of the others.
func servePion() error {
	conn, err := net.ListenPacket("udp4", listen)
	if err != nil {
		return err
	}
	_ = conn.(*net.UDPConn).SetReadBuffer(2 << 20) // what coturn asks for; without it the windows would be too much for it
	_, err = turn.NewServer(turn.ServerConfig{
		Realm: realm,
		AuthHandler: func(a *turn.RequestAttributes) (string, []byte, bool) {
			return a.Username, turncred.Key(a.Username, a.Realm, turncred.Password([]byte(secret), a.Username)), true
		},
		PacketConnConfigs: []turn.PacketConnConfig{{PacketConn: conn, RelayAddressGenerator: &turn.RelayAddressGeneratorStatic{
			RelayAddress: net.ParseIP(relayIP), Address: relayIP,
		}}},
	})
	if err != nil {
		return err
	}
	select {}
}
