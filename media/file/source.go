package file

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"time"

	"sotto/media"
)

// Tone returns a sine of so many Hz, at a quarter of full scale, without an end.
func Tone(hz float64) media.AudioSource { return &tone{step: 2 * math.Pi * hz / media.SampleRate} }

type tone struct{ phase, step float64 }

func (t *tone) ReadFrame(pcm []int16) error {
	for i := range pcm {
		pcm[i] = int16(8192 * math.Sin(t.phase))
		t.phase = math.Mod(t.phase+t.step, 2*math.Pi)
	}
	return nil
}

// NewPCMReader reads the samples of another program: 48 kHz, mono, signed 16 bit, little endian, such as
// `ffmpeg -i … -ar 48000 -ac 1 -f s16le -` writes. The last frame is filled up with silence.
func NewPCMReader(r io.Reader) media.AudioSource { return &pcmReader{r: r} }

type pcmReader struct {
	r      io.Reader
	buffer [2 * media.FrameSamples]byte
}

func (p *pcmReader) ReadFrame(pcm []int16) error {
	b := p.buffer[:2*len(pcm)]
	n, err := io.ReadFull(p.r, b)
	if err == io.EOF || err != nil && err != io.ErrUnexpectedEOF {
		return err
	}
	clear(b[n&^1:])
	for i := range pcm {
		pcm[i] = int16(binary.LittleEndian.Uint16(b[2*i:]))
	}
	return nil
}

// NewPCMWriter writes samples for another program, as NewPCMReader reads them.
func NewPCMWriter(w io.Writer) media.AudioSink { return &pcmWriter{w: w} }

type pcmWriter struct {
	w      io.Writer
	buffer []byte
}

func (p *pcmWriter) WriteFrame(pcm []int16) error {
	p.buffer = p.buffer[:0]
	for _, s := range pcm {
		p.buffer = binary.LittleEndian.AppendUint16(p.buffer, uint16(s))
	}
	if _, err := p.w.Write(p.buffer); err != nil {
		return fmt.Errorf("cannot write sound: %w", err)
	}
	return nil
}

// LoopAudio plays a file again and again.
func LoopAudio(a *Audio) media.AudioSource { return audioLoop{a} }

type audioLoop struct{ *Audio }

func (l audioLoop) ReadFrame(pcm []int16) error {
	err := l.Audio.ReadFrame(pcm)
	if err != io.EOF {
		return err
	}
	if err := l.Rewind(); err != nil {
		return err
	}
	return l.Audio.ReadFrame(pcm)
}

// LoopVideo shows a file again and again; its times go on.
func LoopVideo(v *Video) media.VideoSource { return &videoLoop{Video: v} }

type videoLoop struct {
	*Video
	start    time.Duration // of this round
	previous time.Duration // time of the last frame
	interval time.Duration // between the last two
}

func (l *videoLoop) ReadFrame() (media.VideoFrame, error) {
	frame, err := l.Video.ReadFrame()
	if err == io.EOF {
		if err := l.Rewind(); err != nil {
			return frame, err
		}
		l.start = l.previous + max(l.interval, time.Millisecond)
		frame, err = l.Video.ReadFrame()
	}
	if err != nil {
		return frame, err
	}
	frame.PTS += l.start
	l.interval, l.previous = frame.PTS-l.previous, frame.PTS
	return frame, nil
}
