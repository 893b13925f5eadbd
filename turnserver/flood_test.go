package turnserver

import (
	"crypto/tls"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/pion/stun/v4"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

var (
	floodSize = flag.Int("flood", 20_000, "how many datagrams the test of floods sends: 1000000 in the long form, or more")
	floodSeed = flag.Uint64("flood-seed", 1, "what they are drawn from")
)

// garbage makes messages that are none: random bytes, or a good message cut short, with bits turned, spliced with another, made longer.
type garbage struct {
	*rand.Rand
	good [][]byte
}

func (g *garbage) next() []byte {
	if g.IntN(4) == 0 {
		b := make([]byte, g.IntN(200))
		for i := range b {
			b[i] = byte(g.Uint32())
		}
		if g.IntN(2) == 0 && len(b) >= headerSize { // with a header that passes for one
			binary.BigEndian.PutUint16(b, stun.NewType(stun.Method(1+g.IntN(12)), stun.MessageClass(g.IntN(4))).Value())
			binary.BigEndian.PutUint16(b[2:], uint16(len(b)-headerSize))
			binary.BigEndian.PutUint32(b[4:], magicCookie)
		}
		return b
	}
	b := slices.Clone(g.good[g.IntN(len(g.good))])
	switch g.IntN(4) {
	case 0:
		b = b[:g.IntN(len(b))]
	case 1:
		other := g.good[g.IntN(len(g.good))]
		b = append(b[:g.IntN(len(b)+1)], other[g.IntN(len(other)):]...)
	case 2:
		b = append(b, make([]byte, g.IntN(1700))...)
	}
	for range g.IntN(4) {
		if len(b) > 0 {
			b[g.IntN(len(b))] ^= 1 << g.IntN(8)
		}
	}
	if g.IntN(2) == 0 && len(b) >= headerSize && b[0] < 0x40 { // so that the length is right again
		binary.BigEndian.PutUint16(b[2:], uint16(len(b)-headerSize))
	}
	return b
}

// goodMessages are those of a client that has an allocation. Whole ones would do no harm; but the Allocate is not signed well, since some of the cut ones are good
// still, without FINGERPRINT.
func goodMessages(c *rawClient, peer netip.AddrPort) (good [][]byte) {
	wrong := stun.NewLongTermIntegrity(c.username, string(c.realm), "wrong")
	key := stun.NewLongTermIntegrity(c.username, string(c.realm), c.password)
	for method, attrs := range map[stun.Method][]stun.Setter{
		stun.MethodAllocate: {udpTransport, lifetime(600)}, stun.MethodRefresh: {lifetime(600)},
		stun.MethodCreatePermission: {peerAttr(peer)}, stun.MethodChannelBind: {channelAttr(0x4000), peerAttr(peer)},
	} {
		key := key
		if method == stun.MethodAllocate {
			key = wrong
		}
		setters := append([]stun.Setter{stun.TransactionID, stun.NewType(method, stun.ClassRequest)}, attrs...)
		setters = append(setters, stun.NewUsername(c.username), c.realm, c.nonce, key, stun.Fingerprint)
		good = append(good, stun.MustBuild(setters...).Raw)
	}
	slices.SortFunc(good, slices.Compare) // maps have no order
	return append(good,
		stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.Fingerprint).Raw,
		stun.MustBuild(stun.TransactionID, stun.NewType(stun.MethodSend, stun.ClassIndication), peerAttr(peer),
			stun.RawAttribute{Type: stun.AttrData, Value: []byte("data")}).Raw,
		[]byte{0x40, 0, 0, 4, 'd', 'a', 't', 'a'})
}

// footprint is what must not grow.
type footprint struct{ heap, resident, goroutines, descriptors int }

func measure() (f footprint) {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	f.heap, f.goroutines = int(m.HeapAlloc), runtime.NumGoroutine()
	if entries, err := os.ReadDir("/proc/self/fd"); err == nil {
		f.descriptors = len(entries)
	}
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		_, _ = fmt.Sscan(string(b), new(int), &f.resident)
		f.resident *= os.Getpagesize()
	}
	return f
}

// testFlood sends random, cut and altered datagrams to the relay's sockets, as strangers, as clients, and as their peers; a tenth as many messages over TCP and a
// hundredth over TLS. The relay goes on serving its clients, and neither memory nor goroutines nor descriptors grow.
func testFlood(t *testing.T, plane string) {
	const clients, each = 8, 16
	s := startRelay(t, plane, func(c *Config) { overStreams(t, c); c.MaxConnectionsPerAddress = 10_000 })
	peer := listenOn(t, "127.0.0.2")
	at := addrPort(peer.LocalAddr())
	g := &garbage{Rand: rand.New(rand.NewPCG(*floodSeed, 1))}
	var known []*rawClient
	var strangers []net.Conn
	var relayed []netip.AddrPort
	for range clients {
		c := newRawClient(t, s, "alice")
		relayed = append(relayed, relayedAddr(t, c.mustSucceed(stun.MethodAllocate, udpTransport)))
		c.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(at))
		known, g.good = append(known, c), append(g.good, goodMessages(c, at)...)
		stranger, err := world.dial(s.Addrs().UDP[0])
		if err != nil {
			t.Fatal(err)
		}
		defer stranger.Close()
		strangers = append(strangers, stranger)
	}
	g.good = append(g.good, seeds()[:12]...)

	sent := 0
	flood := func(until int) {
		for round := 0; sent < until; round++ {
			i := round % clients
			for range each {
				_, _ = strangers[i].Write(g.next())
				_, _ = known[i].conn.Write(g.next())
				_, _ = peer.WriteToUDPAddrPort(g.next(), relayed[i])
				sent += 3
			}
			known[i].empty()
			known[i].conn.SetReadDeadline(time.Time{})
			refreshed := false
			for range 5 { // an answer may be lost in what comes from the peer
				if refreshed = codeOf(known[i].request(stun.MethodRefresh)) == 0; refreshed {
					break
				}
			}
			if !refreshed {
				t.Fatalf("after %d datagrams (seed %d) a client is not served any more", sent, *floodSeed)
			}
		}
	}
	streams := func(address netip.AddrPort, config *tls.Config, count int) {
		for n := 0; n < count; {
			conn, err := net.Dial("tcp4", address.String())
			if err != nil {
				t.Fatal(err)
			}
			if config != nil {
				conn = tls.Client(conn, config)
			}
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			for range 1 + g.IntN(20) {
				n++
				if _, err := conn.Write(g.next()); err != nil {
					break
				}
			}
			if c, ok := conn.(interface{ CloseWrite() error }); ok {
				_ = c.CloseWrite()
			}
			if _, err := io.Copy(io.Discard, conn); isTimeout(err) {
				t.Fatal("a connection that is half closed stays")
			}
			_ = conn.Close()
		}
		eventually(t, "no connection", func() bool { return testutil.ToFloat64(s.metrics.connections) == 0 })
	}
	all := func(count int) {
		flood(sent + count)
		streams(s.Addrs().TCP[0], nil, count/10)
		streams(s.Addrs().TLS[0], &tls.Config{InsecureSkipVerify: true}, count/100)
	}

	all(*floodSize / 4)
	before := measure()
	all(*floodSize * 3 / 4)
	after := measure()
	t.Logf("%d datagrams: heap %d kB, then %d kB; %d goroutines, then %d; %d descriptors, then %d", sent,
		before.heap>>10, after.heap>>10, before.goroutines, after.goroutines, before.descriptors, after.descriptors)
	if after.heap > before.heap+1<<20 || after.goroutines > before.goroutines || after.descriptors > before.descriptors {
		t.Errorf("it grows: %+v, then %+v", before, after)
	}
	m := s.metrics
	arrived := sum(m.droppedMalformed, m.droppedSilenced, m.droppedNoAllocation, m.droppedNoChannel, m.droppedPeer, m.droppedPermission,
		m.droppedSize, m.toPeer, m.fromPeer, m.refusedAuth, m.refusedPeer)
	if arrived < 0.8*float64(sent) {
		t.Errorf("of %d datagrams the relay saw %v only", sent, arrived)
	}
	if len(relaysOf(s)) != clients {
		t.Errorf("%d allocations live, of %d", len(relaysOf(s)), clients)
	}
	heard(peer) // its buffer is full
	_, _ = known[0].conn.Write([]byte{0x40, 0, 0, 4, 'l', 'a', 's', 't'})
	for buf := make([]byte, 2000); ; {
		_ = peer.SetReadDeadline(time.Now().Add(3 * time.Second))
		n, err := peer.Read(buf)
		if err != nil {
			t.Fatal("the channel does not work any more")
		}
		if string(buf[:n]) == "last" {
			break
		}
	}
}
