package file

import (
	"io"
	"math"

	"sotto/media"
)

// The resampler is a windowed sinc: the ideal low-pass filter, cut off after so many zero crossings on either side by a Kaiser window
// and tabulated so finely that interpolating between two entries is exact to 16 bits (J. O. Smith, Digital Audio Resampling, 2002).
const (
	crossings = 24
	fineness  = 512  // entries between two crossings
	kaiser    = 9.0  // stop band below -90 dB
	passband  = 0.94 // of the lower of the two bandwidths
)

type resampler struct {
	from   samples
	step   float64 // input samples for one output sample
	scale  float64 // of the filter: below 1 when the rate goes down
	width  int     // input samples that the filter reaches to either side
	kernel []float64

	input []float64 // of the source, from number first on
	first int64
	pos   int64 // output samples made
	total int64 // input samples that there are, once the end is known
	done  bool
	chunk [1024]int16
}

func newResampler(from samples, rate int) *resampler {
	r := &resampler{from: from, step: float64(rate) / media.SampleRate, kernel: make([]float64, crossings*fineness+2)}
	r.scale = passband * min(1, 1/r.step)
	r.width = int(math.Ceil(crossings / r.scale))
	for i := range r.kernel[:crossings*fineness+1] {
		x := float64(i) / fineness
		window := bessel(kaiser*math.Sqrt(1-x*x/(crossings*crossings))) / bessel(kaiser)
		r.kernel[i] = window * sinc(x)
	}
	r.input = make([]float64, r.width) // silence before the beginning
	r.first = -int64(r.width)
	return r
}

func (r *resampler) read(pcm []int16) (int, error) {
	for i := range pcm {
		center := float64(r.pos) * r.step
		from, to := int64(center)-int64(r.width), int64(center)+int64(r.width)+1
		if err := r.fill(from, to); err != nil {
			return i, err
		}
		if r.done && center > float64(r.total-1) {
			return i, io.EOF
		}
		var sum float64
		for n, x := range r.input[from-r.first : to-r.first] {
			sum += x * r.filter(center-float64(from+int64(n)))
		}
		pcm[i] = int16(math.Round(max(math.MinInt16, min(math.MaxInt16, sum*r.scale))))
		r.pos++
	}
	return len(pcm), nil
}

// filter is the impulse response at a distance of x input samples.
func (r *resampler) filter(x float64) float64 {
	x = math.Abs(x) * r.scale * fineness
	i := int(x)
	if i >= crossings*fineness {
		return 0
	}
	return r.kernel[i] + (x-float64(i))*(r.kernel[i+1]-r.kernel[i])
}

// fill reads up to input sample number to, with silence behind the end, and forgets what lies before number from.
func (r *resampler) fill(from, to int64) error {
	if drop := from - r.first; drop > int64(len(r.chunk)) {
		r.input = r.input[:copy(r.input, r.input[drop:])]
		r.first = from
	}
	for r.first+int64(len(r.input)) < to {
		if r.done {
			r.input = append(r.input, 0)
			continue
		}
		n, err := r.from.read(r.chunk[:])
		for _, s := range r.chunk[:n] {
			r.input = append(r.input, float64(s))
		}
		if err == io.EOF {
			r.done, r.total = true, r.first+int64(len(r.input))
		} else if err != nil {
			return err
		}
	}
	return nil
}

func sinc(x float64) float64 {
	if x == 0 {
		return 1
	}
	return math.Sin(math.Pi*x) / (math.Pi * x)
}

// bessel is the modified Bessel function of the first kind and order zero.
func bessel(x float64) float64 {
	sum, term := 1.0, 1.0
	for k := 1.0; term > 1e-12*sum; k++ {
		term *= x * x / (4 * k * k)
		sum += term
	}
	return sum
}
