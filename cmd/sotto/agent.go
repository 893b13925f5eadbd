package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"sotto/internal/visible"
	"sotto/media"
	"sotto/media/file"
)

const (
	agentAhead    = 5               // frames of the agent's that wait: what it says faster than it is spoken waits in its pipe
	agentBehind   = 50              // frames for the agent that wait: a second
	agentPatience = 2 * time.Second // for it to end by itself when the call has
	agentGrace    = 2 * time.Second // from SIGTERM to SIGKILL; and for what left the group to write more
	agentTail     = 10              // frames of silence after what it said last, while that is on its way to the other end's speaker
)

// An agent is a program that speaks in one call:
//
//  1. It is started when the call is accepted, by the shell, in a process group of its own, with the other end's name in SOTTO_PEER. Its
//     standard error is ours.
//  2. What is heard comes to its standard input, and what it writes to its standard output is said: 48 kHz, mono, signed 16 bit, little
//     endian. When it writes nothing, silence is sent; what it does not read within a second is lost.
//  3. On descriptor 3 it can read what happens to the call, as --json prints it.
//  4. When it ends, the rest of what it said is spoken to the last frame, then the call is hung up. When the call ends, its input does.
//  5. Its process group is told to end (SIGTERM) when it has ended, or agentPatience after the call, and made to (SIGKILL) after
//     agentGrace.
//
// If what arrives cannot be decrypted descriptor 3 says so, its input ends and the call is hung up: it is not given silence in the place of
// what was said.
type agent struct {
	command string
	peer    string
	from    *origin // whose directory, environment and standard error it has

	begin   sync.Once     // by start, or never
	fails   error         // to start
	started chan struct{} // closed when it runs
	said    chan []int16
	heard   chan []int16
	over    chan struct{} // closed by finish: there is no call any more
	quit    sync.Once
	gone    chan struct{} // closed when it has ended and was heard out
	exit    error         // to be read when gone is closed
	left    chan struct{} // closed when its process group has ended

	in            io.WriteCloser
	news, newsEnd *os.File // descriptor 3, theirs and ours; nil where there is none
}

func newAgent(command, peer string, from *origin) (*agent, error) {
	a := &agent{
		command: command, peer: peer, from: from, started: make(chan struct{}),
		said: make(chan []int16, agentAhead), heard: make(chan []int16, agentBehind), over: make(chan struct{}), gone: make(chan struct{}),
		left: make(chan struct{}),
	}
	if runtime.GOOS == "windows" { // descriptors are not handed on
		return a, nil
	}
	var err error
	a.news, a.newsEnd, err = os.Pipe()
	return a, err
}

// checkAgent finds out before a call whether the shell knows the program, if the command begins with the name of one.
func checkAgent(command string, from *origin) error {
	name, _, _ := strings.Cut(strings.TrimSpace(command), " ")
	if name == "" {
		return usagef("--agent names no program")
	}
	if runtime.GOOS == "windows" || strings.ContainsAny(name, "=$`'\"\\|&;<>(){}*?[]~#!\n\t") {
		return nil // the shell will see
	}
	look := exec.Command("sh", "-c", `command -v "$1"`, "sh", name)
	look.Dir, look.Env = from.directory, from.environ
	if look.Run() != nil {
		return fmt.Errorf("there is no program %s to run as --agent: write its whole path, and make sure that it is executable", name)
	}
	return nil
}

// start is step 1, once.
func (a *agent) start() error {
	a.begin.Do(func() {
		if err := a.run(); err != nil {
			a.fails = fmt.Errorf("the agent does not start: %w", err)
		}
	})
	return a.fails
}

func (a *agent) run() error {
	shell := []string{"sh", "-c", a.command}
	if runtime.GOOS == "windows" {
		shell = []string{"cmd", "/C", a.command}
	}
	cmd := exec.Command(shell[0], shell[1:]...)
	cmd.Dir, cmd.Env = a.from.directory, append(slices.Clip(a.from.environ), "SOTTO_PEER="+a.peer)
	cmd.Stderr = a.from.stderr
	ownGroup(cmd)
	// No StdoutPipe: Wait would close it although a child may still write.
	out, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer theirs.Close()
	cmd.Stdout = theirs
	if a.news != nil {
		defer a.news.Close()
		cmd.ExtraFiles = []*os.File{a.news}
	}
	if a.in, err = cmd.StdinPipe(); err == nil {
		err = cmd.Start()
	}
	if err != nil {
		out.Close()
		return err
	}
	close(a.started)
	go a.hear()
	go a.live(cmd, out)
	return nil
}

// hear brings frames to the agent until the call ends, and those that wait then.
func (a *agent) hear() {
	defer a.in.Close()
	pcm := file.NewPCMWriter(a.in)
	for {
		select {
		case frame := <-a.heard:
			if pcm.WriteFrame(frame) != nil {
				return // it does not listen
			}
		case <-a.over:
			for len(a.heard) > 0 {
				if pcm.WriteFrame(<-a.heard) != nil {
					return
				}
			}
			return
		}
	}
}

// live waits for the agent's end, or brings it about.
func (a *agent) live(cmd *exec.Cmd, out *os.File) {
	defer close(a.gone)
	spoken := make(chan struct{})
	go func() {
		defer close(spoken)
		a.speak(out)
	}()
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()
	var err error
	ended := false
	select {
	case err = <-exited:
		ended = true
	case <-a.over:
		select {
		case err = <-exited:
			ended = true
		case <-time.After(agentPatience):
		}
	}
	endGroup(cmd.Process, agentGrace)
	if !ended {
		<-exited // as we made it
	}
	a.exit = agentError(err)
	close(a.left)
	_ = out.SetReadDeadline(time.Now().Add(agentGrace)) // of a read that waits already
	<-spoken
	out.Close()
}

// speak takes what the agent says until nobody says anything any more. What left its group may hold its output: once the agent has ended
// that has agentGrace for each frame. However long frames wait for the call to take them does not count.
func (a *agent) speak(out *os.File) {
	pcm := file.NewPCMReader(out)
	for {
		frame := make([]int16, media.FrameSamples)
		if pcm.ReadFrame(frame) != nil {
			break
		}
		if !a.say(frame) {
			continue // nobody listens, and the agent may want to finish
		}
		select {
		case <-a.left:
			_ = out.SetReadDeadline(time.Now().Add(agentGrace))
		default:
		}
	}
	// When the last of these has found room, those before it that had no room left are spoken.
	for range agentAhead + agentTail {
		a.say(make([]int16, media.FrameSamples))
	}
}

// say waits until there is room for a frame, or the call is over.
func (a *agent) say(frame []int16) bool {
	select {
	case a.said <- frame:
		return true
	case <-a.over:
		return false
	}
}

// tell writes a line to descriptor 3. When an agent has left so much unread that no more fits, it ends.
func (a *agent) tell(line any) {
	if a == nil || a.newsEnd == nil || line == nil {
		return
	}
	b, err := visible.JSON(line)
	if err != nil {
		return
	}
	_ = a.newsEnd.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := a.newsEnd.Write(append(b, '\n')); err != nil {
		a.newsEnd.Close()
	}
}

// deafen ends its input at once, whatever waits there.
func (a *agent) deafen() {
	if a == nil {
		return
	}
	select {
	case <-a.started:
		a.in.Close()
	default:
	}
}

// ended is closed when it has; never, if there is none.
func (a *agent) ended() <-chan struct{} {
	if a == nil {
		return nil
	}
	return a.gone
}

// finish ends its input, and waits for its end. A status of its own that is not 0 is an error.
func (a *agent) finish() error {
	if a == nil {
		return nil
	}
	a.quit.Do(func() { close(a.over) })
	a.begin.Do(func() { a.fails = errors.New("the call is over") })
	if a.news != nil {
		a.newsEnd.Close()
		a.news.Close()
	}
	if a.fails != nil {
		return nil // who wanted it to start knows
	}
	<-a.gone
	return a.exit
}

func agentError(err error) error {
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	switch exit.ExitCode() {
	case 126, 127: // POSIX, Shell Command Language, "Exit Status for Commands"
		return fmt.Errorf("the agent ended with %s: the shell cannot run it; check --agent", exit)
	}
	return fmt.Errorf("the agent ended with %s", exit)
}

// agentEar is what the call plays to.
type agentEar agent

func (e *agentEar) WriteFrame(pcm []int16) error {
	select {
	case e.heard <- append([]int16(nil), pcm...):
	default: // it does not keep up
	}
	return nil
}

// agentMouth is what the call sends. It never waits: the network would see when the agent is silent.
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
