package file

import (
	"bytes"
	"encoding/binary"
	"io"
	"math"
	"os"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"sotto/media"
)

// Files as people have them: from pipes, cut out of calls, chained, of other forms.
func TestFilesAsPeopleHaveThem(t *testing.T) {
	for name, seconds := range map[string]float64{
		"arecord-pipe.wav": 0.5, "soxstream.wav": 2, "off-by-36.wav": 0.5, "chained.opus": 4, "st-fam1.ogg": 2,
	} {
		got := readAll(t, openAudio(t, "testdata/found/"+name))
		if s := float64(len(got)) / media.SampleRate; math.Abs(s-seconds) > 0.03*seconds+0.03 {
			t.Errorf("%s: %.2f s of sound, want %.2f", name, s, seconds)
		}
	}
	if _, err := OpenAudio("testdata/found/emptydata-list.wav"); err == nil || !strings.Contains(err.Error(), "no sound") {
		t.Errorf("no sound, and words about it behind: %v", err)
	}
	for _, name := range []string{"rtp90k.ivf", "zeroframe.ivf"} {
		v, err := OpenVideo("testdata/found/" + name)
		if err != nil {
			t.Error(err)
			continue
		}
		last := time.Duration(-1)
		frames := 0
		for {
			frame, err := v.ReadFrame()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("%s: frame %d: %v", name, frames, err)
			}
			if frame.PTS <= last || frames == 0 && frame.PTS != 0 || len(frame.Data) == 0 {
				t.Errorf("%s: frame %d at %v after %v", name, frames, frame.PTS, last)
			}
			last = frame.PTS
			frames++
		}
		if frames < 59 || last < 3*time.Second || last > 5*time.Second {
			t.Errorf("%s: %d frames, the last at %v", name, frames, last)
		}
		v.Close()
	}
}

// wavOf writes one sample for each channel, over and over.
func wavOf(kind, bits uint16, channels int, sample []byte) []byte {
	b := []byte("RIFF\xff\xff\xff\xffWAVEfmt ")
	b = binary.LittleEndian.AppendUint32(b, 16)
	b = binary.LittleEndian.AppendUint16(b, kind)
	b = binary.LittleEndian.AppendUint16(b, uint16(channels))
	b = binary.LittleEndian.AppendUint32(b, 48000)
	b = binary.LittleEndian.AppendUint32(b, 48000*uint32(channels)*uint32(bits)/8)
	b = binary.LittleEndian.AppendUint16(b, uint16(channels)*bits/8)
	b = binary.LittleEndian.AppendUint16(b, bits)
	data := bytes.Repeat(sample, channels*media.FrameSamples)
	b = append(b, "data"...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

func TestFormsOfSamples(t *testing.T) {
	half := binary.LittleEndian.AppendUint32(nil, math.Float32bits(0.5))
	for name, c := range map[string]struct {
		file []byte
		want int
	}{
		"8 bit":      {wavOf(wavePCM, 8, 1, []byte{192}), 16384},
		"24 bit":     {wavOf(wavePCM, 24, 1, []byte{0xff, 0x00, 0x40}), 16384},
		"32 bit":     {wavOf(wavePCM, 32, 2, []byte{1, 2, 0, 0xc0}), -16384},
		"float":      {wavOf(waveFloat, 32, 1, half), 16384},
		"double":     {wavOf(waveFloat, 64, 1, binary.LittleEndian.AppendUint64(nil, math.Float64bits(-2))), -32767},
		"not a one":  {wavOf(waveFloat, 32, 1, binary.LittleEndian.AppendUint32(nil, 0x7fc00000)), 0},
		"mu-law":     {wavOf(waveMuLaw, 8, 1, []byte{0x80}), 32124},
		"mu-law low": {wavOf(waveMuLaw, 8, 1, []byte{0x00}), -32124},
		"A-law":      {wavOf(waveALaw, 8, 1, []byte{0xaa}), 32256},
		"A-law low":  {wavOf(waveALaw, 8, 1, []byte{0x2a}), -32256},
		"5.1":        {wavOf(wavePCM, 16, 6, []byte{0x00, 0x10}), 4096},
	} {
		a, err := NewAudio(name, bytes.NewReader(c.file))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var frame [media.FrameSamples]int16
		if err := a.ReadFrame(frame[:]); err != nil || int(frame[100])-c.want > 1 || c.want-int(frame[100]) > 1 {
			t.Errorf("%s: %d, %v, want %d", name, frame[100], err, c.want)
		}
	}
	if _, err := NewAudio("12 channels", bytes.NewReader(wavOf(wavePCM, 16, 12, []byte{0, 0}))); err == nil {
		t.Error("12 channels were taken")
	}
	if _, err := os.Stat("testdata/found"); err != nil {
		t.Error(err)
	}
}

// A file of nothing but empty frames costs no stack.
func TestManyEmptyFrames(t *testing.T) {
	start, err := os.ReadFile("testdata/found/zeroframe.ivf")
	if err != nil {
		t.Fatal(err)
	}
	defer debug.SetMaxStack(debug.SetMaxStack(1 << 20))
	file := append(start[:ivfHeaderLen:ivfHeaderLen], make([]byte, 300_000*ivfFrameLen)...)
	if _, err := NewVideo("empty.ivf", bytes.NewReader(file)); err == nil || !strings.Contains(err.Error(), "no picture") {
		t.Errorf("%v", err)
	}
}
