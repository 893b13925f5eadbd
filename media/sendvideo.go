package media

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"sotto/media/rtpchain"
	"sotto/media/vp8"
)

// videoSender sends the frames of one stream, those of a file each at its presentation time, live
// ones at once. What cannot be sent, since the call is held or the data of low-data mode is used
// up, is dropped, and everything after it until a key frame: nothing is sent that cannot be
// decoded.
type videoSender struct {
	s       *Session
	stream  Stream
	device  string // see Config.OnDeviceFailed
	source  slot[VideoSource]
	running bool // guarded by Session.mu
	held    atomic.Bool
	counts  videoCounters

	asking sync.Mutex
	asked  time.Time // when the source was asked for a key frame
	again  bool      // it will be, since that
}

// A liveSource encodes now. It is asked for a key frame where it stands, also if it has no frame to
// yield, as a screen that is still.
type liveSource interface{ RequestKeyFrame() }

// keyFrameSpacing bounds what a peer can cause by asking: a key frame is many times as large as
// another.
const keyFrameSpacing = 500 * time.Millisecond

// askKeyFrame asks the source for a key frame now, or when it may be asked again. A source that
// cannot be asked resumes the peer's picture with its next key frame.
func (v *videoSender) askKeyFrame() {
	v.asking.Lock()
	defer v.asking.Unlock()
	wait := keyFrameSpacing - time.Since(v.asked)
	switch {
	case v.again:
	case wait > 0:
		v.again = true
		time.AfterFunc(wait, v.askAgain)
	default:
		v.ask()
	}
}

func (v *videoSender) askAgain() {
	v.asking.Lock()
	defer v.asking.Unlock()
	v.again = false
	v.ask()
}

func (v *videoSender) ask() {
	if source, ok := v.source.now().(liveSource); ok {
		v.asked = time.Now()
		source.RequestKeyFrame()
	}
}

// begin starts to send, or goes over to another source, and returns the one before, to be closed. Session.mu is held.
func (v *videoSender) begin(source VideoSource) (unused VideoSource) {
	v.tell(source)
	unused = v.source.put(source, source != nil)
	if !v.running && source != nil {
		v.running = true
		v.s.done.Add(1)
		go v.run(v.s.chain.AddLocal(v.stream.chain()))
	}
	return unused
}

// tell asks the source for a rate that fits, if it can be asked.
func (v *videoSender) tell(source VideoSource) {
	if adaptive, ok := source.(interface{ SetBitrate(bitsPerSecond int) }); ok {
		bitrate := 0
		if v.s.lowData.Load() {
			bitrate = lowDataVideo
		}
		adaptive.SetBitrate(bitrate)
	}
}

// RTP time stamps begin at 0 with the first source, so the receiver knows the presentation times; those of later ones go on with the
// clock.
func (v *videoSender) run(out *rtpchain.Writer) {
	defer v.s.done.Done()
	if !v.s.waitReady() {
		return
	}
	packetizer := vp8.NewPacketizer(payloadSize)
	begin := time.Now()
	reading := 0            // the turn of the source
	var start time.Time     // of the source
	var shift time.Duration // of its presentation times
	needKey := false
	for {
		source, turn, ok := v.source.take(v.s.ctx)
		if !ok {
			return
		}
		if turn != reading {
			start = time.Now()
			if reading != 0 {
				shift = start.Sub(begin)
				needKey = true
			}
			reading = turn
		}
		if needKey {
			v.askKeyFrame()
		}
		frame, err := source.ReadFrame()
		if err != nil {
			if last, was := v.source.ended(turn); was {
				v.s.sourceEnded(v.device, last, err)
			}
			continue
		}
		if _, live := source.(liveSource); !live {
			if !sleepUntil(v.s.ctx, start.Add(frame.PTS)) {
				return
			}
			if late := time.Since(start.Add(frame.PTS)); late > maxBehind {
				start = start.Add(late)
			}
		}
		if v.held.Load() || needKey && !frame.Key || !v.s.affordable(time.Now()) {
			needKey = true
			v.counts.dropped.Add(1)
			continue
		}
		needKey = false
		timestamp := uint32(((shift+frame.PTS)*vp8ClockRate + time.Second/2) / time.Second)
		payloads := packetizer.Packetize(frame.Data)
		for i, payload := range payloads {
			// A packet that the socket refuses is kept for retransmission like any other that is lost.
			err = errors.Join(err, out.Write(timestamp, i == len(payloads)-1, payload))
		}
		if err == nil {
			v.counts.framesSent.Add(1)
		}
	}
}

// keyFrameRequested hears the peer's PLI.
func (s *Session) keyFrameRequested(ssrc uint32) {
	for _, v := range []*videoSender{s.camera, s.screen} {
		if v.stream.SSRC == ssrc {
			v.askKeyFrame()
		}
	}
}
