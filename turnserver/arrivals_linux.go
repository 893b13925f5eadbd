package turnserver

import (
	"encoding/binary"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mmsghdr is struct mmsghdr of recvmmsg(2) and sendmmsg(2).
type mmsghdr struct {
	unix.Msghdr
	n uint32
}

const (
	slots = 64
	// A slot holds what the kernel joined of a run of datagrams (UDP_GRO). The odd cache lines keep the beginnings of slots out of one set of
	// the processor's caches.
	slotSize = 1<<16 + 33*64

	sockaddrSize = unix.SizeofSockaddrInet6
	controlWords = 16 // room for IP_TOS, IPV6_TCLASS, IPV6_PKTINFO and UDP_GRO or UDP_SEGMENT
)

// control is a buffer for control messages, aligned as they want it.
type control [controlWords]uint64

func controlBytes(c *control) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(c)), unsafe.Sizeof(*c))
}

// arrivals is the memory that datagrams are received into, a slot for each recvmmsg message.
type arrivals struct {
	used int // slots in use, from the first

	headers [slots]mmsghdr
	iovecs  [slots]unix.Iovec
	names   [slots][sockaddrSize]byte
	control [slots]control
	memory  []byte
}

func newArrivals() *arrivals {
	a := &arrivals{memory: make([]byte, slots*slotSize)}
	for i := range a.headers {
		a.iovecs[i].Base = &a.memory[i*slotSize]
		a.iovecs[i].SetLen(1 << 16)
		h := &a.headers[i].Msghdr
		h.Name, h.Control, h.Iov = &a.names[i][0], (*byte)(unsafe.Pointer(&a.control[i])), &a.iovecs[i]
		h.SetIovlen(1)
		a.reset(i)
	}
	return a
}

// reset says how much room there is for the address and control messages of a slot, in place of how much the system used.
func (a *arrivals) reset(slot int) {
	h := &a.headers[slot].Msghdr
	h.Namelen = sockaddrSize
	h.SetControllen(int(unsafe.Sizeof(control{})))
}

// receive fills free slots with what waits on a socket and says which. None: nothing waits.
func (a *arrivals) receive(fd int) (first, end int) {
	first = a.used
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&a.headers[first])), uintptr(slots-first),
		unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return first, first
	}
	a.used += int(n)
	return first, a.used
}

// run is what one slot holds: datagrams of one sender, all of the same size but the last, which may be shorter.
type run struct {
	from  netip.AddrPort
	local netip.Addr // of ours, where the socket is bound to all
	data  []byte
	size  int
	tos   byte // DSCP and ECN (RFC 3168 section 5)
}

// run reads a slot that was received into, once.
func (a *arrivals) run(slot int) run {
	h := &a.headers[slot]
	r := run{from: readSockaddr(&a.names[slot]), data: a.memory[slot*slotSize:][:h.n], size: int(h.n)}
	c := controlBytes(&a.control[slot])[:h.Controllen]
	a.reset(slot)
	eachControl(c, func(level, kind int32, value []byte) {
		switch {
		case level == unix.SOL_IP && kind == unix.IP_TOS && len(value) >= 1:
			r.tos = value[0]
		case level == unix.SOL_IPV6 && kind == unix.IPV6_TCLASS && len(value) >= 4:
			r.tos = byte(binary.NativeEndian.Uint32(value))
		case level == unix.SOL_UDP && kind == unix.UDP_GRO && len(value) >= 4:
			r.size = int(binary.NativeEndian.Uint32(value))
		default:
			if local := localIn(level, kind, value); local.IsValid() {
				r.local = local
			}
		}
	})
	return r
}

// next takes the first datagram off a run. An empty datagram is one, once.
func (r *run) next() []byte {
	n := min(max(r.size, 1), len(r.data))
	b := r.data[:n:n]
	r.data = r.data[n:]
	return b
}

// readSockaddr and writeSockaddr know struct sockaddr_in and sockaddr_in6: family, port, address in bytes 4 to 7 or 8 to 23.
func readSockaddr(b *[sockaddrSize]byte) netip.AddrPort {
	port := binary.BigEndian.Uint16(b[2:])
	switch binary.NativeEndian.Uint16(b[:]) {
	case unix.AF_INET:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), port)
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])).Unmap(), port)
	}
	return netip.AddrPort{}
}

// writeSockaddr says how long it is. An IPv6 socket that serves IPv4 too wants mapped addresses.
func writeSockaddr(b *[sockaddrSize]byte, a netip.AddrPort, v6 bool) uint32 {
	*b = [sockaddrSize]byte{}
	binary.BigEndian.PutUint16(b[2:], a.Port())
	if v6 {
		binary.NativeEndian.PutUint16(b[:], unix.AF_INET6)
		ip := a.Addr().As16()
		copy(b[8:], ip[:])
		return unix.SizeofSockaddrInet6
	}
	binary.NativeEndian.PutUint16(b[:], unix.AF_INET)
	ip := a.Addr().Unmap().As16()
	copy(b[4:], ip[12:])
	return unix.SizeofSockaddrInet4
}
