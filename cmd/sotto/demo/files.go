package demo

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"sotto/cmd/sotto/picture"
	"sotto/media"
	"sotto/media/file"
)

// writeFiles leaves what was heard and seen where a person can check the report's numbers against their own ears and eyes.
func (r *run) writeFiles() error {
	var waves []picture.Wave
	for i, to := range []*person{r.bob, r.alice} {
		from := []*person{r.alice, r.bob}[i]
		heard, seen := to.ear.pcm(), to.eye.frames()
		name := "heard-by-" + to.name + ".wav"
		what := fmt.Sprintf("what %s heard of %s: WAV", to.name, from.name)
		if err := r.add(name, what, func(path string) error { return writeWAV(path, heard) }); err != nil {
			return err
		}
		name = "seen-by-" + to.name + ".ivf"
		what = fmt.Sprintf("what %s saw of %s: VP8 in IVF (ffplay, mpv)", to.name, from.name)
		if err := r.add(name, what, func(path string) error { return writeIVF(path, seen) }); err != nil {
			return err
		}
		if key := lastKeyFrame(seen); key != nil {
			name = "seen-by-" + to.name + ".png"
			if err := r.add(name, fmt.Sprintf("a picture %s saw", to.name), func(path string) error {
				return create(path, func(w io.Writer) error { return picture.Frame(w, key) })
			}); err != nil {
				return err
			}
		}
		waves = append(waves,
			picture.Wave{Caption: from.name + " said", PCM: from.mouth.said, Rate: media.SampleRate},
			picture.Wave{Caption: to.name + " heard", PCM: heard, Rate: media.SampleRate,
				Note: fmt.Sprintf("similarity %.3f of 1", r.report.Directions[i].Similarity)})
	}
	return r.add("waveforms.png", "what was said above what was heard", func(path string) error {
		return create(path, func(w io.Writer) error { return picture.Waveforms(w, "What was said, and what was heard", waves) })
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

// lastKeyFrame is the last frame that stands for itself, nil if there is none.
func lastKeyFrame(frames []media.VideoFrame) []byte {
	for i := len(frames) - 1; i >= 0; i-- {
		if frames[i].Key {
			return frames[i].Data
		}
	}
	return nil
}

func create(path string, write func(io.Writer) error) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600) // pictures of people, if theirs were shown
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}
