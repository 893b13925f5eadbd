package store_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sotto/signaling/store"
	"sotto/signaling/store/storetest"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("SOTTO_TEST_HOLD_STORE"); dir != "" {
		holdStore(dir)
	}
	goleak.VerifyTestMain(m)
}

var quiet = slog.New(slog.DiscardHandler)

func open(t testing.TB, dir string) *store.Pebble {
	t.Helper()
	p, err := store.OpenPebble(dir, quiet)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPebble(t *testing.T) {
	storetest.Run(t, func(t *testing.T) (store.Store, func() store.Store) {
		dir := t.TempDir()
		current := open(t, dir)
		t.Cleanup(func() {
			if err := current.Close(); err != nil {
				t.Error(err)
			}
		})
		return current, func() store.Store {
			if err := current.Close(); err != nil {
				t.Error(err)
			}
			current = open(t, dir)
			return current
		}
	})
}

// TestErasedBytesLeaveTheFiles searches the raw files: deleting is not erasing until Scrub, and is afterwards.
func TestErasedBytesLeaveTheFiles(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir)
	defer func() { p.Close() }()
	now := time.Now()
	alice, _ := storetest.NewDevice("alice")
	bob := storetest.Create(t, p, "bob", store.Keys{})
	limits := store.Limits{Count: 1 << 20, Bytes: 1 << 40}
	var erased, kept []store.Envelope
	put := func(n int) {
		for i := range n {
			e := storetest.NewEnvelope(bob.Address, alice.ID, 2000, now, time.Hour)
			if err := storetest.Put(p, e, limits); err != nil {
				t.Fatal(err)
			}
			if i%2 == 0 {
				erased = append(erased, e)
			} else {
				kept = append(kept, e)
			}
		}
	}
	put(40)
	if err := p.Close(); err != nil { // some are in tables of an earlier run, some in this one's log
		t.Fatal(err)
	}
	p = open(t, dir)
	put(40)
	if n := found(t, dir, erased); n != len(erased) {
		t.Fatalf("only %d of %d envelopes are in the files before they are erased: the search is blind", n, len(erased))
	}
	for _, e := range erased {
		if err := p.Erase(e.To, e.From, e.ID); err != nil {
			t.Fatal(err)
		}
	}
	if n := found(t, dir, erased); n == 0 {
		t.Error("deleting already removed the bytes: this test shows nothing")
	}
	if err := p.Scrub(context.Background()); err != nil {
		t.Fatal(err)
	}
	if n := found(t, dir, erased); n != 0 {
		t.Errorf("%d erased envelopes are still in the files", n)
	}
	if n := found(t, dir, kept); n != len(kept) {
		t.Errorf("%d of %d kept envelopes are in the files", n, len(kept))
	}
	if got := storetest.Read(t, p, bob.Address, now); len(got) != len(kept) {
		t.Errorf("%d of %d kept envelopes are in the mailbox", len(got), len(kept))
	}
}

// TestErasedBytesLeaveManyFiles: the same where envelopes fill files of their own, which hold
// nothing else that Scrub rewrites.
func TestErasedBytesLeaveManyFiles(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir)
	defer p.Close()
	now := time.Now()
	alice, _ := storetest.NewDevice("alice")
	bob := storetest.Create(t, p, "bob", store.Keys{})
	limits := store.Limits{Count: 1 << 20, Bytes: 1 << 40}
	var erased []store.Envelope
	for i := range 800 { // 48 MB
		e := storetest.NewEnvelope(bob.Address, alice.ID, 60_000, now, time.Hour)
		wait, err := p.Put(e, limits)
		if err == nil && i%100 == 0 {
			err = wait()
		}
		if err != nil {
			t.Fatal(err)
		}
		if i%20 == 7 {
			erased = append(erased, e)
		}
	}
	if err := p.Scrub(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, e := range erased {
		if err := p.Erase(e.To, e.From, e.ID); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.Scrub(context.Background()); err != nil {
		t.Fatal(err)
	}
	if n := found(t, dir, erased); n != 0 {
		t.Errorf("%d of %d erased envelopes are still in the files", n, len(erased))
	}
}

// TestDeliveredSendersLeaveTheFiles: once all of a sender's envelopes are erased and scrubbed, no file of the store names the sender.
func TestDeliveredSendersLeaveTheFiles(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir)
	defer p.Close()
	now := time.Now()
	alice, _ := storetest.NewDevice("alice")
	bob := storetest.Create(t, p, "bob", store.Keys{})
	named := func() bool {
		return inFiles(t, dir, func(b []byte) bool { return bytes.Contains(b, alice.ID[:]) })
	}
	scrub := func() {
		t.Helper()
		if err := p.Scrub(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	var sent []store.Envelope
	for range 10 {
		e := storetest.NewEnvelope(bob.Address, alice.ID, 2000, now, time.Hour)
		if err := storetest.Put(p, e, store.Limits{Count: 1000, Bytes: 1 << 20}); err != nil {
			t.Fatal(err)
		}
		sent = append(sent, e)
	}
	scrub()
	if !named() {
		t.Fatal("no file names the sender of what waits: the search is blind")
	}
	for _, e := range sent {
		if err := p.Erase(e.To, e.From, e.ID); err != nil {
			t.Fatal(err)
		}
	}
	scrub()
	for deadline := time.Now().Add(5 * time.Second); named(); time.Sleep(10 * time.Millisecond) { // files go in the background
		if time.Now().After(deadline) {
			t.Fatal("the files still name the sender")
		}
	}
}

// TestSameTokenWritesNothing: devices set their token at each link.
func TestSameTokenWritesNothing(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir)
	defer p.Close()
	alice := storetest.Create(t, p, "alice", store.Keys{})
	size := func(hash [32]byte) (bytes int64) {
		t.Helper()
		if err := p.SetDeliveryToken(alice.Address.Account, hash); err != nil {
			t.Fatal(err)
		}
		filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if info, err := d.Info(); err == nil && !d.IsDir() {
				bytes += info.Size()
			}
			return nil
		})
		return bytes
	}
	one, again, other := size([32]byte{1}), size([32]byte{1}), size([32]byte{2})
	if again != one || other == one {
		t.Errorf("files of %d bytes after a token, %d after it once more, %d after another", one, again, other)
	}
}

// TestMarksGoAtTheHorizon: what remains of an envelope that could have waited for 30 days is gone 48 hours after it was accepted, if it
// was delivered, straight or from the mailbox.
func TestMarksGoAtTheHorizon(t *testing.T) {
	p := open(t, t.TempDir())
	defer p.Close()
	now := time.Now()
	alice, _ := storetest.NewDevice("alice")
	bob := storetest.Create(t, p, "bob", store.Keys{})
	straight := storetest.NewEnvelope(bob.Address, alice.ID, 10, now, 30*24*time.Hour)
	stored := storetest.NewEnvelope(bob.Address, alice.ID, 10, now, 30*24*time.Hour)
	waiting := storetest.NewEnvelope(bob.Address, alice.ID, 10, now, 30*24*time.Hour)
	for _, e := range []store.Envelope{stored, waiting} {
		if err := storetest.Put(p, e, store.Limits{Count: 1000, Bytes: 1 << 20}); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(p.MarkDelivered(straight), p.Erase(stored.To, stored.From, stored.ID)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		after     time.Duration
		delivered bool
	}{{store.Horizon - time.Minute, true}, {store.Horizon + time.Minute, false}} {
		if _, err := p.Sweep(context.Background(), now.Add(c.after)); err != nil {
			t.Fatal(err)
		}
		for name, e := range map[string]store.Envelope{"straight": straight, "stored": stored, "waiting": waiting} {
			want := c.delivered || name == "waiting"
			if seen, err := p.Seen(e); err != nil || seen != want {
				t.Errorf("%s, after %v: seen %v, %v; want %v", name, c.after, seen, err, want)
			}
		}
	}
	// The mark that stayed still finds its envelope.
	if err := p.Erase(waiting.To, waiting.From, waiting.ID); err != nil {
		t.Fatal(err)
	}
	if left := storetest.Read(t, p, bob.Address, now); len(left) != 0 {
		t.Errorf("%d left", len(left))
	}
}

// TestMarksOutliveWhatExpires: an envelope that expired in the mailbox is known until the horizon:
// sent once more, it is not stored as a new one.
func TestMarksOutliveWhatExpires(t *testing.T) {
	p := open(t, t.TempDir())
	defer p.Close()
	now := time.Now()
	alice, _ := storetest.NewDevice("alice")
	bob := storetest.Create(t, p, "bob", store.Keys{})
	brief := storetest.NewEnvelope(bob.Address, alice.ID, 10, now, time.Minute)
	limits := store.Limits{Count: 1000, Bytes: 1 << 20}
	if err := storetest.Put(p, brief, limits); err != nil {
		t.Fatal(err)
	}
	for _, after := range []time.Duration{2 * time.Minute, store.Horizon - time.Minute} {
		if _, err := p.Sweep(context.Background(), now.Add(after)); err != nil {
			t.Fatal(err)
		}
		if seen, err := p.Seen(brief); err != nil || !seen {
			t.Errorf("after %v: seen %v, %v", after, seen, err)
		}
	}
	if err := storetest.Put(p, brief, limits); err != nil {
		t.Fatal(err)
	}
	if left := storetest.Read(t, p, bob.Address, now); len(left) != 0 {
		t.Errorf("%d are in the mailbox again", len(left))
	}
	if _, err := p.Sweep(context.Background(), now.Add(store.Horizon+time.Minute)); err != nil {
		t.Fatal(err)
	}
	if seen, err := p.Seen(brief); err != nil || seen {
		t.Errorf("after the horizon: seen %v, %v", seen, err)
	}
}

// inFiles says whether any file below dir is as asked.
func inFiles(t *testing.T, dir string, is func([]byte) bool) (any bool) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) { // the engine removed it just now
			return nil
		}
		any = any || is(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return any
}

// found counts the envelopes of which a piece is in any file below dir. A piece: the log splits records at its blocks.
func found(t *testing.T, dir string, list []store.Envelope) (n int) {
	t.Helper()
	var files [][]byte
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		files = append(files, b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		for _, b := range files {
			if bytes.Contains(b, e.Body[:64]) || bytes.Contains(b, e.Body[1000:1064]) {
				n++
				break
			}
		}
	}
	return n
}

func TestDirectoryErrors(t *testing.T) {
	t.Run("in use by this process", func(t *testing.T) {
		dir := t.TempDir()
		p := open(t, dir)
		defer p.Close()
		if _, err := store.OpenPebble(dir, quiet); !errors.Is(err, store.ErrInUse) {
			t.Errorf("got %v, want %v", err, store.ErrInUse)
		}
	})
	t.Run("in use by another process", func(t *testing.T) {
		dir := t.TempDir()
		other := exec.Command(os.Args[0])
		other.Env = append(os.Environ(), "SOTTO_TEST_HOLD_STORE="+dir)
		in, err := other.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := other.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := other.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Read(make([]byte, 16)); err != nil { // it has the store now
			t.Fatal(err)
		}
		if _, err := store.OpenPebble(dir, quiet); !errors.Is(err, store.ErrInUse) {
			t.Errorf("got %v, want %v", err, store.ErrInUse)
		}
		in.Close()
		other.Wait()
		open(t, dir).Close() // nothing is left of the lock
	})
	t.Run("a file is missing", func(t *testing.T) {
		dir := t.TempDir()
		open(t, dir).Close()
		if err := os.Remove(manifest(t, dir)); err != nil {
			t.Fatal(err)
		}
		_, err := store.OpenPebble(dir, quiet)
		if err == nil || !strings.Contains(err.Error(), "after the server's process has ended") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("below a file", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := store.OpenPebble(filepath.Join(file, "store"), quiet); err == nil || !strings.Contains(err.Error(), "data directory") {
			t.Errorf("got %v", err)
		}
	})
	t.Run("not writable", func(t *testing.T) {
		dir := t.TempDir()
		if os.Geteuid() == 0 {
			dir = "/proc/1" // where even root cannot make files
		} else if err := os.Chmod(dir, 0o500); err != nil {
			t.Fatal(err)
		}
		if _, err := store.OpenPebble(dir, quiet); err == nil || !strings.Contains(err.Error(), "cannot be written") {
			t.Errorf("got %v", err)
		}
	})
}

// manifest names the file that lists the others.
func manifest(t *testing.T, dir string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "MANIFEST-*"))
	if err != nil || len(found) == 0 {
		t.Fatalf("no manifest in %s: %v", dir, err)
	}
	return found[0]
}

// holdStore is the other process: it opens the store and keeps it until its input ends.
func holdStore(dir string) {
	p, err := store.OpenPebble(dir, quiet)
	if err != nil {
		panic(err)
	}
	os.Stdout.WriteString("open\n")
	os.Stdin.Read(make([]byte, 1))
	p.Close()
	os.Exit(0)
}
