package media

import (
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/logging"
	"github.com/pion/transport/v4"
	"github.com/pion/transport/v4/vnet"
	"github.com/pion/turn/v5"
)

// network is a simulated one with two hosts, a delay each way and a filter for what passes.
type network struct {
	hosts  [2]transport.Net
	router *vnet.Router
	drop   atomic.Pointer[func(vnet.Chunk) bool]
}

func quiet() logging.LoggerFactory {
	return &logging.DefaultLoggerFactory{Writer: io.Discard, DefaultLogLevel: logging.LogLevelDisabled}
}

func newNetwork(t testing.TB, oneWay time.Duration) *network {
	t.Helper()
	router, err := vnet.NewRouter(&vnet.RouterConfig{CIDR: "198.51.100.0/24", MinDelay: oneWay, LoggerFactory: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	n := &network{router: router}
	for i, address := range []string{"198.51.100.1", "198.51.100.2"} {
		n.hosts[i] = n.host(t, address)
	}
	router.AddChunkFilter(func(c vnet.Chunk) bool {
		drop := n.drop.Load()
		return drop == nil || !(*drop)(c)
	})
	if err := router.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { router.Stop() })
	return n
}

// host adds one, which may stand for a further interface of another.
func (n *network) host(t testing.TB, address string) transport.Net {
	t.Helper()
	host, err := vnet.NewNet(&vnet.NetConfig{StaticIPs: []string{address}})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.router.AddNet(host); err != nil {
		t.Fatal(err)
	}
	return host
}

// cut drops whatever comes from or goes to an address.
func (n *network) cut(address string) {
	ip := net.ParseIP(address)
	n.filter(func(c vnet.Chunk) bool {
		return ip.Equal(c.SourceAddr().(*net.UDPAddr).IP) || ip.Equal(c.DestinationAddr().(*net.UDPAddr).IP)
	})
}

// filter drops the chunks for which it returns true.
func (n *network) filter(drop func(vnet.Chunk) bool) { n.drop.Store(&drop) }

// lose drops a share of all datagrams, always the same ones in the order they pass.
func (n *network) lose(share float64, seed uint64) {
	random := seeded(seed)
	n.filter(func(vnet.Chunk) bool { return random() < share })
}

// seeded draws from [0, 1), for any goroutine.
func seeded(seed uint64) func() float64 {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, 0))
	return func() float64 {
		mu.Lock()
		defer mu.Unlock()
		return random.Float64()
	}
}

const (
	relayRealm    = "sotto.test"
	relayUser     = "user"
	relayPassword = "password"
)

// simulatedRelay is a TURN server on the simulated network, whose process can be killed.
type simulatedRelay struct {
	host    transport.Net
	address Relay
	server  *turn.Server
}

func (n *network) relay(t testing.TB) *simulatedRelay {
	const address = "198.51.100.9"
	r := &simulatedRelay{
		host:    n.host(t, address),
		address: Relay{URL: "turn:" + address + ":3478?transport=udp", Username: relayUser, Password: relayPassword},
	}
	r.start(t)
	t.Cleanup(r.kill)
	return r
}

func (r *simulatedRelay) start(t testing.TB) {
	t.Helper()
	packets, err := r.host.ListenPacket("udp4", "198.51.100.9:3478")
	if err != nil {
		t.Fatal(err)
	}
	r.server, err = turn.NewServer(turn.ServerConfig{
		Realm: relayRealm, LoggerFactory: quiet(), AuthHandler: authenticate,
		PacketConnConfigs: []turn.PacketConnConfig{{PacketConn: packets, RelayAddressGenerator: &turn.RelayAddressGeneratorStatic{
			RelayAddress: net.ParseIP("198.51.100.9"), Address: "198.51.100.9", Net: r.host,
		}}},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (r *simulatedRelay) kill() { r.server.Close() }

func authenticate(r *turn.RequestAttributes) (string, []byte, bool) {
	return r.Username, turn.GenerateAuthKey(relayUser, relayRealm, relayPassword), r.Username == relayUser
}

// newRelay runs pion's TURN server on loopback, over UDP and TCP.
func newRelay(t testing.TB) (udp, tcp Relay) {
	t.Helper()
	packets, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	generator := &turn.RelayAddressGeneratorStatic{RelayAddress: net.IPv4(127, 0, 0, 1), Address: "127.0.0.1"}
	server, err := turn.NewServer(turn.ServerConfig{
		Realm: relayRealm, LoggerFactory: quiet(),
		AuthHandler:       authenticate,
		PacketConnConfigs: []turn.PacketConnConfig{{PacketConn: packets, RelayAddressGenerator: generator}},
		ListenerConfigs:   []turn.ListenerConfig{{Listener: listener, RelayAddressGenerator: generator}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	relay := func(address net.Addr, transport string) Relay {
		return Relay{URL: "turn:" + address.String() + "?transport=" + transport, Username: relayUser, Password: relayPassword}
	}
	return relay(packets.LocalAddr(), "udp"), relay(listener.Addr(), "tcp")
}
