package playout

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"sotto/media/opus"
)

// voice returns ten seconds of packets of a buzz that moves like speech without pauses, made once.
var voice = sync.OnceValue(func() [][]byte {
	encoder, err := opus.NewEncoder(opus.Config{})
	if err != nil {
		panic(err)
	}
	var packets [][]byte
	pcm, phase := make([]int16, frameSamples), 0.0
	for n := range 500 {
		for i := range pcm {
			t := float64(n*frameSamples+i) / opus.SampleRate
			phase += 2 * math.Pi * (140 + 40*math.Sin(2*math.Pi*0.7*t)) / opus.SampleRate
			var s float64
			for h := 1.0; h < 15; h++ {
				s += math.Sin(h*phase) / h
			}
			pcm[i] = int16(4000 * (0.6 + 0.4*math.Sin(2*math.Pi*4*t)) * s)
		}
		packet, err := encoder.Encode(pcm)
		if err != nil {
			panic(err)
		}
		packets = append(packets, bytes.Clone(packet))
	}
	return packets
})

func newBuffer(t testing.TB) *Buffer {
	decoder, err := opus.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	return New(decoder)
}

// A network carries packet number n, sent n*20 ms after the start, for so long, or loses it.
type network func(n int) (delay time.Duration, lost bool)

type arrival struct {
	n  int
	at time.Duration
}

// A call sends packets through a network into a buffer and pulls every 20 ms, not in step with the sender.
type call struct {
	frames  int
	network network
	seq     uint16
	ts      uint32
	drift   float64                // of the sender's clock, in parts of one
	pulls   func(i int) bool       // nil: all of them
	each    func(i int, b *Buffer) // after each pull
	heard   func(i int, pcm []int16, ok bool)
}

func (c call) run(t testing.TB) *Buffer {
	t.Helper()
	var arrivals []arrival
	for n := range c.frames {
		if delay, lost := c.network(n); !lost {
			sent := time.Duration(float64(n) * float64(frameTime) * (1 + c.drift))
			arrivals = append(arrivals, arrival{n, sent + delay})
		}
	}
	slices.SortStableFunc(arrivals, func(a, b arrival) int { return int(a.at - b.at) })
	b, pcm, start := newBuffer(t), make([]int16, frameSamples), time.Unix(1e9, 0)
	for i := range c.frames {
		now := time.Duration(i)*frameTime + 7*time.Millisecond
		for len(arrivals) > 0 && arrivals[0].at <= now {
			n := arrivals[0].n
			b.Push(c.seq+uint16(n), c.ts+uint32(n*frameSamples), voice()[n%len(voice())], start.Add(arrivals[0].at))
			arrivals = arrivals[1:]
		}
		if c.pulls == nil || c.pulls(i) {
			ok := b.Pull(pcm, start.Add(now))
			if c.heard != nil {
				c.heard(i, pcm, ok)
			}
			if c.each != nil {
				c.each(i, b)
			}
		}
		check(t, b)
	}
	return b
}

// check holds the buffer to what is always true.
func check(t testing.TB, b *Buffer) {
	t.Helper()
	present := 0
	for i := range b.slots {
		if b.slots[i].present {
			present++
		}
	}
	if present != b.held || len(b.ready) >= 2*frameSamples+longestPeriod || b.bridged > pauseAfter {
		t.Fatalf("%d packets present, %d counted; %d samples ready; %d frames bridged", present, b.held, len(b.ready), b.bridged)
	}
}

func steady(delay time.Duration) network {
	return func(int) (time.Duration, bool) { return delay, false }
}

// TestPerfectNetwork: what is played is what a decoder alone makes of the packets, to the sample, and nearly without delay.
func TestPerfectNetwork(t *testing.T) {
	var heard []int16
	b := call{frames: 300, network: steady(50 * time.Millisecond), heard: func(_ int, pcm []int16, ok bool) {
		if ok {
			heard = append(heard, pcm...)
		}
	}}.run(t)
	decoder, _ := opus.NewDecoder()
	frame := make([]int16, frameSamples)
	for n := range len(heard) / frameSamples {
		decoder.Decode(voice()[n], frame)
		if !slices.Equal(frame, heard[n*frameSamples:][:frameSamples]) {
			t.Fatalf("frame %d is not what was sent", n)
		}
	}
	s := b.Stats()
	if s.Played < 295 || s.Concealed+s.Repaired+s.Late+s.Skipped != 0 || s.Delay < floor || s.Delay >= floor+frameTime {
		t.Errorf("%+v", s)
	}
}

func TestWrap(t *testing.T) {
	b := call{frames: 200, network: steady(0), seq: 0xffff - 50, ts: math.MaxUint32 - 100*frameSamples - 17}.run(t)
	if s := b.Stats(); s.Played < 195 || s.Concealed+s.Late+s.Skipped+s.Repaired != 0 {
		t.Errorf("%+v", s)
	}
}

// TestLoss: of the lost frames that had a copy most are repaired, and none comes out twice.
func TestLoss(t *testing.T) {
	random := rand.New(rand.NewPCG(5, 6))
	lost, copied := 0, 0
	b := call{frames: 1500, network: func(n int) (time.Duration, bool) {
		gone := n > 0 && random.Float64() < 0.1
		if gone {
			lost++
			if opus.HasFEC(voice()[(n+1)%len(voice())]) {
				copied++
			}
		}
		return time.Duration(random.IntN(5)) * time.Millisecond, gone
	}}.run(t)
	s := b.Stats()
	t.Logf("%d lost, %d of them copied: %+v", lost, copied, s)
	if s.Repaired < uint64(copied)*7/10 {
		t.Errorf("%d of %d frames repaired", s.Repaired, copied)
	}
	if s.Played+uint64(lost) < 1490 || s.Late > 0 || s.Concealed > uint64(lost)-s.Repaired+5 {
		t.Errorf("%d lost: %+v", lost, s)
	}
	if s.Target != floor+frameTime {
		t.Errorf("target %v: the repair is not waited for", s.Target)
	}
}

// TestJitter: the target grows to what the network needs, and no further.
func TestJitter(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 8))
	var settled Stats
	b := call{frames: 1500, network: func(n int) (time.Duration, bool) {
		return 30*time.Millisecond + time.Duration(min(random.ExpFloat64()*15, 120)*float64(time.Millisecond)), false
	}, each: func(i int, b *Buffer) {
		if i == 500 {
			settled = b.Stats()
		}
	}}.run(t)
	s := b.Stats()
	t.Logf("%+v", s)
	if s.Target < 40*time.Millisecond || s.Target > 90*time.Millisecond { // the 98th percentile is 59 ms
		t.Errorf("target %v", s.Target)
	}
	if late := s.Late - settled.Late; late > 1000*4/100 {
		t.Errorf("%d of 1000 packets late", late)
	}
	if concealed := s.Concealed - settled.Concealed; concealed > 1000*4/100 {
		t.Errorf("%d of 1000 frames concealed", concealed)
	}
}

// TestStep: the network becomes slower at once, later fast again; sound goes on and the delay returns.
func TestStep(t *testing.T) {
	var up, down Stats
	b := call{frames: 2500, network: func(n int) (time.Duration, bool) {
		if n >= 500 && n < 1000 {
			return 150 * time.Millisecond, false
		}
		return 20 * time.Millisecond, false
	}, each: func(i int, b *Buffer) {
		switch i {
		case 600:
			up = b.Stats()
		case 990:
			down = b.Stats()
		}
	}}.run(t)
	s := b.Stats()
	if up.Concealed > 15 || down.Concealed != up.Concealed || down.Late != up.Late {
		t.Errorf("two seconds after the step: %+v, eight seconds later: %+v", up, down)
	}
	if s.Delay > floor+frameTime+tooSlow || s.Squeezed < 50*time.Millisecond && s.Skipped == 0 {
		t.Errorf("at the end: %+v", s)
	}
}

// TestDrift: the sender's clock is a part in a thousand off, either way, for 80 seconds: 80 ms.
func TestDrift(t *testing.T) {
	for _, drift := range []float64{1e-3, -1e-3} {
		var s Stats
		call{frames: 4000, network: steady(20 * time.Millisecond), drift: drift, each: func(i int, b *Buffer) {
			if i == 3900 {
				s = b.Stats()
			}
		}}.run(t)
		if s.Delay > floor+frameTime+tooSlow || s.Concealed+s.Late+s.Skipped > 0 || s.Stretched+s.Squeezed < 40*time.Millisecond {
			t.Errorf("drift %v: %+v", drift, s)
		}
	}
}

// TestPause: after nothing came for long the buffer is silent, then begins afresh, whether the peer's numbers went on or not.
func TestPause(t *testing.T) {
	for name, pause := range map[string]int{"short": 10, "one second": 60, "two seconds": 100, "a minute": 3000} {
		t.Run(name, func(t *testing.T) {
			var silent, after int
			b := call{frames: 400 + pause, network: func(n int) (time.Duration, bool) {
				return 20 * time.Millisecond, n >= 200 && n < 200+pause
			}, heard: func(i int, _ []int16, ok bool) {
				if i > 10 && !ok {
					silent++
				}
				if i > 200+pause+3 && ok {
					after++
				}
			}}.run(t)
			s := b.Stats()
			if s.Played < 390 || s.Concealed > pauseAfter+5 || after < 190 || s.Late > 0 {
				t.Errorf("%d frames after the pause, %+v", after, s)
			}
			if pause > 60 && silent < pause-pauseAfter-5 {
				t.Errorf("%d silent frames in a pause of %d", silent, pause)
			}
		})
	}
}

// TestClockJump: the numbers go on, the timestamp stands still while the peer was muted, or jumps.
func TestClockJump(t *testing.T) {
	for name, jump := range map[string]uint32{"muted": 0, "on": 1e9, "back": 1 << 31} {
		b, pcm, now := newBuffer(t), make([]int16, frameSamples), time.Unix(1e9, 0)
		for n := range 600 {
			ts := uint32(n * frameSamples)
			if n >= 300 {
				ts += jump
			}
			if n == 300 && jump == 0 {
				for range 20 {
					b.Pull(pcm, now)
					now = now.Add(frameTime)
				}
			}
			b.Push(uint16(n), ts, voice()[n%500], now)
			b.Pull(pcm, now.Add(5*time.Millisecond))
			now = now.Add(frameTime)
			check(t, b)
		}
		if s := b.Stats(); s.Played < 570 || s.Late > 0 {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

// TestNobodyPulls: the buffer holds the newest second, and is in time soon after pulling begins.
func TestNobodyPulls(t *testing.T) {
	b := call{frames: 1000, network: steady(20 * time.Millisecond), pulls: func(i int) bool { return i > 500 }}.run(t)
	if s := b.Stats(); s.Delay > floor+frameTime+tooSlow || s.Played < 480 || s.Concealed > 0 {
		t.Errorf("%+v", s)
	}
}

// However late packets come, or however much a peer says they do, nobody waits for longer than the
// ceiling.
func TestTheDelayHasACeiling(t *testing.T) {
	b, now := newBuffer(t), time.Unix(1e9, 0)
	for n := range 400 {
		late := time.Duration(n%2) * jump * 9 / 10
		at := now.Add(time.Duration(n)*frameTime + late)
		b.Push(uint16(n), uint32(n*frameSamples), voice()[n], at)
		if target := b.Stats().Target; target > ceiling {
			t.Fatalf("after %d packets the target is %v", n+1, target)
		}
	}
	if target := b.Stats().Target; target != ceiling {
		t.Errorf("the target is %v, want the ceiling", target)
	}
}

func TestDuplicatesReorderingAndOthers(t *testing.T) {
	b, now := newBuffer(t), time.Unix(1e9, 0)
	push := func(n int, payload []byte) bool {
		return b.Push(uint16(n), uint32(n*frameSamples), payload, now)
	}
	pcm := make([]int16, frameSamples)
	if b.Pull(pcm, now) {
		t.Error("sound before the first packet")
	}
	v := voice()
	tooLong := append([]byte{1 << 3}, make([]byte, opus.MaxPacket)...) // of 20 ms
	for _, step := range []struct {
		n       int
		payload []byte
		want    bool
	}{
		{10, v[10], true}, {12, v[12], true}, {11, v[11], true}, {11, v[11], false}, {9, v[9], false},
		{13, nil, false}, {13, []byte{3 << 3, 1}, false}, {13, make([]byte, 1276), false},
		{13, tooLong, false}, {13, v[13], true},
	} {
		if got := push(step.n, step.payload); got != step.want {
			t.Errorf("packet %d of %d bytes: taken %v", step.n, len(step.payload), got)
		}
	}
	for i := range 4 {
		b.Pull(pcm, now.Add(floor+time.Duration(i)*frameTime))
	}
	s := b.Stats()
	if s.Played != 4 || s.Duplicate != 1 || s.Late != 1 || s.Refused != 4 || s.Concealed != 0 {
		t.Errorf("%+v", s)
	}
	// A sender that starts over with old numbers is followed after a second.
	for n := range 200 {
		now = now.Add(frameTime)
		b.Push(uint16(60000+n), uint32(n*frameSamples), v[n], now)
		b.Pull(pcm, now)
	}
	if s := b.Stats(); s.Played < 4+140 {
		t.Errorf("the new stream is not played: %+v", s)
	}
}

// TestAnyNetwork draws networks and checks what holds in all of them.
func TestAnyNetwork(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 99))
		loss, jitter, spikes := random.Float64()*0.4, random.Float64()*60, random.Float64()*0.02
		spike := 0
		b := call{frames: 300, seq: uint16(random.Uint32()), ts: random.Uint32(), network: func(n int) (time.Duration, bool) {
			if spike--; spike < 0 && random.Float64() < spikes {
				spike = random.IntN(20)
			}
			delay := time.Duration(random.Float64()*jitter*float64(time.Millisecond)) + 10*time.Millisecond
			if spike > 0 {
				delay += time.Duration(spike) * frameTime
			}
			return delay, n > 0 && random.Float64() < loss
		}}.run(t)
		s := b.Stats()
		if s.Played < 60 || s.Target < floor || s.Target > ceiling || s.Delay > ceiling+farTooSlow+2*frameTime {
			t.Errorf("seed %d: %+v", seed, s)
		}
	}
}

// FuzzPush gives the buffer packets of a peer that holds the keys and means ill.
func FuzzPush(f *testing.F) {
	f.Add([]byte{0, 1, 0, 0, 3, 192, 1, 20, 0, 2, 0, 0, 7, 128, 2, 20})
	f.Add([]byte{255, 255, 255, 255, 255, 255, 1, 0, 0, 0, 0, 0, 0, 0, 3, 255, 128, 0, 128, 0, 0, 0, 200, 40})
	f.Fuzz(func(t *testing.T, script []byte) {
		b, pcm, now := newBuffer(t), make([]int16, frameSamples), time.Unix(1e9, 0)
		for ; len(script) >= 8; script = script[8:] {
			payload := voice()[script[6]]
			switch script[6] {
			case 200:
				payload = script[:8]
			case 201:
				payload = append([]byte{15 << 3}, script...)
			}
			b.Push(binary.BigEndian.Uint16(script), binary.BigEndian.Uint32(script[2:]), payload, now)
			for range script[7] & 3 {
				b.Pull(pcm, now)
			}
			now = now.Add(time.Duration(script[7]) * time.Millisecond)
			check(t, b)
		}
	})
}

func BenchmarkPushPull(b *testing.B) {
	buffer, pcm, now := newBuffer(b), make([]int16, frameSamples), time.Unix(1e9, 0)
	for n := 0; b.Loop(); n++ {
		buffer.Push(uint16(n), uint32(n*frameSamples), voice()[n%500], now)
		buffer.Pull(pcm, now)
		now = now.Add(frameTime)
	}
	b.ReportMetric(0.02*float64(b.N)/b.Elapsed().Seconds(), "x-real-time")
}

// Nothing is made up during a hold, and what was made up while its news were on the way does not
// count as concealed.
func TestHold(t *testing.T) {
	b, pcm, start := newBuffer(t), make([]int16, frameSamples), time.Unix(1000, 0)
	now := start
	for n := range 100 {
		now = start.Add(time.Duration(n) * frameTime)
		b.Push(uint16(n), uint32(n*frameSamples), voice()[n], now)
		b.Pull(pcm, now)
	}
	before := b.Stats().Concealed
	pull := func(frames int) (heard int) {
		for range frames {
			now = now.Add(frameTime)
			if b.Pull(pcm, now) {
				heard++
			}
		}
		return heard
	}
	pull(12)
	if b.Stats().Concealed == before {
		t.Fatal("nothing is made up for what is missing: the test would prove nothing")
	}
	b.Pause()
	if made := b.Stats().Concealed - before; made != 0 {
		t.Errorf("%d frames count that were made up before the hold was known", made)
	}
	if heard := pull(100); heard > 1 || b.Stats().Concealed != before {
		t.Errorf("in the hold %d frames were made up, and %d heard", b.Stats().Concealed-before, heard)
	}
	resumed := now
	for n := range 50 {
		now = resumed.Add(time.Duration(n) * frameTime)
		b.Push(uint16(100+n), uint32((212+n)*frameSamples), voice()[100+n], now)
		b.Pull(pcm, now)
	}
	if stats := b.Stats(); stats.Played < 140 || stats.Concealed > before+2 {
		t.Errorf("after the hold: %+v", stats)
	}
}
