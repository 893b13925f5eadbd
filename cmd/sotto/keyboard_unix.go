//go:build linux || darwin

package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// singleKeys lets each key come at once and unseen, and returns what undoes that. Ctrl-C remains a signal.
func singleKeys(stdin *os.File) (restore func(), err error) {
	terminal := int(stdin.Fd())
	before, err := unix.IoctlGetTermios(terminal, getTerminal)
	if err != nil {
		return nil, err
	}
	keys := *before
	keys.Lflag &^= unix.ICANON | unix.ECHO
	keys.Cc[unix.VMIN], keys.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(terminal, setTerminal, &keys); err != nil {
		return nil, err
	}
	return func() { _ = unix.IoctlSetTermios(terminal, setTerminal, before) }, nil
}
