package xdp

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestObjectIsBuiltFromSource builds relay.bpf.o again, by the go:generate lines of doc.go, and compares.
func TestObjectIsBuiltFromSource(t *testing.T) {
	for _, tool := range []string{"clang-14", "llvm-strip-14"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed (Debian and Ubuntu: apt install clang-14 llvm-14)", tool)
		}
	}
	doc, err := os.ReadFile("doc.go")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("relay.bpf.c")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "relay.bpf.c"), source, 0o600); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(doc)) {
		command, ok := strings.CutPrefix(line, "//go:generate ")
		if !ok {
			continue
		}
		words := strings.Fields(strings.ReplaceAll(command, "${PWD}", dir))
		build := exec.Command(words[0], words[1:]...)
		build.Dir = dir
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", command, err, out)
		}
	}
	built, err := os.ReadFile(filepath.Join(dir, "relay.bpf.o"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(built, object) {
		t.Error("relay.bpf.o is not what clang 14 makes of relay.bpf.c: go generate ./turnserver/internal/xdp")
	}
}
