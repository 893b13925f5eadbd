package client

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// memDisk is a disk whose power can fail. What names mean is certain after a sync only: until then each change of a name by itself,
// in whatever order, may have reached the disk or not. That is worse than any file system behaves.
type memDisk struct {
	files   map[string][]byte
	synced  map[string][]byte
	pending []func(files map[string][]byte)

	failAt int   // the step that fails, counted from 1; 0 never
	err    error // how
	off    bool  // whether all steps after it fail too
	steps  int
}

var errPower = errors.New("power failed")

func newMemDisk() *memDisk {
	return &memDisk{files: map[string][]byte{}, synced: map[string][]byte{}}
}

func (d *memDisk) step() error {
	d.steps++
	if d.failAt > 0 && (d.steps == d.failAt || d.off && d.steps > d.failAt) {
		return d.err
	}
	return nil
}

func (d *memDisk) change(f func(files map[string][]byte)) {
	f(d.files)
	d.pending = append(d.pending, f)
}

func (d *memDisk) read(name string) ([]byte, error) {
	b, ok := d.files[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return slices.Clone(b), nil
}

func (d *memDisk) list() ([]string, error) { return slices.Sorted(maps.Keys(d.files)), nil }

func (d *memDisk) write(name string, data []byte) error {
	data = slices.Clone(data)
	if err := d.step(); err != nil {
		torn := data[:len(data)/2]
		d.change(func(files map[string][]byte) { files[name] = torn })
		return err
	}
	d.change(func(files map[string][]byte) { files[name] = data })
	return nil
}

func (d *memDisk) rename(from, to string) error {
	if err := d.step(); err != nil {
		return err
	}
	b, ok := d.files[from]
	if !ok {
		return fs.ErrNotExist
	}
	d.change(func(files map[string][]byte) { files[to] = b; delete(files, from) })
	return nil
}

func (d *memDisk) remove(name string) error {
	if err := d.step(); err != nil {
		return err
	}
	d.change(func(files map[string][]byte) { delete(files, name) })
	return nil
}

func (d *memDisk) sync() error {
	if err := d.step(); err != nil {
		return err
	}
	d.synced, d.pending = maps.Clone(d.files), nil
	return nil
}

// afterPowerFailure is what a disk may hold when the power is back.
func (d *memDisk) afterPowerFailure(random *rand.Rand) *memDisk {
	files := maps.Clone(d.synced)
	for _, change := range d.pending {
		if random.IntN(2) == 0 {
			change(files)
		}
	}
	return &memDisk{files: files, synced: maps.Clone(files)}
}

func (d *memDisk) open(t *testing.T) *store {
	t.Helper()
	s, err := newStore("DIR", d, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// transactions are applied one after the other; each says what the directory holds after it.
var transactions = []struct {
	changes map[string]string // "" deletes
	after   []string
}{
	{map[string]string{"a": "1", "b": "1"}, []string{"a=1", "b=1"}},
	{map[string]string{"a": "2"}, []string{"a=2", "b=1"}},
	{map[string]string{"a": "3", "b": "3", "c": "3"}, []string{"a=3", "b=3", "c=3"}},
	{map[string]string{"a": "4", "b": "", "c": "4"}, []string{"a=4", "c=4"}},
	{map[string]string{"c": ""}, []string{"a=4"}},
	{map[string]string{"a": "6", "b": "6"}, []string{"a=6", "b=6"}},
	{map[string]string{"a": "", "b": ""}, nil},
	{map[string]string{"b": "8"}, []string{"b=8"}},
}

func run(s *store, changes map[string]string) error {
	return s.update(func(tx *tx) error {
		for name, value := range changes {
			if value == "" {
				tx.delete(name)
			} else {
				tx.put(name, []byte(value))
			}
		}
		return nil
	})
}

// TestStorePowerFailure fails the power at each step of each transaction, then at each step of the recovery as well. After the
// store is opened again the directory holds what was there before the transaction or what is there after it, and nothing else; what
// update reported done is done.
func TestStorePowerFailure(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var before []string
	for n, tr := range transactions {
		outcomes := map[bool]int{}
		for step := 1; ; step++ {
			finished := false
			for range 40 {
				d := newMemDisk()
				s := d.open(t)
				for _, earlier := range transactions[:n] {
					if err := run(s, earlier.changes); err != nil {
						t.Fatal(err)
					}
				}
				d.steps, d.failAt, d.err, d.off = 0, step, errPower, true
				err := run(s, tr.changes)
				if finished = d.steps < step; finished && err != nil {
					t.Fatal(err)
				}

				d = d.afterPowerFailure(random)
				d.failAt, d.err, d.off = 1+random.IntN(6), errPower, true // again, while recovering
				if _, err := newStore("DIR", d, make([]byte, 32)); err != nil && !errors.Is(err, errPower) {
					t.Fatalf("transaction %d, step %d: %v", n, step, err)
				}
				d = d.afterPowerFailure(random)
				s = d.open(t)
				got := plaintexts(t, d, s.recordKey)
				done := slices.Equal(got, tr.after)
				if !done && !slices.Equal(got, before) || err == nil && !done {
					t.Fatalf("transaction %d (%v), power failed at step %d: the directory holds %q; before %q, after %q",
						n, err, step, got, before, tr.after)
				}
				outcomes[done]++
				if err := run(s, map[string]string{"x": "1", "y": "1"}); err != nil {
					t.Fatalf("transaction %d, step %d: the store does not go on: %v", n, step, err)
				}
			}
			if finished {
				break
			}
		}
		if outcomes[true] == 0 || outcomes[false] == 0 {
			t.Errorf("transaction %d: done %d times and undone %d times: this test shows little", n, outcomes[true], outcomes[false])
		}
		before = tr.after
	}
}

// TestStoreDiskFull fails one step at a time, as a full disk or a lost permission does, and lets the rest go on.
func TestStoreDiskFull(t *testing.T) {
	for step := 1; ; step++ {
		d := newMemDisk()
		s := d.open(t)
		if err := run(s, map[string]string{"a": "1", "b": "1"}); err != nil {
			t.Fatal(err)
		}
		d.steps, d.failAt, d.err = 0, step, syscall.ENOSPC
		err := run(s, map[string]string{"a": "2", "b": "2"})
		if d.steps < step {
			break
		}
		wantError(t, err, "cannot write to account directory DIR", "no space left on device", "make room")
		if !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("step %d: %v", step, err)
		}
		if s.failed == nil { // nothing has happened, and all goes on
			wantRecord(t, s, "a", "1")
			wantRecord(t, s, "b", "1")
			if got := plaintexts(t, d, s.recordKey); !slices.Equal(got, []string{"a=1", "b=1"}) {
				t.Errorf("step %d: the directory holds %q", step, got)
			}
			if err := run(s, map[string]string{"a": "3", "b": "3"}); err != nil {
				t.Errorf("step %d: with room again: %v", step, err)
			}
			wantRecord(t, s, "a", "3")
			continue
		}
		wantError(t, err, "start again") // it is not known what has happened, so nothing may go on from here
		if _, err := s.get("a"); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("step %d: a store that does not know its state answers: %v", step, err)
		}
		d.failAt = 0
		s = d.open(t)
		a, _ := s.get("a")
		wantRecord(t, s, "b", string(a))
	}
}

// TestStoreJournalDamaged: a journal is renamed to its name whole, so one that cannot be read was damaged later, and its transaction
// may be half done. That is not passed over.
func TestStoreJournalDamaged(t *testing.T) {
	d := newMemDisk()
	s := d.open(t)
	d.failAt, d.err, d.off = 6, errPower, true // after the journal's rename and sync: in the middle of applying
	if err := run(s, map[string]string{"a": "1", "b": "1"}); !errors.Is(err, errPower) {
		t.Fatal(err)
	}
	d.failAt = 0
	if d.files[journalFile] == nil {
		t.Fatal("no journal at that step")
	}
	d.files[journalFile][30] ^= 1
	_, err := newStore("DIR", d, make([]byte, 32))
	wantError(t, err, filepath.Join("DIR", "state", "journal"), "is damaged")
	d.files[journalFile][30] ^= 1
	wantRecord(t, d.open(t), "b", "1")
}

// childDir tells TestStoreChild, run by a test in a process of its own, where to work.
const childDir = "SOTTO_TEST_STORE_CHILD"

// TestStoreChild is no test but the process that the next one kills.
func TestStoreChild(t *testing.T) {
	dir := os.Getenv(childDir)
	if dir == "" {
		return
	}
	s, err := openStore(dir, Key{}, true)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	for {
		var n int
		if err := s.update(func(tx *tx) error {
			a, err := tx.get("a")
			if err != nil && !errors.Is(err, errNoRecord) {
				return err
			}
			n, _ = strconv.Atoi(string(a))
			n++
			tx.put("a", []byte(strconv.Itoa(n)))
			tx.put("b", []byte(strconv.Itoa(n)))
			if n%2 == 0 {
				tx.delete("odd")
			} else {
				tx.put("odd", []byte("yes"))
			}
			return nil
		}); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(n) // acknowledged
	}
}

// TestStoreKilled kills a process in the middle of its transactions, again and again, and sees what it left. While it runs, the
// directory is refused to others.
func TestStoreKilled(t *testing.T) {
	dir := t.TempDir()
	acknowledged := 0
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); {
		child := exec.Command(os.Args[0], "-test.run=^TestStoreChild$")
		child.Env = append(os.Environ(), childDir+"="+dir)
		out, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		var wrong string
		for i, last := 0, 1+rand.IntN(30); lines.Scan(); i++ {
			n, err := strconv.Atoi(lines.Text())
			if err != nil {
				wrong = lines.Text()
				break
			}
			acknowledged = n
			if i == 0 {
				_, err := openStore(dir, Key{}, false)
				wantError(t, err, fmt.Sprintf("account directory %s is in use by another process (pid %d)", dir, child.Process.Pid))
			}
			if i == last { // and then somewhere in the next one
				time.AfterFunc(time.Duration(rand.IntN(3000))*time.Microsecond, func() { child.Process.Kill() })
			}
		}
		child.Wait()
		if wrong != "" {
			t.Fatal(wrong)
		}

		s, err := openStore(dir, Key{}, false)
		if err != nil {
			t.Fatal(err)
		}
		a, err := s.get("a")
		if err != nil {
			t.Fatal(err)
		}
		n, _ := strconv.Atoi(string(a))
		if n < acknowledged {
			t.Errorf("%d was acknowledged, but %d is there", acknowledged, n)
		}
		want := []string{"a=" + string(a), "b=" + string(a)}
		if n%2 == 1 {
			want = append(want, "odd=yes")
		}
		if got := plaintexts(t, s.d, s.recordKey); !slices.Equal(got, want) {
			t.Errorf("the directory holds %s, want %s", strings.Join(got, " "), want)
		}
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d transactions", acknowledged)
}
