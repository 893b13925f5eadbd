package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sotto/client"
)

// Commands that come at once take their turns, and all of them go out.
func TestSendsAtOnce(t *testing.T) {
	t.Parallel()
	home := registered(t, "alice", "bob")
	if cmd, _ := sotto(t, home, nil, "contacts", "add", "bob", "--as", "alice"); cmd.Wait() != nil {
		t.Fatal("bob is no contact")
	}
	const many = 8
	var sends sync.WaitGroup
	for i := range many {
		cmd, _ := sotto(t, home, nil, "send", "bob", "--as", "alice", fmt.Sprintf("text %d.", i))
		sends.Go(func() {
			if err := cmd.Wait(); err != nil {
				t.Errorf("text %d: %v", i, err)
			}
		})
	}
	sends.Wait()
	_, bob := sotto(t, home, nil, "listen", "--as", "bob", "--json")
	seen := map[string]bool{}
	for len(seen) < many {
		seen[bob.find(`"text":"(text \d)\."`)] = true
	}
}

// While a device is added, which may take minutes, other commands work.
func TestSendBesideDevicesAdd(t *testing.T) {
	t.Parallel()
	home := registered(t, "alice", "bob")
	adding, alice := sotto(t, home, nil, "devices", "add", "--as", "alice", "--yes", "--json")
	alice.find("linking_code")
	if cmd, _ := sotto(t, home, nil, "send", "bob", "--as", "alice", "hello"); cmd.Wait() != nil {
		t.Error("nothing can be sent")
	}
	listen, waiting := sotto(t, home, nil, "listen", "--as", "alice", "--json")
	waiting.find(`"event":"waiting"`)
	adding.Process.Signal(os.Interrupt)
	waiting.find("link_up")
	listen.Process.Signal(os.Interrupt)
	listen.Wait()
}

// A program of the user's own that has the account open shares it with nobody. It is waited for.
func TestAProgramHasTheAccount(t *testing.T) {
	t.Parallel()
	home := registered(t, "alice")
	open, err := client.Open(filepath.Join(home, "sotto", "alice"), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	cmd := exec.Command("sotto", "contacts", "--as", "alice", "--json")
	cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+home)
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	read(t, "contacts", said).find(`"event":"waiting"`)
	open.Close()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// On a terminal who listens writes too, calls or not.
func TestWritingWhileListening(t *testing.T) {
	t.Parallel()
	ours, theirs := pseudoTerminal(t)
	home := registered(t, "alice", "bob")
	_, bob := sotto(t, home, nil, "listen", "--as", "bob", "--json")
	bob.find("link_up")
	sotto(t, home, theirs, "listen", "--as", "alice")
	screen := read(t, "listen", ours)
	screen.find("connected")
	types := func(text string) { ours.WriteString(text) }

	types("\nto nobody\n")
	screen.find("to whom")
	types("\n@bob see you at eigx\x7fht, or nine\x1b[D\n")
	bob.find(`"from":"alice".*"text":"see you at eight, or nine"`)
	screen.find("to bob: see you at eight, or nine")
	types("drop this\x15zwölf\n")
	bob.find(`"text":"zwölf"`)
	types("@nobody-such hello\n")
	screen.find("not sent to nobody-such: no such user")
	types("\n@bob mine\n")
	bob.find(`"text":"mine"`)

	// While a line is written keys do not steer calls.
	call, caller := sotto(t, home, nil, "call", "alice", "--as", "bob", "--audio", "tone", "--json")
	screen.find("bob calls: .*first leave what you write")
	types("a d\n")
	bob.find(`"text":"a d"`)
	types("\na")
	caller.find("first_media")
	types("\nin a call\n")
	bob.find(`"text":"in a call"`)
	types("\nq")
	caller.find(`"reason":"hung up"`)
	call.Wait()
}

// A command that was handed over has the keys and the terminal of who typed it, which is as before
// when it is over, and ends with it.
func TestCallIsHandedOver(t *testing.T) {
	t.Parallel()
	home := registered(t, "alice", "bob")
	_, bob := sotto(t, home, nil, "listen", "--as", "bob", "--answer", "--json")
	bob.find("link_up")
	listen, alice := sotto(t, home, nil, "listen", "--as", "alice", "--json")
	alice.find("link_up")
	hungUp := `"summary","peer":"alice","reason":"hung up"`

	ours, theirs := pseudoTerminal(t)
	before, err := unix.IoctlGetTermios(int(theirs.Fd()), getTerminal)
	if err != nil {
		t.Fatal(err)
	}
	call, _ := sotto(t, home, theirs, "call", "bob", "--as", "alice", "--audio", "tone")
	screen := read(t, "call", ours)
	screen.find("bob can be heard")
	ours.WriteString("m")
	screen.find("muted in the call with bob")
	ours.WriteString("q")
	bob.find(hungUp)
	if err := call.Wait(); err != nil {
		t.Error(err)
	}
	after, err := unix.IoctlGetTermios(int(theirs.Fd()), getTerminal)
	if err != nil || *after != *before {
		t.Errorf("the terminal is %+v, %v", after, err)
	}

	for _, signal := range []os.Signal{os.Interrupt, os.Kill} {
		call, script := sotto(t, home, nil, "call", "bob", "--as", "alice", "--audio", "tone", "--json")
		script.find("first_media")
		call.Process.Signal(signal)
		bob.find(hungUp)
		if err := call.Wait(); signal == os.Interrupt && err != nil {
			t.Error(err)
		}
	}
	call, script := sotto(t, home, nil, "call", "bob", "--as", "alice", "--audio", "tone", "--json")
	script.find("first_media")
	listen.Process.Signal(os.Interrupt)
	script.find(`"summary"`)
	bob.find(hungUp)
	if err := call.Wait(); err != nil {
		t.Errorf("after the holder's end: %v", err)
	}
	if err := listen.Wait(); err != nil {
		t.Error(err)
	}
}

// A command whose output nobody takes does not keep the holder from ending.
func TestHolderEndsBesideAStuckCommand(t *testing.T) {
	t.Parallel()
	home := registered(t, "alice", "bob")
	listen, alice := sotto(t, home, nil, "listen", "--as", "alice", "--json")
	alice.find("link_up")
	unread, full, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer unread.Close()
	unix.FcntlInt(full.Fd(), unix.F_SETPIPE_SZ, 4096)
	full.Write(make([]byte, 4096))
	stuck := exec.Command("sotto", "contacts", "--as", "alice")
	stuck.Env, stuck.Stdout = append(os.Environ(), "XDG_DATA_HOME="+home), full
	if err := stuck.Start(); err != nil {
		t.Fatal(err)
	}
	full.Close()
	// The next one is served, so the stuck one was taken too, or is not in the way.
	if cmd, _ := sotto(t, home, nil, "devices", "--as", "alice"); cmd.Wait() != nil {
		t.Error("another command is not served")
	}
	listen.Process.Signal(os.Interrupt)
	if err := listen.Wait(); err != nil {
		t.Error(err)
	}
	unread.Close() // else one that was not taken runs by itself now, and is stuck for good
	stuck.Wait()
}

// Who listens while the account is in a call does so when that is over.
func TestListenAfterACall(t *testing.T) {
	t.Parallel()
	home := registered(t, "alice", "bob")
	_, bob := sotto(t, home, nil, "listen", "--as", "bob", "--answer", "--json")
	bob.find("link_up")
	call, script := sotto(t, home, nil, "call", "bob", "--as", "alice", "--audio", "tone", "--json")
	script.find("first_media")
	_, alice := sotto(t, home, nil, "listen", "--as", "alice", "--json")
	alice.find(`"event":"waiting"`)
	if cmd, _ := sotto(t, home, nil, "send", "bob", "--as", "alice", "in a call"); cmd.Wait() != nil {
		t.Error("nothing can be sent in a call")
	}
	bob.find(`"text":"in a call"`)
	call.Process.Signal(os.Interrupt)
	alice.find("link_up")
}

// The socket is for its user alone, and takes nothing else than commands for an account.
func TestAccountSocket(t *testing.T) {
	t.Parallel()
	home := registered(t, "alice")
	_, alice := sotto(t, home, nil, "listen", "--as", "alice", "--json")
	alice.find("link_up")
	file := accountSocket(filepath.Join(home, "sotto", "alice"))
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v, %v", info.Mode(), err)
	}
	for name, line := range map[string]string{
		"no command":       `{"version":1,"command":"nothing"}`,
		"another version":  `{"version":9,"command":"contacts"}`,
		"not of accounts":  `{"version":1,"command":"serve"}`,
		"malformed":        `[`,
		"a wrong flag":     `{"version":1,"command":"contacts","flags":{"what":""}}`,
		"another listener": `{"version":1,"command":"listen"}`,
	} {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: file, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(time.Minute))
		from := ownOrigin()
		from.stdout = os.Stdout
		if err := sendStreams(conn, from); err != nil {
			t.Fatal(err)
		}
		io.WriteString(conn, line+"\n")
		conn.CloseWrite()
		answer, _ := io.ReadAll(conn)
		if strings.Contains(string(answer), "exit") {
			t.Errorf("%s: %s", name, answer)
		}
		conn.Close()
	}
	// Without streams, and silent.
	conn, err := net.Dial("unix", file)
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(time.Minute))
	io.WriteString(conn, "\n{}\n")
	if answer, _ := io.ReadAll(conn); len(answer) > 0 {
		t.Errorf("without streams: %s", answer)
	}
	if cmd, _ := sotto(t, home, nil, "contacts", "--as", "alice"); cmd.Wait() != nil {
		t.Error("a right command is not taken any more")
	}
}

// Another user who can reach the socket is not served.
func TestAccountSocketOfAnotherUser(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	directory, err := os.MkdirTemp("", "sotto-socket")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(directory) })
	ctx, cancel := context.WithCancel(t.Context())
	h := &holder{cancel: cancel}
	closing, err := h.listen(ctx, directory)
	if err != nil {
		t.Fatal(err)
	}
	h.closing, h.ended = closing, make(chan struct{})
	defer h.stop()
	for _, name := range []string{directory, accountSocket(directory)} {
		if err := os.Chmod(name, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	// The kernel notes whose thread it is that connects.
	answered := make(chan []byte)
	go func() {
		defer close(answered)
		runtime.LockOSThread() // and ends with the thread, whose user is another one
		const nobody = 65534
		keep := ^uintptr(0)
		if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, keep, nobody, keep); e != 0 {
			t.Errorf("cannot become another user: %v", e)
			return
		}
		address := &net.UnixAddr{Name: accountSocket(directory), Net: "unix"}
		conn, err := net.DialUnix("unix", nil, address)
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(time.Minute))
		from := ownOrigin()
		from.stdout = os.Stdout
		_ = sendStreams(conn, from)
		io.WriteString(conn, `{"command":"whatever"}`+"\n") // which is refused in a sentence
		answer, err := io.ReadAll(conn)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error("it is waited for")
		}
		answered <- answer
	}()
	if answer := <-answered; len(answer) > 0 {
		t.Errorf("another user is answered: %s", answer)
	}
}
