package picture

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"io"
	"os"
	"path/filepath"
	"testing"

	"sotto/cmd/sotto/sample"
	"sotto/media"
	"sotto/media/file"
)

func firstFrame(t testing.TB) []byte {
	t.Helper()
	b, err := sample.Files.ReadFile("picture-alice.ivf")
	if err != nil {
		t.Fatal(err)
	}
	v, err := file.NewVideo("sample", bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	frame, err := v.ReadFrame()
	if err != nil {
		t.Fatal(err)
	}
	return frame.Data
}

// keep writes the drawing to the folder named in SOTTO_PICTURES, to be looked at.
func keep(t *testing.T, name string, content []byte) {
	if dir := os.Getenv("SOTTO_PICTURES"); dir != "" {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Error(err)
		}
	}
}

func TestFrame(t *testing.T) {
	var out bytes.Buffer
	if err := Frame(&out, firstFrame(t)); err != nil {
		t.Fatal(err)
	}
	keep(t, "frame.png", out.Bytes())
	img, err := png.Decode(&out)
	if err != nil || img.Bounds() != image.Rect(0, 0, 640, 360) {
		t.Fatal(err, img.Bounds())
	}
	whitest := uint32(0)
	for x := range 200 {
		r, g, b, _ := img.At(x, 80).RGBA() // the name is white
		whitest = max(whitest, min(r, g, b))
	}
	if whitest < 0xf800 {
		t.Errorf("white is %x", whitest)
	}
	key := firstFrame(t)
	delta := append([]byte{key[0] | 1}, key[1:]...)
	huge := append(append(append([]byte{}, key[:6]...), 0xff, 0x3f, 0xff, 0x3f), key[10:]...)
	for name, bad := range map[string][]byte{"nothing": nil, "a delta": delta, "16383 pixels": huge, "half": key[:len(key)/2], "text": []byte("hello, I am text")} {
		if err := Frame(io.Discard, bad); err == nil {
			t.Errorf("%s is drawn", name)
		}
	}
}

func TestWaveforms(t *testing.T) {
	waves := []Wave{{Caption: "alice spoke", PCM: voice(t, "alice")}, {Caption: "bob heard", Note: "likeness 0.97 · 62 ms later", PCM: voice(t, "alice")}}
	for i := range waves {
		waves[i].Rate = media.SampleRate
	}
	clear(waves[1].PCM[len(waves[1].PCM)/2:]) // bob lost the second half
	var out bytes.Buffer
	if err := Waveforms(&out, "What was spoken, what was heard", waves); err != nil {
		t.Fatal(err)
	}
	keep(t, "waveforms.png", out.Bytes())
	img, err := png.Decode(&out)
	if err != nil {
		t.Fatal(err)
	}
	// ink counts the pixels of a wave in one half of its line.
	count := func(line, half int) (n int) {
		for x := margin + half*550; x < margin+(half+1)*550; x++ {
			for y := titleTall + line*waveTall + 30; y < titleTall+(line+1)*waveTall; y++ {
				if color.RGBAModel.Convert(img.At(x, y)) == color.Color(colors[line]) {
					n++
				}
			}
		}
		return n
	}
	if count(0, 0) < 3000 || count(0, 1) < 3000 || count(1, 0) < 3000 || count(1, 1) > 600 {
		t.Errorf("spoken %d and %d, heard %d and %d pixels", count(0, 0), count(0, 1), count(1, 0), count(1, 1))
	}
	if err := Waveforms(io.Discard, "", []Wave{{PCM: make([]int16, 10)}}); err == nil {
		t.Error("a wave without a rate is drawn")
	}
	if err := Waveforms(io.Discard, "", []Wave{{Rate: 48000}}); err != nil {
		t.Error("an empty wave:", err)
	}
}

func voice(t *testing.T, who string) (pcm []int16) {
	t.Helper()
	b, err := sample.Files.ReadFile("speech-" + who + ".ogg")
	if err != nil {
		t.Fatal(err)
	}
	a, err := file.NewAudio("sample", bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	frame := make([]int16, media.FrameSamples)
	for a.ReadFrame(frame) == nil {
		pcm = append(pcm, frame...)
	}
	return pcm
}

// FuzzFrame: what a peer sends as its picture is drawn or refused.
func FuzzFrame(f *testing.F) {
	f.Add(firstFrame(f))
	f.Add([]byte{0x10, 0, 0, 0x9d, 1, 0x2a, 16, 0, 16, 0, 1, 2, 3, 4, 5})
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) > 10 && (int(frame[7])<<8|int(frame[6]))&0x3fff > 640 {
			return // large pictures are only slow
		}
		Frame(io.Discard, frame)
	})
}
