package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/pflag"

	"sotto/cmd/sotto/demo"
	"sotto/cmd/sotto/sample"
	"sotto/media"
	"sotto/media/file"
)

type demoFlags struct {
	audio  []string
	video  []string
	length time.Duration
	out    string
	direct bool
	keep   bool

	verbose bool
}

func demoCommand() *command {
	var f demoFlags
	return &command{
		name:    "demo",
		summary: "See all of it: a server, a relay and a real call, with a report",
		help: `
Starts a server and a relay on this machine, with real sockets on loopback; registers alice and bob; sends a message each way;
lets alice call bob through the relay, with speech and pictures both ways; hangs up, and reports what the server, the relay and
the two ends saw. It searches every byte that passed the server and the relay for anything of the content. What was heard and
seen is written to a folder. Nothing needs to be installed and nothing leaves the machine. If anything is not as claimed, the
exit code is 1.

Examples:
  sotto demo
  sotto demo --direct                               without the relay in between
  sotto demo --audio me.wav --video clip.ivf        your own media, said and shown by both
  sotto demo --keep                                 then leave the server up, to try commands with it
`,
		flags: func(flags *pflag.FlagSet) {
			flags.StringSliceVar(&f.audio, "audio", nil, "what alice says, and bob: one or two `FILE`s (WAV, Ogg/Opus)")
			flags.StringSliceVar(&f.video, "video", nil, "what alice shows, and bob: one or two `FILE`s (VP8 in IVF)")
			flags.DurationVar(&f.length, "for", 10*time.Second, "how long they talk, from 2 s to 10 min")
			flags.StringVar(&f.out, "out", "", "write what was heard and seen to `DIR` (default sotto-demo-TIME here)")
			flags.BoolVar(&f.direct, "direct", false, "let the call take the direct path instead of the relay")
			flags.BoolVar(&f.keep, "keep", false, "leave server and relay up until Ctrl-C")
			flags.BoolVar(&f.verbose, "verbose", false, "log to standard error")
		},
		run: func(ctx context.Context, out *output, args []string) error {
			if err := exactly(0, args, "no argument"); err != nil {
				return err
			}
			return runDemo(ctx, out, f)
		},
	}
}

func runDemo(ctx context.Context, out *output, f demoFlags) error {
	if f.length < 2*time.Second || f.length > 10*time.Minute {
		return usagef("--for must be from 2s to 10m")
	}
	config := demo.Config{Log: out.logger(f.verbose), Direct: f.direct, For: f.length, Folder: f.out}
	if err := f.load(&config); err != nil {
		return err
	}
	if config.Folder == "" {
		config.Folder = "sotto-demo-" + time.Now().Format("20060102-150405")
	}
	config.OnStep = func(s demo.Step) {
		out.draw(func(w io.Writer) {
			if out.json {
				json.NewEncoder(w).Encode(s)
			} else {
				s.Render(w, out.colour())
			}
		})
	}
	config.OnProgress = func(elapsed time.Duration, stats media.Stats) {
		out.progress(nil, "           talking     %s of %s  loss %.1f %%  round trip %.1f ms  %s",
			clock(elapsed), clock(f.length), 100*stats.Audio.Loss(), milliseconds(stats.RoundTrip), pathWords(stats.Path.Kind))
	}
	config.OnReport = func(report *demo.Report) {
		out.draw(func(w io.Writer) {
			if out.json {
				json.NewEncoder(w).Encode(report)
			} else {
				report.Render(w, out.colour())
			}
		})
	}
	if f.keep {
		config.Keep = func(url, invitation string) { stayUp(ctx, out, url, invitation) }
	}
	report, err := demo.Run(ctx, config)
	if err != nil {
		return err
	}
	if failed := report.Failed(); len(failed) > 0 {
		return fmt.Errorf("%d of %d claims do not hold; the first: %s (%s)", len(failed), len(report.Claims), failed[0].Claim, failed[0].Detail)
	}
	return nil
}

// stayUp leaves the demo's server to the reader.
func stayUp(ctx context.Context, out *output, url, invitation string) {
	out.say(map[string]string{"event": "kept", "server": url, "invitation": invitation}, `
The server stays up until Ctrl-C. In other terminals:

  %[3]s register carol --server %[1]s --invitation %[2]s
  %[3]s register dave  --server %[1]s --invitation %[2]s
  %[3]s listen --as dave --answer
  %[3]s send dave --as carol hello
  %[3]s call dave --as carol --audio tone --for 10s`, url, invitation, self())
	<-ctx.Done()
}

// load reads the media: the user's where given, one file for both or one each, else the samples that are part of this binary.
func (f *demoFlags) load(config *demo.Config) error {
	if len(f.audio) > 2 || len(f.video) > 2 {
		return usagef("--audio and --video take two files at most: alice's and bob's")
	}
	for i, name := range []string{"alice", "bob"} {
		audio, err := openMedia(f.audio, i, "speech-"+name+".ogg", file.NewAudio)
		if err != nil {
			return err
		}
		if config.Speech[i], err = readAudio(audio); err != nil {
			return err
		}
		video, err := openMedia(f.video, i, "picture-"+name+".ivf", file.NewVideo)
		if err != nil {
			return err
		}
		if config.Clips[i], err = readVideo(video); err != nil {
			return err
		}
	}
	return nil
}

func openMedia[R any](given []string, i int, shipped string, open func(string, io.Reader) (R, error)) (R, error) {
	var none R
	name, read := shipped, sample.Files.ReadFile
	if len(given) > 0 {
		name = given[min(i, len(given)-1)]
		read = func(name string) ([]byte, error) { return readFile(name, 256<<20) }
	}
	content, err := read(name)
	if errors.Is(err, os.ErrNotExist) {
		return none, fmt.Errorf("there is no file %s", name)
	}
	if err != nil {
		return none, fmt.Errorf("cannot read media: %w", err)
	}
	return open(name, bytes.NewReader(content))
}

func readAudio(audio *file.Audio) ([]int16, error) {
	var all []int16
	for frame := make([]int16, media.FrameSamples); ; {
		err := audio.ReadFrame(frame)
		if errors.Is(err, io.EOF) && len(all) > 0 {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		all = append(all, frame...)
	}
}

func readVideo(video *file.Video) ([]media.VideoFrame, error) {
	var all []media.VideoFrame
	for {
		frame, err := video.ReadFrame()
		if errors.Is(err, io.EOF) && len(all) > 0 {
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		all = append(all, frame)
	}
}
