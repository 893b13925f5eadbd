//go:build unix

package main

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"sotto/media"
)

// loud is a command that says so many frames.
func loud(frames int) string {
	return fmt.Sprintf(`head -c %d /dev/zero | tr \\000 @`, 2*media.FrameSamples*frames)
}

// spoken runs an agent in a call that begins to send after a while, and returns how many frames it has said when the call may be hung up.
func spoken(t *testing.T, command string, before time.Duration) (frames int) {
	t.Helper()
	a, err := newAgent(command, "bob", ownOrigin())
	if err != nil {
		t.Fatal(err)
	}
	defer a.finish()
	if err := a.start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(before)
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	late := time.After(time.Minute)
	for pcm := make([]int16, media.FrameSamples); ; {
		select {
		case <-a.ended():
			return frames
		case <-late:
			t.Fatal("the agent does not end")
		case <-pace.C:
			(*agentMouth)(a).ReadFrame(pcm)
			if pcm[0] != 0 {
				frames++
			}
		}
	}
}

// What an agent has said is spoken to the last frame before the call is hung up, also if it ended before there was a path.
func TestAgentIsHeardOut(t *testing.T) {
	for _, before := range []time.Duration{0, agentGrace + 500*time.Millisecond} {
		t.Run(before.String(), func(t *testing.T) {
			t.Parallel()
			if n := spoken(t, loud(30), before); n != 30 {
				t.Errorf("%d frames of 30 were spoken", n)
			}
		})
	}
}

// What an agent has started, and left its process group, is heard as long as it goes on speaking, and not waited for when it does not.
func TestAgentLeavesSomethingBehind(t *testing.T) {
	if _, err := exec.LookPath("setsid"); err != nil {
		t.Skip("nothing leaves its process group without setsid")
	}
	for name, test := range map[string]struct {
		does string
		want int
	}{
		"it speaks": {"for i in 1 2 3 4 5 6; do sleep 0.5; " + loud(5) + "; done", 30},
		"it sleeps": {loud(5) + "; exec sleep 20", 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			begun := filepath.Join(t.TempDir(), "begun")
			command := fmt.Sprintf(`setsid sh -c 'echo >%s; %s' & until [ -e %[1]s ]; do sleep 0.01; done`, begun, test.does)
			if n := spoken(t, command, 0); n != test.want {
				t.Errorf("%d frames of %d were spoken", n, test.want)
			}
		})
	}
}
