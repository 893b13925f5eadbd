//go:build linux

package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestBrief measures everything for a moment: every relay starts and carries, and no packet is other than it was sent.
func TestBrief(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root may make network namespaces")
	}
	for program, debian := range map[string]string{"ip": "iproute2", "turnserver": "coturn"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed (Debian package %s)", program, debian)
		}
	}
	program := filepath.Join(t.TempDir(), "relaybench")
	if out, err := exec.Command("go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	var said, complained bytes.Buffer
	bench := exec.Command(program, "-brief", "-rounds", "1", "-sessions", "20")
	bench.Stdout, bench.Stderr = &said, &complained
	if err := bench.Run(); err != nil || complained.Len() > 0 {
		t.Fatalf("%v\n%s", err, &complained)
	}
	for _, g := range goals {
		if !strings.Contains(said.String(), "| "+g.figure+" |") {
			t.Errorf("no line for %q in\n%s", g.figure, &said)
		}
	}
}
