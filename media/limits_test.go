package media

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/transport/v4/vnet"

	"sotto/media/rtpchain"
	"sotto/media/vp8"
)

// The callee gives up checking soon, while its phone rings. A caller whose checks arrive later still connects.
func TestCallerComesLate(t *testing.T) {
	t.Parallel()
	n := newNetwork(t, 5*time.Millisecond)
	p := newPair(t, Config{Net: n.hosts[0]}, Config{Net: n.hosts[1]})
	var checks atomic.Int64
	n.filter(func(c vnet.Chunk) bool {
		if c.SourceAddr().(*net.UDPAddr).IP.String() == "198.51.100.2" {
			checks.Add(1)
		}
		return true
	})
	p.connect(t)
	eventually(t, 10*time.Second, "the callee's checks to begin", func() bool { return checks.Load() > 0 })
	last, since := checks.Load(), time.Now()
	eventually(t, 10*time.Second, "the callee's checks to end", func() bool {
		if now := checks.Load(); now != last {
			last, since = now, time.Now()
		}
		return time.Since(since) > 300*time.Millisecond
	})
	n.filter(func(vnet.Chunk) bool { return false })
	for _, s := range []*Session{p.caller, p.callee} {
		select {
		case <-s.Connected():
		case <-time.After(5 * time.Second):
			t.Fatal("not connected")
		}
	}
}

// film pushes frames of 1 MB at a session, every tenth a key frame.
type film struct {
	s          *Session
	packetizer *vp8.Packetizer
	frames     int
	sequence   uint64
}

func newFilm(s *Session) *film {
	return &film{s: s, packetizer: vp8.NewPacketizer(payloadSize)}
}

func (f *film) push(n int) {
	for range n {
		data := make([]byte, 1<<20)
		if f.frames%10 != 0 {
			data[0] = 1 // not a key frame
		}
		payloads := f.packetizer.Packetize(data)
		for i, payload := range payloads {
			f.sequence++
			f.s.video.push(rtpchain.Packet{
				Sequence: f.sequence, Timestamp: uint32(f.frames) * 3000, Marker: i == len(payloads)-1, Payload: payload, Arrival: time.Now(),
			})
		}
		f.frames++
	}
}

// Pictures that nobody shows yet take bounded memory, however large the peer makes them.
func TestPicturesWaitInBoundedMemory(t *testing.T) {
	t.Parallel()
	p := newPair(t, Config{Loopback: true, Video: true}, Config{Loopback: true, Video: true})
	p.connect(t)
	film := newFilm(p.callee)
	film.push(25) // 25 MB
	var eye seen
	p.callee.SetSinks(nil, &eye)
	eventually(t, 5*time.Second, "the queue is empty", func() bool { return len(p.callee.video.queue) == 0 && len(eye.all()) >= 8 })
	held := len(eye.all())
	if held != 8 {
		t.Errorf("%d MB were kept", held)
	}
	// What follows begins with a key frame.
	film.push(10)
	eventually(t, 5*time.Second, "the film goes on", func() bool { return len(eye.all()) > held })
	if !eye.all()[held].Key {
		t.Error("a frame was delivered that builds on one that was not")
	}
}

// Where no picture is wanted none is kept.
func TestUnwantedPicturesAreDropped(t *testing.T) {
	t.Parallel()
	p := newPair(t, Config{Loopback: true, Video: true}, Config{Loopback: true, Video: true})
	p.connect(t)
	film := newFilm(p.callee)
	film.push(3)
	p.callee.SetSinks(&heard{}, nil)
	film.push(3)
	if n := len(p.callee.video.queue); n != 0 {
		t.Errorf("%d frames are kept for nobody", n)
	}
	if stats := p.callee.Stats().Video; stats.FramesReceived != 6 || stats.FramesLost != 0 {
		t.Errorf("received %d, lost %d", stats.FramesReceived, stats.FramesLost)
	}
	var eye seen
	p.callee.SetSinks(nil, &eye)
	film.push(7)
	eventually(t, 5*time.Second, "the film goes on", func() bool { return len(eye.all()) == 3 })
	if first := eye.all()[0]; !first.Key || first.PTS != 10*3000*time.Second/vp8ClockRate {
		t.Errorf("the film goes on at %v, key frame %v", first.PTS, first.Key)
	}
}
