package media

import (
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/rtcp"
)

// camera yields what it is given, as an encoder does that runs now.
type camera struct {
	frames chan VideoFrame
	asked  atomic.Int32
	closed chan struct{}
	once   sync.Once
}

func newCamera() *camera {
	return &camera{frames: make(chan VideoFrame, 100), closed: make(chan struct{})}
}

func (c *camera) ReadFrame() (VideoFrame, error) {
	select {
	case f := <-c.frames:
		return f, nil
	case <-c.closed:
		return VideoFrame{}, io.EOF
	}
}

func (c *camera) RequestKeyFrame() { c.asked.Add(1) }
func (c *camera) Close() error     { c.once.Do(func() { close(c.closed) }); return nil }

// arrivals notes when each frame came, by its presentation time.
type arrivals struct {
	mu sync.Mutex
	at map[time.Duration]time.Time
}

func (a *arrivals) WriteFrame(f VideoFrame) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at[f.PTS] = time.Now()
	return nil
}

func (a *arrivals) of(pts time.Duration) (time.Time, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for at, when := range a.at {
		if d := at - pts; d.Abs() < time.Millisecond { // RTP counts in 1/90,000 s
			return when, true
		}
	}
	return time.Time{}, false
}

func filming(t *testing.T) (*pair, *camera, *arrivals) {
	c := Config{Video: true, Loopback: true}
	p := newPair(t, c, c)
	p.connect(t)
	source, sink := newCamera(), &arrivals{at: map[time.Duration]time.Time{}}
	p.callee.SetSinks(nil, sink)
	if err := p.callee.StartSending(nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := p.caller.StartSending(nil, source); err != nil {
		t.Fatal(err)
	}
	return p, source, sink
}

func picture(pts time.Duration, key bool) VideoFrame {
	data := make([]byte, 1000)
	if !key {
		data[0] = 1
	}
	return VideoFrame{Data: data, PTS: pts, Key: key}
}

// A camera that stood still for a moment is on time again when it goes on: the pause does not stay
// as delay.
func TestAHiccupOfACameraPasses(t *testing.T) {
	_, source, sink := filming(t)
	const pause = 600 * time.Millisecond
	begin := time.Now()
	sent := map[time.Duration]time.Time{}
	for i := range 60 {
		pts := time.Duration(i) * 33 * time.Millisecond
		time.Sleep(time.Until(begin.Add(pts)))
		if i == 20 {
			time.Sleep(pause)
		}
		sent[pts] = time.Now()
		source.frames <- picture(pts, i == 0)
	}
	var delays []time.Duration
	for i := 50; i < 60; i++ {
		pts := time.Duration(i) * 33 * time.Millisecond
		eventually(t, 10*time.Second, "the last frames arrive", func() bool { _, ok := sink.of(pts); return ok })
		at, _ := sink.of(pts)
		delays = append(delays, at.Sub(sent[pts]))
	}
	slices.Sort(delays)
	if median := delays[len(delays)/2]; median > pause/3 {
		t.Errorf("frames arrive %v after they were taken", median)
	}
}

// A shared screen that stands still has no frame to yield, and is asked for a key frame all the
// same; however often the peer asks, not more than twice a second.
func TestAStillSourceIsAskedForAKeyFrame(t *testing.T) {
	p, source, sink := filming(t)
	source.frames <- picture(0, true)
	eventually(t, 10*time.Second, "the first picture arrives", func() bool { _, ok := sink.of(0); return ok })
	video, _ := Description{Streams: p.caller.local}.stream(Video)
	pli, err := rtcp.Marshal([]rtcp.Packet{&rtcp.PictureLossIndication{SenderSSRC: 1, MediaSSRC: video.SSRC}})
	if err != nil {
		t.Fatal(err)
	}
	before, began := source.asked.Load(), time.Now()
	for range 1000 {
		if err := p.callee.writeRTCP(pli); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 10*time.Second, "it is asked twice", func() bool { return source.asked.Load()-before >= 2 })
	if n, most := source.asked.Load()-before, int32(time.Since(began)/keyFrameSpacing)+2; n > most {
		t.Errorf("asked %d times in %v", n, time.Since(began))
	}
}

// Nothing is sent again in a call that is on hold.
func TestNothingIsSentAgainOnHold(t *testing.T) {
	p, source, sink := filming(t)
	for i := range 30 {
		source.frames <- picture(time.Duration(i)*time.Millisecond, i == 0)
	}
	eventually(t, 10*time.Second, "the pictures arrive", func() bool { _, ok := sink.of(29 * time.Millisecond); return ok })
	video, _ := Description{Streams: p.caller.local}.stream(Video)
	ask := func() {
		nack, err := rtcp.Marshal([]rtcp.Packet{&rtcp.TransportLayerNack{
			SenderSSRC: 1, MediaSSRC: video.SSRC, Nacks: []rtcp.NackPair{{PacketID: 1, LostPackets: 0xffff}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		received := p.caller.Stats().NacksReceived
		if err := p.callee.writeRTCP(nack); err != nil {
			t.Fatal(err)
		}
		eventually(t, 10*time.Second, "the request arrives", func() bool { return p.caller.Stats().NacksReceived > received })
	}
	p.caller.SetHeld(true)
	before := p.caller.Stats().Retransmissions
	ask()
	if n := p.caller.Stats().Retransmissions - before; n != 0 {
		t.Errorf("%d packets were sent again on hold", n)
	}
	p.caller.SetHeld(false)
	ask()
	if p.caller.Stats().Retransmissions == before {
		t.Error("nothing is sent again after it")
	}
}
