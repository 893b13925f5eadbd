package turnserver

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A loop is a UDP listener of Linux's data plane, with the relayed ports of the clients that it serves. pion's read goroutine is its only
// thread, inside read:
//
//  1. epoll says which sockets have something; recvmmsg takes it, runs of datagrams that the kernel joined (UDP_GRO) among it.
//  2. ChannelData of clients goes to the peer, or to the client of another allocation of this server (forward_linux.go).
//  3. What peers sent goes to the client, as ChannelData or in a Data indication.
//  4. All that is sent at the end of the batch (departures_linux.go).
//  5. Everything else of clients is for pion, one message at a time: read returns.
//
// A listening address has a loop for each core. The kernel spreads clients over them by a hash of addresses and ports (SO_REUSEPORT), and their
// number never changes, so a client stays with the loop that holds its allocation.
type loop struct {
	s     *Server
	f     *frontend
	local netip.AddrPort

	poller
	listener *outlet
	others   map[netip.AddrPort]*outlet // the other listening addresses, whose clients this loop reaches directly

	in      *arrivals
	clients batch
	way     way // of the last packet from a client
	out     departures
	scratch []byte   // Data indications that wait in out
	counted [2]tally // by direction, since the last flush; ports count what leaves by them

	mu    sync.Mutex
	ports map[int]*loopPort // by descriptor
	over  bool              // the descriptors are closed

	closing atomic.Bool
}

type tally struct{ packets, bytes int }

func (t *tally) add(n int) { t.packets, t.bytes = t.packets+1, t.bytes+n }

// batch is what came from clients at once and is not looked at yet.
type batch struct {
	slot, end int
	run       run
	more      bool // something is left of run
}

// newLoop takes over the listening socket fd.
func newLoop(s *Server, fd int, local netip.AddrPort) (*loop, error) {
	name, err := unix.Getsockname(fd)
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	_, v6 := name.(*unix.SockaddrInet6)
	l := &loop{
		s: s, local: local, listener: &outlet{fd: fd, v6: v6}, others: make(map[netip.AddrPort]*outlet),
		in: newArrivals(), scratch: make([]byte, 0, 1<<16), ports: make(map[int]*loopPort),
	}
	if err := l.poller.open(fd); err != nil {
		l.release()
		return nil, err
	}
	tune(fd, v6)
	if local.Addr().IsUnspecified() {
		if err := askLocalOf(fd, v6); err != nil {
			l.release()
			return nil, err
		}
	}
	_, err = unix.GetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_SEGMENT)
	l.out.whole = err != nil // Linux before 4.18 would send what we join as one datagram
	return l, nil
}

// tune asks for what the loop can do without: joined datagrams, and the byte with DSCP and ECN of each.
func tune(fd int, v6 bool) {
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVTOS, 1)
	if v6 {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 1)
	}
}

func (l *loop) at() netip.AddrPort { return l.local }

// begin is told whose socket the loop is, when all listeners are open.
func (l *loop) begin(f *frontend) error {
	l.f = f
	for _, u := range l.s.udp {
		other, ok := u.(*loop)
		if !ok || other.local == l.local || l.others[other.local] != nil {
			continue
		}
		fd, err := unix.FcntlInt(uintptr(other.listener.fd), unix.F_DUPFD_CLOEXEC, 0) // ours for as long as we need it
		if err != nil {
			return err
		}
		l.others[other.local] = &outlet{fd: fd, v6: other.listener.v6}
	}
	return nil
}

// read forwards until something comes that is for pion.
func (l *loop) read(b []byte) (int, tuple, error) {
	for l.now = l.s.now(); ; {
		if n, from, ok := l.fromClients(b); ok {
			l.flush() // what came before it goes before it is answered
			return n, from, nil
		}
		if len(l.ready) == 0 {
			l.flush()
			if err := l.wait(l.s.now); err != nil {
				return 0, tuple{}, err
			}
			continue
		}
		fd := int(l.ready[0].Fd)
		l.ready = l.ready[1:]
		switch fd {
		case l.wake:
			l.flush()
			return 0, tuple{}, l.woken()
		case l.clock:
			l.lapsed()
		case l.listener.fd:
			l.room()
			l.clients.slot, l.clients.end = l.in.receive(fd)
		default:
			l.fromPeers(fd)
		}
	}
}

// room empties the slots if there are too few for a good batch.
func (l *loop) room() {
	if slots-l.in.used < slots/2 {
		l.flush()
		l.in.used = 0
	}
}

func (l *loop) flush() {
	l.way = way{}
	if len(l.out.waiting) > 0 {
		l.out.flush()
		l.scratch = l.scratch[:0]
	}
	if l.counted != [2]tally{} {
		m := l.s.metrics
		m.toPeer.Add(float64(l.counted[toPeer].packets))
		m.toPeerBytes.Add(float64(l.counted[toPeer].bytes))
		m.fromPeer.Add(float64(l.counted[fromPeer].packets))
		m.fromPeerBytes.Add(float64(l.counted[fromPeer].bytes))
		l.counted = [2]tally{}
	}
	if len(l.ready) == 0 && l.clients.slot == l.clients.end && !l.clients.more {
		l.in.used = 0
	}
}

// write sends an answer of pion's. What cannot be sent is lost: the client asks again.
func (l *loop) write(b []byte, to tuple) { _ = l.listener.writeFrom(to.local, b, to.client) }

func (l *loop) idle() {}

// close makes read fail; pion then ends its allocations.
func (l *loop) close() {
	l.closing.Store(true)
	l.interrupt()
}

func (l *loop) interrupt() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.over {
		l.wakeUp()
	}
}

func (l *loop) woken() error {
	if l.closing.Load() {
		return net.ErrClosed
	}
	l.awake()
	if l.closing.Load() { // since
		return net.ErrClosed
	}
	return errInterrupted
}

func (l *loop) ended() {
	l.release()
	l.s.tasks.Done()
}

// release closes what the loop itself holds. Relayed ports are closed by their relays.
func (l *loop) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return
	}
	l.over = true
	l.listener.shut()
	for _, o := range l.others {
		o.shut()
	}
	l.poller.release()
}
