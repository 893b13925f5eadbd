package main

import (
	"bytes"
	"testing"
)

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
