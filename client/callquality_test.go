package client

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"sotto/media"
	"sotto/signaling"
)

// lossy is the way to a relay, on which every so manyth datagram is lost, either way.
type lossy struct {
	every atomic.Int64 // 0: none
	count atomic.Int64

	conn  net.PacketConn
	relay net.Addr
	ends  sync.WaitGroup
	mu    sync.Mutex
	back  map[string]net.Conn // to the relay, by client
}

// throughLossy puts a lossy way before a world's relay.
func throughLossy(t testing.TB) (*lossy, func(*signaling.Config)) {
	t.Helper()
	relay := withRelay(t)
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &lossy{conn: conn, back: map[string]net.Conn{}}
	l.ends.Go(l.forward)
	t.Cleanup(l.close)
	return l, func(cfg *signaling.Config) {
		relay(cfg)
		address, query, _ := strings.Cut(strings.TrimPrefix(cfg.Relay.URLs[0], "turn:"), "?")
		if l.relay, err = net.ResolveUDPAddr("udp", address); err != nil {
			t.Fatal(err)
		}
		cfg.Relay.URLs = []string{"turn:" + conn.LocalAddr().String() + "?" + query}
	}
}

func (l *lossy) loses() bool {
	every := l.every.Load()
	return every != 0 && l.count.Add(1)%every == 0
}

// forward takes what clients send to the relay.
func (l *lossy) forward() {
	buffer := make([]byte, 2048)
	for {
		n, client, err := l.conn.ReadFrom(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || l.loses() {
			continue
		}
		if back := l.to(client); back != nil {
			_, _ = back.Write(buffer[:n])
		}
	}
}

// to is the connection to the relay for a client, whose answers go back to it.
func (l *lossy) to(client net.Addr) net.Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	back := l.back[client.String()]
	if back != nil {
		return back
	}
	back, err := net.Dial("udp", l.relay.String())
	if err != nil {
		return nil
	}
	l.back[client.String()] = back
	l.ends.Go(func() {
		buffer := make([]byte, 2048)
		for {
			n, err := back.Read(buffer)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil && !l.loses() {
				_, _ = l.conn.WriteTo(buffer[:n], client)
			}
		}
	})
	return back
}

func (l *lossy) close() {
	l.conn.Close()
	l.mu.Lock()
	for _, back := range l.back {
		back.Close()
	}
	l.mu.Unlock()
	l.ends.Wait()
}

// Both ends are told when packets begin to be lost. (When the connection is good again is not this machine's to promise; media's tests
// have a simulated network.)
func TestTheConnectionBecomesPoor(t *testing.T) {
	t.Parallel()
	way, relay := throughLossy(t)
	w := newWorld(t, relay)
	alice, bob := friends(t, w)
	caller, callee := accepted(t, alice, bob, CallOptions{RelayOnly: true})
	way.every.Store(5)
	for _, e := range []*end{caller, callee} {
		if changed := awaitEvent[QualityChanged](t, e); !changed.Poor || !e.Stats().Quality.Poor {
			t.Errorf("%+v, %+v", changed, e.Stats().Quality)
		}
	}
	hear(t, caller, callee)
	caller.Hangup()
	awaitEnd(t, callee, Normal)
}

// What the media session of a call says of the connection is told; what another one says is not, nor one that rings.
func TestQualityChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	caller, callee := ring(t, alice, bob, CallOptions{})
	report := func(event media.Event, of func(*ongoing) *leg) {
		_ = alice.calls.do(func() error {
			alice.calls.onMedia(of(alice.calls.table[[16]byte(caller.ID())]), event)
			return nil
		})
	}
	report(media.EventQualityPoor, func(o *ongoing) *leg { return o.legs[firstDevice] })
	if err := callee.Accept(patience(t), callee.media()); err != nil {
		t.Fatal(err)
	}
	awaitEvent[Accepted](t, caller)
	report(media.EventQualityPoor, func(o *ongoing) *leg { return newLeg(o, o.chosen.device) }) // it has been closed
	for _, event := range []media.Event{media.EventQualityGood, media.EventQualityPoor} {
		report(event, func(o *ongoing) *leg { return o.chosen })
		if changed := awaitEvent[QualityChanged](t, caller); changed.Poor != (event == media.EventQualityPoor) {
			t.Errorf("%+v", changed)
		}
	}
	caller.Hangup()
	awaitEnd(t, callee, Normal)
}

// adaptive is a camera that can be asked for a rate.
type adaptive struct {
	lens
	asked chan int
}

func (a *adaptive) SetBitrate(bitsPerSecond int) { a.asked <- bitsPerSecond }

// Low-data mode counts from the moment that it is asked for, be it before the call is accepted, until it is asked to end.
func TestLowData(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	camera := &adaptive{asked: make(chan int, 10)}
	caller, callee := new(end), new(end)
	m := caller.media()
	m.Camera = func(context.Context) (media.VideoSource, error) { return camera, nil }
	var err error
	if caller.Call, err = alice.Call(patience(t), "bob", CallOptions{MediaOptions: m, Video: true}); err != nil {
		t.Fatal(err)
	}
	caller.SetLowData(true)
	callee.Call = expect[IncomingCall](t, bob).Call
	if err := callee.Accept(patience(t), callee.media()); err != nil {
		t.Fatal(err)
	}
	asked := func() int {
		t.Helper()
		select {
		case rate := <-camera.asked:
			return rate
		case <-patience(t).Done():
			t.Fatal("the camera was not asked for a rate")
			return 0
		}
	}
	if rate := asked(); rate <= 0 || rate > 300_000 {
		t.Errorf("%d b/s in low-data mode", rate)
	}
	hear(t, caller, callee)
	caller.SetLowData(false)
	if rate := asked(); rate != 0 {
		t.Errorf("%d b/s after low-data mode", rate)
	}
	hear(t, caller, callee)
	caller.Hangup()
	awaitEnd(t, callee, Normal)
}
