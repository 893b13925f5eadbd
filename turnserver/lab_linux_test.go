package turnserver

import (
	"errors"
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

// The third way to run the tests: the same tests, with the driver carrying packets. Loopback has no driver, so TestOffload runs this
// program again in a network namespace of its own, where clients and peers live in another at the end of a veth pair. The relay and its
// services are at 198.18.7.1, the clients at .2 and what stands for somebody else's machines at .3.

const (
	labRelay  = "198.18.7.1"
	labRelay6 = "fd18:7::1"
	labClient = "198.18.7.2"
	labPeer   = "198.18.7.3"
	labPeer6  = "fd18:7::3"
)

type lab struct {
	mode    string
	far     int         // the other namespace
	pass    []link.Link // programs at the far ends
	s       atomic.Pointer[Server]
	carries bool // in this test
	hosts   [256]bool
}

// theLab is nil in a normal run.
var theLab *lab

func init() {
	world.watch = watchPackets
	world.flows = func(s *Server) int {
		if s.offload == nil {
			return 0
		}
		return s.offload.x.Flows()
	}
	world.driver = func(s *Server) (n uint64) {
		if s.offload != nil {
			for _, c := range s.offload.x.Carried() {
				n += c.Packets
			}
		}
		return n
	}
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
	world.dialFrom, world.among = l.dialFrom, l.outside
	world.dial, world.listen, world.relay, world.began, world.ending = l.dial, l.listen, l.relay, l.began, l.ending
	world.moved = func() { // instead of waiting for the next time
		l.s.Load().offload.tick()
		l.s.Load().offload.again()
	}
	world.offloads = true
	world.watch = func() (fd int, err error) {
		return fd, l.outside(func() error {
			fd, err = watchPackets()
			return err
		})
	}
	world.accounts = func(s *Server) int { return max(1, s.accounts.bounded()*s.cfg.MaxAllocations) }
	world.carried = func(t *testing.T, s *Server, want uint64) {
		if c := s.offload.x.Carried(); c[toPeer].Packets != want || c[fromPeer].Packets != want {
			t.Errorf("of %d packets each way the driver carried %v", want, c)
		}
	}
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
	if err := commands("ip link set lo up"); err != nil {
		return err
	}
	if err := l.outside(func() error { return commands("ip link set lo up") }); err != nil {
		return err
	}
	return l.connect("near", "far", []string{labRelay + "/24", labRelay6 + "/64"}, []string{labClient + "/24", labPeer + "/24", labPeer6 + "/64"})
}

// connect lays a cable from here to outside, and tells both ends who is there, so that the driver need not wait for the system to find out.
func (l *lab) connect(near, far string, here, there []string) error {
	const nearMAC, farMAC = "02:00:00:00:00:01", "02:00:00:00:00:02"
	setUp := func(device, otherMAC string, own, others []string) (lines []string) {
		for _, a := range own {
			lines = append(lines, "ip addr add "+a+" dev "+device)
			if strings.Contains(a, ":") {
				lines[len(lines)-1] += " nodad"
			}
		}
		lines = append(lines, "ip link set "+device+" up")
		for _, a := range others {
			ip, _, _ := strings.Cut(a, "/")
			lines = append(lines, "ip neigh add "+ip+" lladdr "+otherMAC+" dev "+device)
		}
		return lines
	}
	if err := commands(
		"ip link add "+near+" address "+nearMAC+" mtu 2000 type veth peer name "+far+" mtu 2000 address "+farMAC, // no datagram of the tests needs fragments
		fmt.Sprintf("ip link set %s netns /proc/%d/fd/%d", far, os.Getpid(), l.far),
	); err != nil {
		return err
	}
	if err := l.outside(func() error {
		if err := errors.Join(commands(setUp(far, nearMAC, there, here)...), checksumsInSoftware(far)); err != nil || l.mode != "native" {
			return err
		}
		// A veth takes packets from the driver at its other end only if it has a program itself.
		pass, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "Apache-2.0",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}})
		if err != nil {
			return err
		}
		i, err := net.InterfaceByName(far)
		if err != nil {
			return err
		}
		attached, err := link.AttachXDP(link.XDPOptions{Program: pass, Interface: i.Index, Flags: link.XDPDriverMode})
		l.pass = append(l.pass, attached)
		return err
	}); err != nil {
		return err
	}
	return commands(setUp(near, farMAC, here, there)...)
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
	case "::1":
		return conn, l.outside(open(labPeer6))
	}
	return conn, l.outside(open(ip))
}

func (l *lab) dial(to netip.AddrPort) (conn net.Conn, err error) {
	return conn, l.outside(func() error {
		conn, err = net.Dial("udp", to.String())
		return err
	})
}

// dialFrom makes the address, if it is not there yet.
func (l *lab) dialFrom(host byte, to netip.AddrPort) (conn net.Conn, err error) {
	from := net.IPv4(198, 18, 7, host)
	return conn, l.outside(func() error {
		if !l.hosts[host] {
			l.hosts[host] = true
			if err := commands("ip addr add " + from.String() + "/24 dev far"); err != nil {
				return err
			}
		}
		conn, err = (&net.Dialer{LocalAddr: &net.UDPAddr{IP: from}}).Dial("udp", to.String())
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
