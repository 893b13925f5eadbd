package file

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"sotto/media"
)

// IVF, the container of libvpx: a header of 32 bytes, then before each frame its length (4 bytes) and time (8), all little endian.
const (
	ivfHeaderLen = 32
	ivfFrameLen  = 12
	ivfClock     = 90000   // of our recordings, Hz: that of RTP, so that no time is rounded twice
	largestFrame = 4 << 20 // bytes; a key frame of 4K is a fraction of it
)

// Video is a VP8 file being read. It is a media.VideoSource.
type Video struct {
	Width, Height int // of the first frame

	input
	r        *bufio.Reader
	at       int64  // bytes read of it
	num, den uint64 // seconds for one unit of time
	first    uint64 // time of the first frame: a file that was cut out of a call begins anywhere
	begun    bool
	ahead    media.VideoFrame
	err      error // instead of ahead
}

// OpenVideo opens an IVF file with VP8.
func OpenVideo(path string) (*Video, error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	v, err := NewVideo(path, f)
	if err != nil {
		f.Close()
		return nil, err
	}
	return v, nil
}

// NewVideo reads IVF from a file that is already open, from memory or from a stream. What is an
// io.Seeker can be rewound. The name is for error messages.
func NewVideo(name string, r io.Reader) (*Video, error) {
	v := &Video{input: input{name: name, Reader: r}}
	return v, v.Rewind()
}

// Rewind goes back to the beginning.
func (v *Video) Rewind() error {
	if err := v.rewind(); err != nil {
		return err
	}
	v.r = bufio.NewReaderSize(&v.input, 1<<16)
	start, err := v.beginning(v.r)
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(start, []byte("DKIF")) {
		return fmt.Errorf("%s is %s, not IVF: %s", v.name, guess(start), convertVideo(v.name))
	}
	var head [ivfHeaderLen]byte
	if _, err := io.ReadFull(v.r, head[:]); err != nil {
		return explain(v.name, err)
	}
	if codec := head[8:12]; string(codec) != "VP80" {
		return fmt.Errorf("%s holds %q, Sotto sends VP8: %s", v.name, codec, convertVideo(v.name))
	}
	length := binary.LittleEndian.Uint16(head[6:])
	v.den, v.num = uint64(binary.LittleEndian.Uint32(head[16:])), uint64(binary.LittleEndian.Uint32(head[20:]))
	if v.den == 0 || v.num == 0 || length < ivfHeaderLen {
		return explain(v.name, errDamaged)
	}
	if _, err := v.r.Discard(int(length) - ivfHeaderLen); err != nil {
		return explain(v.name, err)
	}
	v.err = nil
	v.begun, v.at, v.ahead = false, int64(length), media.VideoFrame{}
	v.load()
	switch {
	case v.err == io.EOF:
		return fmt.Errorf("%s holds no picture", v.name)
	case v.err != nil:
		return explain(v.name, v.err)
	case !v.ahead.Key:
		return fmt.Errorf("%s does not begin with a key frame: %s", v.name, convertVideo(v.name))
	}
	v.Width, v.Height = size(v.ahead.Data)
	return nil
}

// ReadFrame returns the next frame. Its data is the caller's.
func (v *Video) ReadFrame() (media.VideoFrame, error) {
	defer v.tell()
	if v.err == io.EOF {
		return media.VideoFrame{}, io.EOF
	}
	if v.err != nil {
		return media.VideoFrame{}, explain(v.name, v.err)
	}
	frame := v.ahead
	v.load()
	return frame, nil
}

// Close closes the file underneath.
func (v *Video) Close() error { return closeFile(v.Reader) }

// load reads the next frame, or the error in its place. A frame that is damaged is left out, with
// those that build on it. Where a length is wrong nobody knows where the next frame begins: the
// pictures end.
func (v *Video) load() {
	for broken := false; ; {
		before, started := v.at, v.begun
		frame, err := v.frame()
		switch {
		case err == nil && (!broken || frame.Key):
			v.ahead = frame
			return
		case err == nil:
		case err == io.EOF || !started:
			v.err = err
			return
		case err == errFrame:
			if !broken {
				v.damaged(before, v.ahead.PTS, err.Error(), false)
			}
			broken = true
		default:
			v.damaged(before, v.ahead.PTS, err.Error(), true)
			v.err = io.EOF
			return
		}
	}
}

// errFrame is of one frame only.
var errFrame = fmt.Errorf("%w: no picture", errDamaged)

func (v *Video) frame() (frame media.VideoFrame, err error) {
	var head [ivfFrameLen]byte
	length := uint32(0)
	for length == 0 { // an encoder dropped the frame: the picture before stands
		if _, err := io.ReadFull(v.r, head[:]); err == io.ErrUnexpectedEOF {
			return frame, errTruncated
		} else if err != nil {
			return frame, err
		}
		v.at += ivfFrameLen
		length = binary.LittleEndian.Uint32(head[:])
	}
	at := binary.LittleEndian.Uint64(head[4:])
	if !v.begun {
		v.begun, v.first = true, at
	}
	at -= min(at, v.first)
	pts := float64(at) * float64(v.num) / float64(v.den) * float64(time.Second)
	if length > largestFrame || pts > float64(1000*time.Hour) {
		return frame, errDamaged
	}
	// The buffer grows with what is there, not with what the file promises.
	var data bytes.Buffer
	n, err := io.CopyN(&data, v.r, int64(length))
	v.at += n
	switch {
	case err == io.EOF:
		return frame, errTruncated
	case err != nil:
		return frame, err
	case !frameTag(data.Bytes()):
		return frame, errFrame
	}
	key := data.Bytes()[0]&1 == 0
	return media.VideoFrame{Data: data.Bytes(), PTS: time.Duration(pts + 0.5), Key: key}, nil
}

// frameTag checks what every VP8 frame begins with: three bytes that tell the length of its first partition, and on key frames a
// start code (RFC 6386 section 9.1).
func frameTag(b []byte) bool {
	if len(b) < 3 {
		return false
	}
	head := 3
	if b[0]&1 == 0 {
		head = 10
		if len(b) < head || !bytes.Equal(b[3:6], []byte{0x9d, 0x01, 0x2a}) {
			return false
		}
	}
	first := int(b[0]) | int(b[1])<<8 | int(b[2])<<16
	return first>>5 <= len(b)-head
}

// size is that of a key frame.
func size(key []byte) (width, height int) {
	return int(binary.LittleEndian.Uint16(key[6:]) & 0x3fff), int(binary.LittleEndian.Uint16(key[8:]) & 0x3fff)
}

func convertVideo(name string) string {
	return fmt.Sprintf("convert it with `ffmpeg -i %s -an -c:v libvpx -b:v 600k -g 60 -error-resilient 1 video.ivf`", name)
}

// IVF is a recording of VP8 frames. It is a media.VideoSink.
type IVF struct {
	file   *os.File
	mu     sync.Mutex // a call writes while its end closes
	frames uint32
	width  int
	height int
}

// CreateIVF begins a recording, over whatever is at path.
func CreateIVF(path string) (*IVF, error) {
	f, err := create(path)
	if err != nil {
		return nil, err
	}
	v := &IVF{file: f}
	if _, err := f.Write(v.header()); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot record: %w", err)
	}
	return v, nil
}

func (v *IVF) header() []byte {
	h := append([]byte("DKIF"), 0, 0, ivfHeaderLen, 0)
	h = append(h, "VP80"...)
	h = binary.LittleEndian.AppendUint16(h, uint16(v.width))
	h = binary.LittleEndian.AppendUint16(h, uint16(v.height))
	h = binary.LittleEndian.AppendUint32(h, ivfClock)
	h = binary.LittleEndian.AppendUint32(h, 1)
	h = binary.LittleEndian.AppendUint32(h, v.frames)
	return binary.LittleEndian.AppendUint32(h, 0)
}

// WriteFrame appends a frame. What comes before the first key frame cannot be shown and is left out.
func (v *IVF) WriteFrame(frame media.VideoFrame) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.frames == 0 {
		if !frame.Key || !frameTag(frame.Data) {
			return nil
		}
		v.width, v.height = size(frame.Data)
		if _, err := v.file.WriteAt(v.header(), 0); err != nil {
			return fmt.Errorf("cannot record: %w", err)
		}
	}
	b := binary.LittleEndian.AppendUint32(nil, uint32(len(frame.Data)))
	b = binary.LittleEndian.AppendUint64(b, uint64((frame.PTS*ivfClock+time.Second/2)/time.Second))
	if _, err := v.file.Write(append(b, frame.Data...)); err != nil {
		return fmt.Errorf("cannot record: %w", err)
	}
	v.frames++
	return nil
}

// Close writes into the header how many frames there are.
func (v *IVF) Close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	_, err := v.file.WriteAt(v.header(), 0)
	if err := errors.Join(err, v.file.Close()); err != nil {
		return fmt.Errorf("cannot record: %w", err)
	}
	return nil
}
