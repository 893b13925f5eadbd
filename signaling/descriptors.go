package signaling

import (
	"fmt"
	"os"
)

// DescriptorsLeft says whether this process could open another file or connection now. One that
// cannot takes no calls, whatever else works.
func DescriptorsLeft() error {
	file, err := os.Open(os.DevNull)
	if err != nil {
		return fmt.Errorf("no file can be opened, raise the limit of descriptors (LimitNOFILE): %w", err)
	}
	return file.Close()
}
