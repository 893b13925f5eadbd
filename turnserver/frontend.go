package turnserver

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/pion/stun/v4"
)

// frontend is one socket towards clients, a UDP listener or one TCP or TLS connection, as the net.PacketConn of a pion server of its own. Around
// each message runs one exchange, all of it on pion's read goroutine:
//
//  1. ReadFrom parses a message and decides whether it is worth pion's time (admit, and for requests verify).
//  2. pion asks for the credential's key (key), the quota (reserve), and whether each peer is allowed (grant).
//  3. pion makes the allocation on AllocatePacketConn's relay (created), or the permission, or the channel.
//  4. pion answers through WriteTo, which signs errors and opens what was permitted.
//  5. The next ReadFrom settles what is left over.
//
// pion gives no room for a recover around 2 to 4, so 1 passes only what parse has taken apart completely.
type frontend struct {
	s         *Server
	socket    socket
	local     netip.AddrPort
	transport string  // udp, tcp, tls or dtls: nonces are bound to it
	proven    bool    // the client's address is not forged: it answered a handshake
	stranger  *bucket // answers to requests without a credential, of a client whose address is proven

	pion pionsNonce // of pion's read goroutine alone

	mu     sync.RWMutex
	relays map[tuple]*relay
	ending []*relay // those that the server itself ends

	exchange exchange // of pion's read goroutine alone
}

// socket is what a frontend needs of a UDP listener or a connection. read blocks for the next
// message; its errors are final, but for errInterrupted.
type socket interface {
	read(b []byte) (n int, from tuple, err error)
	write(b []byte, to tuple)
	open(r *relay) error // gives a relay its port
	idle()               // the socket's client holds no allocation any more
	interrupt()          // read returns errInterrupted, or on a connection its last error
	close()
	ended() // read has failed and nothing will follow
}

var errInterrupted = errors.New("interrupted")

type exchange struct {
	message
	tuple
	relay      *relay // the client's allocation as the exchange began
	credential credential
	authentic  bool          // the request was signed with it
	ours       bool          // the request is the server's own: nobody is answered
	reserved   bool          // quota is taken and no allocation owns it yet
	forbidden  bool          // grant said no
	published  chan struct{} // a permission whose timer pion is about to start
}

func (f *frontend) relayOf(t tuple) *relay {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.relays[t]
}

// ReadFrom gives pion the next message that deserves handling.
func (f *frontend) ReadFrom(b []byte) (int, net.Addr, error) {
	f.settle()
	if f.pion.asking { // pion has told its nonce
		f.exchange, f.pion.from, f.pion.asking = f.pion.from, exchange{}, false
		if passed := f.forPion(); len(passed) > 0 && len(passed) <= len(b) {
			return copy(b, passed), f.exchange.clientAddr(), nil
		}
	}
	for {
		if passed := f.nextEnd(); len(passed) > 0 {
			return copy(b, passed), f.exchange.clientAddr(), nil
		}
		n, from, err := f.socket.read(b)
		if err == errInterrupted {
			continue
		}
		if err != nil {
			f.socket.ended()
			return 0, nil, err
		}
		if n >= maxDatagram { // pion would not take it
			f.s.metrics.droppedSize.Inc()
			continue
		}
		passed, ok := f.admit(from, b[:n])
		if ok && &passed[0] == &b[0] {
			return n, f.exchange.clientAddr(), nil // as it is: most are packets of a call
		}
		if ok && len(passed) < min(len(b), maxDatagram) {
			return copy(b, passed), f.exchange.clientAddr(), nil
		}
	}
}

// end ends an allocation before its client does. The client of a connection loses that.
func (f *frontend) end(r *relay) {
	f.mu.Lock()
	f.ending = append(f.ending, r)
	f.mu.Unlock()
	f.socket.interrupt()
}

// nextEnd begins the exchange that ends an allocation, if there is one to end: pion takes a Refresh
// with a lifetime of 0 (RFC 8656 section 7.3) for the client's.
func (f *frontend) nextEnd() []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.ending) > 0 {
		r := f.ending[0]
		f.ending = f.ending[1:]
		refresh, err := stun.Build(
			stun.TransactionID, stun.NewType(stun.MethodRefresh, stun.ClassRequest),
			stun.RawAttribute{Type: stun.AttrLifetime, Value: make([]byte, 4)},
		)
		if err != nil || f.relays[r.tuple] != r { // it has ended meanwhile
			continue
		}
		msg, _ := parse(refresh.Raw)
		f.exchange = exchange{
			message: msg, tuple: r.tuple, relay: r, credential: r.credential,
			authentic: true, ours: true,
		}
		return f.toPion()
	}
	return nil
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

// admit begins an exchange, or drops the message: what is malformed; what needs an allocation and
// has none; what a stranger asks who has used up his answers. What it returns is for pion.
func (f *frontend) admit(from tuple, b []byte) (passed []byte, ok bool) {
	m := f.s.metrics
	defer func() {
		if recover() != nil { // our own parser: no input is known to do this, and none may stop the relay
			m.droppedMalformed.Inc()
			ok = false
		}
	}()
	r := f.relayOf(from)
	if number, _, ok := channelData(b); ok {
		if r == nil {
			m.droppedNoAllocation.Inc()
			return nil, false
		}
		if r.channel(number) == nil {
			m.droppedNoChannel.Inc()
			return nil, false
		}
		f.exchange = exchange{tuple: from, relay: r}
		return b, true
	}
	msg, ok := parse(b)
	if !ok {
		m.droppedMalformed.Inc()
		return nil, false
	}
	f.exchange = exchange{message: msg, tuple: from, relay: r}
	if msg.class != stun.ClassRequest {
		if r == nil {
			m.droppedNoAllocation.Inc()
		}
		return b, r != nil
	}
	if bucket := f.unproven(); !bucket.has(f.s.now(), strangerBurst, strangerInterval) && !f.mayHaveProof() {
		m.droppedSilenced.Inc()
		return nil, false
	}
	return f.admitRequest(b)
}

func (f *frontend) admitRequest(b []byte) ([]byte, bool) {
	if f.exchange.method == stun.MethodBinding {
		if len(f.exchange.unknown) > 0 {
			f.reject(stun.CodeUnknownAttribute)
			return nil, false
		}
		return b, true
	}
	if !f.verify() {
		return nil, false
	}
	passed := f.toPion()
	return passed, len(passed) > 0
}

// toPion is the request of the exchange, or first the question that it needs an answer to.
func (f *frontend) toPion() []byte {
	if f.pion.nonce == "" || time.Since(f.pion.at) > pionsNonceLife {
		return f.askPion()
	}
	return f.forPion()
}

// mayHaveProof says whether a request is worth a look although its sender has used up the answers
// to those who prove nothing: it is signed, and its nonce was made for its address.
func (f *frontend) mayHaveProof() bool {
	e := &f.exchange
	return e.integrity != 0 && e.nonce != nil && f.s.nonces.valid(f, e.tuple, e.nonce, f.s.now())
}

// WriteTo sends pion's answers, and data from peers, to the client. Answers come on the read goroutine, data on any.
func (f *frontend) WriteTo(b []byte, to net.Addr) (int, error) {
	t, _ := parseReply(b)
	switch t.Class {
	case stun.ClassErrorResponse:
		f.settlePermission()
		if f.pion.asking {
			f.toldNonce(b)
			return len(b), nil
		}
		if f.exchange.ours {
			return len(b), nil
		}
		f.reject(f.codeOf(b))
		return len(b), nil
	case stun.ClassSuccessResponse:
		f.settlePermission()
		if f.exchange.ours {
			return len(b), nil
		}
		if t.Method == stun.MethodBinding && !f.mayAnswer(len(b)) {
			f.s.metrics.droppedSilenced.Inc()
			return len(b), nil
		}
		f.tookAnswer()
		f.succeeded(t.Method)
	}
	f.socket.write(b, tupleOf(to))
	return len(b), nil
}

// codeOf is the error that pion answers with, as RFC 8656 wants it: pion says 401 to a ChannelBind
// whose peer is not allowed.
func (f *frontend) codeOf(b []byte) stun.ErrorCode {
	m := &stun.Message{Raw: b}
	var code stun.ErrorCodeAttribute
	switch {
	case f.exchange.forbidden:
		return stun.CodeForbidden
	case m.Decode() != nil || code.GetFrom(m) != nil:
		return stun.CodeBadRequest
	}
	return code.Code
}

// mayAnswer says whether a stranger gets this answer. Over UDP, where his address may be forged:
// never more than 3.2 times what he sent. Anywhere: no more of them than his bucket holds.
func (f *frontend) mayAnswer(size int) bool {
	return (f.proven || size*10 <= len(f.exchange.raw)*32) && f.unproven().has(f.s.now(), strangerBurst, strangerInterval)
}

// tookAnswer counts an answer to somebody who has proved nothing.
func (f *frontend) tookAnswer() {
	if !f.exchange.authentic {
		f.unproven().take(f.s.now(), 1, strangerBurst, strangerInterval)
	}
}

// unproven is the bucket that pays for answers to requests without a credential: that of the
// client's address; or one of the client's own, if it has an allocation or its address is not
// forged, so that strangers at its address cannot silence it.
func (f *frontend) unproven() *bucket {
	switch {
	case f.proven:
		return f.stranger
	case f.exchange.relay != nil:
		return &f.exchange.relay.stranger
	}
	return f.s.strangers.bucket(f.exchange.client.Addr())
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

// LocalAddr is the address of ours that the message is for which pion has: a part of the 5-tuple.
func (f *frontend) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(f.at(f.exchange.tuple)) }

// SetDeadline, SetReadDeadline and SetWriteDeadline complete net.PacketConn; pion calls none of them, and deadlines are the socket's own.
func (f *frontend) SetDeadline(time.Time) error      { return nil }
func (f *frontend) SetReadDeadline(time.Time) error  { return nil }
func (f *frontend) SetWriteDeadline(time.Time) error { return nil }
