package opus

import (
	"bytes"
	"math"
	"math/rand/v2"
	"testing"
)

// speechLike is a voice of sorts: a buzz with moving harmonics, syllables, pauses and a little noise.
func speechLike(seconds int) []int16 {
	random := rand.New(rand.NewPCG(1, 2))
	pcm := make([]int16, seconds*SampleRate)
	phase := 0.0
	for i := range pcm {
		t := float64(i) / SampleRate
		phase += 2 * math.Pi * (120 + 30*math.Sin(2*math.Pi*0.7*t)) / SampleRate
		syllable := math.Max(0, math.Sin(2*math.Pi*3*t)) * math.Max(0, math.Sin(2*math.Pi*0.4*t))
		var s float64
		for h := 1.0; h < 20; h++ {
			s += math.Sin(h*phase) / h
		}
		pcm[i] = int16(8000*syllable*s/2 + 30*random.NormFloat64())
	}
	return pcm
}

func encodeAll(t testing.TB, pcm []int16, cfg Config) [][]byte {
	encoder, err := NewEncoder(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var packets [][]byte
	for ; len(pcm) >= FrameSamples; pcm = pcm[FrameSamples:] {
		packet, err := encoder.Encode(pcm[:FrameSamples])
		if err != nil {
			t.Fatal(err)
		}
		packets = append(packets, bytes.Clone(packet))
	}
	return packets
}

func newDecoder(t testing.TB) *Decoder {
	d, err := NewDecoder()
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// snr is the ratio in dB of what was meant to the difference from it.
func snr(want, got []int16) float64 {
	var signal, noise float64
	for i := range want {
		d := float64(want[i]) - float64(got[i])
		signal += float64(want[i]) * float64(want[i])
		noise += d * d
	}
	return 10 * math.Log10((signal+1)/(noise+1))
}

// TestPacketsHaveOneSize: speech, silence and full-scale noise are the same on the wire.
func TestPacketsHaveOneSize(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	pcm := speechLike(2)
	pcm = append(pcm, make([]int16, SampleRate/2)...)
	for range SampleRate / 2 {
		pcm = append(pcm, int16(random.Uint32()))
	}
	for bitrate, size := range map[int]int{0: 80, 12000: 30, 64000: 160} {
		for i, packet := range encodeAll(t, pcm, Config{Bitrate: bitrate}) {
			if len(packet) != size || Samples(packet) != FrameSamples {
				t.Fatalf("bit rate %d, packet %d: %d bytes and %d samples, want %d and %d", bitrate, i, len(packet), Samples(packet), size, FrameSamples)
			}
		}
	}
}

func TestRoundTrip(t *testing.T) {
	pcm := speechLike(3)
	decoder, encoder := newDecoder(t), must(NewEncoder(Config{}))(t)
	var heard []int16
	frame := make([]int16, FrameSamples)
	for _, packet := range encodeAll(t, pcm, Config{}) {
		n, err := decoder.Decode(packet, frame)
		if err != nil || n != FrameSamples {
			t.Fatal(n, err)
		}
		heard = append(heard, frame...)
	}
	// At this rate the codec keeps the spectrum rather than the waveform: a few dB tell that it is the right sound at the right time.
	best, at := math.Inf(-1), 0
	for lag := range FrameSamples {
		if ratio := snr(pcm[:len(pcm)-lag], heard[lag:]); ratio > best {
			best, at = ratio, lag
		}
	}
	if off := at - encoder.Lookahead(); best < 3 || off < -48 || off > 48 {
		t.Errorf("best match %.1f dB at a lag of %d samples, announced %d", best, at, encoder.Lookahead())
	}
}

// TestFECRepairsALoss: the copy in the next packet is far nearer to what was said than concealment is.
func TestFECRepairsALoss(t *testing.T) {
	packets := encodeAll(t, speechLike(6), Config{})
	whole, concealing, repairing := newDecoder(t), newDecoder(t), newDecoder(t)
	a, b, c := make([]int16, FrameSamples), make([]int16, FrameSamples), make([]int16, FrameSamples)
	var said, concealed, repaired []int16
	copies := 0
	for i, packet := range packets {
		decode(t, whole, packet, a)
		if i%10 == 5 && i+1 < len(packets) {
			if err := concealing.Conceal(b); err != nil {
				t.Fatal(err)
			}
			if HasFEC(packets[i+1]) {
				copies++
			}
			if err := repairing.DecodeFEC(packets[i+1], c); err != nil {
				t.Fatal(err)
			}
			said, concealed, repaired = append(said, a...), append(concealed, b...), append(repaired, c...)
			continue
		}
		decode(t, concealing, packet, b)
		decode(t, repairing, packet, c)
	}
	plc, fec := snr(said, concealed), snr(said, repaired)
	t.Logf("lost frames: %.1f dB concealed, %.1f dB by FEC; %d of %d next packets carry a copy", plc, fec, copies, len(said)/FrameSamples)
	if fec < plc+3 {
		t.Errorf("FEC gives %.1f dB, concealment %.1f dB", fec, plc)
	}
}

func decode(t *testing.T, d *Decoder, packet []byte, pcm []int16) {
	t.Helper()
	if n, err := d.Decode(packet, pcm); err != nil || n != len(pcm) {
		t.Fatal(n, err)
	}
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestSamples(t *testing.T) {
	for _, test := range []struct {
		packet []byte
		want   int
	}{
		{nil, 0},
		{[]byte{0}, 480},                   // SILK 10 ms
		{[]byte{3 << 3}, 2880},             // SILK 60 ms
		{[]byte{13 << 3}, 960},             // hybrid 20 ms
		{[]byte{16 << 3}, 120},             // CELT 2.5 ms
		{[]byte{31<<3 | 1}, 1920},          // two CELT frames of 20 ms
		{[]byte{31<<3 | 3, 6}, MaxSamples}, // six of them
		{[]byte{31<<3 | 3, 7}, 0},          // 140 ms: too long
		{[]byte{31<<3 | 3}, 0},             // the count is missing
	} {
		if got := Samples(test.packet); got != test.want {
			t.Errorf("Samples(%x) = %d, want %d", test.packet, got, test.want)
		}
	}
}

func TestRefused(t *testing.T) {
	if _, err := NewEncoder(Config{Bitrate: 1000}); err == nil {
		t.Error("a bit rate of 1 kb/s is accepted")
	}
	if _, err := must(NewEncoder(Config{}))(t).Encode(make([]int16, 100)); err == nil {
		t.Error("a frame of 100 samples is encoded")
	}
	frame := make([]int16, FrameSamples)
	for _, packet := range [][]byte{nil, {31<<3 | 1, 0, 0}, {3 << 3, 1, 2}} {
		if _, err := newDecoder(t).Decode(packet, frame); err == nil {
			t.Errorf("packet %x is decoded into one frame", packet)
		}
	}
}

// FuzzDecode gives packets from the network to a decoder that has already decoded something.
func FuzzDecode(f *testing.F) {
	packets := encodeAll(f, speechLike(1), Config{})
	f.Add(packets[0])
	f.Add(packets[20])
	f.Add([]byte{31<<3 | 3, 6})
	f.Add([]byte{15<<3 | 4, 1, 2, 3})
	f.Fuzz(func(t *testing.T, packet []byte) {
		d := newDecoder(t)
		pcm := make([]int16, MaxSamples)
		d.Decode(packets[10], pcm)
		HasFEC(packet)
		d.DecodeFEC(packet, pcm[:FrameSamples])
		if n, err := d.Decode(packet, pcm); err == nil && n != Samples(packet) {
			t.Errorf("%d samples from a packet of %d", n, Samples(packet))
		}
		if err := d.Conceal(pcm[:FrameSamples]); err != nil {
			t.Error(err)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	pcm := speechLike(4)
	encoder := must(NewEncoder(Config{}))(b)
	for i := 0; b.Loop(); i++ {
		from := i % (len(pcm) / FrameSamples) * FrameSamples
		if _, err := encoder.Encode(pcm[from : from+FrameSamples]); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(0.02*float64(b.N)/b.Elapsed().Seconds(), "x-real-time")
}

func BenchmarkDecode(b *testing.B) {
	packets := encodeAll(b, speechLike(4), Config{})
	decoder := newDecoder(b)
	frame := make([]int16, FrameSamples)
	for i := 0; b.Loop(); i++ {
		if _, err := decoder.Decode(packets[i%len(packets)], frame); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(0.02*float64(b.N)/b.Elapsed().Seconds(), "x-real-time")
}
