package turnserver

import (
	"net"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// askLocal has a socket tell for each datagram which address it was sent to: an IPv6 socket that
// serves IPv4 too tells mapped addresses.
func askLocal(conn *net.UDPConn) (tells, v6 bool) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return false, false
	}
	_ = raw.Control(func(fd uintptr) {
		name, err := unix.Getsockname(int(fd))
		if err != nil {
			return
		}
		_, v6 = name.(*unix.SockaddrInet6)
		tells = askLocalOf(int(fd), v6) == nil
	})
	return tells, v6
}

func askLocalOf(fd int, v6 bool) error {
	if v6 {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
}

// localOf finds what the system told.
func localOf(c []byte) (local netip.Addr) {
	eachControl(c, func(level, kind int32, value []byte) {
		if a := localIn(level, kind, value); a.IsValid() {
			local = a
		}
	})
	return local
}

// localIn reads struct in6_pktinfo, and of struct in_pktinfo the address that answers come from
// (ipi_spec_dst: not a broadcast address).
func localIn(level, kind int32, value []byte) netip.Addr {
	switch {
	case level == unix.SOL_IPV6 && kind == unix.IPV6_PKTINFO && len(value) >= unix.SizeofInet6Pktinfo:
		return netip.AddrFrom16([16]byte(value)).Unmap()
	case level == unix.SOL_IP && kind == unix.IP_PKTINFO && len(value) >= unix.SizeofInet4Pktinfo:
		return netip.AddrFrom4([4]byte(value[4:]))
	}
	return netip.Addr{}
}

// fromLocal is the control message to send from an address.
func fromLocal(local netip.Addr, v6 bool) []byte {
	c := new(control)
	return controlBytes(c)[:c.putLocal(0, local, v6)]
}

// eachControl takes control messages apart.
func eachControl(c []byte, take func(level, kind int32, value []byte)) {
	for len(c) >= unix.SizeofCmsghdr {
		head := (*unix.Cmsghdr)(unsafe.Pointer(&c[0]))
		size := int(head.Len)
		if size < unix.CmsgLen(0) || size > len(c) {
			return
		}
		value := c[unix.CmsgLen(0):size]
		take(head.Level, head.Type, value)
		c = c[min(unix.CmsgSpace(len(value)), len(c)):]
	}
}
