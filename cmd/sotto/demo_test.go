package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"sotto/cmd/sotto/demo"
)

// TestDemo runs the demo, shortened, in this process, so that the race detector watches all of it: server, relay and both ends.
func TestDemo(t *testing.T) {
	for _, test := range []struct {
		name, path string
		args       []string
	}{
		{"through the relay", "relay", nil},
		{"directly", "direct", []string{"--direct"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
			folder := filepath.Join(t.TempDir(), "out")
			report := runDemoJSON(t, append([]string{"demo", "--json", "--for", "2s", "--out", folder}, test.args...))
			if report.Call.Path[0] != test.path {
				t.Errorf("the call took the path %s, want %s", report.Call.Path[0], test.path)
			}
			if len(report.Steps) < 8 || len(report.Claims) < 10 {
				t.Errorf("a report of %d steps and %d claims", len(report.Steps), len(report.Claims))
			}
			for _, file := range report.Files {
				if info, err := os.Stat(filepath.Join(folder, file.Name)); err != nil || info.Size() == 0 {
					t.Errorf("%s is missing or empty", file.Name)
				}
			}
		})
	}
}

func runDemoJSON(t *testing.T, args []string) *demo.Report {
	t.Helper()
	var stdout, stderr bytes.Buffer
	code := run(context.Background(), args, &stdout, &stderr)
	lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
	report := new(demo.Report)
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), report); err != nil || report.Event != "report" {
		t.Fatalf("the last line is no report: %v: %s%s", err, lines[len(lines)-1], stderr.String())
	}
	// Other tests run beside this one: there may be holes in what is heard, and under the race detector, where the codec is slower than
	// speech, many. Enough must be left to tell whose speech it is.
	failed := slices.DeleteFunc(report.Failed(), func(c demo.Claim) bool { return strings.Contains(c.Claim, "heard what") })
	for _, d := range report.Directions {
		if !raceDetector && d.Similarity < d.Wrong+0.3 {
			t.Errorf("what %s heard is %.3f like what %s said, and %.3f like other speech", d.To, d.Similarity, d.From, d.Wrong)
		}
	}
	if len(failed) > 0 {
		t.Errorf("these claims do not hold: %v", failed)
	}
	if holds := len(report.Failed()) == 0; holds != (code == exitDone) {
		t.Errorf("exit code %d, but all claims hold is %t", code, holds)
	}
	return report
}

// TestDemoInterrupted ends a demo in the middle of the call.
func TestDemoInterrupted(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	ctx, interrupt := context.WithCancel(context.Background())
	stdout := &watched{text: "accepts", found: interrupt}
	var stderr bytes.Buffer
	if code := run(ctx, []string{"demo", "--out", t.TempDir()}, stdout, &stderr); code != exitFailed {
		t.Errorf("exit code %d", code)
	}
	if got := stderr.String(); got != "sotto demo: interrupted\n" {
		t.Errorf("it says %q", got)
	}
}

// watched is an output that notices when something was said.
type watched struct {
	bytes.Buffer
	text  string
	found func()
}

func (w *watched) Write(b []byte) (int, error) {
	if strings.Contains(string(b), w.text) {
		w.found()
	}
	return w.Buffer.Write(b)
}
