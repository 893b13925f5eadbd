package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"sotto/client"
)

// patience is how long a command that needs the server waits for it.
const patience = 15 * time.Second

// connect brings the link up, and says in a sentence why it cannot. The client goes on trying by itself afterwards.
func connect(ctx context.Context, out *output, c *session) error {
	if err := c.Start(ctx); err != nil {
		return err
	}
	var last error
	err := until(ctx, patience, c, func(event client.Event) (bool, error) {
		switch event := event.(type) {
		case client.DirectoryCopied:
			warnOfCopy(out)
		case client.LinkUp:
			warnOfClock(out, event)
			return true, nil
		case client.LinkDown:
			if last = event.Err; errors.Is(last, client.ErrTLSEnded) {
				return false, last // another network may help, waiting does not
			}
			out.progress(linkLine{"link_down", event.Err.Error()}, "the server does not answer; trying again in %s",
				event.Retry.Round(100*time.Millisecond))
		}
		return false, nil
	})
	switch {
	case errors.Is(err, errPatience) && last != nil:
		return fmt.Errorf("the server is not reached: %w", last)
	case errors.Is(err, errPatience):
		return errors.New("the server does not answer")
	}
	return err
}

type linkLine struct {
	Event string `json:"event"`
	Error string `json:"error,omitempty"`
}

var (
	errPatience    = errors.New("gave up waiting")
	errInterrupted = errors.New("interrupted")
)

// until takes events until one is what was waited for, the link ends for good, the time is over, or the user interrupts.
func until(ctx context.Context, limit time.Duration, c *session, awaited func(client.Event) (bool, error)) error {
	over := time.NewTimer(limit)
	defer over.Stop()
	for {
		select {
		case event, ok := <-c.Events():
			if !ok {
				return client.ErrClosed
			}
			if done, err := awaited(event); done || err != nil {
				return err
			}
			if down, ok := event.(client.LinkDown); ok && down.Final {
				return down.Err
			}
		case <-over.C:
			return errPatience
		case <-ctx.Done():
			return errInterrupted
		}
	}
}

type clockLine struct {
	Event string  `json:"event"` // "clock_doubt"
	Ahead float64 `json:"server_ahead_seconds"`
}

func warnOfCopy(out *output) {
	out.say(linkLine{Event: "directory_copied"}, "ANOTHER COPY OF THIS ACCOUNT'S DIRECTORY HAS BEEN "+
		"USED since this one was: what it received is not here. Remove one of the two; to use an "+
		"account in two places: sotto devices add")
}

func warnOfClock(out *output, up client.LinkUp) {
	if up.ClockDoubt == 0 {
		return
	}
	direction := "ahead of"
	if up.ClockDoubt < 0 {
		direction = "behind"
	}
	out.progress(clockLine{"clock_doubt", up.ClockDoubt.Seconds()},
		"the server's clock is %s %s this device's: one of them must be set, or calls may not ring",
		up.ClockDoubt.Abs().Round(time.Second), direction)
}
