// Package quality tells how much of what was spoken can be understood in what was heard.
//
// The measure is ESTOI (J. Jensen, C. H. Taal: An Algorithm for Predicting the Intelligibility of Speech Masked by Modulated Noise
// Maskers, IEEE/ACM Trans. Audio, Speech, Lang. Process. 24(11), 2016), which compares spectra of 15 third-octave bands over 384 ms.
// It was taken rather than the older STOI (Taal and others, 2011) since that gives noise 0.4. It is 1 for the same sound, above 0.95
// for speech after a good codec, and below 0.2 for what has nothing to do with it. Loudness does not matter, nor does delay, which is
// found first, and again for each second since a jitter buffer moves the sound about.
package quality

import (
	"errors"
	"io"
	"time"

	"sotto/media"
	"sotto/media/resample"
)

// rate is that of the measure: speech is understood by what lies below 5 kHz.
const rate = 10000

const (
	block  = rate     // that is aligned by itself: a second
	wander = rate / 5 // how far a block may lie from where the whole lies
)

// Similarity is the result of Compare.
type Similarity struct {
	Score    float64       // ESTOI: 0 nothing in common, 1 the same
	Delay    time.Duration // of what was heard, from its start; negative if its beginning is missing
	Compared time.Duration // how much of the spoken lies within what was heard
}

var errShort = errors.New("too little speech to compare: half a second is needed")

// Compare finds what was spoken in what was heard. Both are 48 kHz mono, and seconds to minutes long.
func Compare(spoken, heard []int16) (Similarity, error) {
	x, y := speechBand(spoken), speechBand(heard)
	if len(x) < rate/2 || len(y) < rate/2 {
		return Similarity{}, errShort
	}
	lag := delay(x, y, rate/2-len(x), len(y)-rate/2)
	from, to := max(0, -lag), min(len(x), len(y)-lag)
	score, err := estoi(x[from:to], align(x, y, lag, from, to))
	if err != nil {
		return Similarity{}, err
	}
	return Similarity{
		Score:    max(0, score),
		Delay:    seconds(lag),
		Compared: seconds(to - from),
	}, nil
}

func seconds(samples int) time.Duration { return time.Duration(samples) * time.Second / rate }

// align returns the part of y that lies where x[from:to] does, each block where it fits best.
func align(x, y []float64, lag, from, to int) []float64 {
	aligned := make([]float64, 0, to-from)
	for at := from; at < to; at += block {
		end := min(at+block, to)
		here := delay(x[at:end], window(y, at+lag-wander, end+lag+wander), 0, 2*wander) - wander
		aligned = append(aligned, window(y, at+lag+here, end+lag+here)...)
	}
	return aligned
}

// window is y[from:to], with silence where y does not reach.
func window(y []float64, from, to int) []float64 {
	w := make([]float64, to-from)
	if a, b := max(0, from), min(len(y), to); a < b {
		copy(w[a-from:], y[a:b])
	}
	return w
}

// delay is by how many samples, from least to most, y lags behind x: where their cross-correlation is greatest.
func delay(x, y []float64, least, most int) int {
	size := 1
	for size < len(x)+len(y) {
		size *= 2
	}
	a, b := make([]complex128, size), make([]complex128, size)
	for i, s := range x {
		a[i] = complex(s, 0)
	}
	for i, s := range y {
		b[i] = complex(s, 0)
	}
	fft(a)
	fft(b)
	for i := range a { // the transform of the correlation, conjugated: its transform is the correlation, times size
		a[i] *= complex(real(b[i]), -imag(b[i]))
	}
	fft(a)
	best, at := 0.0, max(0, least)
	for lag := least; lag <= most; lag++ {
		if c := real(a[(lag+size)%size]); c > best {
			best, at = c, lag
		}
	}
	return at
}

// speechBand resamples to the rate of the measure.
func speechBand(pcm []int16) []float64 {
	r, chunk := resample.New(&slice{pcm}, media.SampleRate, rate), make([]int16, 4096)
	out := make([]float64, 0, len(pcm)*rate/media.SampleRate+1)
	for {
		n, err := r.Read(chunk)
		for _, s := range chunk[:n] {
			out = append(out, float64(s))
		}
		if err != nil { // the end, since a slice knows no other error
			return out
		}
	}
}

type slice struct{ pcm []int16 }

func (s *slice) Read(pcm []int16) (int, error) {
	n := copy(pcm, s.pcm)
	if s.pcm = s.pcm[n:]; n == 0 {
		return 0, io.EOF
	}
	return n, nil
}
