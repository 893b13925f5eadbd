package demo

import (
	"math"
	"math/cmplx"
)

// How alike two sounds are to the ear, which hears in bands and cares about how their strength moves, not about the waveform:
//
//  1. every 10 ms, the energy in bands of a third of an octave, in decibels
//  2. the delay at which the two sounds' loudness agrees best
//  3. the correlation of all bands over all times at which something was said

const (
	hop     = 480  // samples, 10 ms
	window  = 1024 // samples, 21 ms
	maxLag  = 300  // hops
	bands   = 18   // thirds of octaves from 125 Hz to 8 kHz
	active  = 40.0 // decibels below the loudest that still count as speech
	quietdB = 10.0 // what silence counts as
)

// similarity is 1 for the same sound, near 0 for sounds that have nothing to do with each other, whatever the delay.
func similarity(said, heard []int16) float64 {
	a, b := spectrogram(said), spectrogram(heard)
	if len(a) == 0 || len(b) == 0 {
		return 0
	}
	loudnessA, loudnessB := loudness(a), loudness(b)
	best, at := math.Inf(-1), 0
	for lag := -maxLag; lag <= maxLag; lag++ {
		if c := correlation(loudnessA, loudnessB, lag); c > best {
			best, at = c, lag
		}
	}
	peak := 0.0
	for _, l := range loudnessA {
		peak = max(peak, l)
	}
	var x, y []float64
	for band := range bands {
		var u, v []float64
		for t := range a {
			if t+at < 0 || t+at >= len(b) || loudnessA[t] < peak-active {
				continue
			}
			u, v = append(u, a[t][band]), append(v, b[t+at][band])
		}
		x, y = append(x, centred(u)...), append(y, centred(v)...)
	}
	return max(0, correlation(x, y, 0))
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

func loudness(spectra [][bands]float64) []float64 {
	out := make([]float64, len(spectra))
	for t, s := range spectra {
		energy := 0.0
		for _, dB := range s {
			energy += math.Pow(10, dB/10)
		}
		out[t] = 10 * math.Log10(energy)
	}
	return out
}

func spectrogram(pcm []int16) [][bands]float64 {
	var spectra [][bands]float64
	var bandOf [window / 2]int
	for i := range bandOf {
		bandOf[i] = int(math.Floor(3 * math.Log2(math.Max(float64(i), 0.5)*48000/window/125)))
	}
	for ; len(pcm) >= window; pcm = pcm[hop:] {
		x := make([]complex128, window)
		for i := range x {
			x[i] = complex(float64(pcm[i])*(0.5-0.5*math.Cos(2*math.Pi*float64(i)/window)), 0)
		}
		fourier(x)
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

// fourier transforms in place; the length is a power of two.
func fourier(x []complex128) {
	n := len(x)
	if n == 1 {
		return
	}
	even, odd := make([]complex128, n/2), make([]complex128, n/2)
	for i := range even {
		even[i], odd[i] = x[2*i], x[2*i+1]
	}
	fourier(even)
	fourier(odd)
	for i := range even {
		turned := cmplx.Rect(1, -2*math.Pi*float64(i)/float64(n)) * odd[i]
		x[i], x[i+n/2] = even[i]+turned, even[i]-turned
	}
}
