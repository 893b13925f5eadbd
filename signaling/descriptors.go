package signaling

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// DescriptorsLeft says whether this process could open another file or connection now. One that
// cannot takes no calls, whatever else works.
func DescriptorsLeft() error {
	file, err := os.Open(os.DevNull)
	switch {
	case errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE):
		return fmt.Errorf("no descriptors are left, raise their limit (LimitNOFILE): %w", err)
	case err != nil: // there is no such file
		return nil
	}
	return file.Close()
}
