package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/spf13/pflag"

	"sotto/client"
)

// One process at a time has an account open. "sotto listen", "call" and "devices add" have it for
// long, and let the user's other commands use it:
//
//  1. The holder listens on a socket in the account's directory (share_unix.go).
//  2. Another command sends it what was typed, where, and its standard streams.
//  3. The command runs in the holder, on those streams and with the holder's client. Texts and
//     calls come to the holder alone.
//  4. What it ends with is sent back. A signal that the other process gets, or its end, interrupts
//     the command; so does the holder's end.
//
// Other commands are over in seconds: who finds one of them at work waits (session.go).

// request is a command as it was typed, its settings from environment and file included.
type request struct {
	Version   int               `json:"version"`
	Command   string            `json:"command"`
	Flags     map[string]string `json:"flags"`
	Args      []string          `json:"args"`
	Directory string            `json:"directory"`
	Environ   []string          `json:"environ"`
}

const requestVersion = 1

// answer is the first thing that a holder says if it takes no command, and otherwise the last.
type answer struct {
	Exit    *int   `json:"exit,omitempty"`
	Refused string `json:"refused,omitempty"` // why, in a sentence
	After   string `json:"after,omitempty"`   // the holder's command, at the end of which it can be had
}

var (
	errNoHolder = errors.New("no process shares the account")
)

// endsFirst says that a command can be had when another has ended.
type endsFirst struct{ command string }

func (e endsFirst) Error() string { return "\"sotto " + e.command + "\" uses the account" }

// newRequest is what may be handed over of a command.
func newRequest(cmd *command, s parsed) request {
	r := request{Version: requestVersion, Command: cmd.name, Flags: map[string]string{}, Args: s.args}
	s.flags.Visit(func(f *pflag.Flag) { r.Flags[f.Name] = f.Value.String() })
	return r
}

// A holder lets other processes use its account.
type holder struct {
	client    *client.Client
	directory string             // of the account
	command   string             // which it runs itself
	closing   func()             // closes the socket
	cancel    context.CancelFunc // of the commands of others
	running   sync.WaitGroup

	mu    sync.Mutex
	over  bool
	link  client.Event               // LinkUp or LinkDown, whichever was last
	users map[chan client.Event]bool // events of other processes' commands
	ended chan struct{}              // closed by stop: nobody takes the holder's own events
}

const (
	maxUsers    = 64 // commands of others at a time
	eventsAhead = 256

	stopPatience = 5 * time.Second
)

// share lets others use the account until the session is closed or ctx ends.
func (s *session) share(ctx context.Context, out *output, command string) {
	if s.leave != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	h := &holder{
		client: s.Client, directory: s.directory, command: command, cancel: cancel,
		users: map[chan client.Event]bool{}, ended: make(chan struct{}),
	}
	events := make(chan client.Event)
	s.holder, s.events = h, events
	go h.spread(events)
	closing, err := h.listen(ctx, s.directory)
	if err != nil {
		out.warn(linkLine{"not_shared", err.Error()},
			"your other commands cannot use this account meanwhile: %s", err)
	}
	h.closing = closing
}

// spread brings events to the holder's command, and those that are neither a text nor a call to the
// others as well.
func (h *holder) spread(own chan<- client.Event) {
	defer close(own)
	for event := range h.client.Events() {
		switch event.(type) {
		case client.Message, client.MissedCall, client.IncomingCall:
		default:
			h.tell(event)
		}
		select {
		case own <- event:
		case <-h.ended:
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = true
	for user := range h.users {
		close(user)
	}
	h.users = nil
}

// tell drops an event for a command that takes none for long.
func (h *holder) tell(event client.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch event.(type) {
	case client.LinkUp, client.LinkDown:
		h.link = event
	}
	for user := range h.users {
		select {
		case user <- event:
		default:
		}
	}
}

// join is the account for another process's command.
func (h *holder) join() *session {
	events := make(chan client.Event, eventsAhead)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over {
		close(events)
		return &session{Client: h.client, events: events, leave: func() {}}
	}
	if h.link != nil {
		events <- h.link
	}
	h.users[events] = true
	leave := func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.users, events)
	}
	return &session{Client: h.client, directory: h.directory, events: events, leave: leave}
}

// take tells whether the holder runs a command, and otherwise why not.
func (h *holder) take(r request) (*command, parsed, answer) {
	cmd := find(r.Command)
	switch {
	case r.Version != requestVersion || cmd == nil:
		return nil, parsed{}, answer{Refused: "the process that has this account open is another " +
			"version of sotto: end it first"}
	case !cmd.handed && h.command == r.Command:
		return nil, parsed{}, answer{Refused: "\"sotto " + r.Command +
			"\" runs with this account already: end it first"}
	case !cmd.handed:
		return nil, parsed{}, answer{After: h.command}
	}
	p := parsed{flags: flagSet(cmd), args: r.Args}
	for name, value := range r.Flags {
		if err := p.flags.Set(name, value); err != nil {
			return nil, p, answer{Refused: err.Error()}
		}
	}
	p.json, _ = p.flags.GetBool("json")
	return cmd, p, answer{}
}

// run runs another process's command, and returns the exit code.
func (h *holder) run(ctx context.Context, cmd *command, p parsed, r request, from *origin) int {
	from.directory, from.environ, from.typed, from.holder = r.Directory, r.Environ, r, h
	return cmd.finish(ctx, newOutput(from.stdout, from.stderr, p.json).at(from), p.args)
}

// stop ends the commands of others, and waits for them, but not for one whose output nobody takes.
func (h *holder) stop() {
	if h == nil {
		return
	}
	h.cancel()
	if h.closing != nil {
		h.closing()
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		h.running.Wait()
	}()
	select {
	case <-over:
	case <-time.After(stopPatience):
	}
	close(h.ended)
}
