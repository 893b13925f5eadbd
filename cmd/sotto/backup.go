package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"sotto/signaling"
)

type backupLine struct {
	Event     string `json:"event"` // "backup"
	Directory string `json:"directory"`
	Bytes     int64  `json:"bytes"`
}

// backup makes a directory that a server can run on, with all that the data directory holds but the
// control socket. It has its name when it is whole, and not before.
func backup(s *signaling.Server, data, directory string) (backupLine, error) {
	made := backupLine{Event: "backup", Directory: directory}
	if !filepath.IsAbs(directory) {
		return made, errors.New("the directory of a backup needs its whole path")
	}
	switch _, err := os.Lstat(directory); {
	case err == nil:
		return made, fmt.Errorf("%s is there already: name a new directory", directory)
	case !errors.Is(err, fs.ErrNotExist):
		return made, backupPlace(err)
	}
	parent, name := filepath.Split(directory)
	beside, err := os.MkdirTemp(parent, name+".partial-*") // of mode 0700
	if err != nil {
		return made, backupPlace(err)
	}
	defer os.RemoveAll(beside)
	half := filepath.Join(beside, "data")
	if err := s.Backup(half); err != nil {
		return made, err
	}
	for _, name := range []string{"relay-secret", "acme"} {
		if err := copyTree(filepath.Join(data, name), filepath.Join(half, name)); err != nil {
			return made, err
		}
	}
	if made.Bytes, err = treeSize(half); err != nil {
		return made, err
	}
	if err := os.Rename(half, directory); err != nil {
		return made, err
	}
	if p, err := os.Open(parent); err == nil { // so that it survives a power cut
		_ = p.Sync()
		p.Close()
	}
	return made, nil
}

// backupPlace says who must be able to write there.
func backupPlace(err error) error {
	return fmt.Errorf("%w: the server makes the backup, as the user that it runs as and within what "+
		"its service may write: name a directory below one that it may write to, for instance its "+
		"data directory", err)
}

// copyTree copies a file, or a directory of files; nothing if there is none.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // not there, or removed just now
		}
		if err != nil {
			return err
		}
		below, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, below)
		switch {
		case entry.IsDir():
			return os.Mkdir(target, 0o700)
		case entry.Type().IsRegular():
			return copyFile(path, target)
		}
		return nil
	})
}

// copyFile makes a copy for its owner alone.
func copyFile(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	made, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(made, source)
	return errors.Join(err, made.Sync(), made.Close())
}

func treeSize(dir string) (size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	return size, err
}
