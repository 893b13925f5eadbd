package file

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sotto/media"
)

// TestErrors: each wrong file is refused, by name, with what to do about it.
func TestErrors(t *testing.T) {
	dir := t.TempDir()
	put := func(name string, content []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	speech, err := os.ReadFile(sampleSpeech)
	if err != nil {
		t.Fatal(err)
	}
	pictures, err := os.ReadFile(samplePictures)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(b []byte, at int, with string) []byte {
		b = bytes.Clone(b)
		copy(b[at:], with)
		return b
	}
	whole := wav(48000, 1, 16, wavePCM, make([]byte, 4000))
	vorbis := append([]byte("OggS\x00\x02"), make([]byte, 20)...)
	vorbis = append(vorbis, 1, 30)
	vorbis = append(append(vorbis, "\x01vorbis"...), make([]byte, 23)...)
	binary.LittleEndian.PutUint32(vorbis[22:], oggSum(vorbis))

	audio := func(path string) error { return readThrough(OpenAudio(path)) }
	video := func(path string) error { return watchThrough(OpenVideo(path)) }
	for _, test := range []struct {
		open func(string) error
		path string
		want string
	}{
		{audio, filepath.Join(dir, "none.wav"), "there is no file"},
		{audio, dir, "is not a file"},
		{audio, put("empty.wav", nil), "is empty"},
		{audio, put("text.wav", []byte("hello, this is text")), "is something else, not WAV or Ogg/Opus: convert it with `ffmpeg -i "},
		{audio, put("song.wav", []byte("ID3\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00")), "is MP3, not WAV"},
		{audio, samplePictures, "is IVF, not WAV"},
		{audio, put("silent.wav", wav(48000, 1, 16, wavePCM, nil)), "holds no sound"},
		{audio, put("cut.wav", whole[:len(whole)-1000]), "is truncated: 3000 of 4000 bytes of sound are there"},
		{audio, put("head.wav", whole[:20]), "is truncated"},
		{audio, put("deep.wav", wav(48000, 1, 12, wavePCM, make([]byte, 300))), "holds 12-bit samples, which is not understood here: convert"},
		{audio, put("adpcm.wav", wav(48000, 1, 4, 2, make([]byte, 400))), "holds WAV format 2"},
		{audio, put("twelve.wav", wav(48000, 12, 16, wavePCM, make([]byte, 2400))), "holds 12 channels"},
		{audio, put("slow.wav", wav(100, 1, 16, wavePCM, make([]byte, 100))), "holds sound of 100 Hz"},
		{audio, put("vorbis.ogg", vorbis), "holds Vorbis, which is not understood here: convert"},
		{audio, put("cut.ogg", speech[:20000]), "is truncated"},
		{audio, put("flipped.ogg", edit(speech, 20000, "XX")), "is damaged"},
		{video, filepath.Join(dir, "none.ivf"), "there is no file"},
		{video, put("empty.ivf", nil), "is empty"},
		{video, sampleSpeech, "is Ogg, not IVF: convert it with `ffmpeg -i "},
		{video, put("av1.ivf", edit(pictures, 8, "AV01")), "holds \"AV01\", Sotto sends VP8: convert it with `ffmpeg -i "},
		{video, put("none-in.ivf", pictures[:32]), "holds no picture"},
		{video, put("cut.ivf", pictures[:100000]), "is truncated"},
		{video, put("half.ivf", pictures[:20]), "is truncated"},
		{video, put("zero.ivf", edit(pictures, 16, "\x00\x00\x00\x00")), "is damaged"},
		{video, put("huge.ivf", edit(pictures, 32, "\xff\xff\xff\xff")), "is damaged"},
		{video, put("noise.ivf", edit(pictures, 47, "noise")), "is damaged"},
		{video, put("delta.ivf", withoutFirst(pictures)), "does not begin with a key frame"},
	} {
		err := test.open(test.path)
		if err == nil || !strings.Contains(err.Error(), filepath.Base(test.path)+" "+test.want) && !strings.Contains(err.Error(), test.want+" "+test.path) {
			t.Errorf("%s: %v\n\twant: %s", filepath.Base(test.path), err, test.want)
		}
	}
	if _, err := CreateWAV(filepath.Join(dir, "no", "such", "folder.wav")); err == nil {
		t.Error("a recording is made in a folder that does not exist")
	}
}

// withoutFirst takes the first frame out of an IVF file.
func withoutFirst(b []byte) []byte {
	first := ivfHeaderLen + ivfFrameLen + int(binary.LittleEndian.Uint32(b[ivfHeaderLen:]))
	return append(bytes.Clone(b[:ivfHeaderLen]), b[first:]...)
}

func readThrough(a *Audio, err error) error {
	if err != nil {
		return err
	}
	defer a.Close()
	var damage error
	a.OnDamage = func(d Damage) { damage = errors.Join(damage, d) }
	frame := make([]int16, media.FrameSamples)
	for {
		if err := a.ReadFrame(frame); err == io.EOF {
			return damage
		} else if err != nil {
			return err
		}
	}
}

func watchThrough(v *Video, err error) error {
	if err != nil {
		return err
	}
	defer v.Close()
	var damage error
	v.OnDamage = func(d Damage) { damage = errors.Join(damage, d) }
	for {
		if _, err := v.ReadFrame(); err == io.EOF {
			return damage
		} else if err != nil {
			return err
		}
	}
}

// FuzzAudio: any file is read to an end, or refused, in bounded memory. Sound is at most as long as its bytes allow.
func FuzzAudio(f *testing.F) {
	f.Add(wav(8000, 2, 16, wavePCM, bytesOf(sine(500, 8000, 300))))
	f.Add(wav(192000, 1, 16, wavePCM, bytesOf(sine(500, 192000, 300))))
	speech, err := os.ReadFile(sampleSpeech)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(speech[:3000])
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := NewAudio("fuzz", bytes.NewReader(b))
		if err != nil {
			return
		}
		frame := make([]int16, media.FrameSamples)
		// The lowest rate; or packets of one byte and 120 ms; or pages of 28 with silence before.
		limit := 12*len(b)/2/len(frame) + (6+250/28)*len(b) + 2
		for n := 0; a.ReadFrame(frame) == nil; n++ {
			if n > limit {
				t.Fatalf("%d frames in %d bytes", n, len(b))
			}
		}
	})
}

func FuzzVideo(f *testing.F) {
	pictures, err := os.ReadFile(samplePictures)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(pictures[:9000])
	f.Add([]byte("DKIF\x00\x00\x20\x00VP80"))
	f.Fuzz(func(t *testing.T, b []byte) {
		v, err := NewVideo("fuzz", bytes.NewReader(b))
		if err != nil {
			return
		}
		total := 0
		for {
			frame, err := v.ReadFrame()
			if err != nil {
				break
			}
			if total += len(frame.Data) + ivfFrameLen; total > len(b) || frame.PTS < 0 {
				t.Fatalf("%d bytes of frames in %d, at %v", total, len(b), frame.PTS)
			}
		}
	})
}
