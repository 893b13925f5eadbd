package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// A message and a missed call have arrived, but are not printed when the process dies: the next one prints them, the one after does not.
func TestListenDiesBeforePrinting(t *testing.T) {
	home := t.TempDir()
	_, server := sotto(t, home, nil, "serve", "--listen", "127.0.0.1:0", "--metrics", "off", "--data", filepath.Join(home, "server"), "--json")
	url, token := server.find(`"url":"([^"]+)"`), server.find(`"token":"([^"]+)"`)
	run := func(args ...string) error {
		cmd, _ := sotto(t, home, nil, args...)
		return cmd.Wait()
	}
	for _, name := range []string{"alice", "bob"} {
		if err := run("register", name, "--server", url, "--invitation", token); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(run("contacts", "add", "alice", "--as", "bob"), run("contacts", "add", "bob", "--as", "alice")); err != nil {
		t.Fatal(err)
	}
	call, calling := sotto(t, home, nil, "call", "bob", "--as", "alice", "--audio", "none")
	calling.find("calling bob")
	call.Process.Signal(os.Interrupt) // bob is not there
	call.Wait()

	stuck := exec.Command("sotto", "listen", "--as", "bob", "--json")
	stuck.Env = append(os.Environ(), "XDG_DATA_HOME="+home)
	stuck.Stdout = fullPipe(t)
	if err := stuck.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stuck.Process.Kill() })
	_, sent := sotto(t, home, nil, "send", "bob", "--as", "alice", "--wait", "30s", "--json", "call me")
	sent.find(`"event":"delivered"`) // so it is on bob's disk, and with it the call, which was before it
	stuck.Process.Kill()
	stuck.Wait()

	stop := func(cmd *exec.Cmd) {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
	}
	cmd, again := sotto(t, home, nil, "listen", "--as", "bob", "--json")
	again.find(`"event":"missed_call","call":"[0-9a-f]{32}","peer":"alice"`)
	again.find(`"event":"message".*"text":"call me"`)
	stop(cmd)

	_, last := sotto(t, home, nil, "listen", "--as", "bob", "--json")
	if err := run("send", "bob", "--as", "alice", "the last"); err != nil {
		t.Fatal(err)
	}
	last.refuse(`"missed_call"|"call me"`)
	last.find(`"text":"the last"`)
}

// fullPipe is where nothing more can be written to, and nobody reads.
func fullPipe(t *testing.T) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	w.SetWriteDeadline(time.Now().Add(time.Second))
	if n, err := w.Write(make([]byte, 2<<20)); !errors.Is(err, os.ErrDeadlineExceeded) { // more than a pipe of anybody's may hold
		t.Fatalf("%d bytes fit: %v", n, err)
	}
	return w
}
