//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

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
	coturn    bool
	command   []string
}

func makeRelays(coturn, sotto string) ([]relay, error) {
	dir, err := os.MkdirTemp("", "relaybench")
	if err != nil {
		return nil, err
	}
	if sotto == "" {
		sotto = filepath.Join(dir, "sotto")
		if out, err := exec.Command("go", "build", "-o", sotto, "sotto/cmd/sotto").CombinedOutput(); err != nil {
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
	turn := []string{sotto, "turn", "--relay-listen", listen, "--relay-allow", relayIP + "/32," + othersIP + "0/24",
		"--relay-secret-file", secretFile, "--metrics", "off"}
	relays := []relay{{name: "sotto", dir: dir, command: turn}}
	if relayNet != 0 {
		relays = append(relays, relay{name: "sotto, offload", dir: dir, command: append(slices.Clone(turn), "--offload", "required")})
	}
	for i, c := range strings.Split(coturn, ",") {
		name, path, named := strings.Cut(c, "=")
		if !named {
			name, path = "coturn", c
			if i > 0 {
				name += strconv.Itoa(i + 1)
			}
		}
		relays = append(relays, relay{name: name, dir: dir, coturn: true, command: append(strings.Fields(path),
			"-n", "--use-auth-secret", "--static-auth-secret="+secret, "--realm="+realm, "--listening-ip="+relayIP, "--relay-ip="+relayIP,
			"--no-tls", "--log-file=/dev/null", "--simple-log", "--no-stdout-log", "--pidfile=/tmp/relaybench.pid", "--userdb=/tmp/relaybench.db")})
	}
	return append(relays, relay{name: "pion", dir: dir, command: []string{self, "-serve-pion"}}), nil
}

// process is a relay that runs.
type process struct {
	cmd  *exec.Cmd
	said *bytes.Buffer
}

func (r relay) start() (*process, error) {
	runtime.LockOSThread() // the program inherits the processor of the thread that starts it
	defer runtime.UnlockOSThread()
	if err := pin(relayCPU); err != nil {
		return nil, err
	}
	p := &process{cmd: exec.Command(r.command[0], r.command[1:]...), said: new(bytes.Buffer)}
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Dir = p.said, p.said, r.dir
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err := startApart(p.cmd)
	if err := errors.Join(err, pin(generatorCPU)); err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		if c, err := dial(othersIP+"1", listen); err == nil {
			answered := c.bindingAnswered()
			c.close()
			if answered {
				return p, nil
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	p.stop()
	said, _, _ := strings.Cut(p.said.String(), "\n")
	return nil, fmt.Errorf("it does not answer: %s", said)
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
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return 0, errors.New("no VmRSS")
	}
	kb, err := strconv.ParseFloat(fields[0], 64)
	return kb * 1024, err
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
