package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"sotto/client"
)

type sentLine struct {
	Event   string  `json:"event"` // "sent" or "delivered"
	ID      string  `json:"id"`
	To      string  `json:"to"`
	Seconds float64 `json:"seconds,omitempty"`
}

func sendCommand() *command {
	var f clientFlags
	var wait time.Duration
	return &command{
		name:    "send",
		handed:  true,
		args:    "USER [TEXT...]",
		text:    true,
		summary: "Send a message",
		help: `
Sends TEXT, or what standard input holds. It is encrypted for USER's device here. "sent" means that the server keeps it until
that device has it; "delivered" that the device has it, which people tell only their accepted contacts. To somebody you have
exchanged messages with, what cannot be sent now is kept, and sent by the next command that connects.

While another command uses the account, it sends the message ("sotto listen --help"), or this one
waits for its end.

From the first word of TEXT on all is text, also what looks like a flag. Where the first word may
look like one, put -- before it.

Examples:
  sotto send bob The train is late, start without me
  sotto send bob --as alice --wait 10s hello     wait up to 10 s for it to be delivered
  sotto send bob -- "$text"                      whatever it begins with
  uptime | sotto send ops
`,
		flags: func(flags *pflag.FlagSet) {
			flags.DurationVar(&wait, "wait", 0, "wait so long for the message to be delivered; without it, sent is enough")
			f.define(flags)
		},
		run: func(ctx context.Context, out *output, args []string) error {
			if len(args) == 0 {
				return usagef("a user name is missing; see \"sotto send --help\"")
			}
			if wait < 0 {
				return usagef("--wait %v is less than nothing", wait)
			}
			text := strings.Join(args[1:], " ")
			if len(args) == 1 {
				var err error
				if text, err = readText(out.from.input(ctx)); err != nil {
					return err
				}
				out.from.typed.Args = []string{args[0], text}
			}
			if text == "" {
				return usagef("there is nothing to send")
			}
			c, err := f.open(ctx, out, mediaFlags{})
			if err != nil {
				return err
			}
			defer c.Close()
			if err := connect(ctx, out, c); err != nil {
				return keep(ctx, c, args[0], text, err)
			}
			return send(ctx, out, c, args[0], text, wait)
		},
	}
}

// keep leaves the message in the outbox although there is no server, if there is a session to encrypt it in.
func keep(ctx context.Context, c *session, to, text string, reason error) error {
	if errors.Is(reason, client.ErrAccountDeleted) {
		return reason // there will be no next time
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if _, err := c.Send(ctx, to, text); err != nil {
		return fmt.Errorf("%w; the message is not kept", reason)
	}
	return fmt.Errorf("%w; the message is kept, and sent by the next command that connects", reason)
}

func readText(stdin io.Reader) (string, error) {
	text, err := io.ReadAll(io.LimitReader(stdin, client.MaxText+2))
	if err != nil {
		return "", fmt.Errorf("cannot read standard input: %w", err)
	}
	if len(text) > client.MaxText+1 { // the last is a line feed
		return "", fmt.Errorf("standard input holds more than a message can, %d bytes", client.MaxText)
	}
	return string(bytes.TrimRight(text, "\n")), nil
}

// send returns when the server has the message, or with wait when the recipient has it or the time is over.
func send(ctx context.Context, out *output, c *session, to, text string, wait time.Duration) error {
	start := time.Now()
	id, err := c.Send(ctx, to, text)
	if err != nil {
		return err
	}
	took := func() float64 { return time.Since(start).Seconds() }
	// becomes waits for an event of this message.
	becomes := func(limit time.Duration, awaited func(client.Event) bool) error {
		return until(ctx, limit, c, func(event client.Event) (bool, error) {
			if failed, ok := event.(client.MessageFailed); ok && failed.ID == id {
				return true, failed.Err
			}
			if full, ok := event.(client.MailboxFull); ok && (full.ID == id || full.To == to) {
				return true, fmt.Errorf("%s's mailbox is full: the server takes nothing for them until "+
					"their device has been online; the message is kept, and sent by the next command "+
					"that connects", to)
			}
			showRetry(out, event)
			return awaited(event), nil
		})
	}
	err = becomes(patience, func(event client.Event) bool {
		sent, ok := event.(client.MessageSent)
		return ok && sent.ID == id
	})
	if errors.Is(err, errPatience) {
		return errors.New("the server did not take the message; it is kept, and sent by the next command that connects")
	}
	if errors.Is(err, errInterrupted) || errors.Is(err, client.ErrClosed) {
		return fmt.Errorf("%w; the message is kept, and sent by the next command that connects", err)
	}
	if err != nil {
		return err
	}
	out.say(sentLine{"sent", id.String(), to, took()}, "sent to %s", to)
	if wait == 0 {
		return nil
	}
	err = becomes(wait, func(event client.Event) bool {
		delivered, ok := event.(client.MessageDelivered)
		return ok && delivered.ID == id
	})
	if errors.Is(err, errPatience) {
		out.say(nil, "not delivered within %s; it waits for %s's device, or they do not tell", wait, to)
		return nil
	}
	if err != nil {
		return err
	}
	out.say(sentLine{"delivered", id.String(), to, took()}, "delivered to %s after %.0f ms", to, 1000*took())
	return nil
}
