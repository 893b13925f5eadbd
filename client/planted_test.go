package client

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestPlantedLink: a key is not written to where a link leads that somebody put into the directory.
func TestPlantedLink(t *testing.T) {
	w := newWorld(t)
	dir, victim := t.TempDir(), filepath.Join(t.TempDir(), "victim")
	if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"key.new", "master.new"} {
		if err := os.Symlink(victim, filepath.Join(dir, name)); err != nil {
			t.Skip(err)
		}
	}
	c, err := Register(t.Context(), dir, RegisterOptions{Options: w.options(), Server: w.url(), Username: "alice"})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if text, err := os.ReadFile(victim); err != nil || string(text) != "precious" {
		t.Errorf("the link was followed: %q %v", text, err)
	}
}

func TestDirectoryOfOthers(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no such bits")
	}
	w := newWorld(t)
	for _, mode := range []os.FileMode{0o777, 0o770, 0o702} {
		dir := t.TempDir()
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		_, err := Register(t.Context(), dir, RegisterOptions{Options: w.options(), Server: w.url(), Username: "alice"})
		if err == nil || !strings.Contains(err.Error(), "chmod 700") {
			t.Errorf("%o: %v", mode, err)
		}
	}
}

// TestNamesThatAreNone: paths and flags are no names, in a command line or anywhere.
func TestNamesThatAreNone(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"..", "--help", "-x", "._", "_a"} {
		_, err := Register(t.Context(), t.TempDir(), RegisterOptions{Options: w.options(), Server: w.url(), Username: name})
		if err != errUsername {
			t.Errorf("%s: %v", name, err)
		}
	}
}
