//go:build unix

package client

import (
	"os"

	"golang.org/x/sys/unix"
)

// lockFile takes the lock that goes when the process does, or says that another has it.
func lockFile(f *os.File) error {
	return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
}
