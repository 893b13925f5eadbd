package media

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pion/stun/v4"
)

// A hostileRelay carries two calls, and does to their media what whoever sits on the way can do. Every datagram is delivered in the end,
// so that a packet which is missing was lost by its receiver.
type hostileRelay struct {
	mu      sync.Mutex
	legs    []*leg // call 0: to the callee, to the caller; call 1: the same
	seen    int
	evil    map[string]int // what was added, by kind
	closing sync.WaitGroup
}

// leg is one direction of one call: what comes in at one socket leaves from the other, to the candidate there.
type leg struct {
	in, out *net.UDPConn
	to      *net.UDPAddr
	history [][]byte
	held    []byte // overtaken by the next
}

func newHostileRelay(t *testing.T, calls ...*pair) *hostileRelay {
	h := &hostileRelay{evil: map[string]int{}}
	for _, p := range calls {
		nearCaller, nearCallee := listen(t), listen(t)
		toCallee, toCaller := &leg{in: nearCaller, out: nearCallee}, &leg{in: nearCallee, out: nearCaller}
		h.legs = append(h.legs, toCallee, toCaller)
		p.via = func(from *Session, candidate string) string {
			fields := strings.Fields(candidate)
			address := net.ParseIP(fields[4])
			if address.To4() == nil {
				return ""
			}
			leg, shown := toCaller, nearCallee // the callee is told where it finds the caller
			if from == p.callee {
				leg, shown = toCallee, nearCaller
			}
			h.mu.Lock()
			defer h.mu.Unlock()
			leg.to = &net.UDPAddr{IP: address}
			fmt.Sscan(fields[5], &leg.to.Port)
			fields[5] = fmt.Sprint(shown.LocalAddr().(*net.UDPAddr).Port)
			return strings.Join(fields, " ")
		}
	}
	for i := range h.legs {
		h.closing.Go(func() { h.carry(i) })
	}
	t.Cleanup(func() {
		for _, l := range h.legs {
			l.in.Close()
		}
		h.closing.Wait()
	})
	return h
}

func listen(t *testing.T) *net.UDPConn {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func (h *hostileRelay) carry(i int) {
	buffer := make([]byte, 2048)
	for {
		n, _, err := h.legs[i].in.ReadFromUDP(buffer)
		if err != nil {
			return
		}
		h.mu.Lock()
		h.take(i, bytes.Clone(buffer[:n]))
		h.mu.Unlock()
	}
}

// take delivers a datagram, and around it does one of its tricks to every fourth packet of media.
func (h *hostileRelay) take(i int, datagram []byte) {
	this, back := h.legs[i], h.legs[i^1]
	if stun.IsMessage(datagram) {
		this.send(datagram)
		return
	}
	h.seen++
	trick := ""
	if h.seen%4 == 0 && len(this.history) > 50 {
		trick = []string{"flip", "replay", "reflect", "other call", "other epoch", "swap"}[h.seen/4%6]
	}
	evil := func(on *leg, d []byte) {
		h.evil[trick]++
		on.send(d)
	}
	switch trick {
	case "flip": // of any bit behind the first byte, which tells the protocol
		altered := bytes.Clone(datagram)
		altered[1+h.seen/24%(len(altered)-1)] ^= 1 << (h.seen / 24 % 8)
		evil(this, altered)
	case "replay":
		evil(this, this.history[len(this.history)-1-h.seen%40])
	case "reflect": // to its sender
		evil(back, datagram)
	case "other call":
		evil(h.legs[(i+2)%4], datagram)
	case "other epoch":
		altered := bytes.Clone(datagram)
		altered[len(altered)-1] += byte(1 + h.seen/24%70)
		evil(this, altered)
	case "swap": // with the next
		if this.held == nil {
			this.held = datagram
			this.history = append(this.history, datagram)
			return
		}
	}
	this.send(datagram)
	this.history = append(this.history, datagram)
	if this.held != nil {
		this.send(this.held)
		this.held = nil
		h.evil["swap"]++
	}
}

func (l *leg) send(datagram []byte) {
	if l.to != nil {
		l.out.WriteToUDP(datagram, l.to)
	}
}

// Two calls go through the relay. Whatever it adds is refused and counted, at both ends of both calls; what the ends sent is heard and
// seen whole; and it is reported.
func TestHostileRelay(t *testing.T) {
	var logged logWatch
	cfg := Config{Loopback: true, Video: true, RekeyEvery: 700 * time.Millisecond, Log: slog.New(slog.NewTextHandler(&logged, nil))}
	calls := []*pair{newPair(t, cfg, cfg), newPair(t, cfg, cfg)}
	calls[1].callerKeys, calls[1].calleeKeys = keysOf(2)
	relay := newHostileRelay(t, calls...)
	var sessions []*Session
	var sources []*pictures
	eyes := make([]seen, 4)
	for _, p := range calls {
		p.connect(t)
		sessions = append(sessions, p.caller, p.callee)
	}
	for i, s := range sessions {
		s.microphone.encoder = newCanned()
		s.SetSinks(nil, &eyes[i^1])
		sources = append(sources, newPictures(60, 10, 50*time.Millisecond))
		if err := s.StartSending(&tone{n: 150}, sources[i]); err != nil {
			t.Fatal(err)
		}
	}
	for i := range sessions {
		eventually(t, 60*time.Second, "every picture", func() bool { return sources[i].identical(eyes[i].all()) == 60 })
		eventually(t, 60*time.Second, "all sound", func() bool { return sessions[i^1].Stats().Audio.PacketsReceived == 150 })
	}
	eventually(t, 60*time.Second, "every trick is counted", func() bool {
		var refused uint64
		for _, s := range sessions {
			stats := s.Stats()
			refused += stats.Undecryptable + stats.Replayed + stats.Malformed
		}
		relay.mu.Lock()
		defer relay.mu.Unlock()
		added := 0
		for trick, n := range relay.evil {
			if trick != "swap" { // nothing is added, and nothing is refused
				added += n
			}
		}
		return int(refused) == added
	})
	relay.mu.Lock()
	t.Logf("%d packets, tricks %v", relay.seen, relay.evil)
	if len(relay.evil) != 6 {
		t.Errorf("tricks %v", relay.evil)
	}
	relay.mu.Unlock()
	for i, s := range sessions {
		p := calls[i/2]
		stats := s.Stats()
		if stats.Undecryptable == 0 || stats.Replayed == 0 {
			t.Errorf("undecryptable %d, replayed %d", stats.Undecryptable, stats.Replayed)
		}
		events := p.eventsOf(s)
		if !slices.Contains(events, EventUndecryptable) || slices.Contains(events, EventPeerKeyChanged) {
			t.Errorf("events %v", events)
		}
	}
	if n := logged.count("media cannot be decrypted"); n != 4 {
		t.Errorf("it is logged %d times", n)
	}
}

// logWatch keeps what was logged.
type logWatch struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (w *logWatch) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(p)
}

func (w *logWatch) count(text string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Count(w.text.String(), text)
}
