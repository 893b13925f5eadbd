package demo

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/draw"
	"os"
	"path/filepath"

	"golang.org/x/image/vp8"

	"sotto/media"
	"sotto/media/file"
)

// writeFiles leaves what was heard and seen where a person can check the report's numbers against their own ears and eyes.
func (r *run) writeFiles() error {
	var tracks []track
	for i, to := range []*person{r.bob, r.alice} {
		from := []*person{r.alice, r.bob}[i]
		heard, seen := to.ear.pcm(), to.eye.frames()
		name := "heard-by-" + to.name + ".wav"
		if err := r.add(name, fmt.Sprintf("what %s heard of %s: WAV", to.name, from.name), func(path string) error { return writeWAV(path, heard) }); err != nil {
			return err
		}
		name = "seen-by-" + to.name + ".ivf"
		if err := r.add(name, fmt.Sprintf("what %s saw of %s: VP8 in IVF (ffplay, mpv)", to.name, from.name), func(path string) error { return writeIVF(path, seen) }); err != nil {
			return err
		}
		if picture := lastKeyFrame(seen); picture != nil {
			name = "seen-by-" + to.name + ".png"
			if err := r.add(name, fmt.Sprintf("a picture %s saw", to.name), func(path string) error { return writePNG(path, picture) }); err != nil {
				return err
			}
		}
		tracks = append(tracks,
			track{fmt.Sprintf("%s says", from.name), from.mouth.said, false},
			track{fmt.Sprintf("%s hears (similarity %.3f)", to.name, r.report.Directions[i].Similarity), heard, true})
	}
	return r.add("waveforms.png", "what was said above what was heard", func(path string) error {
		return writePNG(path, waveforms(tracks, media.SampleRate))
	})
}

func (r *run) writeReport() error {
	if err := r.add("report.txt", "this report", func(path string) error {
		var text bytes.Buffer
		for _, s := range r.report.Steps {
			s.Render(&text, false)
		}
		r.report.Render(&text, false)
		return os.WriteFile(path, text.Bytes(), 0o644)
	}); err != nil {
		return err
	}
	return r.add("report.json", "the same for programs", func(path string) error {
		text, err := json.MarshalIndent(r.report, "", "\t")
		if err != nil {
			return err
		}
		return os.WriteFile(path, append(text, '\n'), 0o644)
	})
}

func (r *run) add(name, what string, write func(path string) error) error {
	if err := write(filepath.Join(r.Folder, name)); err != nil {
		return fmt.Errorf("cannot write %s: %w", name, err)
	}
	r.report.Files = append(r.report.Files, File{name, what})
	return nil
}

func writeWAV(path string, pcm []int16) error {
	w, err := file.CreateWAV(path)
	if err != nil {
		return err
	}
	for ; len(pcm) >= media.FrameSamples; pcm = pcm[media.FrameSamples:] {
		if err := w.WriteFrame(pcm[:media.FrameSamples]); err != nil {
			return err
		}
	}
	return w.Close()
}

func writeIVF(path string, frames []media.VideoFrame) error {
	w, err := file.CreateIVF(path)
	if err != nil {
		return err
	}
	for _, frame := range frames {
		if err := w.WriteFrame(frame); err != nil {
			return err
		}
	}
	return w.Close()
}

// lastKeyFrame decodes the last frame that stands for itself: the only kind the decoder knows. nil if there is none.
func lastKeyFrame(frames []media.VideoFrame) image.Image {
	for i := len(frames) - 1; i >= 0; i-- {
		if !frames[i].Key {
			continue
		}
		decoder := vp8.NewDecoder()
		decoder.Init(bytes.NewReader(frames[i].Data), len(frames[i].Data))
		if _, err := decoder.DecodeFrameHeader(); err != nil {
			continue
		}
		picture, err := decoder.DecodeFrame()
		if err != nil {
			continue
		}
		rgba := image.NewRGBA(picture.Bounds())
		draw.Draw(rgba, rgba.Bounds(), picture, picture.Bounds().Min, draw.Src)
		return rgba
	}
	return nil
}
