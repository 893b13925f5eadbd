//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// bare is a forwarder that asks nothing of a packet, and so what a relay on sockets could be at most: epoll, recvmmsg and sendmmsg, with neighbours of one
// size and destination joined (UDP_GRO, UDP_SEGMENT). A client says the IP:PORT of its peer, hears the one that the peer shall use, and sends ChannelData.
type bare struct {
	epoll     int
	listener  *socket
	toClients outgoing
	byClient  map[netip.AddrPort]*bareFlow
	byPort    map[int32]*bareFlow
	waiting   []*bareFlow // with something for the peer
}

type bareFlow struct {
	*socket // to the peer
	client  netip.AddrPort
	toPeer  outgoing
}

func serveBare() error {
	listener, err := open(relayIP, 3478)
	if err != nil {
		return err
	}
	listener.names = make([]unix.RawSockaddrInet4, batch)
	b := &bare{listener: listener, byClient: make(map[netip.AddrPort]*bareFlow), byPort: make(map[int32]*bareFlow)}
	if b.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	if err := b.watch(listener); err != nil {
		return err
	}
	for events := make([]unix.EpollEvent, batch); ; {
		n, err := unix.EpollWait(b.epoll, events, -1)
		if err != nil && err != unix.EINTR {
			return err
		}
		for _, e := range events[:max(n, 0)] {
			if f := b.byPort[e.Fd]; f != nil {
				err = f.receive(func(data []byte) error { return b.fromPeer(f, data) })
			} else {
				err = listener.receive(b.fromClient)
			}
			if err != nil && !errors.Is(err, unix.ECONNREFUSED) {
				return err
			}
		}
		for _, f := range b.waiting {
			f.toPeer.flush(f.fd)
		}
		b.waiting = b.waiting[:0]
		b.toClients.flush(listener.fd)
	}
}

func (b *bare) watch(s *socket) error {
	s.prepare(1<<16 + 33*64) // so that slots do not share sets of the processor's caches
	if err := unix.SetsockoptInt(s.fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1); err != nil {
		return err
	}
	return unix.EpollCtl(b.epoll, unix.EPOLL_CTL_ADD, s.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(s.fd)})
}

func (b *bare) fromClient(message []byte) error {
	client := b.listener.from
	if len(message) < 4 || message[0]&0xC0 != 0x40 {
		return b.open(client, string(message))
	}
	f := b.byClient[client]
	if f == nil {
		return nil
	}
	if f.toPeer.messages == 0 {
		b.waiting = append(b.waiting, f)
	}
	f.toPeer.add(f.fd, netip.AddrPort{}, nil, message[4:])
	return nil
}

func (b *bare) fromPeer(f *bareFlow, data []byte) error {
	b.toClients.add(b.listener.fd, f.client, binary.BigEndian.AppendUint16([]byte{number >> 8, number & 0xFF}, uint16(len(data))), data)
	return nil
}

func (b *bare) open(client netip.AddrPort, peer string) error {
	to, err := netip.ParseAddrPort(peer)
	if err != nil || b.byClient[client] != nil {
		return nil // from another program's past
	}
	s, err := open(relayIP, 0)
	if err != nil {
		return err
	}
	f := &bareFlow{socket: s, client: client}
	b.byClient[client], b.byPort[int32(s.fd)] = f, f
	if err := errors.Join(s.connect(to), b.watch(s)); err != nil {
		return err
	}
	b.toClients.add(b.listener.fd, client, nil, []byte(s.local.String()))
	return nil
}

// outgoing are datagrams that wait for the end of a batch. Their data is not copied.
type outgoing struct {
	messages, iovecsUsed int
	headers              [batch]mmsghdr
	names                [batch]unix.RawSockaddrInet4
	control              [batch][controlWords]uint64
	of                   [batch]joined
	iovecs               [4 * batch]unix.Iovec
	heads                [4 * batch][4]byte
}

// joined is what one message holds.
type joined struct {
	to           netip.AddrPort
	size, count  int
	first, parts int // iovecs
	shorter      bool
}

func (o *outgoing) add(fd int, to netip.AddrPort, head, data []byte) {
	if o.messages == batch || o.iovecsUsed+2 > len(o.iovecs) {
		o.flush(fd)
	}
	size, at := len(head)+len(data), o.messages-1
	if at < 0 || o.of[at].to != to || size > o.of[at].size || o.of[at].shorter || o.of[at].count == 64 || (o.of[at].count+1)*o.of[at].size > 64_000 {
		at++
		o.messages++
		o.of[at] = joined{to: to, size: size, first: o.iovecsUsed}
	}
	j := &o.of[at]
	j.count++
	j.shorter = size < j.size
	if head != nil {
		copy(o.heads[o.iovecsUsed][:], head)
		head = o.heads[o.iovecsUsed][:]
	}
	for _, part := range [][]byte{head, data} {
		if len(part) > 0 {
			o.iovecs[o.iovecsUsed].Base = &part[0]
			o.iovecs[o.iovecsUsed].SetLen(len(part))
			o.iovecsUsed++
			j.parts++
		}
	}
}

// flush sends everything; what the system does not take is lost.
func (o *outgoing) flush(fd int) {
	for i := range o.messages {
		j, h := &o.of[i], &o.headers[i].Msghdr
		*h = unix.Msghdr{Iov: &o.iovecs[j.first]}
		h.SetIovlen(j.parts)
		if j.to.IsValid() {
			o.names[i] = unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: j.to.Addr().As4()}
			binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(&o.names[i].Port))[:], j.to.Port())
			h.Name, h.Namelen = (*byte)(unsafe.Pointer(&o.names[i])), unix.SizeofSockaddrInet4
		}
		if j.count > 1 {
			putSegment(h, &o.control[i], j.size)
		}
	}
	for h := o.headers[:o.messages]; len(h) > 0; {
		sent, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&h[0])), uintptr(len(h)), unix.MSG_DONTWAIT, 0, 0)
		if errno != 0 {
			sent = 1
		}
		h = h[sent:]
	}
	o.messages, o.iovecsUsed = 0, 0
}

// forwarded opens client number i of the bare forwarder.
func forwarded(i int, peer netip.AddrPort) (*session, error) {
	conn, err := dial(fmt.Sprint(othersIP, 1+i%200), listen)
	if err != nil {
		return nil, err
	}
	if _, err := unix.Write(conn.fd, []byte(peer.String())); err != nil {
		return nil, err
	}
	var answer [64]byte
	n, err := unix.Read(conn.fd, answer[:])
	if err != nil {
		return nil, err
	}
	port, err := netip.ParseAddrPort(string(answer[:n]))
	return &session{socket: conn, relayed: port}, err
}
