package client

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
)

// store is the one seam between an account and the disk: named records, encrypted, changed in transactions.
//
//	DIR/lock      held while a process has the account open; its text is that process's id
//	DIR/master    the master key, wrapped (statekey.go)
//	DIR/key       the key file, unless another or a passphrase is used
//	DIR/state/    one file for each record, and "journal" for moments
//
// A transaction of more than one record:
//
//  1. Write each new value to a file of its own, beside the record's.
//  2. Write the journal: which of these files replace records, which records go. From its rename on the transaction is done,
//     whatever happens; before it nothing is.
//  3. Rename and remove as the journal says.
//  4. Remove the journal.
//
// Opening finishes what a journal says and removes new files that no journal names. So a transaction happens whole or not at all, and
// once it has, no byte of an older value is left in the directory: what was deleted from a session stays deleted. (What a file
// system or a drive keeps of removed files is beyond this package.)
//
// Names of records are inside the encryption; a file is named by their HMAC. Numbers and sizes of records show. Someone who can
// write to the directory can put older files back, and this is not noticed: a restored backup must not be used to send.
type store struct {
	dir  string
	d    disk // of DIR/state
	lock *os.File

	nameKey, recordKey []byte

	mu     sync.RWMutex
	names  map[string]struct{}
	doomed bool  // close erases it
	failed error // set when the directory is no longer what memory says: nothing more is done
}

const (
	journalFile = "journal"
	suffixNew   = ".new"

	journalPut    = 'p'
	journalDelete = 'd'
	fileNameLen   = 32
)

var (
	errNoRecord = errors.New("no such record")
	errClosed   = errors.New("the account is closed")
)

// openStore opens the account directory; with create, also one that does not exist or holds nothing yet.
func openStore(dir string, key Key, create bool) (_ *store, err error) {
	if create {
		if err := os.MkdirAll(filepath.Join(dir, "state"), 0o700); err != nil {
			return nil, fmt.Errorf("cannot make account directory: %w", err)
		}
	}
	if err := ownDirectory(dir); err != nil {
		return nil, err
	}
	lock, err := lockDirectory(dir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			lock.Close()
		}
	}()
	d, state := osDisk(dir), osDisk(filepath.Join(dir, "state"))
	wrapped, err := d.read(masterFile)
	var master []byte
	switch {
	case err == nil:
		master, err = openMaster(dir, wrapped, key)
	case !errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("cannot read account directory: %w", err)
	case !create:
		err = errNoAccount(dir)
	default:
		if files, _ := state.list(); len(files) > 0 {
			return nil, fmt.Errorf("%s has records but no file %q, which opens them: put it back or use another directory", dir, masterFile)
		}
		master, err = createMaster(dir, d, key)
	}
	if err != nil {
		return nil, err
	}
	s, err := newStore(dir, state, master)
	if err != nil {
		return nil, err
	}
	s.lock = lock
	return s, nil
}

func errNoAccount(dir string) error {
	return tell(ErrNoAccount, "there is no account in %s: register one first", dir)
}

// ownDirectory refuses one in which others can put files and links of theirs.
func ownDirectory(dir string) error {
	for _, name := range []string{dir, filepath.Join(dir, "state")} {
		info, err := os.Stat(name)
		if err != nil || runtime.GOOS == "windows" {
			return nil // what comes next says why
		}
		if info.Mode().Perm()&0o022 != 0 {
			return fmt.Errorf("others can write to account directory %s: make it yours alone (chmod 700)", name)
		}
	}
	return nil
}

// lockDirectory makes sure that one process at a time has the account: two would use the same message keys.
func lockDirectory(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNoAccount(dir)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot write to account directory: %w", err)
	}
	if lockFile(f) != nil {
		pid := make([]byte, 20)
		n, _ := f.ReadAt(pid, 0)
		f.Close()
		return nil, tell(ErrAccountInUse, "account directory %s is in use by another process (pid %s); close it or use another directory",
			dir, bytes.TrimSpace(pid[:n]))
	}
	f.Truncate(0)
	fmt.Fprintln(f, os.Getpid()) // for the sentence above; the lock itself does not need it
	return f, nil
}

// newStore finishes an interrupted transaction and reads the names of the records.
func newStore(dir string, d disk, master []byte) (*store, error) {
	s := &store{dir: dir, d: d, names: map[string]struct{}{}}
	s.nameKey, _ = hkdf.Expand(sha256.New, master, "sotto state v1 names", 32)
	s.recordKey, _ = hkdf.Expand(sha256.New, master, "sotto state v1 records", 32)
	if err := s.finish(); err != nil {
		return nil, err
	}
	files, err := d.list()
	if err != nil {
		return nil, s.readError(err)
	}
	for _, file := range files {
		if len(file) != fileNameLen {
			continue // not ours
		}
		name, _, err := s.readRecord(file)
		if err != nil {
			return nil, err
		}
		s.names[name] = struct{}{}
	}
	return s, nil
}

// get returns a record's value, or errNoRecord.
func (s *store) get(name string) ([]byte, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.read(name)
}

func (s *store) read(name string) ([]byte, error) {
	if s.failed != nil {
		return nil, s.failed
	}
	if _, ok := s.names[name]; !ok {
		return nil, errNoRecord
	}
	_, value, err := s.readRecord(s.fileName(name))
	return value, err
}

// list returns the names that begin with prefix, sorted.
func (s *store) list(prefix string) []string {
	s.mu.RLock()
	defer s.mu.RUnlock()
	names := slices.Sorted(maps.Keys(s.names))
	return slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, prefix) })
}

func (s *store) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == errClosed {
		return nil
	}
	s.failed = errClosed
	clear(s.nameKey)
	clear(s.recordKey)
	if s.doomed {
		return s.erase()
	}
	return s.lock.Close()
}

// eraseAtClose has close remove what the store keeps.
func (s *store) eraseAtClose() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doomed = true
}

// erase removes the account from its directory: first, durably, what opens the records. The
// directory goes too if nothing else is in it.
func (s *store) erase() error {
	d := osDisk(s.dir)
	err := errors.Join(d.remove(masterFile), d.remove(keyFile), d.sync())
	files, e := s.d.list()
	err = errors.Join(err, e)
	for _, file := range files {
		err = errors.Join(err, s.d.remove(file))
	}
	err = errors.Join(err, d.remove("state"), s.lock.Close(), d.remove("lock"))
	if err != nil {
		return fmt.Errorf("the account is deleted, but not all of it can be removed from %s: %w",
			s.dir, err)
	}
	_ = os.Remove(s.dir)
	return nil
}

// A tx is a transaction under way. It sees what it changed.
type tx struct {
	s       *store
	changes map[string][]byte // nil deletes
}

func (t *tx) get(name string) ([]byte, error) {
	if value, ok := t.changes[name]; ok {
		if value == nil {
			return nil, errNoRecord
		}
		return bytes.Clone(value), nil
	}
	return t.s.read(name)
}

func (t *tx) put(name string, value []byte) {
	t.changes[name] = append([]byte{}, value...)
}

func (t *tx) delete(name string) {
	t.changes[name] = nil
}

// update runs fn and makes its changes durable, all of them or, on an error, none. fn uses the tx only: the store is locked.
func (s *store) update(fn func(t *tx) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return s.failed
	}
	t := &tx{s, map[string][]byte{}}
	if err := fn(t); err != nil {
		return err
	}
	for name, value := range t.changes {
		if _, exists := s.names[name]; value == nil && !exists {
			delete(t.changes, name)
		}
	}
	if err := s.commit(t.changes); err != nil {
		return err
	}
	for name, value := range t.changes {
		if value == nil {
			delete(s.names, name)
		} else {
			s.names[name] = struct{}{}
		}
	}
	return nil
}

// fail stops the store: the transaction may or may not be done, and only opening it again settles that.
func (s *store) fail(err error) error {
	s.failed = fmt.Errorf("%w; then start again", s.writeError(err))
	return s.failed
}

func (s *store) writeError(err error) error {
	return fmt.Errorf("cannot write to account directory %s: %w: make room or fix its permissions", s.dir, err)
}

func (s *store) readError(err error) error {
	return fmt.Errorf("cannot read account directory %s: %w", s.dir, err)
}

func (s *store) damagedError(file string) error {
	return fmt.Errorf("%s is damaged: remove it to go on without what it held, or register a new account in another directory",
		filepath.Join(s.dir, "state", file))
}
