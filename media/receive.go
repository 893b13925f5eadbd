package media

import (
	"sync"
	"time"

	"sotto/media/opus"
	"sotto/media/playout"
	"sotto/media/rtpchain"
	"sotto/media/vp8"
)

// SetSinks lets the call be heard and seen from now on; a nil sink leaves its stream unplayed. Sound that came before is not
// played; pictures that came before wait for their sink, since what follows builds on them. Those for a nil sink are dropped.
func (s *Session) SetSinks(audio AudioSink, video VideoSink) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == closed {
		return
	}
	s.accept()
	s.audio.setSink(audio)
	s.video.setSink(video)
}

// audioReceiver decodes and conceals what arrives and gives the sink a frame every 20 ms.
type audioReceiver struct {
	s *Session

	mu      sync.Mutex
	buffer  *playout.Buffer
	sink    AudioSink
	running bool
	held    bool
}

func newAudioReceiver(s *Session) (*audioReceiver, error) {
	decoder, err := opus.NewDecoder()
	if err != nil {
		return nil, err
	}
	return &audioReceiver{s: s, buffer: playout.New(decoder)}, nil
}

func (a *audioReceiver) push(p rtpchain.Packet) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.sink != nil && !a.held {
		a.buffer.Push(uint16(p.Sequence), p.Timestamp, p.Payload, p.Arrival)
	}
}

func (a *audioReceiver) setSink(sink AudioSink) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sink = sink
	if sink != nil && !a.running {
		a.running = true
		a.s.done.Add(1)
		go a.play()
	}
}

func (a *audioReceiver) setHeld(held bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if held && !a.held {
		a.buffer.Pause()
	}
	a.held = held
}

func (a *audioReceiver) stats() playout.Stats {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.buffer.Stats()
}

// play gives the sink a frame every 20 ms from the first one decoded, silence where the peer has stopped. It never drifts: a frame is
// due 20 ms after the last was. A sink that blocks (a device) sets the pace.
func (a *audioReceiver) play() {
	defer a.s.done.Done()
	pcm := make([]int16, FrameSamples)
	begun := false
	for due := time.Now(); sleepUntil(a.s.ctx, due); due = nextDue(due, time.Now()) {
		a.mu.Lock()
		sink, held := a.sink, a.held
		begun = a.buffer.Pull(pcm, time.Now()) || begun
		a.mu.Unlock()
		if sink == nil || held || !begun {
			continue
		}
		if err := sink.WriteFrame(pcm); err != nil {
			a.setSink(nil)
			a.s.deviceFailed("speaker", err)
		}
	}
}

const (
	// framePatience is how long pictures stand still for a retransmission before they jump to the next key frame.
	framePatience = time.Second
	frameTick     = 20 * time.Millisecond
	// Frames waiting for a sink that is slow, or not there yet. The peer chooses how large they are.
	frameQueue = 300
	queueBytes = 8 << 20
)

// videoReceiver puts frames together and hands them to the sink in order.
type videoReceiver struct {
	s     *Session
	ssrc  uint32
	queue chan VideoFrame

	mu        sync.Mutex
	assembler *vp8.Assembler
	clock     uint64 // RTP time of the last frame, unwrapped
	queued    int    // bytes in queue
	sink      VideoSink
	unwanted  bool // no sink, and none is to come
	running   bool
	held      bool
	counts    videoCounters
}

func newVideoReceiver(s *Session) *videoReceiver {
	return &videoReceiver{s: s, assembler: vp8.NewAssembler(framePatience), queue: make(chan VideoFrame, frameQueue)}
}

func (v *videoReceiver) push(p rtpchain.Packet) {
	v.mu.Lock()
	v.assembler.Push(p.Sequence, p.Timestamp, p.Marker, p.Payload, p.Arrival)
	v.mu.Unlock()
	v.pop(p.Arrival)
}

// watch lets the assembler see time pass when nothing arrives.
func (v *videoReceiver) watch() {
	defer v.s.done.Done()
	ticker := time.NewTicker(frameTick)
	defer ticker.Stop()
	for {
		select {
		case <-v.s.ctx.Done():
			return
		case now := <-ticker.C:
			v.pop(now)
		}
	}
}

// pop queues the frames that are whole.
func (v *videoReceiver) pop(now time.Time) {
	v.mu.Lock()
	var frame *vp8.Frame
	var ask bool
	for frame, ask = v.assembler.Pop(now); frame != nil; frame, ask = v.assembler.Pop(now) {
		v.clock += uint64(int64(int32(frame.Timestamp - uint32(v.clock))))
		pts := time.Duration(v.clock) * time.Second / vp8ClockRate
		if v.unwanted || v.held {
			v.counts.framesReceived.Add(1)
			continue
		}
		if len(v.queue) == cap(v.queue) || v.queued+len(frame.Data) > queueBytes {
			v.assembler.Lose()
			continue
		}
		v.queued += len(frame.Data)
		v.queue <- VideoFrame{Data: frame.Data, PTS: pts, Key: frame.Key} // never waits: others only take
		v.counts.framesReceived.Add(1)
	}
	v.counts.framesLost.Store(v.assembler.Lost())
	v.mu.Unlock()
	if ask {
		_ = v.s.chain.RequestKeyFrame(v.ssrc) // asked again if it does not help
	}
}

func (v *videoReceiver) setSink(sink VideoSink) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.unwanted && sink != nil {
		v.assembler.Lose() // what it builds on was dropped
	}
	v.sink, v.unwanted = sink, sink == nil
	if v.unwanted {
		v.drop()
	}
	if sink != nil && !v.running {
		v.running = true
		v.s.done.Add(1)
		go v.play()
	}
}

func (v *videoReceiver) setHeld(held bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.held && !held {
		v.assembler.Lose() // what follows builds on what was not shown
	}
	if v.held = held; held {
		v.drop()
	}
}

// drop empties the queue.
func (v *videoReceiver) drop() {
	for {
		select {
		case frame := <-v.queue:
			v.queued -= len(frame.Data)
		default:
			return
		}
	}
}

func (v *videoReceiver) play() {
	defer v.s.done.Done()
	for {
		select {
		case <-v.s.ctx.Done():
			return
		case frame := <-v.queue:
			v.mu.Lock()
			v.queued -= len(frame.Data)
			sink := v.sink
			v.mu.Unlock()
			if sink == nil {
				continue
			}
			if err := sink.WriteFrame(frame); err != nil {
				v.setSink(nil)
				v.s.deviceFailed("display", err)
			}
		}
	}
}
