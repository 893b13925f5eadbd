package media

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/transport/v4/vnet"

	"sotto/media/path"
)

// openPath begins a change of path at one end and carries it out as signaling does, each message taking the given time.
func (p *pair) openPath(t testing.TB, from, to *Session, delay time.Duration) {
	generation := from.Generation() + 1
	ufrag, password, err := from.OpenPath(generation, nil)
	if err != nil {
		t.Errorf("opening path %d: %v", generation, err)
		return
	}
	time.AfterFunc(delay, func() { p.takePath(t, to, from, generation, ufrag, password, delay) })
}

// takePath is the arrival of a peer's credentials: for a path that is new here, or that was opened here at the same time, or as the
// answer.
func (p *pair) takePath(t testing.TB, at, peer *Session, generation uint32, ufrag, password string, delay time.Duration) {
	if at.Generation() > generation {
		return
	}
	if at.Generation() < generation {
		ourUfrag, ourPassword, err := at.OpenPath(generation, nil)
		if err != nil {
			t.Errorf("answering path %d: %v", generation, err)
			return
		}
		time.AfterFunc(delay, func() { p.takePath(t, peer, at, generation, ourUfrag, ourPassword, delay) })
	}
	if err := at.ConnectPath(generation, ufrag, password); err != nil {
		t.Errorf("connecting path %d: %v", generation, err)
		return
	}
	p.release(t, at, generation)
}

// release gives a session the candidates that came before it could use them; later ones it gets as they come.
func (p *pair) release(t testing.TB, s *Session, generation uint32) {
	p.mu.Lock()
	p.released[pathKey{s, generation}] = true
	early := p.early[pathKey{s, generation}]
	p.mu.Unlock()
	for _, candidate := range early {
		p.addPathCandidate(t, s, generation, candidate)
	}
}

func (p *pair) addPathCandidate(t testing.TB, s *Session, generation uint32, candidate string) {
	if err := s.AddPathCandidate(generation, candidate); err != nil && !errors.Is(err, errGeneration) { // overtaken by a newer one
		t.Errorf("candidate of path %d: %v", generation, err)
	}
}

// A gauge measures the longest time in which no audio packet of the peer's arrived.
type gauge struct {
	session *Session
	longest atomic.Int64
	stop    chan struct{}
	done    chan struct{}
}

func watchGap(s *Session) *gauge {
	g := &gauge{session: s, stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(g.done)
		ticker := time.NewTicker(2 * time.Millisecond)
		defer ticker.Stop()
		count, since := s.audioArrived(), time.Now()
		for {
			select {
			case <-g.stop:
				return
			case now := <-ticker.C:
				if n := s.audioArrived(); n != count {
					count, since = n, now
				} else if gap := now.Sub(since); int64(gap) > g.longest.Load() {
					g.longest.Store(int64(gap))
				}
			}
		}
	}()
	return g
}

func (s *Session) audioArrived() uint64 {
	stream, _ := s.remote.stream(Audio)
	return s.chain.Remote(stream.SSRC).Packets
}

// gap ends the measurement. What two packets in a row are apart is no gap.
func (g *gauge) gap() time.Duration {
	close(g.stop)
	<-g.done
	return max(0, time.Duration(g.longest.Load())-FrameLength)
}

// talking is a call between host 0 and host 1 of the network, with sound both ways.
func talking(t testing.TB, n *network, cfg Config) *pair {
	t.Helper()
	callerConfig, calleeConfig := cfg, cfg
	callerConfig.Net, calleeConfig.Net = n.hosts[0], n.hosts[1]
	p := newPair(t, callerConfig, calleeConfig)
	p.connect(t)
	for _, s := range []*Session{p.caller, p.callee} {
		s.microphone.encoder = newCanned()
		if err := s.StartSending(&tone{n: 1 << 30}, nil); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range []*Session{p.caller, p.callee} {
		<-s.FirstMedia()
		<-s.Connected()
	}
	return p
}

// repeat runs a case a few times, many times in the long form, and returns the percentile of what it measured.
func repeat(t *testing.T, few, many int, percentile float64, measure func(t *testing.T, seed int) time.Duration) time.Duration {
	if *long {
		few = many
	}
	var measured []time.Duration
	for seed := range few {
		synctest.Test(t, func(t *testing.T) { measured = append(measured, measure(t, seed)) })
	}
	slices.Sort(measured)
	at := measured[int(math.Ceil(percentile*float64(len(measured))))-1] // nearest rank
	t.Logf("%d runs: median %v, p%.0f %v, longest %v", few, measured[len(measured)/2], 100*percentile, at, measured[len(measured)-1])
	return at
}

// A second interface comes, the call moves to it, then the first goes away: no packet is lost.
func TestMovesToASecondInterfaceWithoutLoss(t *testing.T) {
	repeat(t, 3, 40, 0.95, func(t *testing.T, seed int) time.Duration {
		n := newNetwork(t, 25*time.Millisecond)
		second := n.host(t, "198.51.100.3")
		p := talking(t, n, Config{RekeyEvery: time.Second})
		time.Sleep(time.Duration(seed*137%1000) * time.Millisecond)
		gauges := []*gauge{watchGap(p.caller), watchGap(p.callee)}
		p.caller.cfg.Net = second
		p.openPath(t, p.caller, p.callee, 25*time.Millisecond)
		eventually(t, 2*time.Second, "both on the new path", func() bool {
			return p.caller.Stats().Path.Generation == 1 && p.callee.Stats().Path.Generation == 1
		})
		time.Sleep(time.Second)
		n.cut("198.51.100.1")
		time.Sleep(8 * time.Second)
		for _, s := range []*Session{p.caller, p.callee} {
			stats := s.Stats()
			if stats.Audio.PacketsLost != 0 || stats.Undecryptable+stats.Replayed+stats.Malformed != 0 {
				t.Errorf("lost %d, undecryptable %d, replayed %d", stats.Audio.PacketsLost, stats.Undecryptable, stats.Replayed)
			}
			if len(s.routes) != 1 || stats.Path.Generation != 1 {
				t.Errorf("%d paths are left, generation %d is used", len(s.routes), stats.Path.Generation)
			}
			if events := p.eventsOf(s); !slices.Contains(events, EventPathChanged) || slices.Contains(events, EventInterrupted) || slices.Contains(events, EventStalled) {
				t.Errorf("events %v", events)
			}
		}
		p.callerSeal.check(t)
		p.calleeSeal.check(t)
		return max(gauges[0].gap(), gauges[1].gap())
	})
}

// The address of one end is replaced by another; it is noticed at once, as netlink tells it.
func TestAddressReplaced(t *testing.T) {
	p95 := repeat(t, 5, 100, 0.95, func(t *testing.T, seed int) time.Duration {
		oneWay := []time.Duration{10, 25, 40}[seed%3] * time.Millisecond
		n := newNetwork(t, oneWay)
		p := talking(t, n, Config{})
		time.Sleep(time.Duration(seed*137%1000) * time.Millisecond)
		mover, other := p.caller, p.callee
		host, old := n.hosts[0].(*vnet.Net), "198.51.100.1"
		if seed%2 == 1 {
			mover, other = p.callee, p.caller
			host, old = n.hosts[1].(*vnet.Net), "198.51.100.2"
		}
		gauges := []*gauge{watchGap(mover), watchGap(other)}
		if err := host.RemoveAddress("eth0", net.ParseIP(old)); err != nil {
			t.Fatal(err)
		}
		n.cut(old)
		if err := host.AddAddress("eth0", &net.IPNet{IP: net.ParseIP("198.51.100.77"), Mask: net.CIDRMask(24, 32)}); err != nil {
			t.Fatal(err)
		}
		p.openPath(t, mover, other, oneWay)
		time.Sleep(3 * time.Second)
		if got := mover.Stats().Path; got.Generation != 1 || got.LocalAddress.Reveal()[:13] != "198.51.100.77" {
			t.Errorf("path %d from %s", got.Generation, got.LocalAddress.Reveal())
		}
		return max(gauges[0].gap(), gauges[1].gap())
	})
	if p95 > 300*time.Millisecond {
		t.Errorf("the gap's 95th percentile is %v", p95)
	}
}

// The network is gone for a while. The same path goes on; attempts at another, which find nothing meanwhile, do no harm.
func TestCuts(t *testing.T) {
	for _, c := range []struct {
		cut     time.Duration
		attempt bool
		survive bool
	}{{5 * time.Second, false, true}, {5 * time.Second, true, true}, {20 * time.Second, false, true}, {20 * time.Second, true, true}, {40 * time.Second, false, false}, {40 * time.Second, true, false}} {
		t.Run(fmt.Sprintf("%v, attempts %v", c.cut, c.attempt), func(t *testing.T) {
			repeat(t, 1, 10, 0.95, func(t *testing.T, seed int) time.Duration { return testCut(t, c.cut, c.attempt, c.survive, seed) })
		})
	}
}

func testCut(t *testing.T, cut time.Duration, attempt, survive bool, seed int) time.Duration {
	n := newNetwork(t, 25*time.Millisecond)
	p := talking(t, n, Config{RekeyEvery: time.Second})
	time.Sleep(time.Duration(seed*137%1000) * time.Millisecond)
	gauges := []*gauge{watchGap(p.caller), watchGap(p.callee)}
	n.filter(func(vnet.Chunk) bool { return true })
	begin := time.Now()
	for attempt && time.Since(begin) < cut-6*time.Second { // as EventStalled asks for; signaling has no network either
		time.Sleep(5 * time.Second)
		if _, _, err := p.caller.OpenPath(p.caller.Generation()+1, nil); err != nil {
			t.Error(err)
		}
	}
	time.Sleep(time.Until(begin.Add(cut)))
	if !survive {
		for _, s := range []*Session{p.caller, p.callee} {
			select {
			case err := <-s.Failed():
				if !errors.Is(err, path.ErrConsentExpired) {
					t.Error(err)
				}
			default:
				t.Error("the session goes on after 40 s")
			}
		}
		gauges[1].gap()
		return gauges[0].gap()
	}
	n.filter(func(vnet.Chunk) bool { return false })
	time.Sleep(5 * time.Second)
	for _, s := range []*Session{p.caller, p.callee} {
		events := p.eventsOf(s)
		if !slices.Contains(events, EventStalled) || cut > 6*time.Second && !slices.Contains(events, EventInterrupted) {
			t.Errorf("events %v", events)
		}
		if stats := s.Stats(); stats.Undecryptable != 0 {
			t.Errorf("%d packets were undecryptable after the cut", stats.Undecryptable)
		}
	}
	gap := max(gauges[0].gap(), gauges[1].gap())
	if gap > cut+2500*time.Millisecond {
		t.Errorf("sound came back after %v", gap)
	}
	return gap - cut
}

// The relay, which is the only way, is killed, and half a second later another process takes its place that knows nothing of the call.
// Both ends notice by the silence and try again, at about the same time.
func TestRelayKilledAndRestarted(t *testing.T) {
	p95 := repeat(t, 5, 100, 0.95, func(t *testing.T, seed int) time.Duration {
		n := newNetwork(t, 25*time.Millisecond)
		relay := n.relay(t)
		p := talking(t, n, Config{RelayOnly: true, Relays: []Relay{relay.address}})
		time.Sleep(time.Duration(seed*137%1000) * time.Millisecond)
		gauges := []*gauge{watchGap(p.caller), watchGap(p.callee)}
		relay.kill()
		killed := time.Now()
		time.Sleep(500 * time.Millisecond)
		relay.start(t)
		var handled [2]int
		for time.Since(killed) < 8*time.Second {
			for i, s := range []*Session{p.caller, p.callee} {
				stalls := 0
				for _, event := range p.eventsOf(s) {
					if event == EventStalled {
						stalls++
					}
				}
				if stalls > handled[i] {
					handled[i] = stalls
					p.openPath(t, s, []*Session{p.callee, p.caller}[i], 25*time.Millisecond)
				}
			}
			time.Sleep(10 * time.Millisecond)
		}
		for i, s := range []*Session{p.caller, p.callee} {
			if got := s.Stats().Path; got.Kind != "relay" || got.Generation == 0 || handled[i] != 1 {
				t.Errorf("path %+v after %d attempts", got, handled[i])
			}
		}
		return max(gauges[0].gap(), gauges[1].gap())
	})
	if p95 > 3*time.Second {
		t.Errorf("the gap's 95th percentile is %v", p95)
	}
}

// In a relay-only call everything that leaves, for the first path and for the next, goes to the relay, and none of it, nor of what is handed
// to signaling, holds the end's own address: as text, as bytes, or hidden as STUN does (RFC 8489 section 14.2).
func TestRelayOnlyPathsTellNoOtherAddress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(t, 5*time.Millisecond)
		relay := n.relay(t)
		own := map[string][]byte{}
		for _, address := range []string{"198.51.100.1", "198.51.100.2"} {
			own[address] = net.ParseIP(address).To4()
		}
		var left [2]atomic.Int64 // datagrams of control, of media
		n.filter(func(c vnet.Chunk) bool {
			from, to := c.SourceAddr().(*net.UDPAddr), c.DestinationAddr().(*net.UDPAddr)
			address := own[from.IP.String()]
			if address == nil {
				return false
			}
			if to.String() != "198.51.100.9:3478" {
				t.Errorf("a datagram went to %v", to)
			}
			b := c.UserData()
			media := b[0] >= 64 && b[0] < 80 && len(b) > 4 && b[4] >= 128 // in ChannelData (RFC 8656 section 12.4): sealed, so any four bytes may be in it
			if media {
				left[1].Add(1)
				return false
			}
			left[0].Add(1)
			cookie := []byte{0x21, 0x12, 0xa4, 0x42}
			hidden := make([]byte, 4)
			for i := range hidden {
				hidden[i] = address[i] ^ cookie[i]
			}
			for _, form := range [][]byte{address, hidden, []byte(from.IP.String())} {
				if bytes.Contains(b, form) {
					t.Errorf("a datagram of %d bytes holds the address %v as %x", len(b), from.IP, form)
				}
			}
			return false
		})
		p := talking(t, n, Config{RelayOnly: true, Relays: []Relay{relay.address}})
		before := [2]int64{left[0].Load(), left[1].Load()}
		p.openPath(t, p.caller, p.callee, 10*time.Millisecond)
		time.Sleep(3 * time.Second)
		for i := range left {
			if before[i] == 0 || left[i].Load() == before[i] {
				t.Errorf("%d, then %d datagrams were looked at", before[i], left[i].Load())
			}
		}
		for _, s := range []*Session{p.caller, p.callee} {
			if got := s.Stats().Path; got.Generation != 1 || got.Kind != "relay" {
				t.Errorf("path %+v", got)
			}
			p.mu.Lock()
			if len(p.candidates[s]) != 2 {
				t.Errorf("candidates %q", p.candidates[s])
			}
			for _, candidate := range p.candidates[s] {
				if strings.Contains(candidate, "198.51.100.1 ") || strings.Contains(candidate, "198.51.100.2 ") || !strings.HasSuffix(candidate, "typ relay raddr 0.0.0.0 rport 9") {
					t.Errorf("candidate %q tells more than the relay's address", candidate)
				}
			}
			p.mu.Unlock()
		}
	})
}

func TestPathsOutOfOrder(t *testing.T) {
	p := newPair(t, Config{Loopback: true}, Config{Loopback: true})
	if _, _, err := p.caller.OpenPath(1, nil); !errors.Is(err, errNotYet) {
		t.Errorf("before Connect: %v", err)
	}
	p.connect(t)
	<-p.caller.Connected()
	for _, generation := range []uint32{0, 1, 1, 7, 3} {
		_, _, err := p.caller.OpenPath(generation, nil)
		if ok := generation == 1 && p.caller.Generation() == 1 && err == nil || generation == 7 && err == nil; !ok && !errors.Is(err, errOld) {
			t.Errorf("generation %d: %v", generation, err)
		}
	}
	if err := p.caller.ConnectPath(3, "abcd", goodDescription().Password); !errors.Is(err, errGeneration) {
		t.Errorf("a path that was not opened: %v", err)
	}
	if err := p.caller.ConnectPath(1, "abcd", goodDescription().Password); !errors.Is(err, errGeneration) {
		t.Errorf("a path that was given up: %v", err)
	}
	if err := p.caller.ConnectPath(7, "a b", ""); !errors.Is(err, errCredentials) {
		t.Errorf("malformed credentials: %v", err)
	}
	if err := p.caller.AddPathCandidate(2, "1 1 udp 2130706431 192.0.2.1 50000 typ host"); !errors.Is(err, errGeneration) {
		t.Errorf("a candidate of no path: %v", err)
	}
	p.caller.Close()
	if _, _, err := p.caller.OpenPath(8, nil); !errors.Is(err, errNotYet) {
		t.Errorf("after Close: %v", err)
	}
}

// A path that was given up says nothing of the connection any more, whatever becomes of it while it is being closed.
func TestAPathThatWasGivenUp(t *testing.T) { synctest.Test(t, testAPathThatWasGivenUp) }

func testAPathThatWasGivenUp(t *testing.T) {
	p := talking(t, newNetwork(t, 5*time.Millisecond), Config{})
	var ear heard
	p.callee.SetSinks(&ear, nil)
	open := func() *route {
		generation := p.caller.Generation() + 1
		if _, _, err := p.caller.OpenPath(generation, nil); err != nil {
			t.Fatal(err)
		}
		return p.caller.route(generation)
	}
	givenUp := open()
	open() // the one before never came to stand
	before := p.eventsOf(p.caller)
	for _, state := range []path.State{path.Connected, path.Interrupted, path.Connected, path.Failed} {
		p.caller.pathState(givenUp, state, errors.New("late"))
		time.Sleep(2 * pathGrace)
	}
	if events := p.eventsOf(p.caller); !slices.Equal(events, before) {
		t.Errorf("events %v, then %v", before, events)
	}
	if p.caller.route(0) == nil {
		t.Fatal("the path in use was closed")
	}
	heardBefore, _ := ear.counts()
	time.Sleep(time.Second)
	if n, _ := ear.counts(); n < heardBefore+45 {
		t.Errorf("%d frames were heard in a second", n-heardBefore)
	}
}
