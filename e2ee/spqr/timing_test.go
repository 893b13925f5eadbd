package spqr

import (
	"crypto/mlkem"
	"crypto/rand"
	"math"
	mathrand "math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"testing"
	"time"
)

// BenchmarkTiming looks whether the time of an encapsulation tells anything of its secret m, after dudect (Reparaz, Balasch, Verbauwhede,
// "Dude, is my code constant time?", 2017). One class of calls has always the same m, the other a fresh one each time; Welch's t says how
// sure it is that their mean times differ. Above 10 they do; below 5 nothing was seen. The last case branches on the bits of m, which
// shows that a leak would be.
//
//	go test -run '^$' -bench Timing -benchtime 200000x ./e2ee/spqr
func BenchmarkTiming(b *testing.B) {
	pair, err := mlkem.GenerateKey768()
	if err != nil {
		b.Fatal(err)
	}
	vector, h := splitKey(pair.EncapsulationKey().Bytes())
	header := [headerSize]byte(h)
	for _, c := range []struct {
		name string
		call func(m *[32]byte)
	}{
		{"encaps1", func(m *[32]byte) { encaps1(&header, m) }},
		{"encaps2", func(m *[32]byte) { encaps2(&header, vector, m) }},
		{"control-leaks", func(m *[32]byte) {
			sink = branchingDecode(m)
			encaps2(&header, vector, m)
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			defer debug.SetGCPercent(debug.SetGCPercent(-1))
			var fixed, m [32]byte
			var times [2][]float64
			for i := 0; b.Loop(); i++ {
				if i%10_000 == 0 {
					runtime.GC()
				}
				class := mathrand.IntN(2)
				rand.Read(m[:]) // in both classes, so that they differ in nothing else
				if class == 0 {
					m = fixed
				}
				start := time.Now()
				c.call(&m)
				times[class] = append(times[class], float64(time.Since(start)))
			}
			b.ReportMetric(croppedT(times), "|t|")
		})
	}
}

var sink ringElement

// branchingDecode is ringDecodeAndDecompress1 as one should not write it.
func branchingDecode(b *[32]byte) (f ringElement) {
	for i := range f {
		if b[i/8]>>(i%8)&1 == 1 {
			f[i] = fieldMul(fieldElement(i), (q+1)/2)
		}
	}
	return f
}

// croppedT is the greatest |t| when the slowest calls are left out, to several shares: interruptions make a long tail, in which small
// differences drown.
func croppedT(times [2][]float64) (greatest float64) {
	all := slices.Sorted(slices.Values(slices.Concat(times[0], times[1])))
	for _, share := range []float64{1, 0.99, 0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.3} {
		below := all[int(share*float64(len(all)-1))]
		var n, mean, variance [2]float64
		for class, list := range times {
			for _, v := range list { // Welford's running variance
				if v <= below {
					n[class]++
					delta := v - mean[class]
					mean[class] += delta / n[class]
					variance[class] += delta * (v - mean[class])
				}
			}
			variance[class] /= n[class] - 1
		}
		t := math.Abs(mean[0]-mean[1]) / math.Sqrt(variance[0]/n[0]+variance[1]/n[1])
		if !math.IsNaN(t) {
			greatest = max(greatest, t)
		}
	}
	return greatest
}
