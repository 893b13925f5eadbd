package media

import (
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/rtp"
	"github.com/pion/stun/v4"
	"github.com/pion/transport/v4/vnet"

	"sotto/media/path"
)

// Ten percent of all datagrams are lost in both directions, connectivity checks, feedback and retransmissions among them.
func TestCallWithTenPercentLoss(t *testing.T) { synctest.Test(t, testCallWithTenPercentLoss) }

func testCallWithTenPercentLoss(t *testing.T) {
	network := newNetwork(t, 20*time.Millisecond)
	network.lose(0.10, 7)
	p := newPair(t, Config{Net: network.hosts[0], Video: true}, Config{Net: network.hosts[1], Video: true})
	p.connect(t)

	const frames = 240
	sources := [2]*pictures{newPictures(frames, 30, 25*time.Millisecond), newPictures(frames, 30, 25*time.Millisecond)}
	var ears [2]heard
	var eyes [2]seen
	for i, s := range []*Session{p.caller, p.callee} {
		s.SetSinks(&ears[1-i], &eyes[1-i])
		if err := s.StartSending(&tone{n: 350}, sources[i]); err != nil {
			t.Fatal(err)
		}
	}
	for i := range eyes {
		eventually(t, 20*time.Second, "the last frame", func() bool {
			received := eyes[i].all()
			return len(received) > 0 && received[len(received)-1].PTS == sources[i].frames[frames-1].PTS
		})
		if same := sources[i].identical(eyes[i].all()); same < frames*98/100 || same != len(eyes[i].all()) {
			t.Errorf("of %d frames %d arrived, %d identical", frames, len(eyes[i].all()), same)
		} else {
			t.Logf("of %d frames %d arrived identical", frames, same)
		}
	}
	for i := range ears {
		eventually(t, 10*time.Second, "sound", func() bool { _, loud := ears[i].counts(); return loud > 250 })
	}
	for _, s := range []*Session{p.caller, p.callee} {
		stats := s.Stats()
		t.Logf("loss %.1f %%, repaired %d of %d, NACKs %d, retransmissions %d; audio: FEC %d, concealed %d", 100*stats.Video.Loss(),
			stats.Video.PacketsRepaired, stats.Video.PacketsLost, stats.Video.NacksSent, stats.Retransmissions, stats.Audio.FramesRepaired, stats.Audio.FramesConcealed)
		if stats.Video.PacketsLost == 0 || stats.Retransmissions == 0 || stats.Audio.PacketsLost == 0 {
			t.Error("nothing was lost: the test shows nothing")
		}
		if stats.Undecryptable != 0 || stats.Malformed != 0 {
			t.Errorf("undecryptable %d, malformed %d", stats.Undecryptable, stats.Malformed)
		}
	}
	p.callerSeal.check(t)
	p.calleeSeal.check(t)
}

// One byte of one key is wrong.
func TestWrongKeyPlaysNothing(t *testing.T) {
	p := newPair(t, Config{Loopback: true, Video: true}, Config{Loopback: true, Video: true})
	p.calleeKeys.ReceiveKey = slices.Clone(p.calleeKeys.ReceiveKey)
	p.calleeKeys.ReceiveKey[31] ^= 1
	p.connect(t)
	var ear heard
	var eye seen
	p.callee.SetSinks(&ear, &eye)
	if err := p.caller.StartSending(&tone{n: 100}, newPictures(50, 10, 10*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "packets refused", func() bool { return p.callee.Stats().Undecryptable > 100 })
	stats := p.callee.Stats()
	frames, _ := ear.counts()
	if frames != 0 || len(eye.all()) != 0 || stats.Audio.PacketsReceived+stats.Video.PacketsReceived != 0 || stats.FirstMediaAfter != 0 {
		t.Errorf("with a wrong key %d frames and %d pictures came through: %+v", frames, len(eye.all()), stats)
	}
	if !slices.Contains(p.eventsOf(p.callee), EventUndecryptable) {
		t.Error("the error was not reported")
	}
	select {
	case <-p.callee.FirstMedia():
		t.Error("an undecryptable packet counts as media")
	default:
	}
}

// recorder keeps what was sealed, and when.
type recorder struct {
	sealer
	mu        sync.Mutex
	datagrams [][]byte
	times     []time.Time
}

func (r *recorder) RTP(header *rtp.Header, payload []byte, now time.Time) ([]byte, error) {
	datagram, err := r.sealer.RTP(header, payload, now)
	r.keep(datagram, now)
	return datagram, err
}

func (r *recorder) RTCP(packet []byte, now time.Time) ([]byte, error) {
	datagram, err := r.sealer.RTCP(packet, now)
	r.keep(datagram, now)
	return datagram, err
}

func (r *recorder) keep(datagram []byte, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.datagrams, r.times = append(r.datagrams, slices.Clone(datagram)), append(r.times, now)
}

// Everything is sent a second time, then with one bit changed, then garbage: nothing of it gets in and nothing ends.
func TestReplaysAndGarbageAreRefused(t *testing.T) {
	p := newPair(t, Config{Loopback: true, Video: true}, Config{Loopback: true, Video: true})
	record := &recorder{}
	p.recorded = record
	p.connect(t)
	var eye seen
	p.callee.SetSinks(nil, &eye)
	source := newPictures(30, 30, 10*time.Millisecond)
	if err := p.caller.StartSending(&tone{n: 60}, source); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the call", func() bool {
		return len(eye.all()) == 30 && p.callee.Stats().Audio.PacketsReceived == 60
	})
	record.mu.Lock()
	datagrams := record.datagrams
	record.mu.Unlock()
	before := p.callee.Stats()
	for i, datagram := range datagrams {
		if err := p.caller.current.Load().path.Write(datagram); err != nil {
			t.Fatal(err)
		}
		altered := slices.Clone(datagram)
		altered[len(altered)-1-(i%16)-1] ^= 1 << (i % 8) // in the tag
		altered[2]++                                     // and not a replay by its number
		p.caller.current.Load().path.Write(altered)
		p.caller.current.Load().path.Write(datagram[:i%len(datagram)])
		time.Sleep(100 * time.Microsecond) // the socket's buffer is finite
	}
	eventually(t, 10*time.Second, "replays counted", func() bool {
		stats := p.callee.Stats()
		return stats.Replayed >= uint64(len(datagrams))*9/10 && stats.Undecryptable > 0
	})
	after := p.callee.Stats()
	if len(eye.all()) != 30 || after.Audio.PacketsReceived != before.Audio.PacketsReceived ||
		after.Video.PacketsReceived != before.Video.PacketsReceived {
		t.Errorf("a replayed packet was taken: before %+v, after %+v", before, after)
	}
}

func TestRelayOnlyTellsNoOtherAddress(t *testing.T) {
	udp, tcp := newRelay(t)
	for name, relay := range map[string]Relay{"UDP": udp, "TCP": tcp} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, Config{RelayOnly: true, Relays: []Relay{relay}, Video: true}, Config{RelayOnly: true, Relays: []Relay{relay}})
			begin := time.Now()
			p.connect(t)
			<-p.caller.Connected()
			<-p.callee.Connected()
			took := time.Since(begin)
			t.Logf("connected after %v", took.Round(time.Millisecond))
			if took > 1900*time.Millisecond { // pion's own waits would take 2 s
				t.Error("too slow")
			}
			var ear heard
			var eye seen
			p.callee.SetSinks(&ear, &eye)
			source := newPictures(30, 30, 10*time.Millisecond)
			if err := p.caller.StartSending(&tone{n: 50}, source); err != nil {
				t.Fatal(err)
			}
			eventually(t, 10*time.Second, "pictures", func() bool { return source.identical(eye.all()) == 30 })
			if got := p.callee.Stats().Path; got.Kind != "relay" || got.LocalType != "relay" {
				t.Errorf("path %+v", got)
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			for _, candidates := range p.candidates {
				if len(candidates) == 0 {
					t.Error("no candidate")
				}
				for _, candidate := range candidates {
					fields := strings.Fields(candidate)
					if fields[7] != "relay" || strings.Join(fields[8:], " ") != "raddr 0.0.0.0 rport 9" {
						t.Errorf("candidate %q tells more than the relay's address", candidate)
					}
				}
			}
		})
	}
}

func TestRelayOnlyWithoutRelay(t *testing.T) {
	if _, err := NewSession(Config{RelayOnly: true}); err == nil {
		t.Error("a session without any way to connect was made")
	}
}

// A peer whose process dies: nothing comes any more, and the session ends by itself.
func TestDeadPeerEndsTheSession(t *testing.T) { synctest.Test(t, testDeadPeerEndsTheSession) }

func testDeadPeerEndsTheSession(t *testing.T) {
	network := newNetwork(t, time.Millisecond)
	cfg := Config{Net: network.hosts[0], InterruptedAfter: 300 * time.Millisecond, FailAfter: 1500 * time.Millisecond}
	p := newPair(t, cfg, Config{Net: network.hosts[1]})
	p.connect(t)
	if err := p.caller.StartSending(&tone{n: 10000}, nil); err != nil {
		t.Fatal(err)
	}
	<-p.callee.FirstMedia()
	<-p.caller.Connected()
	network.filter(func(vnet.Chunk) bool { return true })
	eventually(t, 10*time.Second, "interrupted", func() bool { return slices.Contains(p.eventsOf(p.caller), EventInterrupted) })
	select {
	case err := <-p.caller.Failed():
		if !errors.Is(err, path.ErrConsentExpired) {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the session goes on without a peer")
	}
	if err := p.caller.current.Load().path.Write([]byte{128, 111, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}); !errors.Is(err, path.ErrConsentExpired) {
		t.Errorf("sending goes on without consent: %v", err)
	}
}

// A few seconds without network: the session says so, and goes on when it is back.
func TestInterruptionIsSurvived(t *testing.T) { synctest.Test(t, testInterruptionIsSurvived) }

func testInterruptionIsSurvived(t *testing.T) {
	network := newNetwork(t, time.Millisecond)
	cfg := Config{Net: network.hosts[0], InterruptedAfter: 400 * time.Millisecond}
	p := newPair(t, cfg, Config{Net: network.hosts[1]})
	p.connect(t)
	var ear heard
	p.caller.SetSinks(&ear, nil)
	if err := p.callee.StartSending(&tone{n: 10000}, nil); err != nil {
		t.Fatal(err)
	}
	<-p.caller.FirstMedia()
	<-p.caller.Connected()
	network.filter(func(vnet.Chunk) bool { return true })
	eventually(t, 10*time.Second, "interrupted", func() bool { return slices.Contains(p.eventsOf(p.caller), EventInterrupted) })
	_, before := ear.counts()
	network.lose(0, 0)
	eventually(t, 10*time.Second, "connected again, and sound", func() bool {
		events := p.eventsOf(p.caller)
		_, loud := ear.counts()
		return events[len(events)-1] == EventConnected && loud > before+10
	})
}

// A call goes on for as long as its ends answer each other.
func TestALongCallGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := talking(t, newNetwork(t, 25*time.Millisecond), Config{})
		before := p.callee.Stats().Audio.PacketsReceived
		time.Sleep(3 * time.Minute)
		for _, s := range []*Session{p.caller, p.callee} {
			if events := p.eventsOf(s); len(events) != 2 { // connected, first media
				t.Errorf("events %v", events)
			}
			if stats := s.Stats(); stats.Audio.PacketsReceived < before+8990 || stats.ReceiveEpoch != 3 {
				t.Errorf("%d packets, epoch %d", stats.Audio.PacketsReceived, stats.ReceiveEpoch)
			}
		}
	})
}

// The peer's media arrives, its answers to our checks do not: RFC 7675 wants us to stop, however lively the path looks.
func TestMediaAloneIsNoConsent(t *testing.T) { synctest.Test(t, testMediaAloneIsNoConsent) }

func testMediaAloneIsNoConsent(t *testing.T) {
	network := newNetwork(t, time.Millisecond)
	cfg := Config{Net: network.hosts[0], InterruptedAfter: 500 * time.Millisecond, FailAfter: 3 * time.Second}
	p := newPair(t, cfg, Config{Net: network.hosts[1]})
	p.connect(t)
	if err := p.callee.StartSending(&tone{n: 10000}, nil); err != nil {
		t.Fatal(err)
	}
	<-p.caller.FirstMedia()
	<-p.caller.Connected()
	network.filter(func(c vnet.Chunk) bool {
		m := &stun.Message{Raw: c.UserData()}
		return stun.IsMessage(c.UserData()) && m.Decode() == nil && m.Type.Class == stun.ClassSuccessResponse
	})
	select {
	case <-p.caller.Failed():
	case <-time.After(15 * time.Second):
		t.Fatal("the session goes on without consent")
	}
	if slices.Contains(p.eventsOf(p.caller), EventInterrupted) {
		t.Error("media was not arriving: the test shows nothing")
	}
}

// The instrument of the other tests would see a reuse.
func TestInstrumentSeesReuse(t *testing.T) {
	sealer, _, err := callerTestKeys().contexts(0)
	if err != nil {
		t.Fatal(err)
	}
	again, _, _ := callerTestKeys().contexts(0)
	watch := newNonceWatch(sealer)
	header := &rtp.Header{Version: 2, PayloadType: 96, SequenceNumber: 1, SSRC: 5}
	watch.RTP(header, []byte("one"), time.Now())
	watch.sealer = again // a second context with the same key
	watch.RTP(header, []byte("one"), time.Now())
	if watch.reused != 0 {
		t.Error("the same packet again is no reuse")
	}
	watch.sealer, _, _ = callerTestKeys().contexts(0)
	watch.RTP(header, []byte("two"), time.Now())
	if watch.reused != 1 {
		t.Errorf("%d", watch.reused)
	}
}

func callerTestKeys() Keys {
	caller, _ := testKeys()
	return caller
}
