package demo

import (
	"bytes"
	"math"
	"math/cmplx"
	"math/rand/v2"
	"testing"

	"sotto/cmd/sotto/sample"
	"sotto/media"
	"sotto/media/file"
)

// TestSimilarity shows that the measure tells speech that a listener would call the same from speech that is not.
func TestSimilarity(t *testing.T) {
	alice, bob := speech(t, "speech-alice.ogg")[:6*media.SampleRate], speech(t, "speech-bob.ogg")[:6*media.SampleRate]
	_, decoded, err := coded(alice)
	if err != nil {
		t.Fatal(err)
	}
	noise := make([]int16, len(alice))
	random := rand.New(rand.NewPCG(1, 2))
	for i := range noise {
		noise[i] = int16(random.IntN(20000) - 10000)
	}
	stretched := append(append([]int16(nil), alice[:3*media.SampleRate]...), alice[3*media.SampleRate-4800:]...) // 100 ms more in the middle
	holes := append([]int16(nil), alice...)
	for i := range holes {
		if i/media.FrameSamples%3 == 0 {
			holes[i] = 0
		}
	}
	quiet := make([]int16, len(alice))
	for i := range quiet {
		quiet[i] = alice[i] / 4
	}
	said := listen(alice)
	for _, test := range []struct {
		name      string
		heard     []int16
		low, high float64
	}{
		{"itself", alice, 0.999, 1.001},
		{"itself, half a second later", append(make([]int16, 24000), alice...), 0.999, 1.001},
		{"itself, more quietly", quiet, similarEnough, 1},
		{"itself, through the codec", decoded, 0.9, 1},
		{"itself, with a delay that jumps", stretched, 0.9, 1},
		{"every third frame missing", holes, 0, similarEnough},
		{"somebody else", bob, 0, 0.4},
		{"noise", noise, 0, 0.3},
		{"silence", make([]int16, len(alice)), 0, 0.001},
		{"nothing", nil, 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := similarity(said, listen(test.heard))
			t.Logf("%.3f", got)
			if got < test.low || got > test.high {
				t.Errorf("similarity %.3f, want from %.3f to %.3f", got, test.low, test.high)
			}
		})
	}
}

// TestFourier compares with the definition.
func TestFourier(t *testing.T) {
	var x [window]complex128
	for i := range x {
		x[i] = complex(rand.Float64(), rand.Float64())
	}
	got := x
	fourier(&got)
	for _, k := range []int{0, 1, 7, window / 2, window - 1} {
		var want complex128
		for i := range x {
			want += x[i] * cmplx.Rect(1, -2*math.Pi*float64(i*k%window)/window)
		}
		if cmplx.Abs(got[k]-want) > 1e-9 {
			t.Errorf("coefficient %d is %v, want %v", k, got[k], want)
		}
	}
}

func speech(t *testing.T, name string) []int16 {
	t.Helper()
	content, err := sample.Files.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	audio, err := file.NewAudio(name, bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	var all []int16
	for frame := make([]int16, media.FrameSamples); audio.ReadFrame(frame) == nil; {
		all = append(all, frame...)
	}
	return all
}
