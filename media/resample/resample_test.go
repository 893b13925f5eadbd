package resample

import (
	"io"
	"math"
	"math/rand/v2"
	"testing"
)

// chunks yields sound in pieces of any length.
type chunks struct{ pcm []int16 }

func (c *chunks) Read(pcm []int16) (int, error) {
	if len(c.pcm) == 0 {
		return 0, io.EOF
	}
	n := copy(pcm[:min(len(pcm), 1+rand.IntN(700))], c.pcm)
	c.pcm = c.pcm[n:]
	return n, nil
}

func sine(hz float64, rate, n int) []int16 {
	pcm := make([]int16, n)
	for i := range pcm {
		pcm[i] = int16(math.Round(10000 * math.Sin(2*math.Pi*hz*float64(i)/float64(rate))))
	}
	return pcm
}

func all(t testing.TB, s Source) []int16 {
	t.Helper()
	var pcm []int16
	frame := make([]int16, 960)
	for {
		n, err := s.Read(frame)
		pcm = append(pcm, frame[:n]...)
		if err == io.EOF {
			return pcm
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestTone: a tone stays that tone, with nothing beside it, and lasts as long.
func TestTone(t *testing.T) {
	for _, rates := range [][2]int{
		{8000, 48000}, {11025, 48000}, {16000, 48000}, {22050, 48000}, {44100, 48000}, {96000, 48000}, {192000, 48000},
		{44101, 48000}, {48000, 10000}, {48000, 48000},
	} {
		from, to := rates[0], rates[1]
		got, want := all(t, New(&chunks{sine(1000, from, from/2)}, from, to)), sine(1000, to, to/2)
		if off := len(got) - len(want); off < -to/from-1 || off > 1 {
			t.Errorf("%d to %d Hz: half a second became %d samples", from, to, len(got))
			continue
		}
		var signal, noise float64
		for i := to / 20; i < len(got)-to/20; i++ {
			d := float64(got[i]) - float64(want[i])
			signal, noise = signal+float64(want[i])*float64(want[i]), noise+d*d
		}
		if ratio := 10 * math.Log10(signal/noise); ratio < 70 {
			t.Errorf("%d to %d Hz: the tone is only %.1f dB above what is beside it", from, to, ratio)
		}
	}
}

// TestNoAlias: a tone that the lower rate cannot hold vanishes, it does not fold back.
func TestNoAlias(t *testing.T) {
	got := all(t, New(&chunks{sine(30000, 96000, 48000)}, 96000, 48000))
	for i, s := range got[2400 : len(got)-2400] {
		if s > 3 || s < -3 {
			t.Fatalf("a tone of 30 kHz is heard: sample %d is %d", i, s)
		}
	}
}

type endless struct{}

func (endless) Read(pcm []int16) (int, error) { return len(pcm), nil }

func BenchmarkResample(b *testing.B) {
	r, pcm := New(endless{}, 44100, 48000), make([]int16, 960)
	for b.Loop() {
		r.Read(pcm)
	}
	b.ReportMetric(0.02*float64(b.N)/b.Elapsed().Seconds(), "x-real-time")
}
