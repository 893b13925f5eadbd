//go:build !unix

package main

import (
	"os"
	"os/exec"
	"time"
)

func ownGroup(*exec.Cmd) {}

// endGroup ends the program; there are no process groups here.
func endGroup(leader *os.Process, _ time.Duration) { _ = leader.Kill() }
