package media

import (
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sotto/media/opus"
)

// canned stands for the encoder in tests that are not about sound: under the race detector encoding takes most of a test's time.
type canned struct {
	packets [][]byte
	next    int
}

// newCanned repeats a second of a tone.
func newCanned() *canned { return &canned{packets: cannedTone()} }

var cannedTone = sync.OnceValue(func() (packets [][]byte) {
	encoder, err := opus.NewEncoder(opus.Config{})
	if err != nil {
		panic(err)
	}
	source, pcm := &tone{n: 50}, make([]int16, FrameSamples)
	for source.ReadFrame(pcm) == nil {
		packet, err := encoder.Encode(pcm)
		if err != nil {
			panic(err)
		}
		packets = append(packets, slices.Clone(packet))
	}
	return packets
})

func (c *canned) Encode([]int16) ([]byte, error) {
	c.next++
	return c.packets[c.next%len(c.packets)], nil
}

func (c *canned) SetBitrate(int) error { return nil }

// voicePackets are the sealed packets of sound, and when they left.
func (r *recorder) voicePackets() (sizes map[int]int, left []time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	sizes = map[int]int{}
	for i, datagram := range r.datagrams {
		if datagram[1]&0x7f == opusPayloadType {
			sizes[len(datagram)]++
			left = append(left, r.times[i])
		}
	}
	return sizes, left
}

// recorded is a call on a simulated network whose caller's packets are recorded.
func recorded(t *testing.T, cfg Config) (*pair, *recorder) {
	t.Helper()
	n := newNetwork(t, 5*time.Millisecond)
	callerConfig, calleeConfig := cfg, cfg
	callerConfig.Net, calleeConfig.Net = n.hosts[0], n.hosts[1]
	p := newPair(t, callerConfig, calleeConfig)
	record := &recorder{}
	p.recorded = record
	p.connect(t)
	return p, record
}

// speech is a source whose loudness and pitch change all the time, with pauses, as those of a voice do.
type speech struct{ sample int }

func (s *speech) ReadFrame(pcm []int16) error {
	clear(pcm)
	for i := range pcm {
		s.sample++
		if syllable := s.sample / 9600; syllable%4 != 3 {
			pcm[i] = int16((s.sample*(40+13*(syllable%7)))%(2000+3000*(syllable%3)) - 1000)
		}
	}
	return nil
}

// Every packet of sound has one size and leaves 20 ms after the one before, whether somebody speaks, is silent or muted, in the first
// second of a call and later; in low-data mode it is another one size. With VariableRate the sizes differ: the test would see it.
func TestPacketsOfOneSize(t *testing.T) { synctest.Test(t, testPacketsOfOneSize) }

func testPacketsOfOneSize(t *testing.T) {
	p, record := recorded(t, Config{})
	if err := p.caller.StartSending(&speech{}, nil); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	p.caller.SetMuted(true)
	time.Sleep(time.Second)
	p.caller.SetMuted(false)
	if err := p.caller.SetMicrophone(Silence{}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	sizes, left := record.voicePackets()
	if len(sizes) != 1 || len(left) < 195 {
		t.Errorf("%d packets, by size %v", len(left), sizes)
	}
	for i := 1; i < len(left); i++ {
		if gap := left[i].Sub(left[i-1]); gap != FrameLength {
			t.Errorf("packet %d left %v after the one before", i, gap)
		}
	}
	p.caller.SetLowData(true)
	time.Sleep(time.Second)
	low, _ := record.voicePackets()
	if len(low) != 2 {
		t.Errorf("sizes in low-data mode: %v", low)
	}
}

func TestVariableRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, record := recorded(t, Config{VariableRate: true})
		if err := p.caller.StartSending(&speech{}, nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second)
		if sizes, _ := record.voicePackets(); len(sizes) < 10 {
			t.Errorf("sizes %v", sizes)
		}
	})
}

// While muted nothing of the microphone is heard; before and after it is.
func TestMute(t *testing.T) { synctest.Test(t, testMute) }

func testMute(t *testing.T) {
	p, _ := recorded(t, Config{})
	var ear heard
	p.callee.SetSinks(&ear, nil)
	if err := p.caller.StartSending(&tone{n: 1000}, nil); err != nil {
		t.Fatal(err)
	}
	loudIn := func(d time.Duration) int {
		_, before := ear.counts()
		time.Sleep(d)
		_, after := ear.counts()
		return after - before
	}
	time.Sleep(time.Second)
	if n := loudIn(time.Second); n < 45 {
		t.Errorf("%d loud frames before", n)
	}
	p.caller.SetMuted(true)
	time.Sleep(200 * time.Millisecond) // what was under way, and its echo in the decoder
	if n := loudIn(time.Second); n != 0 {
		t.Errorf("%d loud frames while muted", n)
	}
	p.caller.SetMuted(false)
	time.Sleep(200 * time.Millisecond)
	if n := loudIn(time.Second); n < 40 {
		t.Errorf("%d loud frames after", n)
	}
}

// While one end holds the call no media leaves it and none is played there; afterwards sound and pictures go on, with a key frame.
func TestHold(t *testing.T) { synctest.Test(t, testHold) }

func testHold(t *testing.T) {
	p, record := recorded(t, Config{Video: true})
	var ears [2]heard
	var eyes [2]seen
	for i, s := range []*Session{p.caller, p.callee} {
		s.microphone.encoder = newCanned()
		s.SetSinks(&ears[i], &eyes[i])
		if err := s.StartSending(&tone{n: 1 << 30}, newPictures(400, 20, 50*time.Millisecond)); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(2 * time.Second)
	p.caller.SetHeld(true)
	time.Sleep(100 * time.Millisecond)
	before := p.caller.Stats()
	heardBefore, _ := ears[0].counts()
	seenBefore := len(eyes[0].all())
	time.Sleep(40 * time.Second) // longer than any consent lasts
	after := p.caller.Stats()
	heardAfter, _ := ears[0].counts()
	if after.Audio.PacketsSent != before.Audio.PacketsSent || after.Video.PacketsSent != before.Video.PacketsSent {
		t.Error("media left while the call was held")
	}
	if heardAfter != heardBefore || len(eyes[0].all()) != seenBefore {
		t.Error("media was played while the call was held")
	}
	if after.BytesSent == before.BytesSent {
		t.Error("no reports left")
	}
	for _, s := range []*Session{p.caller, p.callee} {
		if events := p.eventsOf(s); slices.Contains(events, EventInterrupted) || slices.Contains(events, EventStalled) || slices.Contains(events, EventFailed) {
			t.Errorf("events %v", events)
		}
	}
	record.mu.Lock()
	record.datagrams, record.times = nil, nil
	record.mu.Unlock()
	shown := len(eyes[1].all())
	if err := p.caller.SetCamera(newPictures(200, 20, 50*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	p.caller.SetHeld(false)
	time.Sleep(2 * time.Second)
	if now := p.caller.Stats(); now.Audio.PacketsSent < after.Audio.PacketsSent+95 {
		t.Errorf("%d packets of sound in 2 s after the hold", now.Audio.PacketsSent-after.Audio.PacketsSent)
	}
	if n, _ := ears[0].counts(); n < heardAfter+80 {
		t.Errorf("%d frames were heard after the hold", n-heardAfter)
	}
	if all := eyes[1].all(); len(all) < shown+20 || !all[shown].Key {
		t.Errorf("%d pictures were seen after the hold", len(all)-shown)
	}
	if stats := p.callee.Stats(); stats.Video.FramesLost != 0 || stats.Audio.PacketsLost != 0 {
		t.Errorf("lost: %d pictures, %d packets of sound", stats.Video.FramesLost, stats.Audio.PacketsLost)
	}
}

// blocking is a device that yields a frame when it is handed one, and ends when it is closed.
type blocking struct {
	frames chan struct{}
	closed chan struct{}
	once   sync.Once
}

func newBlocking() *blocking {
	return &blocking{frames: make(chan struct{}), closed: make(chan struct{})}
}

func (b *blocking) ReadFrame(pcm []int16) error {
	select {
	case <-b.frames:
		clear(pcm)
		return nil
	case <-b.closed:
		return io.ErrClosedPipe
	}
}

func (b *blocking) Close() error {
	b.once.Do(func() { close(b.closed) })
	return nil
}

// The microphone is exchanged while the old one blocks: it is closed, and the packets go on as if nothing were.
func TestMicrophoneIsExchanged(t *testing.T) { synctest.Test(t, testMicrophoneIsExchanged) }

func testMicrophoneIsExchanged(t *testing.T) {
	p, record := recorded(t, Config{})
	p.caller.microphone.encoder = newCanned()
	if err := p.caller.SetMicrophone(&tone{n: 1}); err == nil {
		t.Error("sending before StartSending")
	}
	old := newBlocking()
	if err := p.caller.StartSending(old, nil); err != nil {
		t.Fatal(err)
	}
	for range 50 {
		time.Sleep(FrameLength)
		old.frames <- struct{}{}
	}
	time.Sleep(FrameLength)
	if err := p.caller.SetMicrophone(&tone{n: 1 << 30}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	select {
	case <-old.closed:
	default:
		t.Error("the old microphone is open")
	}
	_, left := record.voicePackets()
	for i := 1; i < len(left); i++ {
		if gap := left[i].Sub(left[i-1]); gap > 2*FrameLength {
			t.Errorf("a gap of %v at packet %d of %d", gap, i, len(left))
		}
	}
	if len(left) < 98 {
		t.Errorf("%d packets", len(left))
	}
	if err := p.caller.SetMicrophone(nil); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	_, before := record.voicePackets()
	time.Sleep(time.Second)
	if _, after := record.voicePackets(); len(after) != len(before) {
		t.Error("sound without a microphone")
	}
	if err := p.caller.SetMicrophone(&tone{n: 1 << 30}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	if _, after := record.voicePackets(); len(after) < len(before)+45 {
		t.Error("no sound from the third microphone")
	}
	last := newBlocking()
	if err := p.caller.SetMicrophone(last); err != nil {
		t.Fatal(err)
	}
	p.caller.Close()
	select {
	case <-last.closed:
	default:
		t.Error("the microphone is open after Close")
	}
	if err := p.caller.SetMicrophone(newBlocking()); err == nil {
		t.Error("a microphone after Close")
	}
}

// The camera goes off and on, and a screen is shown beside it: each stream arrives whole, in its own sink.
func TestCameraAndScreen(t *testing.T) { synctest.Test(t, testCameraAndScreen) }

func testCameraAndScreen(t *testing.T) {
	p, _ := recorded(t, Config{Video: true, Screen: true})
	if n := len(p.caller.Local().Streams); n != 3 {
		t.Fatalf("%d streams are announced", n)
	}
	var camera, screen seen
	p.callee.SetSinks(nil, &camera)
	p.callee.SetScreenSink(&screen)
	first, shared, second := newPictures(1000, 20, 50*time.Millisecond), newPictures(60, 20, 50*time.Millisecond), newPictures(60, 20, 50*time.Millisecond)
	if err := p.caller.StartSending(nil, first); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	if err := p.caller.SetScreen(shared); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Second)
	if err := p.caller.SetCamera(nil); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	off := len(camera.all())
	time.Sleep(2500 * time.Millisecond)
	if len(camera.all()) != off || off < 55 {
		t.Errorf("%d pictures, then %d with the camera off", off, len(camera.all())-off)
	}
	if err := p.caller.SetCamera(second); err != nil {
		t.Fatal(err)
	}
	time.Sleep(4 * time.Second)
	if same := shared.identical(shiftBack(screen.all())); same != 60 {
		t.Errorf("%d of 60 pictures of the screen", same)
	}
	again := camera.all()[off:]
	if same := second.identical(shiftBack(again)); same != 60 || again[0].PTS < 5*time.Second {
		t.Errorf("%d of 60 pictures of the second camera, from %v on", same, again[0].PTS)
	}
	if stats := p.callee.Stats(); stats.Video.FramesLost+stats.Screen.FramesLost != 0 || stats.Screen.FramesReceived != 60 {
		t.Errorf("%+v, %+v", stats.Video, stats.Screen)
	}
}

// shiftBack gives frames the presentation times of their source.
func shiftBack(frames []VideoFrame) []VideoFrame {
	frames = slices.Clone(frames)
	for i := len(frames) - 1; i >= 0; i-- {
		frames[i].PTS -= frames[0].PTS
	}
	return frames
}

// In low-data mode the link carries at most 300 kb/s, IP and UDP included, over any few seconds; what is dropped is counted, and what
// arrives can be decoded. A source that can be asked is told a rate that fits.
func TestLowData(t *testing.T) { synctest.Test(t, testLowData) }

func testLowData(t *testing.T) {
	p, record := recorded(t, Config{Video: true})
	p.caller.microphone.encoder = newCanned()
	var eye seen
	p.callee.SetSinks(nil, &eye)
	source := newPictures(1500, 30, 33*time.Millisecond) // about 700 kb/s
	asked := &asked{pictures: source}
	if err := p.caller.StartSending(&tone{n: 1 << 30}, asked); err != nil {
		t.Fatal(err)
	}
	time.Sleep(3 * time.Second)
	p.caller.SetLowData(true)
	begin := time.Now()
	time.Sleep(20 * time.Second)
	rate := record.rate(begin.Add(2*time.Second), begin.Add(20*time.Second))
	t.Logf("%d kb/s", rate/1000)
	if rate > 300_000 || rate < 200_000 {
		t.Errorf("%d bits a second", rate)
	}
	stats := p.caller.Stats()
	if stats.Video.FramesDropped == 0 || p.callee.Stats().Video.FramesLost != 0 {
		t.Errorf("dropped %d, lost %d", stats.Video.FramesDropped, p.callee.Stats().Video.FramesLost)
	}
	// A frame that was not sent is followed by a key frame.
	all := eye.all()
	for i := 1; i < len(all); i++ {
		if all[i].PTS-all[i-1].PTS > 40*time.Millisecond && !all[i].Key {
			t.Errorf("after a gap at %v comes a frame that cannot be decoded", all[i-1].PTS)
		}
	}
	p.caller.SetLowData(false)
	if !slices.Equal(asked.bitrates(), []int{0, lowDataVideo, 0}) {
		t.Errorf("the source was asked for %v", asked.bitrates())
	}
	begin = time.Now()
	time.Sleep(5 * time.Second)
	if rate := record.rate(begin, time.Now()); rate < 400_000 {
		t.Errorf("%d bits a second afterwards", rate)
	}
}

// rate is what left between two moments, in bits a second with IP and UDP headers.
func (r *recorder) rate(from, to time.Time) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	sum := 0
	for i, datagram := range r.datagrams {
		if !r.times[i].Before(from) && r.times[i].Before(to) {
			sum += len(datagram) + 28
		}
	}
	return int(float64(sum) * 8 / to.Sub(from).Seconds())
}

// asked is a source that can be asked for a bit rate.
type asked struct {
	*pictures
	mu  sync.Mutex
	got []int
}

func (a *asked) SetBitrate(bitrate int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.got = append(a.got, bitrate)
}

func (a *asked) bitrates() []int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.got)
}
