package turnserver

import (
	"encoding/binary"
	"net/netip"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// departures are the datagrams that wait for the end of a batch, each in the line of the outlet that it leaves by:
//
//  1. post puts a datagram into its line. The data is not copied.
//  2. flush sends line after line with sendmmsg. Neighbours for the same destination with the same size, the last perhaps shorter, are
//     one message (compose), which the kernel or the network card cuts up again (UDP_SEGMENT).
type departures struct {
	queue   []datagram
	waiting []*outlet // those with a line
	whole   bool      // the system does not know UDP_SEGMENT

	headers  [slots]mmsghdr
	iovecs   [1024]unix.Iovec
	names    [slots][sockaddrSize]byte
	control  [slots]control
	composed [slots]composed
}

// datagram is head, if headed, followed by data.
type datagram struct {
	next   int32 // in line; -1 at its end
	headed bool
	tos    byte
	head   [channelHeader]byte
	data   []byte
	to     netip.AddrPort
	from   netip.Addr // of ours; not valid: the socket's own
}

func (d *datagram) size() int {
	if d.headed {
		return channelHeader + len(d.data)
	}
	return len(d.data)
}

// composed is a message of consecutive datagrams in line.
type composed struct {
	first          int32
	iovecs         int // where its own begin
	packets, bytes int
}

// outlet is a socket to send on. A relayed port can be closed by another goroutine at any time, and its number be another's from then on: whoever uses the
// descriptor holds the lock and looks at closed first.
type outlet struct {
	fd         int
	v6         bool
	head, tail int32
	lined      bool

	mu     sync.RWMutex
	closed bool
	sent   func(packets, bytes, lost int) // told after each flush
}

// The limits of one message. Linux cuts into 64 at most (128 since 6.10).
const (
	maxSegments = 64
	maxMessage  = 64_000
)

func (d *departures) post(o *outlet, p datagram) {
	at := int32(len(d.queue))
	p.next = -1
	d.queue = append(d.queue, p)
	if o.lined {
		d.queue[o.tail].next = at
		o.tail = at
		return
	}
	o.head, o.tail, o.lined = at, at, true
	d.waiting = append(d.waiting, o)
}

func (d *departures) flush() {
	for _, o := range d.waiting {
		o.lined = false
		o.mu.RLock()
		packets, bytes, lost := 0, 0, 0
		for at := o.head; at >= 0; {
			n, iovecs := 0, 0
			for at >= 0 && n < slots && iovecs+2*maxSegments <= len(d.iovecs) {
				at = d.compose(n, at, &iovecs, o.v6)
				n++
			}
			if !o.closed {
				p, b, l := d.send(o, n)
				packets, bytes, lost = packets+p, bytes+b, lost+l
			}
		}
		o.mu.RUnlock()
		if o.sent != nil {
			o.sent(packets, bytes, lost)
		}
	}
	d.queue, d.waiting = d.queue[:0], d.waiting[:0]
}

// compose makes message n of the datagram at the head of a line and of as many as can go with it, and returns the place of the next.
func (d *departures) compose(n int, at int32, iovecs *int, v6 bool) int32 {
	lead := &d.queue[at]
	size := lead.size()
	c := composed{first: at, iovecs: *iovecs}
	for at >= 0 {
		p := &d.queue[at]
		last := p.size() < size
		if c.packets > 0 && (d.whole || c.packets == maxSegments || p.size() > size || p.size() == 0 || c.bytes+p.size() > maxMessage ||
			p.tos != lead.tos || p.to != lead.to || p.from != lead.from) {
			break
		}
		if p.headed {
			d.iovecs[*iovecs].Base = &p.head[0]
			d.iovecs[*iovecs].SetLen(channelHeader)
			*iovecs++
		}
		if len(p.data) > 0 {
			d.iovecs[*iovecs].Base = &p.data[0]
			d.iovecs[*iovecs].SetLen(len(p.data))
			*iovecs++
		}
		c.packets++
		c.bytes += p.size()
		at = p.next
		if last || size == 0 {
			break
		}
	}
	d.composed[n] = c

	h := &d.headers[n].Msghdr
	h.Name, h.Namelen = &d.names[n][0], writeSockaddr(&d.names[n], lead.to, v6)
	h.Iov = &d.iovecs[c.iovecs]
	h.SetIovlen(*iovecs - c.iovecs)
	h.Control = nil
	used := 0
	if c.packets > 1 {
		used += d.control[n].put(used, unix.SOL_UDP, unix.UDP_SEGMENT, 2, uint32(size))
	}
	if lead.tos != 0 && v6 && !lead.to.Addr().Is4() {
		used += d.control[n].put(used, unix.SOL_IPV6, unix.IPV6_TCLASS, 4, uint32(lead.tos))
	} else if lead.tos != 0 {
		used += d.control[n].put(used, unix.SOL_IP, unix.IP_TOS, 4, uint32(lead.tos))
	}
	if lead.from.IsValid() {
		used += d.control[n].putLocal(used, lead.from, v6)
	}
	if used > 0 {
		h.Control = (*byte)(unsafe.Pointer(&d.control[n]))
	}
	h.SetControllen(used)
	return at
}

// put adds a control message with an integer of two or four bytes and says how long it is.
func (c *control) put(at int, level, kind int32, size int, value uint32) int {
	b := controlBytes(c)[at:]
	head := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	head.Level, head.Type = level, kind
	head.SetLen(unix.CmsgLen(size))
	if size == 2 {
		binary.NativeEndian.PutUint16(b[unix.CmsgLen(0):], uint16(value))
	} else {
		binary.NativeEndian.PutUint32(b[unix.CmsgLen(0):], value)
	}
	return unix.CmsgSpace(size)
}

// putLocal adds the address to send from (IPV6_PKTINFO, IP_PKTINFO).
func (c *control) putLocal(at int, local netip.Addr, v6 bool) int {
	b := controlBytes(c)[at:]
	head := (*unix.Cmsghdr)(unsafe.Pointer(&b[0]))
	size := unix.SizeofInet4Pktinfo
	if v6 {
		size = unix.SizeofInet6Pktinfo
	}
	value := b[unix.CmsgLen(0):unix.CmsgLen(size)]
	clear(value) // any interface
	if v6 {
		head.Level, head.Type = unix.SOL_IPV6, unix.IPV6_PKTINFO
		ip := local.As16()
		copy(value, ip[:])
	} else {
		head.Level, head.Type = unix.SOL_IP, unix.IP_PKTINFO
		ip := local.As4()
		copy(value[4:], ip[:])
	}
	head.SetLen(unix.CmsgLen(size))
	return unix.CmsgSpace(size)
}

// send sends the first n messages. What the system does not take is lost: no route, or its buffer is full, which waiting would only move to the buffer
// that we should be emptying.
func (d *departures) send(o *outlet, n int) (packets, bytes, lost int) {
	for at := 0; at < n; {
		sent, errno := sendmmsg(o.fd, d.headers[at:n])
		for range sent {
			packets += d.composed[at].packets
			bytes += d.composed[at].bytes
			at++
		}
		switch {
		case errno == 0 || errno == unix.EINTR:
		case d.composed[at].packets > 1: // longer than the path's MTU, or the network card cannot cut it up (EIO)
			d.whole = d.whole || errno == unix.EIO
			p, b, l := d.single(o, at)
			packets, bytes, lost, at = packets+p, bytes+b, lost+l, at+1
		default:
			lost++
			at++
		}
	}
	return packets, bytes, lost
}

// single sends a message that could not go as one datagram by datagram, composed again in its place.
func (d *departures) single(o *outlet, n int) (packets, bytes, lost int) {
	c, whole := d.composed[n], d.whole
	d.whole = true
	at := c.first
	for range c.packets {
		iovecs := c.iovecs
		at = d.compose(n, at, &iovecs, o.v6)
		if sent, _ := sendmmsg(o.fd, d.headers[n:n+1]); sent == 1 {
			packets, bytes = packets+1, bytes+d.composed[n].bytes
		} else {
			lost++
		}
	}
	d.whole = whole
	return packets, bytes, lost
}

// sendmmsg says how many messages were sent, and if it was none, why.
func sendmmsg(fd int, messages []mmsghdr) (int, unix.Errno) {
	n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&messages[0])), uintptr(len(messages)), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), 0
}
