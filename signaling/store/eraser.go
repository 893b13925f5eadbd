package store

import (
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// eraser is a file system on which the engine's obsolete files go at once.
//
// Pebble keeps obsolete logs to write over them later, so that old envelopes would stay in them for as long as nothing is written.
// It does not keep them for a cleaner that wants the files whole, of which it has one: ArchiveCleaner, which moves obsolete files
// into a folder. Here, moving a file into that folder removes it.
type eraser struct {
	vfs.FS
	archive string // the folder
}

func newEraser(fsys vfs.FS, dir string) eraser {
	return eraser{fsys, fsys.PathJoin(dir, "archive")} // as ArchiveCleaner names it
}

func (e eraser) Rename(from, to string) error {
	if e.PathDir(to) == e.archive {
		return e.Remove(from)
	}
	return e.FS.Rename(from, to)
}

func (e eraser) MkdirAll(dir string, mode os.FileMode) error {
	if dir == e.archive {
		return nil
	}
	return e.FS.MkdirAll(dir, mode)
}

// Unwrap gives the engine the file system below (vfs.Root).
func (e eraser) Unwrap() vfs.FS { return e.FS }
