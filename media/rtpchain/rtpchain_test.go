package rtpchain

import (
	"bytes"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/interceptor"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var video = Stream{SSRC: 10, PayloadType: 96, ClockRate: 90000, RTXSSRC: 11, RTXPayloadType: 97}

func TestTracker(t *testing.T) {
	start := time.Unix(1000, 0)
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	receive := func(tr *tracker, ms int, sequences ...uint16) {
		for _, s := range sequences {
			tr.received(s, at(ms))
		}
	}
	due := func(t *testing.T, tr *tracker, ms int, want ...uint16) {
		t.Helper()
		if got := tr.due(at(ms), 50*time.Millisecond); !slices.Equal(got, want) {
			t.Errorf("at %d ms asked for %v, not %v", ms, got, want)
		}
	}
	t.Run("a gap is asked for after the tolerance, again after a round trip, and given up", func(t *testing.T) {
		var tr tracker
		receive(&tr, 0, 1, 2, 5)
		due(t, &tr, 5)
		due(t, &tr, 10, 3, 4)
		due(t, &tr, 60)
		due(t, &tr, 80, 3, 4)
		receive(&tr, 90, 3)
		for ms := 150; ms < 1500; ms += 100 {
			due(t, &tr, ms, 4)
		}
		due(t, &tr, 1600)
		due(t, &tr, 1700)
	})
	t.Run("a process that stood still asks all the same", func(t *testing.T) {
		var tr tracker
		receive(&tr, 0, 1, 3)
		for ms := 5000; ms < 5500; ms += 100 {
			due(t, &tr, ms, 2)
		}
		due(t, &tr, 5500)
	})
	t.Run("the first packets were lost", func(t *testing.T) {
		var tr tracker
		receive(&tr, 0, 3)
		due(t, &tr, 10, 1, 2)
	})
	t.Run("the last packets were lost", func(t *testing.T) {
		var tr tracker
		receive(&tr, 0, 1, 2)
		tr.announced(2, at(0))
		due(t, &tr, 10)
		tr.announced(4, at(10))
		due(t, &tr, 20, 3, 4)
		if _, fresh := tr.received(4, at(30)); !fresh {
			t.Error("an announced packet is fresh when it comes")
		}
	})
	t.Run("an announcement of more than can be missing is none", func(t *testing.T) {
		var tr tracker
		receive(&tr, 0, 1, 2)
		for _, count := range []uint32{maxMissing + 2, 1 << 20, 1<<32 - 1} {
			tr.announced(count, at(0))
			due(t, &tr, 10)
		}
		if tr.expected() != 2 {
			t.Errorf("%d packets are expected", tr.expected())
		}
		if extended, fresh := tr.received(3, at(20)); extended != 3 || !fresh {
			t.Errorf("the next packet is number %d, fresh %v", extended, fresh)
		}
	})
	t.Run("a peer that starts elsewhere", func(t *testing.T) {
		var tr tracker
		receive(&tr, 0, 40000)
		tr.announced(1, at(0))
		due(t, &tr, 10)
	})
	t.Run("rollover", func(t *testing.T) {
		var tr tracker
		receive(&tr, 0, 65530, 65535, 2)
		if extended, fresh := tr.received(65534, at(0)); extended != 65534 || !fresh {
			t.Error(extended, fresh)
		}
		if extended, _ := tr.received(3, at(0)); extended != 65536+3 {
			t.Error(extended)
		}
		due(t, &tr, 10, 65531, 65532, 65533, 0, 1)
	})
	t.Run("twice", func(t *testing.T) {
		var tr tracker
		receive(&tr, 0, 1, 2)
		if _, fresh := tr.received(1, at(0)); fresh {
			t.Error("fresh")
		}
	})
	t.Run("a jump is bounded work", func(t *testing.T) {
		var tr tracker
		receive(&tr, 0, 1, 30000, 60000)
		if len(tr.missing) > maxMissing {
			t.Error(len(tr.missing))
		}
	})
}

// The same packet is asked for three times: three retransmissions, three sequence numbers.
func TestRepeatedRequestsGetFreshNumbers(t *testing.T) {
	var count atomic.Uint64
	r := newResponder(&count, func() bool { return true })
	now := time.Unix(1000, 0)
	r.now = func() time.Time { return now }
	var sent []*rtp.Packet
	writer := r.BindLocalStream(video.info(), interceptor.RTPWriterFunc(
		func(h *rtp.Header, payload []byte, _ interceptor.Attributes) (int, error) {
			sent = append(sent, &rtp.Packet{Header: h.Clone(), Payload: bytes.Clone(payload)})
			return len(payload), nil
		}))
	original := &rtp.Header{Version: 2, PayloadType: 96, SequenceNumber: 7, Timestamp: 90, Marker: true, SSRC: 10}
	if err := original.SetExtension(TWCCID, []byte{0, 1}); err != nil {
		t.Fatal(err)
	}
	writer.Write(original, []byte("frame"), nil)

	nack := &rtcp.TransportLayerNack{MediaSSRC: 10, Nacks: []rtcp.NackPair{{PacketID: 7}}}
	for range 3 {
		r.answer(nack)
		r.answer(nack) // too soon
		now = now.Add(resendSpacing)
	}
	r.answer(&rtcp.TransportLayerNack{MediaSSRC: 10, Nacks: []rtcp.NackPair{{PacketID: 8}}})
	// Number 1031 shares the place of number 7 in the history.
	r.answer(&rtcp.TransportLayerNack{
		MediaSSRC: 10, Nacks: []rtcp.NackPair{{PacketID: 7 + historySize}},
	})
	r.answer(&rtcp.TransportLayerNack{MediaSSRC: 99, Nacks: []rtcp.NackPair{{PacketID: 7}}})
	if len(sent) != 4 || count.Load() != 3 {
		t.Fatalf("%d packets sent, %d counted", len(sent), count.Load())
	}
	for i, packet := range sent[1:] {
		if packet.SSRC != 11 || packet.PayloadType != 97 || packet.SequenceNumber != uint16(i+1) || packet.Extension {
			t.Errorf("retransmission %d: %v", i, packet.Header)
		}
		back, err := unwrapRTX(video, packet)
		if err != nil || back.SequenceNumber != 7 || back.SSRC != 10 || back.PayloadType != 96 || !back.Marker ||
			back.Timestamp != 90 || string(back.Payload) != "frame" {
			t.Errorf("unwrapped: %v, %v", back, err)
		}
	}
}

// A peer that asks for everything again and again gets no more than was sent, and a burst; nothing
// if the session says so.
func TestRetransmissionsHaveABudget(t *testing.T) {
	const packets, size = historySize, 1000
	var count atomic.Uint64
	may := true
	r := newResponder(&count, func() bool { return may })
	now := time.Unix(1000, 0)
	r.now = func() time.Time { return now }
	var again int
	writer := r.BindLocalStream(video.info(), interceptor.RTPWriterFunc(
		func(h *rtp.Header, payload []byte, _ interceptor.Attributes) (int, error) {
			if h.SSRC == video.RTXSSRC {
				again += len(payload)
			}
			return len(payload), nil
		}))
	send := func(from, n int) {
		for i := range n {
			h := &rtp.Header{Version: 2, PayloadType: 96, SequenceNumber: uint16(from + i), SSRC: 10}
			if _, err := writer.Write(h, make([]byte, size), nil); err != nil {
				t.Fatal(err)
			}
		}
	}
	ask := func() {
		for first := 1; first < packets; first += 17 {
			r.answer(&rtcp.TransportLayerNack{MediaSSRC: 10, Nacks: []rtcp.NackPair{{PacketID: uint16(first), LostPackets: 0xffff}}})
		}
		now = now.Add(resendSpacing)
	}
	send(1, packets)
	for range 200 {
		ask()
	}
	if again > maxResendSaved*(size+2)/size || again < maxResendSaved/2 {
		t.Errorf("%d bytes were sent again, of which %d were saved up", again, maxResendSaved)
	}
	again = 0
	send(packets+1, 10) // and what is sent pays for as much
	for range 200 {
		ask()
	}
	if again < 9*size || again > 11*size {
		t.Errorf("%d bytes were sent again after %d more", again, 10*size)
	}
	send(packets+11, 10)
	may, again = false, 0
	ask()
	if again != 0 {
		t.Errorf("%d bytes were sent again though nothing may be", again)
	}
}

// What does not belong to a stream that was agreed on is not delivered: neither another payload
// type under its SSRC, nor a retransmission of another type or too short to be one.
func TestOnlyWhatWasAgreedIsDelivered(t *testing.T) {
	c, err := New(Config{
		RoundTrip: func() time.Duration { return time.Millisecond }, OnKeyFrame: func(uint32) {},
		WriteRTP:  func(*rtp.Header, []byte) error { return nil },
		WriteRTCP: func([]byte) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	delivered := 0
	c.AddRemote(video, func(Packet) { delivered++ })
	original := []byte{0, 2, 'x'} // the number of the packet that was lost, and its payload
	for _, p := range []struct {
		name    string
		ssrc    uint32
		kind    uint8
		number  uint16
		payload []byte
		want    int // deliveries
	}{
		{"the first", 10, 96, 1, []byte("x"), 1},
		{"the retransmission's type", 10, 97, 3, []byte("x"), 0},
		{"another type", 10, 0, 3, []byte("x"), 0},
		{"another SSRC", 12, 96, 3, []byte("x"), 0},
		{"the third", 10, 96, 3, []byte("x"), 1},
		{"a retransmission of the media's type", 11, 96, 1, original, 0},
		{"a retransmission of another type", 11, 98, 2, original, 0},
		{"a retransmission of nothing", 11, 97, 3, original[:1], 0},
		{"the second, again", 11, 97, 4, original, 1},
	} {
		header := rtp.Header{
			Version: 2, SSRC: p.ssrc, PayloadType: p.kind, SequenceNumber: p.number,
		}
		b, err := (&rtp.Packet{Header: header, Payload: p.payload}).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		before := delivered
		err = c.HandleRTP(b, time.Unix(1000, 0))
		if (err == nil) != (p.want == 1) || delivered-before != p.want {
			t.Errorf("%s: delivered %d times, %v", p.name, delivered-before, err)
		}
	}
}

// link is two chains with a network between them that loses what drop says.
type link struct {
	mu   sync.Mutex
	drop func(*rtp.Header) bool
	work sync.WaitGroup
	rtp  chan []byte
	rtcp [2]chan []byte
}

func TestLossIsRepaired(t *testing.T) {
	l := &link{rtp: make(chan []byte, 1000), rtcp: [2]chan []byte{make(chan []byte, 1000), make(chan []byte, 1000)}}
	dropped := map[uint16]int{}
	l.drop = func(h *rtp.Header) bool { // every fifth packet, and the first retransmission of each
		if h.SSRC == video.SSRC {
			return h.SequenceNumber%5 == 0 || h.SequenceNumber == 1 || h.SequenceNumber == 100
		}
		dropped[h.SequenceNumber]++
		return h.SequenceNumber <= 21
	}
	var plis atomic.Int32
	config := func(side int) Config {
		return Config{
			RoundTrip:  func() time.Duration { return 10 * time.Millisecond },
			OnKeyFrame: func(uint32) { plis.Add(1) },
			WriteRTCP:  func(b []byte) error { l.rtcp[side] <- bytes.Clone(b); return nil },
			WriteRTP: func(h *rtp.Header, payload []byte) error {
				b, err := (&rtp.Packet{Header: *h, Payload: payload}).Marshal()
				l.mu.Lock()
				defer l.mu.Unlock()
				if !l.drop(h) {
					l.rtp <- b
				}
				return err
			},
		}
	}
	sender, err := New(config(0))
	if err != nil {
		t.Fatal(err)
	}
	receiver, err := New(config(1))
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan uint64, 1000)
	receiver.AddRemote(video, func(p Packet) { got <- p.Sequence })
	stop := make(chan struct{})
	l.work.Go(func() {
		for {
			select {
			case b := <-l.rtp:
				if err := receiver.HandleRTP(b, time.Now()); err != nil {
					t.Error(err)
				}
			case b := <-l.rtcp[0]:
				if err := receiver.HandleRTCP(b, time.Now()); err != nil {
					t.Error(err)
				}
			case <-stop:
				return
			}
		}
	})
	l.work.Go(func() {
		for {
			select {
			case b := <-l.rtcp[1]:
				if err := sender.HandleRTCP(b, time.Now()); err != nil {
					t.Error(err)
				}
			case <-stop:
				return
			}
		}
	})
	out := sender.AddLocal(video)
	for i := range uint32(100) {
		if err := out.Write(i*3000, true, []byte{1, 2, 3}); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[uint64]bool{}
	timeout := time.After(10 * time.Second)
	for len(seen) < 100 { // the very first and the very last packet were lost too
		select {
		case sequence := <-got:
			if seen[sequence] {
				t.Errorf("%d was delivered twice", sequence)
			}
			seen[sequence] = true
		case <-timeout:
			t.Fatalf("%d of 100 packets", len(seen))
		}
	}
	if err := receiver.RequestKeyFrame(video.SSRC); err != nil {
		t.Fatal(err)
	}
	for plis.Load() == 0 {
		select {
		case <-timeout:
			t.Fatal("no PLI")
		case <-time.After(time.Millisecond):
		}
	}
	stats := receiver.Remote(video.SSRC)
	if stats.Packets != 79 || stats.Lost != 21 || stats.Repaired != 21 {
		t.Errorf("%+v", stats)
	}
	l.mu.Lock()
	for sequence, n := range dropped {
		if n != 1 {
			t.Errorf("retransmission number %d was used %d times", sequence, n)
		}
	}
	l.mu.Unlock()
	close(stop)
	l.work.Wait()
	sender.Close()
	receiver.Close()
}

func FuzzUnwrapRTX(f *testing.F) {
	header, payload := wrapRTX(video, 3, &rtp.Header{SequenceNumber: 9}, []byte("payload"))
	b, _ := (&rtp.Packet{Header: *header, Payload: payload}).Marshal()
	f.Add(b)
	f.Add(b[:13])
	f.Fuzz(func(t *testing.T, b []byte) {
		packet := &rtp.Packet{}
		if packet.Unmarshal(b) != nil {
			return
		}
		original, err := unwrapRTX(video, packet)
		if err != nil {
			return
		}
		_, again := wrapRTX(video, packet.SequenceNumber, &original.Header, original.Payload)
		if !bytes.Equal(again, packet.Payload) {
			t.Error("not the packet that was wrapped")
		}
	})
}

// What an authenticated peer sends is well formed or refused; nothing of it panics.
func FuzzHandle(f *testing.F) {
	packet, _ := (&rtp.Packet{Header: rtp.Header{Version: 2, PayloadType: 96, SSRC: 10, SequenceNumber: 1}, Payload: []byte{1}}).Marshal()
	f.Add(packet, true)
	for _, p := range []rtcp.Packet{
		&rtcp.SenderReport{SSRC: 10, PacketCount: 5, Reports: []rtcp.ReceptionReport{{SSRC: 1, LastSenderReport: 1}}},
		&rtcp.TransportLayerNack{MediaSSRC: 10, Nacks: []rtcp.NackPair{{PacketID: 1, LostPackets: 3}}},
		&rtcp.PictureLossIndication{MediaSSRC: 10},
		&rtcp.TransportLayerCC{PacketStatusCount: 0},
	} {
		b, _ := rtcp.Marshal([]rtcp.Packet{p})
		f.Add(b, false)
	}
	f.Fuzz(func(t *testing.T, b []byte, isRTP bool) {
		chain, err := New(Config{
			WriteRTP: func(*rtp.Header, []byte) error { return nil }, WriteRTCP: func([]byte) error { return nil },
			RoundTrip: func() time.Duration { return 0 }, OnKeyFrame: func(uint32) {},
		})
		if err != nil {
			t.Fatal(err)
		}
		defer chain.Close()
		chain.AddLocal(video).Write(0, true, []byte{1})
		chain.AddRemote(video, func(Packet) {})
		if isRTP {
			_ = chain.HandleRTP(b, time.Now())
		} else {
			_ = chain.HandleRTCP(b, time.Now())
		}
	})
}
