package turnserver

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// The third way to run the tests: the same tests, with the driver carrying packets. Loopback has no driver, so TestOffload runs this program again in
// a network namespace of its own, where clients and peers live in another at the end of a veth pair. The relay and its services are at 198.18.7.1, the clients
// at .2 and what stands for somebody else's machines at .3.

const (
	labVariable = "SOTTO_TEST_OFFLOAD" // native or generic, in the program that TestOffload runs
	labRelay    = "198.18.7.1"
	labRelay6   = "fd18:7::1"
	labClient   = "198.18.7.2"
	labPeer     = "198.18.7.3"
	labPeer6    = "fd18:7::3"
)

type lab struct {
	mode    string
	far     int       // the other namespace
	pass    link.Link // the program at the far end
	s       atomic.Pointer[Server]
	carries bool // the driver has something to carry in this test
}

// theLab is nil in a normal run.
var theLab *lab

func init() {
	mode := os.Getenv(labVariable)
	if mode == "" {
		return
	}
	l := &lab{mode: mode}
	if err := l.open(); err != nil {
		fmt.Fprintln(os.Stderr, "cannot set up the lab:", err)
		os.Exit(1)
	}
	theLab, world.client = l, labClient
	world.dial, world.listen, world.relay, world.began, world.ending = l.dial, l.listen, l.relay, l.began, l.ending
	world.moved = func() { l.s.Load().offload.tick() } // instead of waiting for its next one
}

func (l *lab) open() error {
	var err error
	if e := onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		l.far, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	}); e != nil {
		return e
	}
	const near, far = "02:00:00:00:00:01", "02:00:00:00:00:02"
	if err := commands(
		"ip link set lo up",
		"ip link add near address "+near+" mtu 2000 type veth peer name far mtu 2000 address "+far, // no datagram of the tests needs fragments
		fmt.Sprintf("ip link set far netns /proc/%d/fd/%d", os.Getpid(), l.far),
		"ip addr add "+labRelay+"/24 dev near",
		"ip addr add "+labRelay6+"/64 dev near nodad",
		"ip link set near up",
	); err != nil {
		return err
	}
	if err := l.outside(func() error {
		if err := commands("ip link set lo up", "ip addr add "+labClient+"/24 dev far", "ip addr add "+labPeer+"/24 dev far",
			"ip addr add "+labPeer6+"/64 dev far nodad", "ip link set far up",
			"ip neigh add "+labRelay+" lladdr "+near+" dev far", "ip neigh add "+labRelay6+" lladdr "+near+" dev far"); err != nil {
			return err
		}
		if err := checksumsInSoftware("far"); err != nil {
			return err
		}
		if l.mode != "native" {
			return nil
		}
		// A veth takes packets from the driver at its other end only if it has a program itself.
		pass, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "Apache-2.0",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}})
		if err != nil {
			return err
		}
		i, err := net.InterfaceByName("far")
		if err != nil {
			return err
		}
		l.pass, err = link.AttachXDP(link.XDPOptions{Program: pass, Interface: i.Index, Flags: link.XDPDriverMode})
		return err
	}); err != nil {
		return err
	}
	return commands("ip neigh add "+labClient+" lladdr "+far+" dev near", "ip neigh add "+labPeer+" lladdr "+far+" dev near",
		"ip neigh add "+labPeer6+" lladdr "+far+" dev near")
}

// onThread runs f on a thread that ends with it, so that what f changes of the thread stays there.
func onThread(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

// outside runs f among the clients and peers.
func (l *lab) outside(f func() error) error {
	return onThread(func() error {
		if err := unix.Setns(l.far, unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

func commands(lines ...string) error {
	for _, line := range lines {
		words := strings.Fields(line)
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, out)
		}
	}
	return nil
}

// checksumsInSoftware has a veth send whole packets, as a network card would (ethtool -K DEV tx off): what it would leave to hardware is
// not for the program to touch.
func checksumsInSoftware(device string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	value := struct{ command, data uint32 }{unix.ETHTOOL_STXCSUM, 0}
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(request.name[:], device)
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); e != 0 {
		return e
	}
	return nil
}

// relay changes the settings of a test's relay to the lab's.
func (l *lab) relay(cfg *Config) {
	for i, at := range cfg.UDP {
		cfg.UDP[i] = strings.NewReplacer("127.0.0.1:", labRelay+":", "[::1]:", "["+labRelay6+"]:").Replace(at)
	}
	if cfg.AllowPeers != nil {
		cfg.AllowPeers = append(append([]netip.Prefix(nil), cfg.AllowPeers...), prefixes("198.18.7.0/24", "fd18:7::/64")...)
	}
	cfg.Offload, cfg.tune.offloadMode = offloadRequired, l.mode
}

// listen is a socket outside, except for services of the relay's own machine.
func (l *lab) listen(ip string) (conn *net.UDPConn, err error) {
	open := func(ip string) func() error {
		return func() error {
			conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(ip), 0)))
			return err
		}
	}
	switch ip {
	case "127.0.0.1":
		return conn, open(labRelay)()
	case "127.0.0.2":
		return conn, l.outside(open(labPeer))
	}
	return conn, l.outside(open(ip))
}

func (l *lab) dial(to netip.AddrPort) (conn net.Conn, err error) {
	return conn, l.outside(func() error {
		conn, err = net.Dial("udp", to.String())
		return err
	})
}

func (l *lab) began(_ testing.TB, s *Server) { l.s.Store(s) }

func (l *lab) ending(t testing.TB, s *Server) {
	carried := s.offload.x.Carried()
	total := carried[toPeer].Packets + carried[fromPeer].Packets
	if l.carries && total == 0 {
		t.Error("the driver carried nothing")
	}
}
