package path

import (
	"net"
	"testing"
	"time"

	"github.com/pion/stun/v4"
)

// asking is a request of the agent's for a permission.
func asking(t *testing.T, peers ...string) *stun.Message {
	t.Helper()
	setters := []stun.Setter{stun.TransactionID, stun.NewType(stun.MethodCreatePermission, stun.ClassRequest)}
	for _, p := range peers {
		setters = append(setters, peerAddress{net.ParseIP(p)})
	}
	m, err := stun.Build(setters...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

type peerAddress struct{ ip net.IP }

func (a peerAddress) AddTo(m *stun.Message) error {
	return stun.XORMappedAddress{IP: a.ip, Port: 9}.AddToAs(m, stun.AttrXORPeerAddress)
}

// answerTo reads what the agent is told, at once: 0 is success.
func answerTo(t *testing.T, p *permissions, request *stun.Message) stun.ErrorCode {
	t.Helper()
	m := &stun.Message{Raw: p.next()}
	if err := m.Decode(); err != nil || m.TransactionID != request.TransactionID {
		t.Fatalf("the agent reads %v (%v)", m, err)
	}
	var code stun.ErrorCodeAttribute
	if m.Type.Class == stun.ClassSuccessResponse {
		return 0
	}
	if err := code.GetFrom(m); err != nil {
		t.Fatal(err)
	}
	return code.Code
}

func relayed(t *testing.T, request *stun.Message, class stun.MessageClass, more ...stun.Setter) *stun.Message {
	t.Helper()
	m, err := stun.Build(append([]stun.Setter{
		stun.NewTransactionIDSetter(request.TransactionID), stun.NewType(stun.MethodCreatePermission, class),
	}, more...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// The agent never waits for the relay's answer, and is told of a permission only when there is one.
func TestPermissionsAreAskedForBeside(t *testing.T) {
	now := time.Now()
	p := &permissions{}
	ask := func(peers ...string) (request *stun.Message, forward, answered bool) {
		request = asking(t, peers...)
		forward, answered = p.ask(request, now)
		return request, forward, answered
	}
	expect := func(what, peer string, forward bool, code stun.ErrorCode) *stun.Message {
		t.Helper()
		request, forwarded, answered := ask(peer)
		if !answered || forwarded != forward {
			t.Fatalf("%s: forwarded %v, answered %v", what, forwarded, answered)
		}
		if c := answerTo(t, p, request); c != code {
			t.Fatalf("%s: the agent is told %d, want %d", what, c, code)
		}
		return request
	}
	first := expect("the first", "192.0.2.1", true, stun.CodeForbidden)
	expect("the next", "192.0.2.1", false, stun.CodeForbidden)
	other := expect("another's", "2001:db8::1", true, stun.CodeForbidden)
	p.learn(relayed(t, other, stun.ClassErrorResponse, stun.CodeForbidden))
	expect("what was refused", "2001:db8::1", false, stun.CodeForbidden)

	now = now.Add(permissionRetry) // the first was lost
	again := expect("a repeated one", "192.0.2.1", true, stun.CodeForbidden)
	p.learn(relayed(t, first, stun.ClassErrorResponse, stun.CodeForbidden)) // late
	p.learn(relayed(t, again, stun.ClassErrorResponse, stun.CodeStaleNonce, stun.NewNonce("fresh")))
	expect("with a stale nonce", "192.0.2.1", false, stun.CodeStaleNonce)
	fresh := expect("with a fresh one", "192.0.2.1", true, stun.CodeForbidden)
	p.learn(relayed(t, fresh, stun.ClassSuccessResponse))
	expect("granted", "192.0.2.1", false, 0)
	for _, peers := range [][]string{{"192.0.2.1"}, {"192.0.2.1", "192.0.2.9"}} {
		if _, forward, answered := ask(peers...); !forward || answered {
			t.Errorf("refreshing %v: forwarded %v, answered %v", peers, forward, answered)
		}
	}
}

// Whoever asks a relay that is silent reads an answer at once, and can go on reading what comes.
func TestASilentRelayHoldsNoCheckUp(t *testing.T) {
	relay, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Close()
	conn, err := net.Dial("udp4", relay.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	c := &relayConn{Conn: conn, silent: time.NewTimer(time.Hour), dialer: &relayDialer{}}
	defer c.Close()
	read := make(chan stun.Message, 4)
	go func() {
		defer close(read)
		for buffer := make([]byte, 1500); ; {
			n, err := c.Read(buffer)
			m := stun.Message{Raw: append([]byte(nil), buffer[:n]...)}
			if err != nil || m.Decode() != nil {
				return
			}
			read <- m
		}
	}()
	request := asking(t, "192.0.2.1")
	if _, err := c.Write(request.Raw); err != nil {
		t.Fatal(err)
	}
	if m := await(t, "answer", read); m.TransactionID != request.TransactionID {
		t.Fatalf("read %v", m)
	}
	asked := make([]byte, 1500)
	n, from, err := relay.ReadFrom(asked)
	if err != nil || n != len(request.Raw) {
		t.Fatalf("the relay got %d bytes (%v)", n, err)
	}
	if _, err := relay.WriteTo(relayed(t, request, stun.ClassSuccessResponse).Raw, from); err != nil {
		t.Fatal(err)
	}
	if m := await(t, "the relay's own answer", read); m.Type.Class != stun.ClassSuccessResponse {
		t.Fatalf("read %v", m)
	}
}
