package file

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sotto/media"
	"sotto/media/opus"
)

const samplePictures, sampleSpeech = "../../cmd/sotto/sample/picture-alice.ivf", "../../cmd/sotto/sample/speech-alice.ogg"

func sine(hz float64, rate, n int) []int16 {
	pcm := make([]int16, n)
	for i := range pcm {
		pcm[i] = int16(math.Round(10000 * math.Sin(2*math.Pi*hz*float64(i)/float64(rate))))
	}
	return pcm
}

// wav is a file as other programs write it.
func wav(rate, channels, bits, kind int, data []byte) []byte {
	b := []byte("RIFF\x00\x00\x00\x00WAVELIST\x05\x00\x00\x0012345\x00fmt \x10\x00\x00\x00") // with a chunk of odd length before
	b = binary.LittleEndian.AppendUint16(b, uint16(kind))
	b = binary.LittleEndian.AppendUint16(b, uint16(channels))
	b = binary.LittleEndian.AppendUint32(b, uint32(rate))
	b = binary.LittleEndian.AppendUint32(b, uint32(rate*channels*bits/8))
	b = binary.LittleEndian.AppendUint16(b, uint16(channels*bits/8))
	b = binary.LittleEndian.AppendUint16(b, uint16(bits))
	b = append(b, "data"...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	return append(b, data...)
}

func bytesOf(pcm []int16) []byte {
	var b []byte
	for _, s := range pcm {
		b = binary.LittleEndian.AppendUint16(b, uint16(s))
	}
	return b
}

func readAll(t testing.TB, source media.AudioSource) []int16 {
	t.Helper()
	var all []int16
	frame := make([]int16, media.FrameSamples)
	for {
		err := source.ReadFrame(frame)
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, frame...)
	}
}

func writeAll(t testing.TB, sink media.AudioSink, pcm []int16) {
	t.Helper()
	for ; len(pcm) > 0; pcm = pcm[media.FrameSamples:] {
		if err := sink.WriteFrame(pcm[:media.FrameSamples]); err != nil {
			t.Fatal(err)
		}
	}
}

func openAudio(t testing.TB, path string) *Audio {
	t.Helper()
	a, err := OpenAudio(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

// TestWAV: what is recorded is read back to the sample, also from a recording that was never closed.
func TestWAV(t *testing.T) {
	pcm := sine(440, media.SampleRate, 50*media.FrameSamples)
	for _, killed := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "heard.wav")
		w, err := CreateWAV(path)
		if err != nil {
			t.Fatal(err)
		}
		writeAll(t, w, pcm)
		if !killed {
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if got := readAll(t, openAudio(t, path)); !slices.Equal(got, pcm) {
			t.Errorf("killed %v: %d samples, not those written", killed, len(got))
		}
		if info, _ := os.Stat(path); info.Mode().Perm()&0o077 != 0 {
			t.Errorf("a private recording has mode %v", info.Mode())
		}
	}
}

func TestStereoIsMixed(t *testing.T) {
	both := []int16{1000, 3000, -5, -7, math.MaxInt16, math.MaxInt16, math.MinInt16, math.MinInt16}
	a, err := NewAudio("x", bytes.NewReader(wav(48000, 2, 16, wavePCM, bytesOf(both))))
	if err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, a)[:5]; !slices.Equal(got, []int16{2000, -6, math.MaxInt16, math.MinInt16, 0}) {
		t.Error(got)
	}
}

// TestOtherRates: one second of a tone is one second of that tone at any rate.
func TestOtherRates(t *testing.T) {
	for _, rate := range []int{8000, 44100, 192000} {
		a, err := NewAudio("x", bytes.NewReader(wav(rate, 1, 16, wavePCM, bytesOf(sine(1000, rate, rate)))))
		if err != nil {
			t.Fatal(err)
		}
		got, want := readAll(t, a), sine(1000, media.SampleRate, media.SampleRate)
		if len(got) != len(want) {
			t.Fatalf("%d Hz: one second became %d samples", rate, len(got))
		}
		for i := 2400; i < len(want)-2400; i++ {
			if off := int(got[i]) - int(want[i]); off > 10 || off < -10 {
				t.Fatalf("%d Hz: sample %d is %d, not %d", rate, i, got[i], want[i])
			}
		}
	}
}

// TestOgg: a recording lasts exactly as long as what was said, and begins where it began.
func TestOgg(t *testing.T) {
	pcm := sine(300, media.SampleRate, 130*media.FrameSamples)
	path := filepath.Join(t.TempDir(), "heard.ogg")
	w, err := CreateOgg(path, opus.Config{})
	if err != nil {
		t.Fatal(err)
	}
	writeAll(t, w, pcm)
	cut, err := os.ReadFile(path) // as a killed program leaves it
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	got := readAll(t, openAudio(t, path))
	if len(got) != len(pcm) {
		t.Errorf("%d samples were written, %d read", len(pcm), len(got))
	}
	best, at := 0.0, 0
	for lag := -75; lag <= 75; lag++ {
		var xy, xx, yy float64
		for i := 4800; i < len(got)-4800; i++ {
			x, y := float64(pcm[i]), float64(got[i+lag])
			xy, xx, yy = xy+x*y, xx+x*x, yy+y*y
		}
		if likeness := xy / math.Sqrt(xx*yy); likeness > best {
			best, at = likeness, lag
		}
	}
	if best < 0.97 || at < -24 || at > 24 {
		t.Errorf("correlation %.3f with what was written, %d samples late", best, at)
	}
	a, err := NewAudio("cut.ogg", bytes.NewReader(cut))
	if err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, a); len(got) < 100*media.FrameSamples-400 {
		t.Errorf("%d samples of a recording that was cut off after %d", len(got), len(pcm))
	}
}

// TestFFmpeg reads what ffmpeg writes, and the other way round.
func TestFFmpeg(t *testing.T) {
	ffmpeg, err := exec.LookPath("ffmpeg")
	if err != nil {
		t.Skip("ffmpeg is not installed")
	}
	dir := t.TempDir()
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.Command(ffmpeg, append([]string{"-v", "error", "-y"}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("ffmpeg %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	for _, args := range [][]string{
		{"-ac", "2", "-ar", "44100", "a.wav"}, {"-ar", "8000", "b.wav"}, {"-c:a", "libopus", "c.ogg"},
		{"-c:a", "libopus", "-ac", "2", "-frame_duration", "60", "d.ogg"},
	} {
		path := filepath.Join(dir, args[len(args)-1])
		run(append([]string{"-f", "lavfi", "-i", "sine=440:d=1.5"}, append(args[:len(args)-1], path)...)...)
		got := readAll(t, openAudio(t, path))
		if frames := len(got) / media.FrameSamples; frames != 75 {
			t.Errorf("%v: %d frames, not 75", args, frames)
		}
		crossings := 0
		for i := range got[1:] {
			if got[i] < 0 && got[i+1] >= 0 {
				crossings++
			}
		}
		if crossings < 655 || crossings > 665 {
			t.Errorf("%v: %d periods in 1.5 s of 440 Hz", args, crossings)
		}
	}
	ogg, err := CreateOgg(filepath.Join(dir, "ours.ogg"), opus.Config{})
	if err != nil {
		t.Fatal(err)
	}
	writeAll(t, ogg, sine(440, media.SampleRate, 100*media.FrameSamples))
	if err := ogg.Close(); err != nil {
		t.Fatal(err)
	}
	run("-i", filepath.Join(dir, "ours.ogg"), "-f", "s16le", filepath.Join(dir, "ours.pcm"))
	if info, err := os.Stat(filepath.Join(dir, "ours.pcm")); err != nil || info.Size() != 2*100*media.FrameSamples {
		t.Errorf("ffmpeg decodes %d bytes of our recording: %v", info.Size(), err)
	}
	ours := filepath.Join(dir, "ours.ivf")
	copyVideo(t, samplePictures, ours)
	if sums := run("-i", ours, "-f", "framemd5", "-"); sums != run("-i", samplePictures, "-f", "framemd5", "-") || strings.Count(sums, "\n") < 300 {
		t.Error("ffmpeg decodes other pictures from our copy")
	}
}

func copyVideo(t testing.TB, from, to string) {
	t.Helper()
	v, err := OpenVideo(from)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	w, err := CreateIVF(to)
	if err != nil {
		t.Fatal(err)
	}
	for {
		frame, err := v.ReadFrame()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := w.WriteFrame(frame); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestIVF: every frame comes out as it went in, and at its time.
func TestIVF(t *testing.T) {
	copied := filepath.Join(t.TempDir(), "seen.ivf")
	copyVideo(t, samplePictures, copied)
	a, err := OpenVideo(samplePictures)
	if err != nil {
		t.Fatal(err)
	}
	b, err := OpenVideo(copied)
	if err != nil {
		t.Fatal(err)
	}
	if a.Width != 640 || a.Height != 360 || b.Width != 640 || b.Height != 360 {
		t.Error("wrong size", a.Width, a.Height, b.Width, b.Height)
	}
	for n := 0; ; n++ {
		x, errX := a.ReadFrame()
		y, errY := b.ReadFrame()
		if errX == io.EOF && errY == io.EOF && n == 300 {
			return
		}
		if errX != nil || errY != nil {
			t.Fatal(n, errX, errY)
		}
		if !bytes.Equal(x.Data, y.Data) || x.Key != y.Key || x.PTS != y.PTS || x.PTS != time.Duration(n)*40*time.Millisecond {
			t.Fatalf("frame %d: %d bytes at %v and %d bytes at %v", n, len(x.Data), x.PTS, len(y.Data), y.PTS)
		}
	}
}

func TestIVFBeginsWithAKeyFrame(t *testing.T) {
	v, err := OpenVideo(samplePictures)
	if err != nil {
		t.Fatal(err)
	}
	v.ReadFrame()
	path := filepath.Join(t.TempDir(), "late.ivf")
	w, err := CreateIVF(path)
	if err != nil {
		t.Fatal(err)
	}
	for range 120 { // joins in the middle: the next key frame is number 50
		frame, err := v.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		w.WriteFrame(frame)
	}
	late, err := OpenVideo(path) // not closed: as if killed
	if err != nil {
		t.Fatal(err)
	}
	if frame, _ := late.ReadFrame(); !frame.Key || frame.PTS != 0 { // whoever sends it does not wait for what was not recorded
		t.Errorf("the recording begins at %v with key %v", frame.PTS, frame.Key)
	}
}

func TestLoops(t *testing.T) {
	pcm := sine(440, media.SampleRate, 3*media.FrameSamples)
	a, err := NewAudio("x", bytes.NewReader(wav(48000, 1, 16, wavePCM, bytesOf(pcm))))
	if err != nil {
		t.Fatal(err)
	}
	frame := make([]int16, media.FrameSamples)
	for i, loop := 0, LoopAudio(a); i < 10; i++ {
		if err := loop.ReadFrame(frame); err != nil || !slices.Equal(frame, pcm[i%3*media.FrameSamples:][:media.FrameSamples]) {
			t.Fatal(i, err)
		}
	}
	v, err := OpenVideo(samplePictures)
	if err != nil {
		t.Fatal(err)
	}
	var sums [300][32]byte
	for i, loop := 0, LoopVideo(v); i < 650; i++ {
		frame, err := loop.ReadFrame()
		if err != nil || frame.PTS != time.Duration(i)*40*time.Millisecond {
			t.Fatal(i, frame.PTS, err)
		}
		if sum := sha256.Sum256(frame.Data); i < 300 {
			sums[i] = sum
		} else if sum != sums[i%300] {
			t.Fatalf("frame %d is another", i)
		}
	}
}

func TestToneAndPCM(t *testing.T) {
	tone, frame := Tone(1000), make([]int16, media.FrameSamples)
	var program bytes.Buffer
	var want []int16
	w := NewPCMWriter(&program)
	for range 3 {
		tone.ReadFrame(frame)
		want = append(want, frame...)
		if err := w.WriteFrame(frame); err != nil {
			t.Fatal(err)
		}
	}
	if peak := slices.Max(want); peak < 8100 || peak > 8192 || want[48*40] != want[0] {
		t.Errorf("peak %d, and %d after 40 periods", peak, want[48*40])
	}
	program.Truncate(program.Len() - 200)
	clear(want[len(want)-100:])
	if got := readAll(t, NewPCMReader(&program)); !slices.Equal(got, want) {
		t.Error("another program gets other samples")
	}
}
