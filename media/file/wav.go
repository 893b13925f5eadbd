package file

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"sync"
	"time"

	"sotto/media"
)

// WAV is RIFF chunks: "fmt " says how the samples look, "data" holds them (Microsoft, Multimedia Programming Interface 1.0; the
// extensible form: WAVEFORMATEXTENSIBLE).
const (
	wavePCM        = 1
	waveFloat      = 3
	waveALaw       = 6 // ITU-T G.711
	waveMuLaw      = 7
	waveExtensible = 0xfffe

	wavHeaderLen = 44
	unknownSize  = math.MaxUint32 // in the header of a recording that goes on: read to the end of the file
	// What writes to a pipe does not know the size either: sox says 0x7ffff000 and its header,
	// arecord 0x80000000.
	pipedSize = 0x7ffff000
	// Some count the header into the size of the sound.
	headerCounted = wavHeaderLen
	maxChannels   = 8 // 7.1

	lowestRate, highestRate = 4000, 192000 // Hz
)

type wavReader struct {
	r        *bufio.Reader
	rate     int
	channels int
	width    int                  // bytes of a sample
	sample   func(b []byte) int32 // one, of 16 bits
	weights  []int32              // of the channels, of 1<<16 together
	from, to int64                // where the sound begins and is said to end, in bytes
	at       int64                // where it is read
	open     bool                 // nobody knows where it ends: with the file
	damaged  func(offset int64, at time.Duration, what string, ends bool)
	buffer   []byte
}

// newWAVReader reads up to the sound. The size is that of the file, less than 0 if it is a stream.
func newWAVReader(r *bufio.Reader, size int64, damaged func(int64, time.Duration, string, bool)) (*wavReader, error) {
	w := &wavReader{r: r, damaged: damaged}
	var riff [12]byte
	if _, err := io.ReadFull(w.r, riff[:]); err != nil {
		return nil, err
	}
	if string(riff[8:]) != "WAVE" {
		return nil, errors.New("is RIFF, but not WAVE")
	}
	at, empty := int64(len(riff)), false
	for {
		var head [8]byte
		if _, err := io.ReadFull(w.r, head[:]); err == io.EOF && empty {
			return w, nil // there is no sound
		} else if err != nil {
			return nil, err
		}
		at += int64(len(head))
		length := int64(binary.LittleEndian.Uint32(head[4:]))
		switch name := string(head[:4]); {
		case name == "fmt " && length >= 16 && length <= 1024:
			if err := w.format(length); err != nil {
				return nil, err
			}
		case name == "data" && w.rate != 0:
			switch {
			case length == 0 && w.chunkFollows():
				empty = true // the sound is in another chunk, or nowhere
				continue
			case length == unknownSize, length == 0, length >= pipedSize && (size < 0 || at+length > size):
				w.open = true
			case size >= 0 && at+length-size > headerCounted:
				return nil, fmt.Errorf("%w: %d of %d bytes of sound are there", errTruncated, size-at, length)
			}
			w.from, w.at, w.to = at, at, at+length
			return w, nil
		case name == "data" || name == "fmt ":
			return nil, errDamaged
		default:
			if _, err := io.CopyN(io.Discard, w.r, length+length&1); err != nil {
				return nil, err
			}
		}
		at += length + length&1 // chunks begin at even places
	}
}

// format reads the chunk that says how the samples look.
func (w *wavReader) format(length int64) error {
	chunk := make([]byte, length+length&1)
	if _, err := io.ReadFull(w.r, chunk); err != nil {
		return err
	}
	kind, channels := binary.LittleEndian.Uint16(chunk), binary.LittleEndian.Uint16(chunk[2:])
	rate, bits := binary.LittleEndian.Uint32(chunk[4:]), binary.LittleEndian.Uint16(chunk[14:])
	mask := uint32(0)
	if kind == waveExtensible && length >= 26 {
		kind = binary.LittleEndian.Uint16(chunk[24:]) // the beginning of its GUID
		mask = binary.LittleEndian.Uint32(chunk[20:])
	}
	sample, known := samples[wavForm{kind, bits}]
	switch {
	case !known && (kind == wavePCM || kind == waveFloat):
		return wrongCodec(fmt.Sprintf("%d-bit samples", bits))
	case !known:
		return wrongCodec(fmt.Sprintf("WAV format %d", kind))
	case channels < 1 || channels > maxChannels:
		return wrongCodec(fmt.Sprintf("%d channels", channels))
	case rate < lowestRate || rate > highestRate:
		return wrongCodec(fmt.Sprintf("sound of %d Hz", rate))
	}
	w.rate, w.channels, w.width, w.sample = int(rate), int(channels), int(bits/8), sample
	w.weights = downmix(w.channels, mask)
	return nil
}

// chunkFollows tells an empty chunk of sound, behind which the next one begins, from a recording
// whose size nobody has filled in.
func (w *wavReader) chunkFollows() bool {
	next, err := w.r.Peek(4)
	return err == nil && slices.Contains([]string{"LIST", "fact", "id3 ", "cue ", "bext", "data"}, string(next))
}

// wavForm is how one sample looks.
type wavForm struct{ kind, bits uint16 }

var samples = map[wavForm]func([]byte) int32{
	{wavePCM, 8}:    func(b []byte) int32 { return (int32(b[0]) - 128) << 8 },
	{wavePCM, 16}:   func(b []byte) int32 { return int32(int16(binary.LittleEndian.Uint16(b))) },
	{wavePCM, 24}:   func(b []byte) int32 { return int32(int16(binary.LittleEndian.Uint16(b[1:]))) },
	{wavePCM, 32}:   func(b []byte) int32 { return int32(int16(binary.LittleEndian.Uint16(b[2:]))) },
	{waveFloat, 32}: func(b []byte) int32 { return fromFloat(float64(math.Float32frombits(binary.LittleEndian.Uint32(b)))) },
	{waveFloat, 64}: func(b []byte) int32 { return fromFloat(math.Float64frombits(binary.LittleEndian.Uint64(b))) },
	{waveMuLaw, 8}:  func(b []byte) int32 { return muLaw(b[0]) },
	{waveALaw, 8}:   func(b []byte) int32 { return aLaw(b[0]) },
}

func fromFloat(f float64) int32 {
	if math.IsNaN(f) {
		return 0
	}
	return int32(math.Round(max(-1, min(1, f)) * math.MaxInt16))
}

// muLaw and aLaw are ITU-T G.711, tables 2a and 1a.
func muLaw(b byte) int32 {
	b = ^b
	v := (int32(b&0x0f)<<3+0x84)<<(b>>4&7) - 0x84
	if b&0x80 != 0 {
		return -v
	}
	return v
}

func aLaw(b byte) int32 {
	b ^= 0x55
	v := int32(b&0x0f)<<4 + 8
	if segment := b >> 4 & 7; segment > 0 {
		v = (v + 0x100) << (segment - 1)
	}
	if b&0x80 == 0 {
		return -v
	}
	return v
}

func (w *wavReader) Read(pcm []int16) (int, error) {
	frame := w.width * w.channels
	want := len(pcm) * frame
	if !w.open {
		want = int(min(int64(want), (w.to-w.at)/int64(frame)*int64(frame)))
	}
	if want == 0 {
		return 0, io.EOF
	}
	if len(w.buffer) < want {
		w.buffer = make([]byte, want)
	}
	n, err := io.ReadFull(w.r, w.buffer[:want])
	w.at += int64(n)
	if err == io.ErrUnexpectedEOF || err == io.EOF {
		err = io.EOF
		if !w.open {
			read := time.Duration(float64(w.at-w.from) / float64(frame*w.rate) * float64(time.Second))
			w.damaged(w.at, read, fmt.Sprintf("lacks its last %d bytes", w.to-w.at), true)
		}
	}
	got := n / frame
	for i := range got {
		sum := int64(0)
		for c, weight := range w.weights {
			sum += int64(weight) * int64(w.sample(w.buffer[i*frame+c*w.width:]))
		}
		pcm[i] = int16(sum / fullWeight)
	}
	return got, err
}

// WAV is a recording of 48 kHz mono. It is a media.AudioSink.
type WAV struct {
	file   *os.File
	mu     sync.Mutex // a call writes while its end closes
	size   int64      // bytes of sound
	buffer [2 * media.FrameSamples]byte
}

// CreateWAV begins a recording, over whatever is at path.
func CreateWAV(path string) (*WAV, error) {
	f, err := create(path)
	if err != nil {
		return nil, err
	}
	w := &WAV{file: f}
	if _, err := f.Write(wavHeader(unknownSize)); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot record: %w", err)
	}
	return w, nil
}

func wavHeader(size uint32) []byte {
	const frame = 2 // bytes a sample, of one channel
	h := []byte("RIFF")
	h = binary.LittleEndian.AppendUint32(h, uint32(min(uint64(size)+wavHeaderLen-8, unknownSize)))
	h = append(h, "WAVEfmt "...)
	h = binary.LittleEndian.AppendUint32(h, 16)
	h = binary.LittleEndian.AppendUint16(h, wavePCM)
	h = binary.LittleEndian.AppendUint16(h, 1)
	h = binary.LittleEndian.AppendUint32(h, media.SampleRate)
	h = binary.LittleEndian.AppendUint32(h, media.SampleRate*frame)
	h = binary.LittleEndian.AppendUint16(h, frame)
	h = binary.LittleEndian.AppendUint16(h, 8*frame)
	h = append(h, "data"...)
	return binary.LittleEndian.AppendUint32(h, size)
}

// WriteFrame appends samples. They are in the file when it returns, not in a buffer.
func (w *WAV) WriteFrame(pcm []int16) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.size+int64(2*len(pcm)) > unknownSize-wavHeaderLen {
		return errors.New("cannot record: a WAV file ends after 4 GB")
	}
	b := w.buffer[:0]
	for _, s := range pcm {
		b = binary.LittleEndian.AppendUint16(b, uint16(s))
	}
	n, err := w.file.Write(b)
	w.size += int64(n)
	if err != nil {
		return fmt.Errorf("cannot record: %w", err)
	}
	return nil
}

// Close writes into the header how much there is.
func (w *WAV) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.file.WriteAt(wavHeader(uint32(w.size)), 0)
	if err := errors.Join(err, w.file.Close()); err != nil {
		return fmt.Errorf("cannot record: %w", err)
	}
	return nil
}
