package client

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
)

// disk is one directory, as the store needs it. Contents are on the disk when write returns; names are when sync returns.
type disk interface {
	read(name string) ([]byte, error)
	list() ([]string, error)
	write(name string, data []byte) error
	rename(from, to string) error
	remove(name string) error // no error if there is none
	sync() error
}

// replace puts a file in the place of another so that at every moment one of them is there whole.
func replace(d disk, name string, data []byte) error {
	if err := d.write(name+suffixNew, data); err != nil {
		return err
	}
	if err := d.rename(name+suffixNew, name); err != nil {
		return err
	}
	return d.sync()
}

// osDisk is the path of a directory.
type osDisk string

func (d osDisk) path(name string) string { return filepath.Join(string(d), name) }

func (d osDisk) read(name string) ([]byte, error) { return os.ReadFile(d.path(name)) }

func (d osDisk) list() ([]string, error) {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// write makes the file. What lies there is removed, not followed or written to: somebody else may
// have put a link there.
func (d osDisk) write(name string, data []byte) error {
	if err := d.remove(name); err != nil {
		return err
	}
	f, err := os.OpenFile(d.path(name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func (d osDisk) rename(from, to string) error { return os.Rename(d.path(from), d.path(to)) }

func (d osDisk) remove(name string) error {
	err := os.Remove(d.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (d osDisk) sync() error {
	if runtime.GOOS == "windows" {
		return nil // cannot sync a directory, and journals its names itself
	}
	f, err := os.Open(string(d))
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
