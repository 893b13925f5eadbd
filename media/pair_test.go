package media

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/pion/rtp"
	"go.uber.org/goleak"
)

// TestMain also is one end of a call, in a network namespace of a test's.
func TestMain(m *testing.M) {
	if role := os.Getenv("SOTTO_MEDIA_PEER"); role != "" {
		peerProcess(role == "caller")
		return
	}
	goleak.VerifyTestMain(m)
}

// pair is a caller and a callee whose signaling is a function call.
type pair struct {
	caller, callee         *Session
	callerKeys             Keys
	calleeKeys             Keys
	mu                     sync.Mutex
	candidates             map[*Session][]string // what each has told the other
	events                 map[*Session][]Event
	callerSeal, calleeSeal *nonceWatch
	recorded               *recorder            // of what the caller seals, if set before connect
	early                  map[pathKey][]string // candidates of later paths that wait
	released               map[pathKey]bool
	via                    func(from *Session, candidate string) string // what a candidate becomes on its way, if set
}

// testKeys are those of both ends, with sources of the later epochs' keys.
func testKeys() (caller, callee Keys) { return keysOf(1) }

func keysOf(call byte) (caller, callee Keys) {
	keys := func(send, receive byte) (k Keys) {
		k.NextSend, k.NextReceive = keyChain(call, send), keyChain(call, receive)
		k.SendKey, k.SendSalt, _ = k.NextSend()
		k.ReceiveKey, k.ReceiveSalt, _ = k.NextReceive()
		return k
	}
	return keys(1, 2), keys(2, 1)
}

func keyChain(of ...byte) func() (key, salt []byte, err error) {
	secret := sha256.Sum256(of)
	return func() (key, salt []byte, err error) {
		secret = sha256.Sum256(secret[:])
		k, s := sha256.Sum256(append([]byte("key"), secret[:]...)), sha256.Sum256(append([]byte("salt"), secret[:]...))
		return k[:], s[:12], nil
	}
}

// newPair makes two sessions that gather and trickle to each other. Nothing is connected yet.
func newPair(t testing.TB, callerConfig, calleeConfig Config) *pair {
	t.Helper()
	p := &pair{candidates: map[*Session][]string{}, events: map[*Session][]Event{}, early: map[pathKey][]string{}, released: map[pathKey]bool{}}
	p.callerKeys, p.calleeKeys = testKeys()
	callerConfig.Controlling = true
	p.caller = p.session(t, callerConfig, &p.callee)
	p.callee = p.session(t, calleeConfig, &p.caller)
	return p
}

// pathKey is a path at the session that is to take its candidates.
type pathKey struct {
	session    *Session
	generation uint32
}

func (p *pair) session(t testing.TB, cfg Config, peer **Session) *Session {
	var self *Session
	cfg.OnPathCandidate = func(generation uint32, candidate string) {
		key := pathKey{*peer, generation}
		p.mu.Lock()
		p.candidates[self] = append(p.candidates[self], candidate)
		released := p.released[key]
		if !released {
			p.early[key] = append(p.early[key], candidate)
		}
		p.mu.Unlock()
		if released {
			p.addPathCandidate(t, *peer, generation, candidate)
		}
	}
	cfg.OnCandidate = func(candidate string) {
		p.mu.Lock()
		p.candidates[self] = append(p.candidates[self], candidate)
		p.mu.Unlock()
		if p.via != nil {
			if candidate = p.via(self, candidate); candidate == "" {
				return
			}
		}
		if err := (*peer).AddRemoteCandidate(candidate); err != nil {
			t.Errorf("candidate %q: %v", candidate, err)
		}
	}
	cfg.OnEvent = func(event Event) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.events[self] = append(p.events[self], event)
	}
	cfg.LocalRelays = true
	self, err := NewSession(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { self.Close() })
	return self
}

// connect trickles and connects both ends, and puts the instrument around both ciphers.
func (p *pair) connect(t testing.TB) {
	t.Helper()
	for _, s := range []*Session{p.caller, p.callee} {
		if err := s.GatherCandidates(); err != nil {
			t.Fatal(err)
		}
	}
	p.caller.instrument = func(s sealer) sealer {
		if p.recorded != nil {
			p.recorded.sealer = s
			s = p.recorded
		}
		p.callerSeal = newNonceWatch(s)
		return p.callerSeal
	}
	p.callee.instrument = func(s sealer) sealer {
		p.calleeSeal = newNonceWatch(s)
		return p.calleeSeal
	}
	if err := p.callee.Connect(p.caller.Local(), p.calleeKeys); err != nil {
		t.Fatal(err)
	}
	if err := p.caller.Connect(p.callee.Local(), p.callerKeys); err != nil {
		t.Fatal(err)
	}
}

func (p *pair) eventsOf(s *Session) []Event {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append([]Event(nil), p.events[s]...)
}

// nonceWatch is an instrument around a cipher. An AEAD_AES_256_GCM nonce is made of SSRC and index (RFC 7714 sections 8.1 and 9.1), so
// no two different packets may be sealed with the same pair under one key, which the MKI names.
type nonceWatch struct {
	sealer
	mu      sync.Mutex
	sealed  map[nonce][32]byte
	highest map[uint32]uint64 // sequence number with rollovers, by SSRC
	epochs  uint32            // changes of the MKI
	mki     byte
	reused  int
}

type nonce struct {
	epoch, ssrc uint32
	index       uint64
	rtcp        bool
}

func newNonceWatch(s sealer) *nonceWatch {
	return &nonceWatch{sealer: s, sealed: map[nonce][32]byte{}, highest: map[uint32]uint64{}}
}

func (w *nonceWatch) RTP(header *rtp.Header, payload []byte, now time.Time) ([]byte, error) {
	w.mu.Lock() // also around the sealer: the order of epochs counts
	defer w.mu.Unlock()
	datagram, err := w.sealer.RTP(header, payload, now)
	if err != nil {
		return nil, err
	}
	highest, ok := w.highest[header.SSRC]
	if !ok {
		highest = uint64(header.SequenceNumber)
	}
	index := uint64(int64(highest) + int64(int16(header.SequenceNumber-uint16(highest))))
	w.highest[header.SSRC] = max(highest, index)
	w.note(datagram, nonce{ssrc: header.SSRC, index: index})
	return datagram, nil
}

func (w *nonceWatch) RTCP(packet []byte, now time.Time) ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	datagram, err := w.sealer.RTCP(packet, now)
	if err != nil {
		return nil, err
	}
	index := binary.BigEndian.Uint32(datagram[len(datagram)-5:])
	w.note(datagram, nonce{ssrc: binary.BigEndian.Uint32(packet[4:]), index: uint64(index), rtcp: true})
	return datagram, nil
}

func (w *nonceWatch) note(datagram []byte, n nonce) {
	if mki := datagram[len(datagram)-1]; mki != w.mki {
		w.mki, w.epochs = mki, w.epochs+1
	}
	n.epoch = w.epochs
	digest := sha256.Sum256(datagram)
	if earlier, ok := w.sealed[n]; ok && earlier != digest {
		w.reused++
	}
	w.sealed[n] = digest
}

func (w *nonceWatch) check(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.reused != 0 {
		t.Errorf("%d nonces were used for two packets", w.reused)
	}
	if len(w.sealed) == 0 {
		t.Error("the instrument saw no packet")
	}
}

// tone is a file-like source of n frames of a 440 Hz tone.
type tone struct{ n, sample int }

func (s *tone) ReadFrame(pcm []int16) error {
	if s.n == 0 {
		return io.EOF
	}
	s.n--
	fillTone(pcm, &s.sample)
	return nil
}

// pictures yields frames that only VP8's frame tag tells from noise: the transport does not look further.
type pictures struct {
	frames   []VideoFrame
	position int
}

func newPictures(n, keyEvery int, interval time.Duration) *pictures {
	random := rand.New(rand.NewPCG(1, 2))
	p := &pictures{}
	for i := range n {
		size := 800 + random.IntN(4000)
		key := i%keyEvery == 0
		if key {
			size *= 3
		}
		data := make([]byte, size)
		for j := range data {
			data[j] = byte(random.Uint32())
		}
		data[0] |= 1
		if key {
			data[0] &^= 1
		}
		p.frames = append(p.frames, VideoFrame{Data: data, PTS: time.Duration(i) * interval, Key: key})
	}
	return p
}

func (p *pictures) ReadFrame() (VideoFrame, error) {
	if p.position == len(p.frames) {
		return VideoFrame{}, io.EOF
	}
	p.position++
	return p.frames[p.position-1], nil
}

// identical counts how many received frames are frames of the source, byte for byte, at their time, in order.
func (p *pictures) identical(received []VideoFrame) int {
	same, next := 0, 0
	for _, frame := range received {
		for i := next; i < len(p.frames); i++ {
			sent := p.frames[i]
			if bytes.Equal(sent.Data, frame.Data) && sent.Key == frame.Key && (sent.PTS-frame.PTS).Abs() < time.Millisecond {
				same, next = same+1, i+1
				break
			}
		}
	}
	return same
}

// heard and seen are sinks that remember.
type heard struct {
	mu     sync.Mutex
	frames int
	loud   int
}

func (h *heard) WriteFrame(pcm []int16) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.frames++
	if loudness(pcm) > 1000 {
		h.loud++
	}
	return nil
}

func (h *heard) counts() (frames, loud int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.frames, h.loud
}

type seen struct {
	mu     sync.Mutex
	frames []VideoFrame
}

func (s *seen) WriteFrame(frame VideoFrame) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frames = append(s.frames, frame)
	return nil
}

func (s *seen) all() []VideoFrame {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]VideoFrame(nil), s.frames...)
}

// eventually fails the test unless the condition comes true in time.
func eventually(t testing.TB, within time.Duration, what string, condition func() bool) {
	t.Helper()
	deadline := time.After(within)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-deadline:
			t.Fatalf("not within %v: %s", within, what)
		case <-tick.C:
		}
	}
}
