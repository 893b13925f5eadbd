package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"sotto/client"
)

// Who takes a call with a key, on a machine without sound devices, is told what that means.
func TestTakenWithoutSound(t *testing.T) {
	t.Setenv("PULSE_SERVER", "unix:/nowhere")
	var stdout bytes.Buffer
	m := &mediaFlags{audio: "tone", chosen: func() bool { return false }}
	if m.spoken(newOutput(&stdout, nil, false)) != m {
		t.Skip("this machine has sound devices")
	}
	if !strings.Contains(stdout.String(), "a tone is sent, and nothing is heard here: ") {
		t.Errorf("told %q", stdout.String())
	}
}

// What a server says of itself ends the line, with the point that it has.
func TestServerNotReached(t *testing.T) {
	var stdout bytes.Buffer
	down := client.LinkDown{Err: errors.New("Try again in a moment."), Retry: 2 * time.Second}
	if err := showEvent(newOutput(&stdout, nil, false), down); err != nil {
		t.Fatal(err)
	}
	const want = "the server is not reached, trying again in 2s: Try again in a moment.\n"
	if stdout.String() != want {
		t.Errorf("told %q", stdout.String())
	}
}

// Deliveries told in a row are one line for each person, and for scripts one object each.
func TestDeliveriesInARow(t *testing.T) {
	for asJSON, want := range map[bool]string{
		false: "2 messages delivered to bob\ndelivered to carol\n", true: "",
	} {
		var stdout bytes.Buffer
		d := deliveries{out: newOutput(&stdout, nil, asJSON)}
		for _, to := range []string{"bob", "bob", "carol"} {
			if d.take(client.MessageDelivered{To: to}) == asJSON {
				t.Errorf("with --json %v: the wrong one prints it", asJSON)
			}
		}
		d.flush()
		d.flush()
		if stdout.String() != want {
			t.Errorf("with --json %v: %q", asJSON, stdout.String())
		}
	}
}

// A call that comes rings the terminal's bell, and puts none into a file or between objects.
func TestBell(t *testing.T) {
	for terminal, want := range map[bool]string{true: "\a", false: ""} {
		var stdout bytes.Buffer
		o := newOutput(&stdout, nil, false)
		o.terminal = terminal
		o.bell()
		if stdout.String() != want {
			t.Errorf("terminal %v: %q", terminal, stdout.String())
		}
	}
}
