package quality

import (
	"io"
	"math"
	"math/cmplx"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"sotto/media"
	"sotto/media/file"
	"sotto/media/opus"
)

// speech is the first five seconds of a voice.
func speech(t testing.TB, who string) []int16 {
	t.Helper()
	a, err := file.OpenAudio("../../cmd/sotto/sample/speech-" + who + ".ogg")
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	var pcm []int16
	frame := make([]int16, media.FrameSamples)
	for len(pcm) < 5*media.SampleRate && a.ReadFrame(frame) != io.EOF {
		pcm = append(pcm, frame...)
	}
	return pcm
}

func encode(t testing.TB, pcm []int16) (packets [][]byte) {
	t.Helper()
	encoder, err := opus.NewEncoder(opus.Config{})
	if err != nil {
		t.Fatal(err)
	}
	for ; len(pcm) >= media.FrameSamples; pcm = pcm[media.FrameSamples:] {
		packet, err := encoder.Encode(pcm[:media.FrameSamples])
		if err != nil {
			t.Fatal(err)
		}
		packets = append(packets, slices.Clone(packet))
	}
	return packets
}

// decode conceals the lost packets, and uses no FEC.
func decode(t testing.TB, packets [][]byte, lost func(n int) bool) (pcm []int16) {
	t.Helper()
	decoder, err := opus.NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	frame := make([]int16, media.FrameSamples)
	for n, packet := range packets {
		if lost(n) {
			err = decoder.Conceal(frame)
		} else {
			_, err = decoder.Decode(packet, frame)
		}
		if err != nil {
			t.Fatal(err)
		}
		pcm = append(pcm, frame...)
	}
	return pcm
}

func never(int) bool { return false }

func compare(t testing.TB, spoken, heard []int16) Similarity {
	t.Helper()
	s, err := Compare(spoken, heard)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestScores(t *testing.T) {
	alice, bob := speech(t, "alice"), speech(t, "bob")
	packets := encode(t, alice)
	random := rand.New(rand.NewPCG(1, 2))
	noise := make([]int16, len(alice))
	for i := range noise {
		noise[i] = int16(3000 * random.NormFloat64())
	}
	louder := make([]int16, len(alice))
	noisy := make([]int16, len(alice))
	for i, s := range alice {
		louder[i] = s / 4
		noisy[i] = int16(max(-32768, min(32767, float64(s)+1000*random.NormFloat64())))
	}
	for _, test := range []struct {
		name     string
		heard    []int16
		min, max float64
	}{
		{"the same", alice, 0.9999, 1.0001},
		{"a quarter as loud", louder, 0.999, 1.0001},
		{"after Opus", decode(t, packets, never), 0.95, 0.999},
		{"after Opus with 10 % loss", decode(t, packets, func(int) bool { return random.Float64() < 0.1 }), 0.75, 0.95},
		{"after Opus with 40 % loss", decode(t, packets, func(int) bool { return random.Float64() < 0.4 }), 0.3, 0.85},
		{"in noise", noisy, 0.6, 0.95},
		{"someone else", bob, 0, 0.2},
		{"noise", noise, 0, 0.1},
		{"silence", make([]int16, len(alice)), 0, 0.01},
	} {
		got := compare(t, alice, test.heard)
		t.Logf("%-26s %.3f", test.name, got.Score)
		if got.Score < test.min || got.Score > test.max {
			t.Errorf("%s: %.3f, want %.2f to %.2f", test.name, got.Score, test.min, test.max)
		}
	}
}

// TestDelay: it is found to a tenth of a millisecond, also a different one in the middle.
func TestDelay(t *testing.T) {
	alice := speech(t, "alice")
	for _, delay := range []int{0, 48000, 4321} {
		heard := append(make([]int16, delay), alice...)
		got := compare(t, alice, heard)
		want := time.Duration(delay) * time.Second / media.SampleRate
		if off := (got.Delay - want).Abs(); off > 100*time.Microsecond || got.Score < 0.99 || got.Compared < 4900*time.Millisecond {
			t.Errorf("%d samples late: %+v", delay, got)
		}
	}
	got := compare(t, alice, alice[48000:]) // the first second is missing
	if off := (got.Delay + time.Second).Abs(); off > 100*time.Microsecond || got.Score < 0.99 || got.Compared.Round(time.Second) != 4*time.Second {
		t.Errorf("%+v", got)
	}
	late := append(append([]int16{}, alice[:2*48000]...), make([]int16, 60*48)...)
	got = compare(t, alice, append(late, alice[2*48000:]...)) // 60 ms put in
	if got.Score < 0.95 {
		t.Errorf("with a gap in the middle: %+v", got)
	}
	if _, err := Compare(alice[:4800], alice); err == nil {
		t.Error("a tenth of a second is compared")
	}
	if _, err := Compare(make([]int16, 48000), alice); err == nil {
		t.Error("silence is compared")
	}
}

func TestFFT(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	x := make([]complex128, 64)
	for i := range x {
		x[i] = complex(random.NormFloat64(), random.NormFloat64())
	}
	got := append([]complex128(nil), x...)
	fft(got)
	for k := range x {
		var want complex128
		for n, v := range x {
			want += v * cmplx.Rect(1, -2*math.Pi*float64(k*n)/64)
		}
		if cmplx.Abs(want-got[k]) > 1e-9 {
			t.Fatalf("bin %d: %v, want %v", k, got[k], want)
		}
	}
}

func BenchmarkCompare(b *testing.B) {
	alice := speech(b, "alice")
	heard := decode(b, encode(b, alice), never)
	for b.Loop() {
		compare(b, alice, heard)
	}
	b.ReportMetric(5*float64(b.N)/b.Elapsed().Seconds(), "x-real-time")
}
