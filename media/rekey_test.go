package media

import (
	"errors"
	"flag"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pion/stun/v4"
	"github.com/pion/transport/v4/vnet"

	"sotto/media/path"
)

// long makes the tests that repeat something repeat it as often as the figures in docs/benchmarks.md say.
var long = flag.Bool("long", false, "run long forms of tests: a minute of rekeying, many repeated network changes, 1,000 sessions")

// Both ends change their key every second while the network loses 5 %. Every datagram that arrives opens, so none is lost to rekeying.
func TestRekeyEverySecondWithLoss(t *testing.T) { synctest.Test(t, testRekeyEverySecondWithLoss) }

func testRekeyEverySecondWithLoss(t *testing.T) {
	seconds := 12
	if *long {
		seconds = 61
	}
	network := newNetwork(t, 20*time.Millisecond)
	cfg := Config{RekeyEvery: time.Second, Video: true}
	callerConfig, calleeConfig := cfg, cfg
	callerConfig.Net, calleeConfig.Net = network.hosts[0], network.hosts[1]
	dropped := network.loseMedia(0.05, 11)
	p := newPair(t, callerConfig, calleeConfig)
	p.connect(t)
	sources := [2]*pictures{newPictures(seconds*20, 20, 50*time.Millisecond), newPictures(seconds*20, 20, 50*time.Millisecond)}
	var eyes [2]seen
	for i, s := range []*Session{p.caller, p.callee} {
		s.microphone.encoder = newCanned()
		s.SetSinks(nil, &eyes[1-i])
		if err := s.StartSending(&tone{n: seconds * 50}, sources[i]); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(time.Duration(seconds)*time.Second + 2*time.Second)
	for _, s := range []*Session{p.caller, p.callee} {
		s.sending.Store(false) // so that both have counted all that was sent
	}
	time.Sleep(time.Second)
	for i, s := range []*Session{p.caller, p.callee} {
		stats, sent := s.Stats(), []*Session{p.callee, p.caller}[i].Stats()
		t.Logf("%d epochs, %d datagrams lost on the way, pictures %d of %d", stats.ReceiveEpoch,
			dropped.packets[1-i].Load(), stats.Video.FramesReceived, seconds*20)
		if stats.ReceiveEpoch != sent.SendEpoch || int(stats.ReceiveEpoch) < seconds-1 {
			t.Errorf("%d epochs heard, %d begun", stats.ReceiveEpoch, sent.SendEpoch)
		}
		if stats.Undecryptable+stats.Replayed+stats.Malformed != 0 {
			t.Errorf("undecryptable %d, replayed %d, malformed %d", stats.Undecryptable, stats.Replayed, stats.Malformed)
		}
		if arrived := sent.BytesSent - dropped.bytes[1-i].Load(); stats.BytesReceived != arrived || dropped.bytes[1-i].Load() == 0 {
			t.Errorf("%d bytes arrived, %d were opened", arrived, stats.BytesReceived)
		}
		if same := sources[1-i].identical(eyes[1-i].all()); same != seconds*20 {
			t.Errorf("%d of %d pictures arrived", same, seconds*20)
		}
	}
	for _, watch := range []*nonceWatch{p.callerSeal, p.calleeSeal} {
		watch.check(t)
		if int(watch.epochs) < seconds-1 {
			t.Errorf("the instrument saw %d changes of the key", watch.epochs)
		}
	}
}

// The peer goes over to a key that was not agreed: it is told, once, and nothing of it is played.
func TestPeerChangesItsKey(t *testing.T) { synctest.Test(t, testPeerChangesItsKey) }

func testPeerChangesItsKey(t *testing.T) {
	network := newNetwork(t, 5*time.Millisecond)
	p := newPair(t, Config{Net: network.hosts[0], RekeyEvery: time.Second}, Config{Net: network.hosts[1], RekeyEvery: time.Second})
	good, evil := p.callerKeys.NextSend, keyChain(9)
	epoch := 0
	p.callerKeys.NextSend = func() (key, salt []byte, err error) {
		if epoch++; epoch == 3 {
			return evil()
		}
		return good()
	}
	p.connect(t)
	var ear heard
	p.callee.SetSinks(&ear, nil)
	if err := p.caller.StartSending(&tone{n: 400}, nil); err != nil {
		t.Fatal(err)
	}
	<-p.callee.FirstMedia()
	time.Sleep(2900 * time.Millisecond)
	if events := p.eventsOf(p.callee); slices.Contains(events, EventUndecryptable) || slices.Contains(events, EventPeerKeyChanged) {
		t.Errorf("events before the change: %v", events)
	}
	time.Sleep(1500 * time.Millisecond)
	_, before := ear.counts()
	time.Sleep(2 * time.Second)
	if _, loud := ear.counts(); loud != before {
		t.Error("something was heard under a wrong key")
	}
	events := slices.DeleteFunc(p.eventsOf(p.callee), func(e Event) bool { return e != EventUndecryptable && e != EventPeerKeyChanged })
	if !slices.Equal(events, []Event{EventUndecryptable, EventPeerKeyChanged}) {
		t.Errorf("events %v", events)
	}
	if stats := p.callee.Stats(); stats.ReceiveEpoch != 2 || stats.Undecryptable < 100 {
		t.Errorf("epoch %d, undecryptable %d", stats.ReceiveEpoch, stats.Undecryptable)
	}
}

// A peer that is heard again is told, too.
func TestPeerIsHeardAgain(t *testing.T) { synctest.Test(t, testPeerIsHeardAgain) }

func testPeerIsHeardAgain(t *testing.T) {
	network := newNetwork(t, 5*time.Millisecond)
	p := newPair(t, Config{Net: network.hosts[0], RekeyEvery: 4 * time.Second}, Config{Net: network.hosts[1]})
	good, evil, n := p.callerKeys.NextSend, keyChain(9), 0
	p.callerKeys.NextSend = func() (key, salt []byte, err error) {
		n++
		key, salt, err = good()
		if n == 2 {
			return evil()
		}
		return key, salt, err
	}
	p.connect(t)
	if err := p.caller.StartSending(&tone{n: 700}, nil); err != nil {
		t.Fatal(err)
	}
	time.Sleep(13 * time.Second)
	if want := []Event{EventFirstMedia, EventUndecryptable, EventPeerKeyChanged, EventFirstMedia}; !slices.Equal(p.mediaEvents(p.callee), want) {
		t.Errorf("events %v", p.mediaEvents(p.callee))
	}
}

// Somebody on the way changes a bit of each packet of media and lets reports pass: it is told, once, and again when it is over.
func TestEveryPacketIsChanged(t *testing.T) { synctest.Test(t, testEveryPacketIsChanged) }

func testEveryPacketIsChanged(t *testing.T) {
	network := newNetwork(t, 5*time.Millisecond)
	p := newPair(t, Config{Net: network.hosts[0]}, Config{Net: network.hosts[1]})
	p.connect(t)
	if err := p.caller.StartSending(&tone{n: 1000}, nil); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	network.filter(func(c vnet.Chunk) bool {
		if b := c.UserData(); b[0]&0xc0 == 0x80 && (b[1] < 192 || b[1] > 223) { // RFC 5761 section 4
			b[len(b)/2] ^= 1
		}
		return false
	})
	time.Sleep(5 * time.Second)
	network.filter(func(vnet.Chunk) bool { return false })
	time.Sleep(time.Second)
	if want := []Event{EventFirstMedia, EventUndecryptable, EventPeerKeyChanged, EventFirstMedia}; !slices.Equal(p.mediaEvents(p.callee), want) {
		t.Errorf("events %v", p.mediaEvents(p.callee))
	}
}

// An end that is silent cannot be made to look deaf by packets of somebody else's.
func TestForgeriesInASilence(t *testing.T) { synctest.Test(t, testForgeriesInASilence) }

func testForgeriesInASilence(t *testing.T) {
	network := newNetwork(t, 5*time.Millisecond)
	p := newPair(t, Config{Net: network.hosts[0]}, Config{Net: network.hosts[1]})
	p.connect(t)
	if err := p.caller.StartSending(&tone{n: 1000}, nil); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	p.caller.SetHeld(true)
	for range 500 {
		time.Sleep(10 * time.Millisecond)
		p.callee.handle(path.RTP, append([]byte{0x80, 111}, make([]byte, 100)...))
	}
	if want := []Event{EventFirstMedia, EventUndecryptable}; !slices.Equal(p.mediaEvents(p.callee), want) {
		t.Errorf("events %v", p.mediaEvents(p.callee))
	}
}

// mediaEvents are those about what can be decrypted.
func (p *pair) mediaEvents(s *Session) []Event {
	return slices.DeleteFunc(p.eventsOf(s), func(e Event) bool {
		return e != EventFirstMedia && e != EventUndecryptable && e != EventPeerKeyChanged
	})
}

// When the call's keys are erased under a session, it sends no more.
func TestNoFurtherKey(t *testing.T) { synctest.Test(t, testNoFurtherKey) }

func testNoFurtherKey(t *testing.T) {
	network := newNetwork(t, 5*time.Millisecond)
	p := newPair(t, Config{Net: network.hosts[0], RekeyEvery: time.Second}, Config{Net: network.hosts[1]})
	p.callerKeys.NextSend = func() (key, salt []byte, err error) { return nil, nil, errors.New("erased") }
	p.connect(t)
	if err := p.caller.StartSending(&tone{n: 200}, nil); err != nil {
		t.Fatal(err)
	}
	<-p.callee.FirstMedia()
	time.Sleep(3 * time.Second)
	if sent := p.caller.Stats().Audio.PacketsSent; sent > 51 {
		t.Errorf("%d packets were sent under one key", sent)
	}
}

// mediaLoss counts what was dropped, by the host that sent it.
type mediaLoss struct{ packets, bytes [2]atomic.Uint64 }

// loseMedia drops a share of the datagrams of media, and lets connectivity checks pass.
func (n *network) loseMedia(share float64, seed uint64) *mediaLoss {
	loss := &mediaLoss{}
	random := seeded(seed)
	n.filter(func(c vnet.Chunk) bool {
		if stun.IsMessage(c.UserData()) || random() >= share {
			return false
		}
		from := 0
		if c.SourceAddr().(*net.UDPAddr).IP.String() == "198.51.100.2" {
			from = 1
		}
		loss.packets[from].Add(1)
		loss.bytes[from].Add(uint64(len(c.UserData())))
		return true
	})
	return loss
}
