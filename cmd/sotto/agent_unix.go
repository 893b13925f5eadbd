//go:build unix

package main

import (
	"os"
	"os/exec"
	"syscall"
	"time"
)

// ownGroup puts a program and what it starts into a process group: Ctrl-C does not reach it, and it can be ended as a whole.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

// endGroup ends what is left of a program's process group, with grace. It returns when that is gone, or was killed.
func endGroup(leader *os.Process, grace time.Duration) {
	if syscall.Kill(-leader.Pid, syscall.SIGTERM) != nil {
		return // nobody is left
	}
	for late := time.Now().Add(grace); time.Now().Before(late); time.Sleep(20 * time.Millisecond) {
		if syscall.Kill(-leader.Pid, 0) != nil {
			return
		}
	}
	_ = syscall.Kill(-leader.Pid, syscall.SIGKILL) // they may have just ended
}
