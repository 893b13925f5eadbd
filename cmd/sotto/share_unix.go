//go:build linux || darwin

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

const (
	maxRequest     = 4 << 20         // bytes; the environment is in it
	requestTimeout = 5 * time.Second // for a command to be sent
)

func accountSocket(directory string) string { return filepath.Join(directory, "socket") }

// listen serves the socket until ctx ends. Who has the account open is alone, so a socket that is
// still there was left by a process that died.
func (h *holder) listen(ctx context.Context, directory string) (closing func(), err error) {
	file := accountSocket(directory)
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: file, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("a path of over 100 bytes may be too long: %w", err)
	}
	if err := os.Chmod(file, 0o600); err != nil {
		listener.Close()
		return nil, err
	}
	// A holder in the background reads the terminal of a command in the foreground, and must not be
	// stopped for it.
	signal.Ignore(syscall.SIGTTIN, syscall.SIGTTOU)
	places := make(chan struct{}, maxUsers)
	h.running.Go(func() {
		for {
			conn, err := listener.AcceptUnix()
			if err != nil {
				return
			}
			select {
			case places <- struct{}{}:
				h.running.Go(func() {
					h.serve(ctx, conn)
					<-places
				})
			default:
				conn.Close()
			}
		}
	})
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	return func() { stop(); listener.Close() }, nil
}

// serve runs the command that comes over a connection.
func (h *holder) serve(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	if !sameUser(conn) {
		return
	}
	conn.SetDeadline(time.Now().Add(requestTimeout))
	from, err := receiveStreams(conn)
	if err != nil {
		return
	}
	defer from.close()
	requests := json.NewDecoder(io.LimitReader(conn, maxRequest))
	var r request
	if requests.Decode(&r) != nil {
		return
	}
	conn.SetDeadline(time.Time{})
	cmd, p, refusal := h.take(r)
	if cmd == nil {
		json.NewEncoder(conn).Encode(refusal)
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // an interrupt, or the end of the other process
		var interrupt struct{}
		_ = requests.Decode(&interrupt)
		cancel()
	}()
	exit := h.run(ctx, cmd, p, r, from)
	json.NewEncoder(conn).Encode(answer{Exit: &exit})
}

func sameUser(conn *net.UnixConn) bool {
	user, err := userOf(conn)
	return err == nil && user == os.Geteuid()
}

// userOf asks the kernel whose process is at the other end.
func userOf(conn *net.UnixConn) (user int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	failed := raw.Control(func(fd uintptr) { user, err = peerUser(int(fd)) })
	return user, errors.Join(failed, err)
}

// handOver runs a command in the process that shares the account. The error is errNoHolder if there
// is none.
func handOver(ctx context.Context, from *origin, directory string) (exit int, err error) {
	addr := &net.UnixAddr{Name: accountSocket(directory), Net: "unix"}
	if from.stdout == nil {
		return 0, errNoHolder
	}
	conn, err := net.DialUnix("unix", nil, addr)
	if err != nil || !sameUser(conn) {
		return 0, errNoHolder
	}
	defer conn.Close()
	r := from.typed
	if r.Directory, err = os.Getwd(); err != nil {
		return 0, err
	}
	r.Environ = from.environ
	if state, err := term.GetState(int(from.stdin.Fd())); err == nil {
		defer term.Restore(int(from.stdin.Fd()), state) // whatever becomes of the other process
	}
	if sendStreams(conn, from) != nil || json.NewEncoder(conn).Encode(r) != nil {
		return 0, errNoHolder // it is just ending
	}
	stop := context.AfterFunc(ctx, func() { conn.Write([]byte("{}\n")) })
	defer stop()
	var a answer
	switch err := json.NewDecoder(conn).Decode(&a); {
	case err != nil:
		return 0, errors.New("the process that has this account open has ended, and this command with it")
	case a.After != "":
		return 0, endsFirst{a.After}
	case a.Refused != "":
		return 0, errors.New(a.Refused)
	case a.Exit == nil:
		return 0, errors.New("the process that has this account open does not say what became of it")
	}
	return *a.Exit, nil
}

// sendStreams sends the standard streams with a byte (SCM_RIGHTS, unix(7)).
func sendStreams(conn *net.UnixConn, from *origin) error {
	rights := unix.UnixRights(int(from.stdin.Fd()), int(from.stdout.Fd()), int(from.stderr.Fd()))
	_, _, err := conn.WriteMsgUnix([]byte{'\n'}, rights, nil)
	return err
}

func receiveStreams(conn *net.UnixConn) (*origin, error) {
	oob := make([]byte, unix.CmsgSpace(3*4))
	_, n, _, _, err := conn.ReadMsgUnix(make([]byte, 1), oob)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n]) // close-on-exec: package net asks for it
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for _, m := range messages {
		descriptors, err := unix.ParseUnixRights(&m)
		if err != nil {
			continue
		}
		for _, fd := range descriptors {
			files = append(files, os.NewFile(uintptr(fd), "another process's"))
		}
	}
	if len(files) != 3 {
		for _, f := range files {
			f.Close()
		}
		return nil, errors.New("no standard streams")
	}
	return &origin{stdin: files[0], stdout: files[1], stderr: files[2]}, nil
}

func (o *origin) close() {
	o.stdin.Close()
	o.stdout.Close()
	o.stderr.Close()
}

// untilDone reads a file as long as ctx lasts, and never more than is asked for.
func untilDone(ctx context.Context, f *os.File) io.Reader {
	fd, err := unix.Dup(int(f.Fd())) // f may be closed while this is read
	if err != nil {
		return f
	}
	unix.CloseOnExec(fd)
	own := os.NewFile(uintptr(fd), f.Name())
	wake, end, err := os.Pipe()
	if err != nil {
		return own
	}
	context.AfterFunc(ctx, func() { end.Close() })
	return &interruptible{ctx: ctx, f: own, wake: wake}
}

type interruptible struct {
	ctx     context.Context
	f, wake *os.File
}

func (r *interruptible) Read(p []byte) (int, error) {
	wait := []unix.PollFd{
		{Fd: int32(r.f.Fd()), Events: unix.POLLIN}, {Fd: int32(r.wake.Fd()), Events: unix.POLLIN},
	}
	for {
		if err := r.ctx.Err(); err != nil {
			r.f.Close()
			r.wake.Close()
			return 0, err
		}
		if _, err := unix.Poll(wait, -1); err != nil && err != unix.EINTR {
			return 0, err
		}
		if wait[0].Revents != 0 { // also at its end, and where it cannot be waited for
			return r.f.Read(p)
		}
	}
}
