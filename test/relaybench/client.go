//go:build linux

package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"github.com/pion/stun/v4"
	"golang.org/x/sys/unix"

	"sotto/turncred"
)

// socket is a connected UDP socket: the kernel drops what does not come from the other end.
type socket struct {
	fd      int
	local   netip.AddrPort
	headers []mmsghdr
	iovecs  []unix.Iovec
	control [][controlWords]uint64
	memory  []byte

	names []unix.RawSockaddrInet4 // of a socket that is not connected
	from  netip.AddrPort          // and the sender of what receive hands over
}

type mmsghdr struct {
	unix.Msghdr
	n uint32
}

const (
	batch        = 64
	controlWords = 4 // room for UDP_SEGMENT or UDP_GRO
)

func dial(from, to string) (*socket, error) {
	s, err := open(from, 0)
	if err != nil {
		return nil, err
	}
	return s, s.connect(netip.MustParseAddrPort(to))
}

func open(ip string, port int) (*socket, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: netip.MustParseAddr(ip).As4(), Port: port}); err != nil {
		return nil, err
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		return nil, err
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20)
	wait := unix.NsecToTimeval(int64(time.Second))
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait)
	v4 := name.(*unix.SockaddrInet4)
	return &socket{fd: fd, local: netip.AddrPortFrom(netip.AddrFrom4(v4.Addr), uint16(v4.Port))}, nil
}

func (s *socket) connect(to netip.AddrPort) error {
	return unix.Connect(s.fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
}

func (s *socket) close() { _ = unix.Close(s.fd) }

// prepare makes the memory of batches, which sockets that only hold an allocation do without.
func (s *socket) prepare(size int) {
	s.headers, s.iovecs, s.memory = make([]mmsghdr, batch), make([]unix.Iovec, batch), make([]byte, batch*size)
	s.control = make([][controlWords]uint64, batch)
	for i := range s.headers {
		s.iovecs[i].Base = &s.memory[i*size]
		s.headers[i].Iov = &s.iovecs[i]
		s.headers[i].SetIovlen(1)
	}
}

func (s *socket) slot(i int) []byte { return s.memory[i*len(s.memory)/batch:][:len(s.memory)/batch] }

// send sends slots 0 to n-1, of size bytes each. With segment it is one send that the kernel carries whole.
func (s *socket) send(n, size int, segment bool) error {
	h := s.headers[:n]
	for i := range h {
		s.iovecs[i].SetLen(size)
		h[i].Control = nil
		h[i].SetControllen(0)
	}
	if segment {
		putSegment(&h[0].Msghdr, &s.control[0], size)
		h[0].SetIovlen(n)
		defer h[0].SetIovlen(1)
		h = h[:1]
	}
	for len(h) > 0 {
		sent, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&h[0])), uintptr(len(h)), 0, 0, 0)
		if errno != 0 {
			return errno
		}
		h = h[sent:]
	}
	return nil
}

// putSegment has the kernel cut a message into datagrams of a size (UDP_SEGMENT).
func putSegment(h *unix.Msghdr, control *[controlWords]uint64, size int) {
	c := (*unix.Cmsghdr)(unsafe.Pointer(control))
	c.Level, c.Type = unix.SOL_UDP, unix.UDP_SEGMENT
	c.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(unsafe.Slice((*byte)(unsafe.Pointer(c)), unix.CmsgSpace(2))[unix.CmsgLen(0):], uint16(size))
	h.Control = (*byte)(unsafe.Pointer(c))
	h.SetControllen(unix.CmsgSpace(2))
}

// receive hands each datagram that waits to take.
func (s *socket) receive(take func([]byte) error) error {
	size := len(s.memory) / batch
	for i := range s.headers {
		s.iovecs[i].SetLen(size)
		s.headers[i].Control = (*byte)(unsafe.Pointer(&s.control[i]))
		s.headers[i].SetControllen(8 * controlWords)
		if s.names != nil {
			s.headers[i].Name, s.headers[i].Namelen = (*byte)(unsafe.Pointer(&s.names[i])), unix.SizeofSockaddrInet4
		}
	}
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&s.headers[0])), batch, unix.MSG_DONTWAIT, 0, 0)
	if errno == unix.EAGAIN {
		return nil
	}
	if errno != 0 {
		return errno
	}
	for i := range int(n) {
		data, segment := s.slot(i)[:s.headers[i].n], int(s.headers[i].n)
		if s.headers[i].Controllen > 0 { // UDP_GRO, the only thing asked for
			segment = int(int32(s.control[i][unix.SizeofCmsghdr/8]))
		}
		if s.names != nil {
			s.from = netip.AddrPortFrom(netip.AddrFrom4(s.names[i].Addr), binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&s.names[i].Port))[:]))
		}
		for len(data) > 0 {
			cut := min(segment, len(data))
			if err := take(data[:cut]); err != nil {
				return err
			}
			data = data[cut:]
		}
	}
	return nil
}

// ask sends a request and waits for its answer.
func (s *socket) ask(m *stun.Message) (answer *stun.Message, err error) {
	for range 4 { // RFC 8489 section 6.2.1: a relay may have reasons not to answer at once
		if answer, err = s.askOnce(m); err == nil {
			return answer, nil
		}
	}
	return nil, fmt.Errorf("no answer to %s: %w", m.Type, err)
}

func (s *socket) askOnce(m *stun.Message) (*stun.Message, error) {
	if _, err := unix.Write(s.fd, m.Raw); err != nil {
		return nil, err
	}
	buf := make([]byte, 2048)
	for {
		n, err := unix.Read(s.fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		answer := &stun.Message{Raw: append([]byte(nil), buf[:n]...)}
		if answer.Decode() == nil && answer.TransactionID == m.TransactionID {
			return answer, nil
		}
	}
}

// session is an allocation.
type session struct {
	*socket
	relayed  netip.AddrPort
	username string
	nonce    stun.Nonce
	realm    stun.Realm
	key      stun.MessageIntegrity
}

// allocate makes session number i.
func allocate(i int) (*session, error) {
	conn, err := dial(fmt.Sprint(othersIP, 1+i%200), listen)
	if err != nil {
		return nil, err
	}
	s, err := conn.allocate(i)
	if err != nil {
		conn.close()
	}
	return s, err
}

func (s *socket) allocate(i int) (*session, error) {
	a := &session{socket: s}
	var password string
	a.username, password = turncred.Mint([]byte(secret), fmt.Sprint("user", i), turncred.MaxTTL, time.Now())
	transport := stun.RawAttribute{Type: stun.AttrRequestedTransport, Value: []byte{17, 0, 0, 0}}
	stranger, err := s.ask(stun.MustBuild(stun.TransactionID, stun.NewType(stun.MethodAllocate, stun.ClassRequest), transport))
	if err != nil {
		return nil, err
	}
	if err := stranger.Parse(&a.nonce, &a.realm); err != nil {
		return nil, err
	}
	a.key = stun.NewLongTermIntegrity(a.username, a.realm.String(), password)
	answer, err := a.request(stun.MethodAllocate, transport)
	if err != nil {
		return nil, err
	}
	var at stun.XORMappedAddress
	if err := at.GetFromAs(answer, stun.AttrXORRelayedAddress); err != nil {
		return nil, err
	}
	ip, _ := netip.AddrFromSlice(at.IP)
	a.relayed = netip.AddrPortFrom(ip.Unmap(), uint16(at.Port))
	return a, nil
}

func (s *session) bind(number uint16, to netip.AddrPort) error {
	ip, mask := to.Addr().As4(), binary.BigEndian.AppendUint32(nil, 0x2112A442)
	value := binary.BigEndian.AppendUint16([]byte{0, 1}, to.Port()^0x2112)
	for i := range ip {
		value = append(value, ip[i]^mask[i])
	}
	_, err := s.request(stun.MethodChannelBind, stun.RawAttribute{Type: stun.AttrXORPeerAddress, Value: value},
		stun.RawAttribute{Type: stun.AttrChannelNumber, Value: binary.BigEndian.AppendUint32(nil, uint32(number)<<16)})
	return err
}

func (s *session) request(method stun.Method, attrs ...stun.Setter) (*stun.Message, error) {
	attrs = append([]stun.Setter{stun.TransactionID, stun.NewType(method, stun.ClassRequest)}, attrs...)
	m, err := stun.Build(append(attrs, stun.NewUsername(s.username), s.realm, s.nonce, s.key)...)
	if err != nil {
		return nil, err
	}
	answer, err := s.ask(m)
	if err == nil && answer.Type.Class != stun.ClassSuccessResponse {
		var code stun.ErrorCodeAttribute
		_ = code.GetFrom(answer)
		err = fmt.Errorf("%s: %d", method, code.Code)
	}
	return answer, err
}
