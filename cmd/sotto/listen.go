package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"sotto/client"
)

type messageLine struct {
	Event string    `json:"event"` // "message"
	ID    string    `json:"id"`
	From  string    `json:"from"`
	Text  string    `json:"text"`
	Sent  time.Time `json:"sent"`
}

type retryLine struct {
	Event  string `json:"event"` // "undecryptable" or "session_reset"
	Peer   string `json:"peer"`
	Asked  bool   `json:"asked,omitempty"`  // for it to be sent again
	Resent int    `json:"resent,omitempty"` // what is sent again
}

type peerLine struct {
	Event string `json:"event"`
	Peer  string `json:"peer"`
}

func listenCommand() *command {
	var f clientFlags
	var m mediaFlags
	var answer, once bool
	return &command{
		name:    "listen",
		summary: "Receive messages and calls",
		help: `
Prints messages as they come and says when somebody calls: type "a" to accept or "d" to decline. Without a terminal and without
--answer, calls are declined. With --answer every call is accepted at once, also a stranger's, for machines without a person; the
caller hears a tone, unless --audio says something else. A microphone is used only where you ask for it.

Examples:
  sotto listen
  sotto listen --answer --audio tone --record calls/      answer with a tone, keep what is heard and seen
  sotto listen --answer --audio hello.wav --once          answer one call, then end
  sotto listen --json | jq -r 'select(.event=="message") | .from + ": " + .text'
`,
		flags: func(flags *pflag.FlagSet) {
			flags.BoolVar(&answer, "answer", false, "accept every call at once")
			flags.BoolVar(&once, "once", false, "end after the first call")
			m.define(flags, "tone")
			f.define(flags)
		},
		run: func(ctx context.Context, out *output, args []string) error {
			if err := exactly(0, args, "no argument"); err != nil {
				return err
			}
			if err := m.check(); err != nil {
				return err
			}
			c, err := f.open(m.relayOnly)
			if err != nil {
				return err
			}
			defer c.Close()
			return listen(ctx, out, c, &m, answer, once)
		},
	}
}

// listen handles what comes until the user has enough. Of calls the client lets only one through at a time.
func listen(ctx context.Context, out *output, c *client.Client, m *mediaFlags, answer, once bool) error {
	var typed <-chan string
	if !answer && term.IsTerminal(int(os.Stdin.Fd())) {
		typed = lines(ctx)
	}
	if err := c.Start(ctx); err != nil {
		return err
	}
	var calls sync.WaitGroup
	defer calls.Wait() // with ctx over they hang up, and say what was
	over := make(chan error, 1)
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-over:
			if once {
				return err
			}
			if err != nil {
				out.say(linkLine{"call_failed", err.Error()}, "%s", err)
			}
		case event, ok := <-c.Events():
			if !ok {
				return client.ErrClosed
			}
			if down, ok := event.(client.LinkDown); ok && down.Final {
				return down.Err
			}
			if incoming, ok := event.(client.IncomingCall); ok {
				calls.Go(func() {
					err := receiveCall(ctx, out, incoming.Call, m, answer, typed)
					select {
					case over <- err:
					case <-ctx.Done():
					}
				})
				continue
			}
			if err := showEvent(out, event); err != nil {
				return err
			}
		}
	}
}

// showEvent prints everything but calls. A message is erased from the account directory once it is printed.
func showEvent(out *output, event client.Event) error {
	switch event := event.(type) {
	case *client.Message:
		from := event.From.String()
		out.say(messageLine{"message", event.ID.String(), from, event.Text, event.SentAt}, "%s  %s: %s",
			event.SentAt.Local().Format("15:04"), from, printable(event.Text))
		return event.Done()
	case client.LinkUp:
		warnOfClock(out, event)
		out.say(linkLine{Event: "link_up"}, "connected; waiting for messages and calls (Ctrl-C ends)")
	case client.LinkDown:
		out.say(linkLine{"link_down", event.Err.Error()}, "the server is not reached: %s; trying again in %s", event.Err, event.Retry.Round(100*time.Millisecond))
	case client.MessageDelivered:
		out.say(sentLine{Event: "delivered", ID: event.ID.String(), To: event.To}, "delivered to %s", event.To)
	case client.MessageFailed:
		out.say(linkLine{"message_failed", event.Err.Error()}, "a message to %s will not be sent: %s", event.To, event.Err)
	case client.IdentityChanged:
		peer := event.Contact.String()
		out.say(peerLine{"identity_changed", peer}, "THE IDENTITY KEY OF %s HAS CHANGED. Nothing is sent to them, and nothing of theirs shown, until: sotto contacts accept %s", peer, peer)
	case client.SenderShown:
		peer := event.Contact.String()
		out.say(peerLine{"sender_shown", peer}, "messages to %s go out under your name for now: the server learns that you write to them", peer)
	case client.Undecryptable, client.SessionReset:
		showRetry(out, event)
	}
	return nil
}

// showRetry prints what becomes of messages that could not be decrypted, here or at a contact's.
func showRetry(out *output, event client.Event) {
	switch event := event.(type) {
	case client.Undecryptable:
		peer := event.From.String()
		line := retryLine{Event: "undecryptable", Peer: peer, Asked: event.Asked}
		if event.Asked {
			out.say(line, "something from %s could not be decrypted; their device was asked to send it again", peer)
		} else {
			out.say(line, "something from %s could not be decrypted; ask them to send it again", peer)
		}
	case client.SessionReset:
		peer := event.Contact.String()
		line := retryLine{Event: "session_reset", Peer: peer, Resent: event.Resent}
		if event.Resent > 0 {
			out.say(line, "%s could not decrypt something: a new session has begun, and it is sent again (%d)", peer, event.Resent)
		} else {
			out.say(line, "a new session with %s has begun, since something could not be decrypted", peer)
		}
	}
}

// printable keeps a peer from steering the terminal.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return r
		}
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return '\uFFFD'
		}
		return r
	}, text)
}

// lines yields what is typed, a line at a time.
func lines(ctx context.Context) <-chan string {
	typed := make(chan string)
	go func() {
		scanner := bufio.NewScanner(os.Stdin)
		for scanner.Scan() {
			select {
			case typed <- strings.ToLower(strings.TrimSpace(scanner.Text())):
			case <-ctx.Done():
				return
			}
		}
	}()
	return typed
}

// receiveCall asks, or answers by itself, and follows the call to its end.
func receiveCall(ctx context.Context, out *output, call *client.Call, m *mediaFlags, answer bool, typed <-chan string) error {
	peer := call.Peer().String()
	switch {
	case answer:
		out.say(peerLine{"incoming", peer}, "%s calls", peer)
	case typed == nil:
		out.say(peerLine{"incoming", peer}, "%s calls; declined, as nobody is here (--answer accepts calls)", peer)
		call.Decline()
		_, err := follow(ctx, out, call, peer, 0, nil)
		return err
	default:
		out.say(peerLine{"incoming", peer}, "%s calls: a and Enter accepts, d and Enter declines", peer)
		if !accepts(ctx, call, typed) {
			call.Decline()
			_, err := follow(ctx, out, call, peer, 0, nil)
			return err
		}
	}
	tracks, err := m.open(peer)
	if err != nil {
		call.Decline()
		return err
	}
	defer tracks.Close()
	if err := call.Accept(ctx, tracks.options()); err != nil && !errors.Is(err, client.ErrCallEnded) {
		return fmt.Errorf("cannot accept the call of %s: %w", peer, err)
	}
	ended, err := follow(ctx, out, call, peer, m.limit, tracks)
	if err != nil {
		return err
	}
	return endError(ended, peer)
}

// accepts waits for the user's answer, or the end of the call.
func accepts(ctx context.Context, call *client.Call, typed <-chan string) bool {
	for {
		select {
		case word := <-typed:
			switch word {
			case "a", "accept":
				return true
			case "d", "decline":
				return false
			}
		case <-call.Done():
			return false
		case <-ctx.Done():
			return false
		}
	}
}
