package client

import (
	"context"
	"errors"
	"testing"
	"time"
)

// Programs tell what failed apart without reading sentences.
func TestErrorsAreTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice := w.online("alice")
	w.register("bob").Close()
	if _, err := alice.AddContact(patience(t), "bob"); err != nil {
		t.Fatal(err)
	}
	if err := alice.Block("bob"); err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]struct {
		do   func() error
		want error
	}{
		"no account":   {func() error { _, err := Open(t.TempDir(), w.options()); return err }, ErrNoAccount},
		"no directory": {func() error { _, err := Open(t.TempDir()+"/none", w.options()); return err }, ErrNoAccount},
		"in use":       {func() error { _, err := Open(alice.dir, w.options()); return err }, ErrAccountInUse},
		"no such user": {func() error { _, err := alice.Send(patience(t), "nobody", "hi"); return err }, ErrNoSuchUser},
		"no contact":   {func() error { return alice.RemoveContact("carol") }, ErrNoContact},
		"blocked":      {func() error { _, err := alice.Send(patience(t), "bob", "hi"); return err }, ErrBlocked},
	} {
		if err := c.do(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A program that ranges over Events goes on when the context of Start ends; what is sent then
// waits.
func TestEventsEndWithTheContext(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice := w.register("alice")
	ctx, cancel := context.WithCancel(t.Context())
	if err := alice.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := alice.WaitConnected(patience(t)); err != nil {
		t.Fatal(err)
	}
	cancel()
	deadline := patience(t)
	for {
		select {
		case _, ok := <-alice.Events():
			if !ok {
				if err := alice.Close(); err != nil {
					t.Error(err)
				}
				return
			}
		case <-deadline.Done():
			t.Fatal("Events stays open")
		}
	}
}

// A server cannot make a device wait for 136 years.
func TestWaitsAreBounded(t *testing.T) {
	for seconds, want := range map[uint32]time.Duration{0: 0, 30: 30 * time.Second, 3600: time.Hour, 1<<32 - 1: longestRetry} {
		if got := patienceFor(seconds); got != want {
			t.Errorf("%d s: %v, want %v", seconds, got, want)
		}
	}
}
