package demo

import (
	"math"
	"math/bits"
	"math/cmplx"
	"slices"
)

// How alike two sounds are to the ear, which hears in bands, cares about how their strength moves, and does not notice a delay
// that creeps:
//
//  1. every 10 ms, the energy in bands of a third of an octave, in decibels
//  2. the delay at which the two sounds' loudness agrees best, over all, and then a little around it for each second
//  3. the correlation of all bands over all times at which something was said

const (
	hop     = 240 // samples of 24 kHz, 10 ms
	window  = 512 // samples, 21 ms
	maxLag  = 300 // hops, over all
	creep   = 25  // hops, for each second
	second  = 100 // hops
	bands   = 18  // thirds of octaves from 125 Hz to 8 kHz
	active  = 40  // decibels below the loudest that still count as speech
	quietdB = 10  // what silence counts as
)

// A sound is the energy in each band, every 10 ms.
type sound [][bands]float64

// similarity is 1 for the same sound, near 0 for sounds that have nothing to do with each other, whatever the delay.
func similarity(said, heard sound) float64 {
	a, b := said, heard
	if len(a) < second || len(b) < second {
		return 0
	}
	loudA, loudB := a.loudness(), b.loudness()
	overall := bestLag(loudA, loudB, 0, maxLag)
	peak := slices.Max(loudA)
	var x, y [bands][]float64
	for from := 0; from+second <= len(a); from += second {
		first := max(0, from+overall-creep)
		last := min(len(b), from+second+overall+creep)
		if last-first < second {
			continue
		}
		lag := first - from + bestLag(loudA[from:from+second], loudB[first:last], creep, creep)
		for t := from; t < from+second; t++ {
			if t+lag < 0 || t+lag >= len(b) || loudA[t] < peak-active {
				continue
			}
			for band := range bands {
				x[band], y[band] = append(x[band], a[t][band]), append(y[band], b[t+lag][band])
			}
		}
	}
	var all, other []float64
	for band := range bands {
		all, other = append(all, centred(x[band])...), append(other, centred(y[band])...)
	}
	return max(0, correlation(all, other, 0))
}

// bestLag is the delay of y after x, around a middle, at which they agree best.
func bestLag(x, y []float64, middle, reach int) int {
	best, at := math.Inf(-1), middle
	for lag := middle - reach; lag <= middle+reach; lag++ {
		if c := correlation(x, y, lag); c > best {
			best, at = c, lag
		}
	}
	return at
}

// correlation of x at t with y at t+lag (Pearson), over the times that both have.
func correlation(x, y []float64, lag int) float64 {
	from, to := max(0, -lag), min(len(x), len(y)-lag)
	if to-from < min(len(x), len(y))/2 || to <= from {
		return 0
	}
	x, y = centred(x[from:to]), centred(y[from+lag:to+lag])
	var xy, xx, yy float64
	for i := range x {
		xy, xx, yy = xy+x[i]*y[i], xx+x[i]*x[i], yy+y[i]*y[i]
	}
	if xx == 0 || yy == 0 {
		return 0
	}
	return xy / math.Sqrt(xx*yy)
}

func centred(x []float64) []float64 {
	mean := 0.0
	for _, v := range x {
		mean += v / float64(len(x))
	}
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = v - mean
	}
	return out
}

func (s sound) loudness() []float64 {
	out := make([]float64, len(s))
	for t, s := range s {
		energy := 0.0
		for _, dB := range s {
			energy += math.Pow(10, dB/10)
		}
		out[t] = 10 * math.Log10(energy)
	}
	return out
}

func listen(pcm []int16) sound {
	half := make([]float64, len(pcm)/2) // 24 kHz hold all the bands
	for i := range half {
		half[i] = (float64(pcm[2*i]) + float64(pcm[2*i+1])) / 2
	}
	var bell [window]float64 // Hann
	var bandOf [window / 2]int
	for i := range bell {
		bell[i] = 0.5 - 0.5*math.Cos(2*math.Pi*float64(i)/window)
	}
	for i := range bandOf {
		bandOf[i] = int(math.Floor(3 * math.Log2(math.Max(float64(i), 0.5)*24000/window/125)))
	}
	var spectra sound
	var x [window]complex128
	for ; len(half) >= window; half = half[hop:] {
		for i := range x {
			x[i] = complex(half[i]*bell[i], 0)
		}
		fourier(&x)
		var energy [bands]float64
		for i, band := range bandOf {
			if band >= 0 && band < bands {
				energy[band] += real(x[i])*real(x[i]) + imag(x[i])*imag(x[i])
			}
		}
		for i := range energy {
			energy[i] = math.Max(quietdB, 10*math.Log10(energy[i]/window+1e-9))
		}
		spectra = append(spectra, energy)
	}
	return spectra
}

// turns are the roots of unity.
var turns = func() (t [window / 2]complex128) {
	for i := range t {
		t[i] = cmplx.Rect(1, -2*math.Pi*float64(i)/window)
	}
	return t
}()

// fourier transforms x in place (Cooley and Tukey): the values in bit-reversed order first, then longer and longer transforms.
func fourier(x *[window]complex128) {
	for i := range x {
		if j := bits.Reverse16(uint16(i)) >> (16 - bits.Len16(window-1)); i < int(j) {
			x[i], x[j] = x[j], x[i]
		}
	}
	for half := 1; half < window; half *= 2 {
		for start := 0; start < window; start += 2 * half {
			for i := range half {
				even, odd := x[start+i], x[start+half+i]*turns[i*window/(2*half)]
				x[start+i], x[start+half+i] = even+odd, even-odd
			}
		}
	}
}
