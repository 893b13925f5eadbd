package turnserver

import (
	"net"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/pion/stun/v4"
)

// onEveryAddress listens on the wildcard, and on 127.0.0.1 for a relayed address.
func onEveryAddress(c *Config) { c.UDP = []string{":0", "127.0.0.1:0"} }

// testEveryAddress: on a machine with several addresses answers and data come from the one that was
// asked, and each is another 5-tuple: one client socket may have an allocation at each.
func testEveryAddress(t *testing.T, plane string) {
	if runtime.GOOS != "linux" {
		t.Skip("other systems do not say which address was asked, or have one address of loopback")
	}
	s := startRelay(t, plane, onEveryAddress)
	other := listenOn(t, "127.0.0.2")
	at := addrPort(other.LocalAddr())
	conn, err := net.ListenUDP("udp", nil) // one for all
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	clients, relayed := make(map[string]*rawClient), make(map[string]netip.AddrPort)
	for _, address := range []string{"127.0.0.5", "127.0.0.6", "::1"} {
		asked := netip.AddrPortFrom(netip.MustParseAddr(address), s.Addrs().UDP[0].Port())
		client := newRawClient(t, s, "alice")
		client.conn = &oneOf{conn, asked, t}
		clients[address] = client
		relayed[address] = relayedAddr(t, client.mustSucceed(stun.MethodAllocate, udpTransport))
		client.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(at))
	}
	if n := len(relaysOf(s)); n != 3 {
		t.Fatalf("%d allocations", n)
	}
	buf := make([]byte, 100)
	for address, client := range clients {
		if again := codeOf(client.request(stun.MethodAllocate, udpTransport)); again != 437 {
			t.Errorf("%s: a second allocation: code %d", address, again)
		}
		for _, send := range []func(){
			func() { _, _ = client.conn.Write([]byte("\x40\x00\x00\x04data")) },
			func() { send(client, at, "data") },
		} {
			send()
			_ = other.SetReadDeadline(time.Now().Add(30 * time.Second))
			n, from, err := other.ReadFromUDPAddrPort(buf)
			if err != nil || string(buf[:n]) != "data" || plain(from) != relayed[address] {
				t.Fatalf("%s, to the peer: %q from %v, %v", address, buf[:n], from, err)
			}
		}
		_, _ = other.WriteToUDPAddrPort([]byte("back"), relayed[address])
		if got := client.next(); !strings.HasPrefix(string(got), "\x40\x00\x00\x04back") {
			t.Errorf("%s, to the client: % x", address, got)
		}
		stranger, err := net.ListenUDP("udp", nil)
		if err != nil {
			t.Fatal(err)
		}
		nonce := *client // of one 5-tuple, and of no other
		nonce.conn = &oneOf{stranger, client.conn.(*oneOf).asked, t}
		if code := codeOf(nonce.once(stun.MethodRefresh)); code != 438 {
			t.Errorf("%s, another's nonce: code %d", address, code)
		}
		stranger.Close()
	}
	swapped := *clients["127.0.0.5"]
	swapped.conn = clients["127.0.0.6"].conn
	if code := codeOf(swapped.once(stun.MethodRefresh)); code != 438 {
		t.Errorf("a nonce at another address of ours: code %d", code)
	}
	clients["127.0.0.5"].mustSucceed(stun.MethodRefresh, lifetime(0))
	clients["127.0.0.6"].mustSucceed(stun.MethodRefresh)
	if n := len(relaysOf(s)); n != 2 {
		t.Errorf("%d allocations are left", n)
	}
}

// oneOf is a client's socket as connected to one address of the relay.
type oneOf struct {
	*net.UDPConn
	asked netip.AddrPort
	t     *testing.T
}

func (o *oneOf) Write(b []byte) (int, error) { return o.WriteToUDPAddrPort(b, o.asked) }

func (o *oneOf) Read(b []byte) (int, error) {
	n, from, err := o.ReadFromUDPAddrPort(b)
	if err == nil && plain(from) != o.asked {
		o.t.Errorf("%v was asked, and %v answers", o.asked, from)
	}
	return n, err
}

// TestEveryAddressDTLS: likewise.
func TestEveryAddressDTLS(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("other systems do not say which address was asked, or have one address of loopback")
	}
	s := startRelay(t, planeAuto, func(c *Config) {
		overStreams(t, c)
		c.UDP, c.DTLS = []string{"127.0.0.1:0"}, []string{":0"}
	})
	for _, address := range []string{"127.0.0.5", "127.0.0.6"} {
		at := netip.AddrPortFrom(netip.MustParseAddr(address), s.Addrs().DTLS[0].Port())
		conn, err := dialDTLSAt(t, at, "127.0.0.1")
		if err != nil {
			t.Fatalf("%s: %v", address, err)
		}
		alice := newRawClient(t, s, "alice")
		alice.conn = conn
		alice.mustSucceed(stun.MethodAllocate, udpTransport)
	}
}

// TestWildcardIPv4: a socket of IPv4 alone, as on a machine without IPv6, tells in other words.
func TestWildcardIPv4(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("other systems do not say which address was asked, or have one address of loopback")
	}
	all, err := net.ListenUDP("udp4", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer all.Close()
	w := newWildcardConn(all)
	asked := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.5"), addrPort(all.LocalAddr()).Port())
	client, err := net.Dial("udp4", asked.String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Write([]byte("question")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	_ = all.SetReadDeadline(time.Now().Add(30 * time.Second))
	n, from, err := w.receive(buf)
	want := tuple{addrPort(client.LocalAddr()), asked.Addr()}
	if err != nil || string(buf[:n]) != "question" || from != want {
		t.Fatalf("%q from %v, %v", buf[:n], from, err)
	}
	if back := tupleOf(from.addr()); back != from {
		t.Errorf("pion's form of %v is %v", from, back)
	}
	if _, err := w.send([]byte("answer"), from); err != nil {
		t.Fatal(err)
	}
	_ = client.SetReadDeadline(time.Now().Add(30 * time.Second))
	if n, err := client.Read(buf); err != nil || string(buf[:n]) != "answer" {
		t.Errorf("%q, %v", buf[:n], err)
	}
}
