package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A screen of text that grows.
type typescript struct {
	t     *testing.T
	name  string
	text  strings.Builder
	lines chan string
	never string // a pattern that no line may match
}

func read(t *testing.T, name string, from io.Reader) *typescript {
	s := &typescript{t: t, name: name, lines: make(chan string, 1000)}
	go func() {
		defer close(s.lines)
		for reader := bufio.NewReader(from); ; {
			line, err := reader.ReadString('\n')
			if line != "" {
				s.lines <- line
			}
			if err != nil {
				return
			}
		}
	}()
	return s
}

// find waits for a line, and returns what the pattern's group matches.
func (s *typescript) find(pattern string) string {
	s.t.Helper()
	late := time.After(time.Minute)
	for {
		select {
		case line, ok := <-s.lines:
			if !ok {
				s.t.Fatalf("%s ended without %q:\n%s", s.name, pattern, s.text.String())
			}
			s.text.WriteString(line)
			if s.never != "" && regexp.MustCompile(s.never).MatchString(line) {
				s.t.Fatalf("%s says %s", s.name, line)
			}
			if match := regexp.MustCompile(pattern).FindStringSubmatch(line); match != nil {
				return match[len(match)-1]
			}
		case <-late:
			s.t.Fatalf("%s does not say %q:\n%s", s.name, pattern, s.text.String())
		}
	}
}

// refuse fails the test if a line that is read from now on matches.
func (s *typescript) refuse(pattern string) { s.never = pattern }

// sotto starts a command of this very binary (TestMain).
func sotto(t *testing.T, home string, terminal *os.File, args ...string) (*exec.Cmd, *typescript) {
	t.Helper()
	cmd := exec.Command("sotto", args...)
	cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+home, "TERM=xterm")
	cmd.Dir = home
	var out io.Reader
	if terminal != nil {
		cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
	} else {
		pipe, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, cmd.Stderr = pipe, os.Stderr
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGINT)
		cmd.Wait()
	})
	if out == nil {
		return cmd, nil
	}
	return cmd, read(t, strings.Join(args, " "), out)
}

// pseudoTerminal is a terminal: what is written to ours is typed there.
func pseudoTerminal(t *testing.T) (ours, theirs *os.File) {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminal can be made here: %v", err)
	}
	t.Cleanup(func() { ours.Close() })
	if err := unix.IoctlSetPointerInt(int(ours.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Skipf("no terminal can be made here: %v", err)
	}
	n, err := unix.IoctlGetInt(int(ours.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Skipf("no terminal can be made here: %v", err)
	}
	theirs, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminal can be made here: %v", err)
	}
	t.Cleanup(func() { theirs.Close() })
	return ours, theirs
}

// registered starts a server, and registers people.
func registered(t *testing.T, names ...string) (home string) {
	t.Helper()
	home = t.TempDir()
	_, server := sotto(t, home, nil, "serve", "--listen", "127.0.0.1:0", "--metrics", "off", "--data", filepath.Join(home, "server"),
		"--json", "--open")
	url := server.find(`"url":"([^"]+)"`)
	for _, name := range names {
		if cmd, _ := sotto(t, home, nil, "register", name, "--server", url); cmd.Wait() != nil {
			t.Fatalf("%s cannot register", name)
		}
	}
	return home
}

// Single keys steer a call, and the terminal is afterwards as it was.
func TestKeys(t *testing.T) {
	ours, theirs := pseudoTerminal(t)
	home := registered(t, "alice", "bob")
	_, bob := sotto(t, home, nil, "listen", "--as", "bob", "--answer", "--json")
	bob.find("link_up")

	before, err := unix.IoctlGetTermios(int(theirs.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	call, _ := sotto(t, home, theirs, "call", "bob", "--as", "alice", "--audio", "tone")
	screen := read(t, "call", ours)
	press := func(key string) { ours.WriteString(key) }
	screen.find("m mutes, h puts on hold")
	press("m")
	screen.find("muted in the call with bob")
	bob.find(`"peer_state".*"muted":true,"held":false`)
	press("m")
	screen.find("not muted any more in the call with bob")
	press("h")
	screen.find("the call with bob is on hold")
	bob.find(`"peer_state".*"muted":false,"held":true`)
	press("h")
	screen.find("back in the call with bob")
	press("v")
	screen.find("no camera")
	press("l")
	screen.find("at most 300 kb/s are sent to bob")
	press("l")
	screen.find("as much as is useful is sent to bob again")
	press("?")
	screen.find("m mutes, h puts on hold.*l saves data")
	press("q")
	screen.find("call with bob: hung up")
	if err := call.Wait(); err != nil {
		t.Error(err)
	}
	after, err := unix.IoctlGetTermios(int(theirs.Fd()), unix.TCGETS)
	if err != nil || *after != *before {
		t.Errorf("the terminal is left otherwise (%v)", err)
	}
}

// A second call waits, and keys go to one call or the other.
func TestKeysOfTwoCalls(t *testing.T) {
	t.Parallel()
	ours, theirs := pseudoTerminal(t)
	home := registered(t, "alice", "bob", "carol")
	press := func(key string) { ours.WriteString(key) }
	people := callers{t: t, home: home}
	call := func(name string) *typescript { return people.call("bob", name) }
	befriend(t, home, "bob", "alice")
	befriend(t, home, "bob", "carol")
	sotto(t, home, theirs, "listen", "--as", "bob")
	screen := read(t, "listen", ours)
	screen.find("connected; waiting")
	press("?")
	screen.find("there is no call")
	press("hi") // of which only the first key is answered
	screen.find("there is no call that a key could steer; @NAME and a text writes to somebody")
	screen.refuse("a key could steer")

	alice := call("alice")
	screen.find("alice calls: a accepts, d declines")
	press("?")
	screen.find("alice calls: a accepts, d declines")
	press("a")
	screen.find("alice can be heard")
	carol := call("carol")
	screen.find("carol calls: a holds the other call and accepts, e ends the other and accepts, d declines")
	press("d")
	screen.find("call with carol: declined")
	carol.find(`"summary".*"reason":"declined"`)

	carol = call("carol")
	screen.find("carol calls: a holds")
	press("a")
	screen.find("the call with alice is on hold")
	screen.find("carol can be heard")
	alice.find(`"peer_state".*"held":true`)
	press("m") // in the call that is being had
	screen.find("muted in the call with carol")
	carol.find(`"peer_state".*"muted":true`)
	press("?")
	screen.find("h goes over to the call with alice")
	press("h")
	screen.find("back in the call with alice")
	carol.find(`"peer_state".*"held":true`)
	alice.find(`"peer_state".*"held":false`)
	press("q")
	screen.find("call with alice: hung up")
	press("h")
	screen.find("back in the call with carol")
	carol.find(`"peer_state".*"held":false`)

	alice = call("alice")
	screen.find("alice calls: a holds")
	press("e")
	screen.find("call with carol: hung up")
	carol.find(`"summary".*"reason":"hung up"`)
	alice.find(`"first_media"`)
	press("q")
	alice.find(`"summary".*"reason":"hung up"`)
}
