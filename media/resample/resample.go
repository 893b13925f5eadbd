// Package resample changes the sample rate of sound.
//
// It is a windowed sinc: the ideal low-pass filter, cut off after so many zero crossings on either side by a Kaiser window
// and tabulated so finely that interpolating between two entries is exact to 16 bits (J. O. Smith, Digital Audio Resampling, 2002).
// What lies above half of the lower rate is taken out, more than 90 dB down.
package resample

import (
	"io"
	"math"
)

const (
	crossings = 24
	fineness  = 512  // entries between two crossings
	kaiser    = 9.0  // stop band below -90 dB
	passband  = 0.94 // of the lower of the two bandwidths
	mostRows  = 1000 // kept; 44.1 kHz has 160
)

// A Source yields samples like an io.Reader.
type Source interface {
	Read(pcm []int16) (int, error)
}

// A Resampler is a Source with another rate than the one it reads. It holds a bounded part of the sound.
type Resampler struct {
	from     Source
	num, den int64   // input samples for one output sample, as a fraction in lowest terms
	scale    float64 // of the filter: below 1 when the rate goes down
	width    int64   // input samples that the filter reaches to either side
	kernel   []float64
	rows     map[int64][]float64 // the filter at each place between two input samples that was needed so far

	input []float64 // of the source, from number first on
	first int64
	pos   int64 // output samples made
	total int64 // input samples that there are, once the end is known
	done  bool
	chunk [1024]int16
}

// New returns the sound of from, which has rate samples a second, at another rate. It takes longer for rates with an odd ratio.
func New(from Source, rate, to int) *Resampler {
	num, den := int64(rate), int64(to)
	for a, b := num, den; ; a, b = b, a%b {
		if b == 0 {
			num, den = num/a, den/a
			break
		}
	}
	r := &Resampler{from: from, num: num, den: den, kernel: make([]float64, crossings*fineness+2), rows: map[int64][]float64{}}
	r.scale = passband * min(1, float64(den)/float64(num))
	r.width = int64(math.Ceil(crossings / r.scale))
	for i := range r.kernel[:crossings*fineness+1] {
		x := float64(i) / fineness
		window := bessel(kaiser*math.Sqrt(1-x*x/(crossings*crossings))) / bessel(kaiser)
		r.kernel[i] = window * sinc(x)
	}
	r.input = make([]float64, r.width) // silence before the beginning
	r.first = -r.width
	return r
}

// Read fills pcm. The sound is as long as that of the source.
func (r *Resampler) Read(pcm []int16) (int, error) {
	for i := range pcm {
		center, rest := r.pos*r.num/r.den, r.pos*r.num%r.den
		if err := r.fill(center-r.width, center+r.width+1); err != nil {
			return i, err
		}
		if r.done && center >= r.total {
			return i, io.EOF
		}
		var sum float64
		input := r.input[center-r.width-r.first:]
		for n, weight := range r.row(rest) {
			sum += input[n] * weight
		}
		pcm[i] = int16(math.Round(max(math.MinInt16, min(math.MaxInt16, sum))))
		r.pos++
	}
	return len(pcm), nil
}

// row is the filter for an output sample that lies rest/den behind an input sample. The usual rates have few such places.
func (r *Resampler) row(rest int64) []float64 {
	row, ok := r.rows[rest]
	if !ok {
		row = make([]float64, 2*r.width+1)
		for i := range row {
			row[i] = r.scale * r.filter(float64(rest)/float64(r.den)+float64(r.width-int64(i)))
		}
		if len(r.rows) < mostRows {
			r.rows[rest] = row
		}
	}
	return row
}

// filter is the impulse response at a distance of x input samples.
func (r *Resampler) filter(x float64) float64 {
	x = math.Abs(x) * r.scale * fineness
	i := int(x)
	if i >= crossings*fineness {
		return 0
	}
	return r.kernel[i] + (x-float64(i))*(r.kernel[i+1]-r.kernel[i])
}

// fill reads up to input sample number to, with silence behind the end, and forgets what lies before number from.
func (r *Resampler) fill(from, to int64) error {
	if drop := from - r.first; drop > int64(len(r.chunk)) {
		r.input = r.input[:copy(r.input, r.input[drop:])]
		r.first = from
	}
	for r.first+int64(len(r.input)) < to {
		if r.done {
			r.input = append(r.input, 0)
			continue
		}
		n, err := r.from.Read(r.chunk[:])
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
