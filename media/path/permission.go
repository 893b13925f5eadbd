package path

import (
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/pion/stun/v4"
)

// A relay passes on only what is for addresses that it was given a permission for (RFC 8656 section
// 9). The agent asks for each when it first sends to one, and stands still for the round trip, all
// its other checks with it: with a dozen addresses of the peer's, for seconds. So it never waits:
//
//  1. The first request for an address goes to the relay, and the agent is told at once that there
//     is no permission: this check is lost, and the next comes 20 ms later.
//  2. As soon as the relay has granted it, the next request is answered here, with success. From
//     then on what the agent asks for the address is its refreshing, which does not hold checks up.
//  3. What the relay refuses stays refused. A stale nonce is handed on, so that the next request has
//     a fresh one. A request without an answer is repeated.

const permissionRetry = 500 * time.Millisecond // RFC 8489 section 6.2.1: the initial RTO

type permissionState int

const (
	asked permissionState = iota + 1
	granted
	refused
	stale
	told // the agent knows that it has it
)

// A permission is what is known about one address of the peer's.
type permission struct {
	state   permissionState
	request [stun.TransactionIDSize]byte
	since   time.Time
	nonce   stun.Nonce // of a stale answer
}

// permissions are those of one allocation. relayConn.mu guards them.
type permissions struct {
	of      map[netip.Addr]*permission
	answers [][]byte // for the agent to read
}

// ask decides about a request of the agent's. It reports whether it goes to the relay, and whether
// it was answered here.
func (p *permissions) ask(m *stun.Message, now time.Time) (forward, answered bool) {
	at, ok := onlyPeer(m)
	if !ok {
		return true, false
	}
	if p.of == nil {
		p.of = map[netip.Addr]*permission{}
	}
	known := p.of[at]
	if known == nil {
		known = &permission{}
		p.of[at] = known
	}
	switch known.state {
	case told:
		return true, false
	case granted:
		known.state = told
		p.answer(m, stun.ClassSuccessResponse)
	case stale:
		known.state = 0
		p.answer(m, stun.ClassErrorResponse, stun.CodeStaleNonce, known.nonce)
	case asked:
		forward = now.Sub(known.since) >= permissionRetry
		fallthrough
	default:
		forward = forward || known.state == 0
		if forward {
			known.state, known.request, known.since = asked, m.TransactionID, now
		}
		p.answer(m, stun.ClassErrorResponse, stun.CodeForbidden)
	}
	return forward, true
}

func (p *permissions) answer(request *stun.Message, class stun.MessageClass, more ...stun.Setter) {
	setters := append([]stun.Setter{
		stun.NewTransactionIDSetter(request.TransactionID), stun.NewType(stun.MethodCreatePermission, class),
	}, more...)
	if m, err := stun.Build(setters...); err == nil {
		p.answers = append(p.answers, m.Raw)
	}
}

// learn takes the relay's answer.
func (p *permissions) learn(m *stun.Message) {
	for _, known := range p.of {
		if known.state != asked || known.request != m.TransactionID {
			continue
		}
		var code stun.ErrorCodeAttribute
		switch {
		case m.Type.Class == stun.ClassSuccessResponse:
			known.state = granted
		case code.GetFrom(m) == nil && code.Code == stun.CodeStaleNonce && known.nonce.GetFrom(m) == nil:
			known.state = stale
		default:
			known.state = refused
		}
	}
}

// next is an answer that the agent is to read.
func (p *permissions) next() []byte {
	if len(p.answers) == 0 {
		return nil
	}
	first := p.answers[0]
	p.answers = p.answers[1:]
	return first
}

// onlyPeer is the address that a request for one permission names.
func onlyPeer(m *stun.Message) (at netip.Addr, ok bool) {
	n := 0
	for _, attribute := range m.Attributes {
		if attribute.Type == stun.AttrXORPeerAddress {
			n++
		}
	}
	var peer stun.XORMappedAddress
	if n != 1 || peer.GetFromAs(m, stun.AttrXORPeerAddress) != nil {
		return at, false
	}
	at, ok = netip.AddrFromSlice(peer.IP)
	return at.Unmap(), ok
}

// askPermission is step 1 for a request that the agent writes. It reports whether the relay is to
// get it.
func (c *relayConn) askPermission(m *stun.Message) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	forward, answered := c.permissions.ask(m, time.Now())
	if answered {
		c.woken = true
		_ = c.Conn.SetReadDeadline(time.Unix(1, 0)) // Read returns, and finds the answer
	}
	return forward
}

// answer hands the agent an answer of ours, or else lets it wait for one of the relay's.
func (c *relayConn) answer(b []byte) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if ours := c.permissions.next(); ours != nil {
		return copy(b, ours)
	}
	if c.woken {
		c.woken = false
		_ = c.Conn.SetReadDeadline(time.Time{})
	}
	return 0
}

func timedOut(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
