package turnserver

import (
	"bytes"
	"context"
	"encoding/binary"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pion/stun/v4"
	"github.com/pion/turn/v5"

	"sotto/turncred"
)

var (
	testSecret = []byte("a secret for the tests of a relay")
	loopback   = prefixes("127.0.0.0/8")
	// elsewhere is the address of loopback that stands for machines of somebody else. All others are this machine, as they are outside of tests.
	elsewhere = prefixes("127.0.0.2/32")
)

// labVariable is native or generic in the program that TestOffload runs, on Linux.
const labVariable = "SOTTO_TEST_OFFLOAD"

// world is where clients and peers live: loopback, unless the lab moves them (lab_linux_test.go).
var world = struct {
	client        string // address
	dial          func(to netip.AddrPort) (net.Conn, error)
	dialFrom      func(host byte, to netip.AddrPort) (net.Conn, error) // one of many addresses: hosts 10 to 250
	listen        func(ip string) (*net.UDPConn, error)
	among         func(func() error) error // runs something on the clients' machine
	relay         func(*Config)
	began, ending func(testing.TB, *Server)
	moved         func()                                     // a clock, or what policy knows of this machine
	carried       func(t *testing.T, s *Server, each uint64) // checks that the driver carried so many packets each way
	flows         func(*Server) int                          // in the driver
	accounts      func(*Server) int                          // that the driver shares
	watch         func() (descriptor int, err error)         // of a socket that sees packets to peers, on Linux
	offloads      bool                                       // the driver carries
	driver        func(*Server) (packets uint64)
}{
	client: "127.0.0.1",
	dial:   func(to netip.AddrPort) (net.Conn, error) { return net.Dial("udp", to.String()) },
	dialFrom: func(host byte, to netip.AddrPort) (net.Conn, error) {
		return (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(127, 0, 7, host)}}).Dial("udp", to.String())
	},
	listen: func(ip string) (*net.UDPConn, error) {
		return net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(ip), 0)))
	},
	among: func(f func() error) error { return f() },
	relay: func(*Config) {},
	began: func(testing.TB, *Server) {}, ending: func(testing.TB, *Server) {},
	moved:    func() {},
	carried:  func(*testing.T, *Server, uint64) {},
	flows:    func(*Server) int { return 0 },
	accounts: func(*Server) int { return 0 },
	driver:   func(*Server) uint64 { return 0 },
}

// dataPlanes are the ways to carry packets that this system has. They behave alike.
func dataPlanes() []string {
	if hasLoops {
		return []string{planeAuto, planePortable}
	}
	return []string{planePortable}
}

func forEachDataPlane(t *testing.T, test func(t *testing.T, plane string)) {
	for _, plane := range dataPlanes() {
		t.Run(plane, func(t *testing.T) { test(t, plane) })
	}
}

// startRelay runs a relay on free ports of 127.0.0.1 and ends it with the test, which fails if anything stays behind.
func startRelay(t testing.TB, plane string, change func(*Config)) *Server {
	t.Helper()
	cfg := Config{UDP: []string{"127.0.0.1:0"}, Secrets: [][]byte{testSecret}, AllowPeers: loopback, DataPlane: plane, Dedicated: true, tune: tuning{foreign: elsewhere, shortest: time.Second}}
	var logged bytes.Buffer
	cfg.Logger = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	if change != nil {
		change(&cfg)
	}
	world.relay(&cfg)
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	world.began(t, s)
	t.Cleanup(func() {
		world.ending(t, s)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_ = s.Shutdown(ctx)
		for _, word := range []string{"127.0.0.", "alice", "bob", string(testSecret)} {
			if strings.Contains(logged.String(), word) {
				t.Errorf("the log mentions %q:\n%s", word, &logged)
			}
		}
		if len(s.table.local)+len(s.table.public)+len(s.streams)+s.users.total+held(s.addresses)+held(s.connections) != 0 {
			t.Errorf("left behind: %d relays, %d streams, quota %d, %d, %d",
				len(s.table.public), len(s.streams), s.users.total, held(s.addresses), held(s.connections))
		}
	})
	return s
}

func held(q *addressQuota) int { return q.holders.total + q.sites.total }

// pionClient is a client as ICE agents use it.
func pionClient(t testing.TB, s *Server, id string) *turn.Client {
	t.Helper()
	return pionClientOf(t, s.Addrs().UDP[0], id, s.now())
}

func pionClientOf(t testing.TB, at netip.AddrPort, id string, now time.Time) *turn.Client {
	t.Helper()
	conn, err := world.listen(world.client)
	if err != nil {
		t.Fatal(err)
	}
	username, password := turncred.Mint(testSecret, id, time.Minute, now)
	c, err := turn.NewClient(&turn.ClientConfig{
		TURNServerAddr: at.String(), Conn: conn, Username: username, Password: password, LoggerFactory: silence{},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Listen(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); _ = conn.Close() })
	return c
}

func allocate(t testing.TB, c *turn.Client) net.PacketConn {
	t.Helper()
	conn, err := c.Allocate()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// listenOn is a peer's socket.
func listenOn(t testing.TB, ip string) *net.UDPConn {
	t.Helper()
	conn, err := world.listen(ip)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func relaysOf(s *Server) []*relay {
	s.table.mu.RLock()
	defer s.table.mu.RUnlock()
	return slices.Collect(maps.Values(s.table.public))
}

// eventually waits for what other goroutines bring about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("never came about: " + what)
		}
	}
}

// clock is a clock that a test moves.
type clock struct {
	mu     sync.Mutex
	offset time.Duration
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.offset)
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	c.offset += d
	c.mu.Unlock()
	world.moved()
}

// rawClient speaks TURN message by message, so that it can also say what a well-behaved client would not.
type rawClient struct {
	t                  testing.TB
	conn               net.Conn
	username, password string
	nonce              stun.Nonce
	realm              stun.Realm
}

func newRawClient(t testing.TB, s *Server, id string) *rawClient {
	t.Helper()
	conn, err := world.dial(s.Addrs().UDP[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	c := &rawClient{t: t, conn: conn}
	c.username, c.password = turncred.Mint(testSecret, id, time.Minute, s.now())
	return c
}

// ask sends a request and returns the answer, or nil if none comes.
func (c *rawClient) ask(setters ...stun.Setter) *stun.Message {
	c.t.Helper()
	m, err := stun.Build(append([]stun.Setter{stun.TransactionID}, setters...)...)
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.conn.Write(m.Raw); err != nil {
		c.t.Fatal(err)
	}
	buf := make([]byte, 2048)
	_ = c.conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	for {
		n, err := c.conn.Read(buf)
		if err != nil {
			return nil
		}
		answer := &stun.Message{Raw: append([]byte(nil), buf[:n]...)}
		if answer.Decode() == nil && answer.TransactionID == m.TransactionID {
			return answer
		}
	}
}

// request asks with the client's credential, once more if its nonce has become stale.
func (c *rawClient) request(method stun.Method, attrs ...stun.Setter) *stun.Message {
	c.t.Helper()
	answer := c.once(method, attrs...)
	if codeOf(answer) == int(stun.CodeStaleNonce) && c.nonce.GetFrom(answer) == nil {
		answer = c.once(method, attrs...)
	}
	return answer
}

// once asks with the client's credential, fetching a nonce first if there is none.
func (c *rawClient) once(method stun.Method, attrs ...stun.Setter) *stun.Message {
	c.t.Helper()
	kind := stun.NewType(method, stun.ClassRequest)
	if len(c.nonce) == 0 {
		stranger := c.ask(stun.NewType(stun.MethodAllocate, stun.ClassRequest), udpTransport)
		if stranger == nil || c.nonce.GetFrom(stranger) != nil || c.realm.GetFrom(stranger) != nil {
			c.t.Fatalf("no nonce in %v", stranger)
		}
	}
	key := stun.NewLongTermIntegrity(c.username, string(c.realm), c.password)
	attrs = append([]stun.Setter{kind}, attrs...)
	return c.ask(append(attrs, stun.NewUsername(c.username), c.realm, c.nonce, key, stun.Fingerprint)...)
}

func (c *rawClient) mustSucceed(method stun.Method, attrs ...stun.Setter) *stun.Message {
	c.t.Helper()
	m := c.request(method, attrs...)
	if code := codeOf(m); code != 0 {
		c.t.Fatalf("%v: code %d", method, code)
	}
	return m
}

// codeOf is 0 for success, -1 for no answer, or the error code.
func codeOf(m *stun.Message) int {
	if m == nil {
		return -1
	}
	if m.Type.Class == stun.ClassSuccessResponse {
		return 0
	}
	var e stun.ErrorCodeAttribute
	if e.GetFrom(m) != nil {
		return -2
	}
	return int(e.Code)
}

var udpTransport = stun.RawAttribute{Type: stun.AttrRequestedTransport, Value: []byte{17, 0, 0, 0}}

func lifetime(seconds uint32) stun.Setter {
	return stun.RawAttribute{Type: stun.AttrLifetime, Value: binary.BigEndian.AppendUint32(nil, seconds)}
}

func channelAttr(n uint16) stun.Setter {
	return stun.RawAttribute{Type: stun.AttrChannelNumber, Value: binary.BigEndian.AppendUint32(nil, uint32(n)<<16)}
}

// peerAttr is XOR-PEER-ADDRESS.
type peerAttr netip.AddrPort

func (p peerAttr) AddTo(m *stun.Message) error {
	a := netip.AddrPort(p)
	ip, family := a.Addr().AsSlice(), byte(1)
	if len(ip) == 16 {
		family = 2 // the sixteen-byte form is kept for IPv4-mapped addresses too
	}
	mask := append([]byte{0x21, 0x12, 0xA4, 0x42}, m.TransactionID[:]...)
	for i := range ip {
		ip[i] ^= mask[i]
	}
	v := append([]byte{0, family}, binary.BigEndian.AppendUint16(nil, a.Port()^0x2112)...)
	m.Add(stun.AttrXORPeerAddress, append(v, ip...))
	return nil
}

func peer(s string) stun.Setter { return peerAttr(netip.MustParseAddrPort(s)) }

func relayedAddr(t testing.TB, m *stun.Message) netip.AddrPort {
	t.Helper()
	var x stun.XORMappedAddress
	if err := x.GetFromAs(m, stun.AttrXORRelayedAddress); err != nil {
		t.Fatal(err)
	}
	return addrPort(&net.UDPAddr{IP: x.IP, Port: x.Port})
}

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}
