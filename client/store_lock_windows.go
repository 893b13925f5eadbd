package client

import (
	"os"

	"golang.org/x/sys/windows"
)

// lockFile takes the lock that goes when the process does, or says that another has it. It locks one byte far behind the end, so
// that the process id at the beginning can still be read.
func lockFile(f *os.File) error {
	return windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0,
		&windows.Overlapped{OffsetHigh: 1})
}
