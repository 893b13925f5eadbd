package media

import "time"

// Audio is mono, signed 16-bit, in frames of 20 ms everywhere: the one shape that codecs, files, devices and programs share.
const (
	SampleRate   = 48000                  // Hz
	FrameLength  = 20 * time.Millisecond  // one Opus packet
	FrameSamples = SampleRate / 1000 * 20 // 960 samples
)

// An AudioSource yields what is to be said. ReadFrame fills pcm, which holds FrameSamples samples, and returns io.EOF when
// there is no more. A live device blocks until it has a frame; a file returns at once and the session paces it. While a source blocks for
// longer, and when it has ended, nothing is sent, which the network sees: one that has nothing to say yields silence.
type AudioSource interface {
	ReadFrame(pcm []int16) error
}

// An AudioSink takes what was heard, one frame every 20 ms, concealed where packets were lost. If it has a Close method, that must end
// a WriteFrame that blocks.
type AudioSink interface {
	WriteFrame(pcm []int16) error
}

// A VideoFrame is one encoded VP8 frame.
type VideoFrame struct {
	Data []byte
	PTS  time.Duration // presentation time, from the start of the stream
	Key  bool          // decodable without earlier frames
}

// A VideoSource yields encoded frames in presentation order, and io.EOF when there are no more.
// Frames that are there early, as those of a file, are sent at their presentation times. An encoder
// can also have the methods
//
//	SetBitrate(bitsPerSecond int)  // what its frames may take from now on; 0: as it likes
//	RequestKeyFrame()              // the peer, or what was dropped here, needs one
//
// which are called from goroutines of the session, also while ReadFrame blocks, and return at once.
// Without them frames are dropped in low-data mode, and the peer waits for the next key frame there
// is. A source that has RequestKeyFrame is live: its frames are sent at once, and PTS only tells
// the other end when each was taken.
type VideoSource interface {
	ReadFrame() (VideoFrame, error)
}

// A VideoSink takes the frames that were received whole, in order. If it has a Close method, that must end a WriteFrame that blocks.
type VideoSink interface {
	WriteFrame(VideoFrame) error
}
