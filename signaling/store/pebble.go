package store

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// Pebble is a Store in a directory of this machine. One process at a time may open it.
//
// Every change of a mailbox or of a device's keys reads and writes under a lock of its device (one of a fixed number); the
// waiting for the disk is outside, so that changes share a sync: the engine's log syncs whatever has gathered meanwhile.
type Pebble struct {
	db      *pebble.DB
	fsys    vfs.FS
	dir     string
	lock    *pebble.Lock
	seed    maphash.Seed
	stripes [256]sync.Mutex // by device
	names   sync.Mutex      // held while a name or an invitation is taken
	lists   sync.RWMutex    // held until a change of a device list is durable; taken before a device's

	dirty atomic.Bool   // something was written and not synced
	quit  chan struct{} // ends syncing
	done  chan struct{}
}

var _ Store = (*Pebble)(nil)

// OpenPebble opens the store in dir and makes it if there is none.
func OpenPebble(dir string, logger *slog.Logger) (*Pebble, error) {
	return openPebble(dir, vfs.Default, logger)
}

func openPebble(dir string, fsys vfs.FS, logger *slog.Logger) (*Pebble, error) {
	if err := fsys.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("the data directory cannot be made: %w", err)
	}
	lock, err := pebble.LockDirectory(dir, fsys)
	if err != nil {
		return nil, lockError(err)
	}
	db, err := pebble.Open(dir, &pebble.Options{
		FS:                 newEraser(fsys, dir),
		Cleaner:            pebble.ArchiveCleaner{}, // see eraser
		Lock:               lock,
		Logger:             engineLog{logger},
		FormatMajorVersion: pebble.FormatNewest,
	})
	if err != nil {
		lock.Close()
		return nil, openError(err)
	}
	p := &Pebble{db: db, fsys: fsys, dir: dir, lock: lock, seed: maphash.MakeSeed(), quit: make(chan struct{}), done: make(chan struct{})}
	go p.syncing()
	return p, nil
}

// openError says what to do about a directory whose files do not belong together, most often since
// it was copied or moved while a server still wrote to it, or about one that cannot be read.
func openError(err error) error {
	what := "its files are incomplete or damaged; if it was moved or copied, do that again after " +
		"the server's process has ended, or else restore a backup"
	if errors.Is(err, fs.ErrPermission) {
		what = "make all of it belong to the user that the server runs as"
	}
	return fmt.Errorf("the data directory cannot be opened: %w: %s", err, what)
}

// lockError tells another process's lock from a directory we may not write.
func lockError(err error) error {
	var path *fs.PathError // the lock file could not even be opened
	if errors.As(err, &path) {
		return fmt.Errorf("the data directory cannot be written: %w", err)
	}
	return ErrInUse
}

// syncing makes what was written without waiting durable within a second.
func (p *Pebble) syncing() {
	defer close(p.done)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if p.dirty.Swap(false) {
				p.db.LogData(nil, pebble.Sync) // if it fails the engine ends the process
			}
		case <-p.quit:
			return
		}
	}
}

func (p *Pebble) Check() error { return p.db.LogData(nil, pebble.Sync) }

func (p *Pebble) Close() error {
	close(p.quit)
	<-p.done
	err := errors.Join(p.db.LogData(nil, pebble.Sync), p.db.Flush())
	return errors.Join(err, p.db.Close(), p.lock.Close())
}

// device locks a device's part of the store.
func (p *Pebble) device(a Address) (unlock func()) {
	m := &p.stripes[p.stripe(a)]
	m.Lock()
	return m.Unlock
}

// get returns a copy of a value, nil if there is none.
func (p *Pebble) get(key []byte) ([]byte, error) {
	v, closer, err := p.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer closer.Close()
	return append([]byte{}, v...), nil
}

func (p *Pebble) getJSON(key []byte, into any) error {
	v, err := p.get(key)
	if err != nil {
		return err
	}
	if v == nil {
		return ErrNotFound
	}
	return parseJSON(v, into)
}

func parseJSON(v []byte, into any) error {
	if json.Unmarshal(v, into) != nil {
		return errDamaged
	}
	return nil
}

// apply makes a batch visible and returns a function that waits until it is durable.
func (p *Pebble) apply(b *pebble.Batch) (wait func() error, err error) {
	if err := p.db.ApplyNoSyncWait(b, pebble.Sync); err != nil {
		return nil, err
	}
	return func() error { return errors.Join(b.SyncWait(), b.Close()) }, nil
}

// applyLater makes a batch visible, and durable within a second.
func (p *Pebble) applyLater(b *pebble.Batch) error {
	defer b.Close()
	p.dirty.Store(true)
	return p.db.Apply(b, pebble.NoSync)
}

// each calls visit for the keys that begin with prefix and are not below start, in order, until it returns false.
func (p *Pebble) each(prefix, start []byte, visit func(key, value []byte) (bool, error)) error {
	it, err := p.db.NewIter(&pebble.IterOptions{LowerBound: prefix, UpperBound: upperBound(prefix)})
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.SeekGE(start); ok; ok = it.Next() {
		more, err := visit(it.Key(), it.Value())
		if err != nil || !more {
			return err
		}
	}
	return it.Error()
}

// engineLog passes on what an operator must know. The engine's messages name files and never hold keys or values, but its reports
// of corruption do: those are cut.
type engineLog struct{ logger *slog.Logger }

func (l engineLog) Infof(string, ...any) {}

func (l engineLog) Errorf(format string, _ ...any) {
	l.logger.Error("store: the engine reports a problem", "what", format)
}

// Fatalf is called when the disk fails under a write. Nothing can be acknowledged from here; what was acknowledged is safe.
func (l engineLog) Fatalf(format string, _ ...any) {
	l.logger.Error("store: the disk fails; stopping at once, nothing acknowledged is lost", "what", format)
	os.Exit(1)
}

func beUint64(b []byte) uint64 {
	if len(b) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}
