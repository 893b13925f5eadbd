package turnserver

import (
	"context"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

const hasLoops = true

// openLoops opens a loop for each core on the address of first, which it takes over.
func (s *Server) openLoops(first *net.UDPConn) (loops []udpListener, err error) {
	conns := []*net.UDPConn{first}
	defer func() {
		for _, c := range conns {
			_ = c.Close() // the loops have descriptors of their own
		}
	}()
	if cores := cores(); cores > 1 {
		// Only when the address is ours: with SO_REUSEPORT from the start another relay at this port would go unnoticed, and share its clients with us.
		if err := reusePort(first); err != nil {
			return nil, err
		}
		config := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error { return setReusePort(c) }}
		for len(conns) < cores {
			c, err := config.ListenPacket(context.Background(), "udp", first.LocalAddr().String())
			if err != nil {
				return nil, err
			}
			conns = append(conns, c.(*net.UDPConn))
		}
	}
	for _, c := range conns {
		setBuffers(c)
		fd, err := duplicate(c)
		if err != nil {
			return loops, err
		}
		l, err := newLoop(s, fd, addrPort(first.LocalAddr()))
		if err != nil {
			return loops, err
		}
		loops = append(loops, l)
	}
	return loops, nil
}

func reusePort(c syscall.Conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	return setReusePort(raw)
}

func setReusePort(raw syscall.RawConn) (err error) {
	if e := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) }); e != nil {
		return e
	}
	return err
}

// duplicate is another descriptor of the same socket, which Go's poller does not know.
func duplicate(c syscall.Conn) (copied int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	if e := raw.Control(func(fd uintptr) { copied, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }); e != nil {
		return -1, e
	}
	return copied, err
}
