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
func connect(ctx context.Context, out *output, c *client.Client) error {
	if err := c.Start(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var last error
	for {
		event, err := next(ctx, c.Events())
		if err != nil {
			return errors.Join(notReached(last), err)
		}
		switch event := event.(type) {
		case client.LinkUp:
			return nil
		case client.LinkDown:
			last = event.Err
			if event.Final {
				return event.Err
			}
			out.progress(linkLine{"link_down", event.Err.Error()}, "the server does not answer; trying again in %s", event.Retry.Round(100*time.Millisecond))
		}
	}
}

type linkLine struct {
	Event string `json:"event"`
	Error string `json:"error,omitempty"`
}

func notReached(last error) error {
	if last == nil {
		return errors.New("the server does not answer")
	}
	return fmt.Errorf("the server is not reached: %w", last)
}

var errInterrupted = errors.New("interrupted")

// next takes one event, or ends with the context: an interrupt from the user is told from patience that ran out.
func next[E any](ctx context.Context, events <-chan E) (E, error) {
	var none E
	select {
	case event, ok := <-events:
		if !ok {
			return none, client.ErrClosed
		}
		return event, nil
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return none, fmt.Errorf("gave up after %s", patience)
		}
		return none, errInterrupted
	}
}
