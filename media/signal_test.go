package media

import "math"

func fillTone(pcm []int16, sample *int) {
	for i := range pcm {
		pcm[i] = int16(8000 * math.Sin(2*math.Pi*440*float64(*sample)/SampleRate))
		*sample++
	}
}

// loudness is the root mean square.
func loudness(pcm []int16) float64 {
	sum := 0.0
	for _, v := range pcm {
		sum += float64(v) * float64(v)
	}
	return math.Sqrt(sum / float64(len(pcm)))
}
