package quality

import "math"

// Constants of the measure (Jensen and Taal, section II; the first four as in STOI).
const (
	frame     = 256   // samples, 25.6 ms, Hann window
	hop       = 128   // half of it
	transform = 512   // zero-padded
	bands     = 15    // one-third octaves
	lowest    = 150.0 // Hz, centre of the first band
	segment   = 30    // frames, 384 ms
	silence   = 40.0  // dB below the loudest frame: not counted
	tiny      = 1e-9  // where there is nothing to divide by
)

// estoi returns the intelligibility of y against x, both at 10 kHz and aligned: the mean, over all segments and their frames, of the
// correlation between the normalised spectra (equations 4 and 5).
func estoi(x, y []float64) (float64, error) {
	x, y = dropSilence(x, y)
	a, b := envelopes(x), envelopes(y)
	if len(a) < segment {
		return 0, errShort
	}
	var sum float64
	count := 0
	for end := segment; end <= len(a); end++ {
		xs, ys := normalise(a[end-segment:end]), normalise(b[end-segment:end])
		for i := range xs {
			for band := range bands {
				sum += xs[i][band] * ys[i][band]
			}
		}
		count += segment
	}
	return sum / float64(count), nil
}

// normalise takes mean and size out of a segment, first of each band over time, then of each frame over the bands.
func normalise(spectrogram [][bands]float64) (out [segment][bands]float64) {
	copy(out[:], spectrogram)
	for band := range bands {
		var mean, square float64
		for i := range out {
			mean += out[i][band] / segment
		}
		for i := range out {
			out[i][band] -= mean
			square += out[i][band] * out[i][band]
		}
		for i := range out {
			out[i][band] /= math.Sqrt(square) + tiny
		}
	}
	for i := range out {
		var mean, square float64
		for _, e := range out[i] {
			mean += e / bands
		}
		for band := range bands {
			out[i][band] -= mean
			square += out[i][band] * out[i][band]
		}
		for band := range bands {
			out[i][band] /= math.Sqrt(square) + tiny
		}
	}
	return out
}

var hann = func() (w [frame]float64) {
	for i := range w {
		w[i] = 0.5 - 0.5*math.Cos(2*math.Pi*float64(i+1)/(frame+1))
	}
	return w
}()

// dropSilence leaves out of both the frames in which x is silent, and puts the rest together by overlapping halves.
func dropSilence(x, y []float64) (xs, ys []float64) {
	var energies []float64
	loudest := 0.0
	for at := 0; at+frame <= len(x); at += hop {
		var e float64
		for i, w := range hann {
			e += w * w * x[at+i] * x[at+i]
		}
		energies = append(energies, e)
		loudest = max(loudest, e)
	}
	least := loudest * math.Pow(10, -silence/10)
	xs, ys = make([]float64, hop), make([]float64, hop)
	for n, e := range energies {
		if e <= least {
			continue
		}
		at, out := n*hop, len(xs)-hop
		xs, ys = append(xs, make([]float64, hop)...), append(ys, make([]float64, hop)...)
		for i, w := range hann {
			xs[out+i] += w * x[at+i]
			ys[out+i] += w * y[at+i]
		}
	}
	return xs, ys
}

// envelopes returns the amplitude in each band, frame by frame (equation 1).
func envelopes(x []float64) [][bands]float64 {
	var out [][bands]float64
	spectrum := make([]complex128, transform)
	for at := 0; at+frame <= len(x); at += hop {
		clear(spectrum)
		for i, w := range hann {
			spectrum[i] = complex(w*x[at+i], 0)
		}
		fft(spectrum)
		var e [bands]float64
		for band := range e {
			for bin := edges[band]; bin < edges[band+1]; bin++ {
				e[band] += real(spectrum[bin])*real(spectrum[bin]) + imag(spectrum[bin])*imag(spectrum[bin])
			}
			e[band] = math.Sqrt(e[band])
		}
		out = append(out, e)
	}
	return out
}

// edges are the bins between which the bands lie: a sixth of an octave to either side of their centres.
var edges = func() (e [bands + 1]int) {
	for i := range e {
		e[i] = int(math.Round(lowest * math.Pow(2, (2*float64(i)-1)/6) * transform / rate))
	}
	return e
}()

// fft transforms in place; the length is a power of two (Cooley and Tukey).
func fft(a []complex128) {
	n := len(a)
	for i, j := 1, 0; i < n; i++ { // in bit-reversed order
		bit := n >> 1
		for ; j&bit != 0; bit >>= 1 {
			j ^= bit
		}
		if j ^= bit; i < j {
			a[i], a[j] = a[j], a[i]
		}
	}
	roots := make([]complex128, n/2)
	for i := range roots {
		sin, cos := math.Sincos(-2 * math.Pi * float64(i) / float64(n))
		roots[i] = complex(cos, sin)
	}
	for size := 2; size <= n; size *= 2 {
		half, step := size/2, n/size
		for start := 0; start < n; start += size {
			for k := range half {
				u, v := a[start+k], a[start+k+half]*roots[k*step]
				a[start+k], a[start+k+half] = u+v, u-v
			}
		}
	}
}
