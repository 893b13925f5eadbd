package turnserver

import (
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/pion/stun/v4"
)

// frontend is one socket towards clients, a UDP listener or one TCP or TLS connection, as the net.PacketConn of a pion server of its own. Around
// each message runs one exchange, all of it on pion's read goroutine:
//
//  1. ReadFrom parses a message and decides whether it is worth pion's time (admit).
//  2. pion asks for the credential's key (authenticate), the quota (reserve), and whether each peer is allowed (grant).
//  3. pion makes the allocation on AllocatePacketConn's relay (created), or the permission, or the channel.
//  4. pion answers through WriteTo, which holds back what a stranger should not get and opens what was permitted.
//  5. The next ReadFrom settles what is left over.
//
// pion gives no room for a recover around 2 to 4, so 1 passes only what parse has taken apart completely.
type frontend struct {
	s      *Server
	socket socket
	local  netip.AddrPort

	mu     sync.RWMutex
	relays map[netip.AddrPort]*relay // by client

	exchange exchange // of pion's read goroutine alone
}

// socket is what a frontend needs of a UDP listener or a connection. read blocks for the next message; its errors are final.
type socket interface {
	read(b []byte) (n int, client netip.AddrPort, err error)
	write(b []byte, client netip.AddrPort)
	open(r *relay) error // gives a relay its port
	idle()               // the socket's client holds no allocation any more
	close()
	ended() // read has failed and nothing will follow
}

type exchange struct {
	message
	client     netip.AddrPort
	relay      *relay // the client's allocation as the exchange began
	credential credential
	reserved   bool          // quota is taken and no allocation owns it yet
	forbidden  bool          // grant said no
	published  chan struct{} // a permission whose timer pion is about to start
}

func (f *frontend) relayOf(client netip.AddrPort) *relay {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.relays[client]
}

// ReadFrom gives pion the next message that deserves handling.
func (f *frontend) ReadFrom(b []byte) (int, net.Addr, error) {
	f.settle()
	for {
		n, client, err := f.socket.read(b)
		if err != nil {
			f.socket.ended()
			return 0, nil, err
		}
		if n >= maxDatagram { // pion would not take it
			f.s.metrics.droppedSize.Inc()
			continue
		}
		if f.admit(client, b[:n]) {
			if f.exchange.relay != nil {
				return n, f.exchange.relay.clientAddr, nil
			}
			return n, net.UDPAddrFromAddrPort(client), nil
		}
	}
}

// settle ends an exchange.
func (f *frontend) settle() {
	f.settlePermission()
	if f.exchange.reserved { // the allocation failed after the quota was granted
		f.s.users.give(f.exchange.credential.id)
		f.s.addresses.give(f.exchange.client.Addr())
	}
	f.exchange = exchange{}
}

// settlePermission runs at the first sign that pion is past AddPermission.
func (f *frontend) settlePermission() {
	if f.exchange.published != nil {
		close(f.exchange.published)
		f.exchange.published = nil
	}
}

// admit begins an exchange, or drops the message: what is malformed; what needs an allocation and has none; what a stranger asks who has
// used up his answers.
func (f *frontend) admit(client netip.AddrPort, b []byte) (ok bool) {
	m := f.s.metrics
	defer func() {
		if recover() != nil { // our own parser: no input is known to do this, and none may stop the relay
			m.droppedMalformed.Inc()
			ok = false
		}
	}()
	r := f.relayOf(client)
	if number, _, ok := channelData(b); ok {
		if r == nil {
			m.droppedNoAllocation.Inc()
			return false
		}
		if r.channel(number) == nil {
			m.droppedNoChannel.Inc()
			return false
		}
		f.exchange = exchange{client: client, relay: r}
		return true
	}
	msg, ok := parse(b)
	if !ok {
		m.droppedMalformed.Inc()
		return false
	}
	if r == nil {
		begins := msg.method == stun.MethodBinding || msg.method == stun.MethodAllocate
		if !begins && (msg.integrity == 0 || msg.class != stun.ClassRequest) { // a signed request is answered: 437, see judged
			m.droppedNoAllocation.Inc()
			return false
		}
		if !f.s.strangers.bucket(client.Addr()).has(f.s.now(), strangerBurst, strangerInterval) {
			m.droppedSilenced.Inc()
			return false
		}
	}
	f.exchange = exchange{message: msg, client: client, relay: r}
	return true
}

// WriteTo sends pion's answers, and data from peers, to the client. Answers come on the read goroutine, data on any.
func (f *frontend) WriteTo(b []byte, to net.Addr) (int, error) {
	client := addrPort(to)
	t, authenticated := parseReply(b)
	switch t.Class {
	case stun.ClassSuccessResponse, stun.ClassErrorResponse:
		f.settlePermission()
		if f.exchange.forbidden && !authenticated {
			b, authenticated = f.refusal(stun.CodeForbidden), true
		}
		if !authenticated && !f.mayAnswer(len(b)) {
			f.s.metrics.droppedSilenced.Inc()
			return len(b), nil
		}
		if t.Class == stun.ClassSuccessResponse {
			f.succeeded(t.Method)
		}
	}
	f.socket.write(b, client)
	return len(b), nil
}

// refusal is a signed answer that pion does not give. To a peer that policy refuses it says 403 (RFC 8656 section 12.2) to CreatePermission, but answers
// ChannelBind with an unsigned 401, which would send a client looking for a better password.
func (f *frontend) refusal(code stun.ErrorCode) []byte {
	e := &f.exchange
	m, err := stun.Build(stun.NewTransactionIDSetter([stun.TransactionIDSize]byte(e.raw[8:headerSize])),
		stun.NewType(e.method, stun.ClassErrorResponse), code, stun.MessageIntegrity(e.credential.key))
	if err != nil { // nothing of it comes from outside
		f.s.log.Error("cannot write an answer", "error", err)
		return nil
	}
	return m.Raw
}

// mayAnswer says whether a stranger gets this answer: never more than 3.2 times what he sent, nor more of them than the bucket of his address
// holds. The client of an allocation has a bucket of his own, so that strangers at his address cannot silence him.
func (f *frontend) mayAnswer(size int) bool {
	if size*10 > len(f.exchange.raw)*32 {
		return false
	}
	b := f.s.strangers.bucket(f.exchange.client.Addr())
	if f.exchange.relay != nil {
		b = &f.exchange.relay.stranger
	}
	return b.take(f.s.now(), 1, strangerBurst, strangerInterval)
}

// succeeded does what follows from an authenticated success.
func (f *frontend) succeeded(method stun.Method) {
	switch method {
	case stun.MethodRefresh:
		f.s.metrics.refreshed.Inc()
	case stun.MethodCreatePermission, stun.MethodChannelBind:
		until := f.s.now().Add(f.s.cfg.tune.permission)
		for _, peer := range f.exchange.peers {
			f.exchange.relay.permit(peer.Addr(), until)
		}
	}
}

// Close implements net.PacketConn.
func (f *frontend) Close() error { f.socket.close(); return nil }

// LocalAddr implements net.PacketConn.
func (f *frontend) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(f.local) }

// SetDeadline, SetReadDeadline and SetWriteDeadline complete net.PacketConn; pion calls none of them, and deadlines are the socket's own.
func (f *frontend) SetDeadline(time.Time) error      { return nil }
func (f *frontend) SetReadDeadline(time.Time) error  { return nil }
func (f *frontend) SetWriteDeadline(time.Time) error { return nil }
