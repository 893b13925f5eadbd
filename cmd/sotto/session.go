package main

import (
	"context"
	"errors"
	"time"

	"sotto/client"
)

// A session is an account that a command works with. It has opened the account itself, or uses that
// of the process which has it open (share.go).
type session struct {
	*client.Client
	directory string
	events    <-chan client.Event
	holder    *holder // of who lets others use the account
	leave     func()  // of who uses another's; nil otherwise
}

// Events are those of the client. Texts and calls come to the process that has opened the account.
func (s *session) Events() <-chan client.Event { return s.events }

// skipEvents takes events that nobody reads, for who shares the account. Texts stay on disk.
func (s *session) skipEvents(ctx context.Context) {
	for {
		select {
		case _, ok := <-s.events:
			if !ok {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// Start connects the account, unless it is another's.
func (s *session) Start(ctx context.Context) error {
	if s.leave != nil {
		return nil
	}
	return s.Client.Start(ctx)
}

// Close ends what others do with the account, and closes it.
func (s *session) Close() error {
	if s.leave != nil {
		s.leave()
		return nil
	}
	s.holder.stop()
	return s.Client.Close()
}

const (
	accountPatience = 30 * time.Second       // for another process to end
	accountLook     = 50 * time.Millisecond  // how often it is looked for
	accountSilence  = 500 * time.Millisecond // before that is told
)

// handedOver is what a command returns that has run in another process.
type handedOver struct{ exit int }

func (handedOver) Error() string { return "the command has run in another process" }

// open opens the account that the flags name, without connecting it. calls say what its calls are
// like. If another process has it, the command is handed over, or waits until that one has ended.
func (c *clientFlags) open(ctx context.Context, out *output, calls mediaFlags) (*session, error) {
	if out.from.holder != nil {
		return out.from.holder.join(), nil
	}
	directory, err := c.account.find()
	if err != nil {
		return nil, err
	}
	var options *client.Options
	for wait := newAccountWait(out); ; {
		exit, err := handOver(ctx, out.from, directory)
		first := endsFirst{}
		switch {
		case err == nil:
			return nil, handedOver{exit}
		case errors.As(err, &first):
			wait.endOf(first.command)
		case !errors.Is(err, errNoHolder):
			return nil, err
		}
		if options == nil {
			o, err := c.options(out, directory, false)
			if err != nil {
				return nil, err
			}
			o.RelayOnly, o.VariableRate = calls.relayOnly, calls.variableRate
			options = &o
		}
		opened, err := client.Open(directory, *options)
		if err == nil {
			return &session{Client: opened, directory: directory, events: opened.Events()}, nil
		}
		if !errors.Is(err, client.ErrAccountInUse) || !wait.more(ctx) {
			if ctx.Err() != nil {
				err = errInterrupted
			}
			return nil, err
		}
	}
}

// accountWait waits for an account, and says so.
type accountWait struct {
	out   *output
	began time.Time
	said  bool
	long  bool // what is waited for may take its time
}

func newAccountWait(out *output) *accountWait { return &accountWait{out: out, began: time.Now()} }

// endOf waits as long as another command lasts.
func (w *accountWait) endOf(command string) {
	if !w.long {
		w.long = true
		w.out.say(linkLine{Event: "waiting"}, "\"sotto %s\" uses this account: waiting for it to end", command)
	}
}

// more waits a moment, and tells whether it is worth to look again.
func (w *accountWait) more(ctx context.Context) bool {
	waited := time.Since(w.began)
	if !w.long && waited > accountPatience {
		return false
	}
	if waited > accountSilence && !w.said && !w.long {
		w.said = true
		w.out.warn(linkLine{Event: "waiting"},
			"another process uses this account: waiting for it to end")
	}
	select {
	case <-time.After(accountLook):
		return true
	case <-ctx.Done():
		return false
	}
}
