package main

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"sync"

	"sotto/media/file"
)

// stdinName stands for standard input where a file is named.
const stdinName = "-"

// A standardInput is sound or pictures from a pipe, played as they come. What they are is told by
// their first bytes, before it rings; one call has them.
type standardInput struct {
	mu    sync.Mutex
	audio *file.Audio
	video *file.Video
}

var errStdinTaken = errors.New("standard input can be played once, in one call")

// checkStdin refuses what standard input cannot be.
func (m *mediaFlags) checkStdin() error {
	n := 0
	for _, name := range []string{m.audio, m.video, m.screen} {
		if name == stdinName {
			n++
		}
	}
	switch {
	case n == 0:
		return nil
	case n > 1:
		return usagef("only one of --audio, --video and --screen can be standard input")
	case m.loop:
		return usagef("--loop needs files: standard input can be played once")
	case m.from.asks():
		return usagef("standard input is a terminal: pipe something into sotto, " +
			"as in `cat hello.wav | sotto call bob --audio -`")
	}
	return nil
}

// openStdin reads how standard input begins, if it is played. It waits for that until ctx ends. Only
// the process that calls may do so: what it has read is gone.
func (m *mediaFlags) openStdin(ctx context.Context) error {
	if !slices.Contains([]string{m.audio, m.video, m.screen}, stdinName) {
		return nil
	}
	in := &pump{chunks: make(chan []byte), closed: make(chan struct{})}
	go in.run(m.from.input(ctx))
	stop := context.AfterFunc(ctx, func() { _ = in.Close() })
	defer stop()
	var err error
	m.stdin = &standardInput{}
	if m.audio == stdinName {
		m.stdin.audio, err = file.NewAudio("standard input", in)
	} else {
		m.stdin.video, err = file.NewVideo("standard input", in)
	}
	if ctx.Err() != nil {
		return errInterrupted
	}
	return err
}

// openAudio opens a file, or takes standard input.
func (m *mediaFlags) openAudio(name string) (*file.Audio, error) {
	if name != stdinName {
		return file.OpenAudio(name)
	}
	m.stdin.mu.Lock()
	defer m.stdin.mu.Unlock()
	taken := m.stdin.audio
	if m.stdin.audio = nil; taken == nil {
		return nil, errStdinTaken
	}
	return taken, nil
}

func (m *mediaFlags) openVideo(name string) (*file.Video, error) {
	if name != stdinName {
		return file.OpenVideo(name)
	}
	m.stdin.mu.Lock()
	defer m.stdin.mu.Unlock()
	taken := m.stdin.video
	if m.stdin.video = nil; taken == nil {
		return nil, errStdinTaken
	}
	return taken, nil
}

// A pump reads one chunk ahead of who reads it, whose Close ends its Read: one of a pipe goes on.
type pump struct {
	chunks chan []byte
	rest   []byte
	err    error // behind the last chunk
	once   sync.Once
	closed chan struct{}
}

func (p *pump) run(from io.Reader) {
	defer close(p.chunks)
	for {
		buffer := make([]byte, 1<<14)
		n, err := from.Read(buffer)
		select {
		case p.chunks <- buffer[:n]:
		case <-p.closed:
			return
		}
		if err != nil {
			p.err = err
			return
		}
	}
}

func (p *pump) Read(b []byte) (int, error) {
	for len(p.rest) == 0 {
		select {
		case chunk, ok := <-p.chunks:
			if !ok {
				return 0, p.err
			}
			p.rest = chunk
		case <-p.closed:
			return 0, os.ErrClosed
		}
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

func (p *pump) Close() error {
	p.once.Do(func() { close(p.closed) })
	return nil
}
