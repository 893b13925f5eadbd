package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestMain lets the transcripts in testdata run this very binary as "sotto".
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"sotto": main})
}

// TestTranscripts types what a user could type. Commands of its own: "waitfor FILE TEXT" waits until a background command's
// output, written to FILE, holds TEXT; "capture NAME FILE PATTERN" sets NAME to what the pattern's group matches; "gone FILE" fails if the
// process whose number FILE holds is there.
func TestTranscripts(t *testing.T) {
	params := testscript.Params{
		Dir:   "testdata",
		Setup: setUp,
		Cmds:  map[string]func(*testscript.TestScript, bool, []string){"waitfor": waitFor, "capture": capture, "gone": gone},
	}
	if raceDetector {
		// The other transcripts start dozens of processes, one after another: slow under the race detector, and nothing for it.
		params.Dir, params.Files = "", []string{"testdata/message.txt", "testdata/call.txt"}
	}
	testscript.Run(t, params)
}

// setUp gives each transcript a home of its own, and names the media they use.
func setUp(env *testscript.Env) error {
	samples, err := filepath.Abs("sample")
	if err != nil {
		return err
	}
	env.Setenv("XDG_DATA_HOME", filepath.Join(env.WorkDir, "home"))
	env.Setenv("SPEECH", filepath.Join(samples, "speech-alice.ogg"))
	env.Setenv("CLIP", filepath.Join(samples, "picture-alice.ivf"))

	clip, err := os.ReadFile(filepath.Join(samples, "picture-alice.ivf"))
	if err != nil {
		return err
	}
	copy(clip[8:], "VP90") // the codec's name in the header of IVF
	return os.WriteFile(filepath.Join(env.WorkDir, "vp9.ivf"), clip, 0o600)
}

// waitFor is a condition, not a pause: it ends as soon as the text is there.
func waitFor(ts *testscript.TestScript, negated bool, args []string) {
	if negated || len(args) != 2 {
		ts.Fatalf("usage: waitfor FILE TEXT")
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		text, _ := os.ReadFile(ts.MkAbs(args[0]))
		if strings.Contains(string(text), args[1]) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%q does not appear in %s:\n%s", args[1], args[0], text)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// capture reads a value that differs from run to run: an address, an invitation.
func capture(ts *testscript.TestScript, negated bool, args []string) {
	if negated || len(args) != 3 {
		ts.Fatalf("usage: capture NAME FILE PATTERN")
	}
	match := regexp.MustCompile(args[2]).FindStringSubmatch(ts.ReadFile(args[1]))
	if len(match) != 2 {
		ts.Fatalf("%s has no match for %s with one group", args[1], args[2])
	}
	ts.Setenv(args[0], match[1])
}

func gone(ts *testscript.TestScript, negated bool, args []string) {
	if negated || len(args) != 1 {
		ts.Fatalf("usage: gone FILE")
	}
	pid, err := strconv.Atoi(strings.TrimSpace(ts.ReadFile(args[0])))
	ts.Check(err)
	process, err := os.FindProcess(pid)
	if err != nil || process.Signal(syscall.Signal(0)) != nil {
		return
	}
	// Ended, but nobody has asked for its status: in a container the first process may not.
	if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && strings.Contains(string(stat), ") Z ") {
		return
	}
	ts.Fatalf("process %d is there", pid)
}
