package playout

import (
	"math"
	"time"
)

const (
	shortestPeriod = 120                   // samples: 400 Hz
	longestPeriod  = 480                   // samples: 100 Hz, and two of them are a frame
	alike          = 0.8                   // correlation of two periods from which on one of them is not missed
	quiet          = 200                   // root mean square; any period will do
	urgent         = 60 * time.Millisecond // off the target: a small click is the lesser evil
)

// fit appends the frame to out, one period of the voice shorter or longer if the delay is off the target and the sound allows it.
// Two neighbouring periods are alike, so fading from one into the other hides the seam. What this gains or loses gathers in ready,
// until a Pull finds a frame there already, or needs two.
func (b *Buffer) fit(out []int16, target time.Duration) []int16 {
	x := b.frame[:]
	off := b.delay - target
	if off < tooSlow && off > -tooFast {
		return append(out, x...)
	}
	period, likeness := pitch(x)
	if likeness < alike && rms(x) > quiet && off.Abs() < urgent {
		return append(out, x...)
	}
	first, second := x[:period], x[period:2*period]
	change := duration(int64(period))
	if off > 0 {
		b.stats.Squeezed += change
		return append(fade(out, first, second), x[2*period:]...)
	}
	b.stats.Stretched += change
	return append(fade(append(out, first...), second, first), x[period:]...)
}

// pitch returns the period, in samples, after which the beginning of the frame repeats itself best, and how well: 1 is exactly.
func pitch(x []int16) (period int, likeness float64) {
	period = longestPeriod
	for lag := shortestPeriod; lag <= longestPeriod; lag += 2 {
		var xy, xx, yy float64
		for i := 0; i < lag; i += 2 {
			a, b := float64(x[i]), float64(x[i+lag])
			xy, xx, yy = xy+a*b, xx+a*a, yy+b*b
		}
		if xx*yy == 0 {
			continue
		}
		if r := xy / math.Sqrt(xx*yy); r > likeness {
			period, likeness = lag, r
		}
	}
	return period, likeness
}

// fade appends a sound that begins as from and ends as to.
func fade(out, from, to []int16) []int16 {
	for i := range from {
		out = append(out, int16((int(from[i])*(len(from)-i)+int(to[i])*i)/len(from)))
	}
	return out
}

func rms(x []int16) float64 {
	var sum float64
	for _, s := range x {
		sum += float64(s) * float64(s)
	}
	return math.Sqrt(sum / float64(len(x)))
}
