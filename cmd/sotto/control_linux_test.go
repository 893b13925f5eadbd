package main

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestOthersMayNotOperate: the socket asks who has connected, and does not rely on its mode.
func TestOthersMayNotOperate(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("to be somebody else takes root")
	}
	dir, err := os.MkdirTemp("", "sotto") // others may not enter t.TempDir's parents
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "socket")
	bound, err := net.Listen("unix", file)
	if err != nil {
		t.Fatal(err)
	}
	defer bound.Close()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, 0o666); err != nil {
		t.Fatal(err)
	}
	accepted := make(chan net.Conn, 2)
	go func() {
		for {
			conn, err := (ownUsers{bound}).Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	}()
	const nobody = 65534
	stranger := connectAs(t, file, nobody)
	defer unix.Close(stranger)
	patience := unix.NsecToTimeval(int64(30 * time.Second))
	err = unix.SetsockoptTimeval(stranger, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patience)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := unix.Read(stranger, make([]byte, 1)); n != 0 || err != nil {
		t.Errorf("somebody else reads %d bytes, %v; want the end", n, err)
	}
	root := connectAs(t, file, 0)
	defer unix.Close(root)
	select {
	case conn := <-accepted:
		conn.Close()
	case <-time.After(30 * time.Second):
		t.Error("root is not let in")
	}
	if len(accepted) != 0 {
		t.Error("somebody else was let in")
	}
}

// connectAs connects from a thread of another user's, which then ends.
func connectAs(t *testing.T, file string, user int) (fd int) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		var err error
		const same = ^uintptr(0)
		_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, same, uintptr(user), same)
		if errno != 0 {
			err = errno
		}
		if err == nil {
			fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		}
		if err == nil {
			err = unix.Connect(fd, &unix.SockaddrUnix{Name: file})
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	return fd
}
