package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"time"

	"sotto/client"
	"sotto/media"
	"sotto/media/file"
)

const (
	agentAhead    = 5               // frames of the agent's that wait: what it says faster than it is spoken waits in its pipe
	agentBehind   = 50              // frames for the agent that wait: a second
	agentPatience = 3 * time.Second // for it to end when the call has
)

// An agent is a program that speaks in one call:
//
//  1. It is started when the call is accepted, by the shell, with the caller's name in SOTTO_PEER. Its standard error is ours.
//  2. What is heard comes to its standard input, and what it writes to its standard output is said: 48 kHz, mono, signed 16 bit, little
//     endian. When it writes nothing, silence is sent; what it does not read in time is lost.
//  3. When it ends, the call is hung up. When the call ends, its input does; if it goes on nevertheless it is killed.
//
// If what arrives cannot be decrypted its input ends at once: it is never given silence in the place of what was said.
type agent struct {
	command string
	peer    string

	hangUp func() error
	begin  sync.Once
	failed error // to start
	said   chan []int16
	heard  chan []int16
	deaf   sync.Once // closes ended
	ended  chan struct{}
	done   chan error // its exit
	ran    bool
}

func newAgent(command, peer string, hangUp func() error) *agent {
	return &agent{
		command: command, peer: peer, hangUp: hangUp,
		said: make(chan []int16, agentAhead), heard: make(chan []int16, agentBehind), ended: make(chan struct{}), done: make(chan error, 1),
	}
}

func (a *agent) options() client.MediaOptions {
	return client.MediaOptions{
		Speaker:    func(context.Context) (media.AudioSink, error) { return (*agentEar)(a), a.start() },
		Microphone: func(context.Context) (media.AudioSource, error) { return (*agentMouth)(a), a.start() },
	}
}

// start is step 1, once.
func (a *agent) start() error {
	a.begin.Do(func() {
		shell := []string{"sh", "-c", a.command}
		if runtime.GOOS == "windows" {
			shell = []string{"cmd", "/C", a.command}
		}
		cmd := exec.Command(shell[0], shell[1:]...)
		cmd.Env = append(os.Environ(), "SOTTO_PEER="+a.peer)
		cmd.Stderr = os.Stderr
		var in io.WriteCloser
		var out io.ReadCloser
		if in, a.failed = cmd.StdinPipe(); a.failed == nil {
			out, a.failed = cmd.StdoutPipe()
		}
		if a.failed == nil {
			a.failed = cmd.Start()
		}
		if a.failed != nil {
			a.failed = fmt.Errorf("the agent does not start: %w", a.failed)
			return
		}
		a.ran = true
		go a.hear(in)
		go a.run(cmd, out)
	})
	return a.failed
}

// hear brings frames to the agent until the call ends.
func (a *agent) hear(in io.WriteCloser) {
	defer in.Close()
	pcm := file.NewPCMWriter(in)
	for {
		select {
		case frame := <-a.heard:
			if pcm.WriteFrame(frame) != nil {
				return // it does not listen
			}
		case <-a.ended:
			return
		}
	}
}

// run takes what the agent says, and its exit.
func (a *agent) run(cmd *exec.Cmd, out io.ReadCloser) {
	kill := make(chan struct{})
	go func() {
		select {
		case <-a.ended:
		case <-kill:
			return
		}
		select {
		case <-time.After(agentPatience):
			_ = cmd.Process.Kill() // it may have just ended
			out.Close()            // which a child of its may hold
		case <-kill:
		}
	}()
	pcm := file.NewPCMReader(out)
	for {
		frame := make([]int16, media.FrameSamples)
		if pcm.ReadFrame(frame) != nil {
			break
		}
		select {
		case a.said <- frame:
		case <-a.ended: // nobody listens, and the agent may want to finish
		}
	}
	err := cmd.Wait()
	close(kill)
	a.done <- err
	a.hangUp()
}

// stop ends the agent's input, and waits for its exit. A status that is not 0 is an error.
func (a *agent) stop() error {
	a.close()
	if !a.ran {
		return nil
	}
	err := <-a.done
	a.done <- err // whoever asks again
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return fmt.Errorf("the agent ended with %s", exit)
	}
	return err
}

func (a *agent) close() { a.deaf.Do(func() { close(a.ended) }) }

// agentEar is what the call plays to.
type agentEar agent

func (e *agentEar) WriteFrame(pcm []int16) error {
	select {
	case e.heard <- append([]int16(nil), pcm...):
	default: // it does not keep up
	}
	return nil
}

// agentMouth is what the call sends. It never blocks.
type agentMouth agent

func (m *agentMouth) ReadFrame(pcm []int16) error {
	select {
	case frame := <-m.said:
		copy(pcm, frame)
	default:
		clear(pcm)
	}
	return nil
}
