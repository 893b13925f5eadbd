package file

import (
	"bytes"
	"encoding/binary"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"sotto/media"
)

// pagesOf are the offsets at which the pages of an Ogg file begin.
func pagesOf(b []byte) (at []int) {
	for i := 0; i < len(b); {
		at = append(at, i)
		segments := int(b[i+26])
		size := 27 + segments
		for _, n := range b[i+27 : i+27+segments] {
			size += int(n)
		}
		i += size
	}
	return append(at, len(b))
}

// heard reads sound to its end, through a stream that cannot be rewound, and what is said of damage.
func heard(t *testing.T, name string, b []byte) (pcm []int16, told []Damage) {
	t.Helper()
	a, err := NewAudio(name, struct{ io.Reader }{bytes.NewReader(b)})
	if err != nil {
		t.Fatal(err)
	}
	a.OnDamage = func(d Damage) { told = append(told, d) }
	frame := make([]int16, media.FrameSamples)
	for {
		err := a.ReadFrame(frame)
		if err == io.EOF {
			return pcm, told
		}
		if err != nil {
			t.Fatal(err)
		}
		pcm = append(pcm, frame...)
	}
}

// Damage in the middle of Ogg costs the page that it is in, says where it is, and shifts nothing
// that comes behind.
func TestOggGoesOnBehindDamage(t *testing.T) {
	speech, err := os.ReadFile(sampleSpeech)
	if err != nil {
		t.Fatal(err)
	}
	whole, told := heard(t, "speech", speech)
	if told != nil {
		t.Fatalf("a whole file: %v", told)
	}
	pages := pagesOf(speech)
	middle := len(pages) / 2
	from, to := pages[middle], pages[middle+1]
	early := bytes.Clone(speech)
	early[pages[2]+100] ^= 0x55
	if _, told := heard(t, "speech", early); len(told) != 1 || told[0].Offset != int64(pages[2]) {
		t.Errorf("damage in the first page of sound: told %v", told)
	}
	flipped := bytes.Clone(speech)
	flipped[from+100] ^= 0x55
	unmarked := bytes.Clone(speech)
	copy(unmarked[from:], "Xggs")
	for name, b := range map[string][]byte{
		"a byte":       flipped,
		"the pattern":  unmarked,
		"bytes more":   slices.Concat(speech[:from], []byte("OggS and noise"), speech[from:]),
		"a page less":  slices.Concat(speech[:from], speech[to:]),
		"bytes missed": slices.Concat(speech[:from+50], speech[from+90:]),
	} {
		t.Run(name, func(t *testing.T) {
			pcm, told := heard(t, "speech", b)
			if len(told) != 1 || told[0].Ends || told[0].Offset < int64(from) || told[0].Offset > int64(to) {
				t.Fatalf("told %v; the damage is at %d", told, from)
			}
			if d := told[0].At - time.Duration(len(whole)/2)*time.Second/media.SampleRate; d.Abs() > 3*time.Second {
				t.Errorf("told at %v of %d samples", told[0].At, len(whole))
			}
			if len(pcm) != len(whole) {
				t.Fatalf("%d samples, want %d", len(pcm), len(whole))
			}
			last := len(whole) - 48000
			if a, b := power(whole[last:]), power(pcm[last:]); math.Abs(a-b) > 0.01*a {
				t.Errorf("the last second has power %v, want %v", b, a)
			}
		})
	}
}

func power(pcm []int16) (sum float64) {
	for _, s := range pcm {
		sum += float64(s) * float64(s)
	}
	return sum / float64(len(pcm))
}

// A file that pretends to begin pages costs bounded work.
func TestManyFalseCapturePatterns(t *testing.T) {
	speech, err := os.ReadFile(sampleSpeech)
	if err != nil {
		t.Fatal(err)
	}
	from := pagesOf(speech)[4]
	liar := append([]byte("OggS\x00\x00"), bytes.Repeat([]byte{0}, 20)...)
	liar = append(liar, 255)
	liar = append(liar, bytes.Repeat([]byte{255}, 8)...)
	began := time.Now()
	_, told := heard(t, "liar", slices.Concat(speech[:from], bytes.Repeat(liar, 200_000)))
	if len(told) != 1 || !told[0].Ends {
		t.Errorf("told %v", told)
	}
	if time.Since(began) > 30*time.Second {
		t.Errorf("it took %v", time.Since(began))
	}
}

func TestWAVThatLacksItsEnd(t *testing.T) {
	pcm := sine(440, 48000, 4800)
	b := wav(48000, 1, 16, wavePCM, bytesOf(pcm))
	for _, lost := range []int{2, 20, 44} {
		a, err := NewAudio("cut.wav", bytes.NewReader(b[:len(b)-lost]))
		if err != nil {
			t.Fatal(err)
		}
		var told []Damage
		a.OnDamage = func(d Damage) { told = append(told, d) }
		readAll(t, a)
		if len(told) != 1 || !told[0].Ends || told[0].Offset != int64(len(b)-lost) || told[0].At < 99*time.Millisecond {
			t.Errorf("%d bytes less: told %v", lost, told)
		}
	}
	if _, told := heard(t, "stream", b[:len(b)-4000]); len(told) != 1 || !told[0].Ends {
		t.Errorf("a stream that ends early: told %v", told)
	}
	if _, told := heard(t, "stream", b); told != nil {
		t.Errorf("a whole stream: told %v", told)
	}
}

// A picture that is none is left out, with those that build on it. Behind a wrong length nothing is
// found again.
func TestIVFAndDamage(t *testing.T) {
	b, err := os.ReadFile(samplePictures)
	if err != nil {
		t.Fatal(err)
	}
	var at, keys []int
	for i := ivfHeaderLen; i < len(b); i += ivfFrameLen + int(binary.LittleEndian.Uint32(b[i:])) {
		if b[i+ivfFrameLen]&1 == 0 {
			keys = append(keys, len(at))
		}
		at = append(at, i)
	}
	if len(keys) < 2 {
		t.Fatal("the sample has one key frame only")
	}
	watch := func(b []byte) (frames int, told []Damage) {
		v, err := NewVideo("film", struct{ io.Reader }{bytes.NewReader(b)})
		if err != nil {
			t.Fatal(err)
		}
		v.OnDamage = func(d Damage) { told = append(told, d) }
		for {
			if _, err := v.ReadFrame(); err == io.EOF {
				return frames, told
			} else if err != nil {
				t.Fatal(err)
			}
			frames++
		}
	}
	noise := bytes.Clone(b)
	bad := keys[1] - 3
	copy(noise[at[bad]+ivfFrameLen:], "\xff\xff\xff")
	frames, told := watch(noise)
	if frames != len(at)-3 || len(told) != 1 || told[0].Ends || told[0].Offset != int64(at[bad]) {
		t.Errorf("%d of %d frames, told %v", frames, len(at), told)
	}
	wrong := bytes.Clone(b)
	copy(wrong[at[bad]:], "\xff\xff\xff\xff")
	frames, told = watch(wrong)
	if frames != bad || len(told) != 1 || !told[0].Ends || told[0].Offset != int64(at[bad]) || told[0].At == 0 {
		t.Errorf("%d frames of %d, told %v", frames, bad, told)
	}
}

// Of sound of several channels the centre, where people speak, counts most, and what shakes the
// room nothing (ITU-R BS.775).
func TestDownmix(t *testing.T) {
	share := func(channels int, mask uint32) (shares []float64) {
		for _, w := range downmix(channels, mask) {
			shares = append(shares, math.Round(float64(w)/fullWeight*100)/100)
		}
		return shares
	}
	for name, c := range map[string]struct{ got, want []float64 }{
		"mono":               {share(1, 0), []float64{1}},
		"stereo":             {share(2, 0), []float64{0.5, 0.5}},
		"5.1":                {share(6, 0), []float64{0.21, 0.21, 0.29, 0, 0.15, 0.15}},
		"5.1 with sides":     {share(6, 0x60f), []float64{0.21, 0.21, 0.29, 0, 0.15, 0.15}},
		"a mask of another":  {share(2, 0x3f), []float64{0.5, 0.5}},
		"low frequencies":    {share(1, 0x8), []float64{1}},
		"the centre and one": {share(2, 0x6), []float64{0.41, 0.59}},
	} {
		if !slices.Equal(c.got, c.want) {
			t.Errorf("%s: %v, want %v", name, c.got, c.want)
		}
	}
}

// A link in the place of a recording is replaced: what it leads to stays as it is.
func TestRecordingFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	victim, path := filepath.Join(dir, "victim"), filepath.Join(dir, "call.wav")
	if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, path); err != nil {
		t.Skipf("no links here: %v", err)
	}
	w, err := CreateWAV(path)
	if err != nil {
		t.Fatal(err)
	}
	writeAll(t, w, sine(440, 48000, 960))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(victim); err != nil || string(b) != "precious" {
		t.Errorf("the link's target holds %d bytes (%v)", len(b), err)
	}
	if info, err := os.Lstat(path); err != nil || !info.Mode().IsRegular() {
		t.Errorf("the recording is %v (%v)", info, err)
	}
}
