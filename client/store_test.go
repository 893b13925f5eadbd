package client

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

func mustOpenStore(t testing.TB, dir string, key Key) *store {
	t.Helper()
	s, err := openStore(dir, key, true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.close() })
	return s
}

func mustPut(t testing.TB, s *store, pairs ...string) {
	t.Helper()
	err := s.update(func(tx *tx) error {
		for i := 0; i < len(pairs); i += 2 {
			tx.put(pairs[i], []byte(pairs[i+1]))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func wantRecord(t testing.TB, s *store, name, value string) {
	t.Helper()
	if got, err := s.get(name); err != nil || string(got) != value {
		t.Errorf("record %s holds %q (%v), want %q", name, got, err, value)
	}
}

func wantNoRecord(t testing.TB, s *store, name string) {
	t.Helper()
	if got, err := s.get(name); !errors.Is(err, errNoRecord) {
		t.Errorf("record %s holds %q (%v), want none", name, got, err)
	}
}

// wantError checks that an error says each of some words.
func wantError(t testing.TB, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error; want one that says %q", words)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

func TestStoreKeepsRecords(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "for", "it")
	s := mustOpenStore(t, dir, Key{})
	mustPut(t, s, "session/b", "two", "session/a", "one", "empty", "")
	mustPut(t, s, "session/a", "one again")
	if err := s.update(func(tx *tx) error {
		tx.delete("session/b")
		tx.delete("never was")
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		wantRecord(t, s, "session/a", "one again")
		wantRecord(t, s, "empty", "")
		wantNoRecord(t, s, "session/b")
		if got := s.list("session/"); !slices.Equal(got, []string{"session/a"}) {
			t.Errorf("listed %q", got)
		}
		if got := s.list(""); !slices.Equal(got, []string{"empty", "session/a"}) {
			t.Errorf("listed %q", got)
		}
		if err := s.close(); err != nil {
			t.Fatal(err)
		}
		s = mustOpenStore(t, dir, Key{}) // and all of it again from the disk
	}
}

func TestStoreTransaction(t *testing.T) {
	s := mustOpenStore(t, t.TempDir(), Key{})
	mustPut(t, s, "a", "1", "b", "1")
	refused := errors.New("refused")
	err := s.update(func(tx *tx) error {
		tx.put("a", []byte("2"))
		tx.delete("b")
		if v, err := tx.get("a"); err != nil || string(v) != "2" {
			t.Errorf("the transaction sees %q (%v) of its own", v, err)
		}
		if _, err := tx.get("b"); !errors.Is(err, errNoRecord) {
			t.Errorf("the transaction sees what it deleted: %v", err)
		}
		return refused
	})
	if !errors.Is(err, refused) {
		t.Errorf("%v", err)
	}
	wantRecord(t, s, "a", "1")
	wantRecord(t, s, "b", "1")

	value := []byte("mine")
	if err := s.update(func(tx *tx) error {
		tx.put("a", value)
		value[0] = 'M' // the caller's slice is the caller's
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	wantRecord(t, s, "a", "mine")

	s.close()
	if _, err := s.get("a"); !errors.Is(err, errClosed) {
		t.Errorf("get after close: %v", err)
	}
	if err := s.update(func(*tx) error { return nil }); !errors.Is(err, errClosed) {
		t.Errorf("update after close: %v", err)
	}
}

func TestStoreConcurrent(t *testing.T) {
	s := mustOpenStore(t, t.TempDir(), Key{})
	mustPut(t, s, "a", "0", "b", "0")
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 10 {
				v := fmt.Sprint(i, j)
				mustPut(t, s, "a", v, "b", v)
				s.get("a")
				s.list("")
			}
		})
	}
	wg.Wait()
	a, _ := s.get("a")
	wantRecord(t, s, "b", string(a))
}

// TestStoreForgets looks at every byte in the directory: of a record that was replaced or deleted, nothing is left, and of names
// and values nothing can be read.
func TestStoreForgets(t *testing.T) {
	dir := t.TempDir()
	s := mustOpenStore(t, dir, Key{})
	for i := range 20 {
		mustPut(t, s, "session/alice", fmt.Sprintf("chain key %d", i), "outbox/1", fmt.Sprintf("message %d", i))
		mustPut(t, s, "session/alice", fmt.Sprintf("chain key %d, used", i))
	}
	if err := s.update(func(tx *tx) error { tx.delete("outbox/1"); return nil }); err != nil {
		t.Fatal(err)
	}
	if got := plaintexts(t, s.d, s.recordKey); !slices.Equal(got, []string{"session/alice=chain key 19, used"}) {
		t.Errorf("the directory holds %q", got)
	}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if runtime.GOOS != "windows" && path != dir && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		if e.IsDir() {
			return nil
		}
		b, err := os.ReadFile(path)
		for _, word := range []string{"alice", "session", "chain", "outbox"} {
			if strings.Contains(path, word) || bytes.Contains(b, []byte(word)) {
				t.Errorf("%s shows %q", path, word)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// plaintexts decrypts everything that is in a directory, under whatever name, the journal included.
func plaintexts(t testing.TB, d disk, key []byte) (found []string) {
	t.Helper()
	files, err := d.list()
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		b, err := d.read(file)
		if err != nil {
			t.Fatal(err)
		}
		if p, err := decrypt(key, []byte(strings.TrimSuffix(file, suffixNew)), b); err != nil {
			t.Errorf("%s cannot be decrypted", file)
		} else if strings.HasPrefix(file, journalFile) {
			found = append(found, "journal")
		} else {
			n := 4 + int(p[3])
			found = append(found, string(p[4:n])+"="+string(p[n:]))
		}
	}
	slices.Sort(found)
	return found
}

func TestStoreDamaged(t *testing.T) {
	dir := t.TempDir()
	s := mustOpenStore(t, dir, Key{})
	mustPut(t, s, "a", "1", "b", "2")
	a, b := filepath.Join(dir, "state", s.fileName("a")), filepath.Join(dir, "state", s.fileName("b"))
	s.close()
	good, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	other, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	damages := map[string][]byte{"empty": nil, "cut": good[:len(good)-1], "longer": append(bytes.Clone(good), 0), "another's": other}
	for i := range good {
		flipped := bytes.Clone(good)
		flipped[i] ^= 1
		damages[fmt.Sprintf("byte %d", i)] = flipped
	}
	for name, damaged := range damages {
		if err := os.WriteFile(a, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := openStore(dir, Key{}, false); err == nil {
			t.Errorf("%s: opened", name)
		} else {
			wantError(t, err, a, "is damaged: remove it")
		}
	}
	if err := os.Remove(a); err != nil { // as the error says
		t.Fatal(err)
	}
	s = mustOpenStore(t, dir, Key{})
	wantNoRecord(t, s, "a")
	wantRecord(t, s, "b", "2")

	// Under a running store, too.
	if err := os.WriteFile(b, good, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = s.get("b")
	wantError(t, err, b, "is damaged")
}

func TestStoreDirectories(t *testing.T) {
	dir := t.TempDir()
	_, err := openStore(filepath.Join(dir, "none"), Key{}, false)
	wantError(t, err, "there is no account in "+filepath.Join(dir, "none"))
	if _, err := os.Stat(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("opening made the directory")
	}
	_, err = openStore(dir, Key{}, false)
	wantError(t, err, "there is no account in "+dir)

	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = openStore(file, Key{}, true)
	wantError(t, err, "cannot make account directory", file)

	lost := filepath.Join(dir, "lost")
	mustPut(t, mustOpenStore(t, lost, Key{}), "a", "1")
	_, err = openStore(lost, Key{}, false)
	wantError(t, err, fmt.Sprintf("account directory %s is in use by another process (pid %d); close it or use another directory", lost, os.Getpid()))
}

func TestStoreWithoutMaster(t *testing.T) {
	dir := t.TempDir()
	s := mustOpenStore(t, dir, Key{})
	mustPut(t, s, "a", "1")
	s.close()
	if err := os.Rename(filepath.Join(dir, masterFile), filepath.Join(dir, "elsewhere")); err != nil {
		t.Fatal(err)
	}
	_, err := openStore(dir, Key{}, true)
	wantError(t, err, "put it back")
	if err := os.Rename(filepath.Join(dir, "elsewhere"), filepath.Join(dir, masterFile)); err != nil {
		t.Fatal(err)
	}
	wantRecord(t, mustOpenStore(t, dir, Key{}), "a", "1")
}

// cheapArgon makes passphrases cheap to try, for one test.
func cheapArgon(t *testing.T) {
	before := argon
	argon = argonParameters{Time: 1, Memory: 64, Threads: 1}
	t.Cleanup(func() { argon = before })
}

func TestStateKeys(t *testing.T) {
	cheapArgon(t)
	files := t.TempDir()
	keys := map[string]Key{
		"key file in the directory": {},
		"key file elsewhere":        KeyFile(filepath.Join(files, "mine")),
		"passphrase":                Passphrase([]byte("correct horse battery staple")),
	}
	if err := os.WriteFile(filepath.Join(files, "other"), []byte(strings.Repeat("5a", 32)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(files, "no key"), []byte("hello"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"open": 0o604, "of the group": 0o640} {
		file := filepath.Join(files, name)
		if err := os.WriteFile(file, []byte(strings.Repeat("5a", 32)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, mode); err != nil { // whatever the umask
			t.Fatal(err)
		}
	}
	for name, key := range keys {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := mustOpenStore(t, dir, key)
			mustPut(t, s, "a", "1")
			s.close()
			before := snapshot(t, dir)
			wrong := map[string]struct {
				key  Key
				says string
			}{
				"another passphrase": {Passphrase([]byte("correct horse battery stapler")), "wrong passphrase for account directory"},
				"no passphrase":      {Passphrase(nil), "the passphrase is empty"},
				"another key file":   {KeyFile(filepath.Join(files, "other")), "does not open account directory"},
				"no key file":        {KeyFile(filepath.Join(files, "missing")), "is missing"},
				"not a key file":     {KeyFile(filepath.Join(files, "no key")), "is not a key file"},
				"a public key file":  {KeyFile(filepath.Join(files, "open")), "can be read by others"},
				"the group's":        {KeyFile(filepath.Join(files, "of the group")), "can be read by others"},
			}
			for what, w := range wrong {
				if isPassphrase := key.passphrase != nil; isPassphrase != (w.key.passphrase != nil) {
					w.says = "is protected by a"
				} else if w.says == "can be read by others" && runtime.GOOS == "windows" {
					continue
				}
				for _, create := range []bool{false, true} {
					if _, err := openStore(dir, w.key, create); err == nil {
						t.Errorf("%s opens it", what)
					} else {
						wantError(t, err, w.says)
					}
				}
			}
			if !reflect.DeepEqual(before, snapshot(t, dir)) {
				t.Error("a wrong key changed the directory")
			}
			if _, err := os.Stat(filepath.Join(files, "missing")); err == nil {
				t.Error("opening made a key file")
			}
			wantRecord(t, mustOpenStore(t, dir, key), "a", "1")
		})
	}
}

// TestMasterAltered changes, cuts and lengthens the wrapped master key. It never opens.
func TestMasterAltered(t *testing.T) {
	cheapArgon(t)
	for name, key := range map[string]Key{"key file": {}, "passphrase": Passphrase([]byte("x"))} {
		dir := t.TempDir()
		mustOpenStore(t, dir, key).close()
		path := filepath.Join(dir, masterFile)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var altered [][]byte
		for i := range good {
			b := bytes.Clone(good)
			b[i] ^= 0x04
			altered = append(altered, b, good[:i])
		}
		for i, b := range append(altered, append(bytes.Clone(good), 0)) {
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := openStore(dir, key, true); err == nil {
				t.Fatalf("%s: alteration %d opens", name, i)
			}
		}
	}
}

func snapshot(t *testing.T, dir string) map[string]string {
	t.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			b, err := os.ReadFile(path)
			files[path] = string(b)
			return err
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestKeyIsNotPrinted(t *testing.T) {
	key := Passphrase([]byte("hunter2"))
	options := struct{ Key Key }{key}
	var out bytes.Buffer
	for _, v := range []any{key, &key, options, &options} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%x", "%d"} {
			fmt.Fprintf(&out, verb, v)
		}
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v)
		json.NewEncoder(&out).Encode(v)
	}
	for _, form := range []string{"hunter2", "68756e74", "104 117 110", "0x68, 0x75"} {
		if strings.Contains(out.String(), form) {
			t.Errorf("a passphrase is printed: %s", out.String())
		}
	}
}

func BenchmarkStore(b *testing.B) {
	value := bytes.Repeat([]byte("x"), 4<<10)
	for _, records := range []int{1, 2, 4} {
		b.Run(fmt.Sprintf("update of %d records of 4 KiB", records), func(b *testing.B) {
			s := mustOpenStore(b, b.TempDir(), Key{})
			for b.Loop() {
				if err := s.update(func(tx *tx) error {
					for i := range records {
						tx.put(fmt.Sprint(i), value)
					}
					return nil
				}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("get", func(b *testing.B) {
		s := mustOpenStore(b, b.TempDir(), Key{})
		mustPut(b, s, "a", string(value))
		for b.Loop() {
			if _, err := s.get("a"); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("open with 1000 records", func(b *testing.B) {
		dir := b.TempDir()
		s := mustOpenStore(b, dir, Key{})
		if err := s.update(func(tx *tx) error {
			for i := range 1000 {
				tx.put(fmt.Sprint(i), value)
			}
			return nil
		}); err != nil {
			b.Fatal(err)
		}
		s.close()
		for b.Loop() {
			s, err := openStore(dir, Key{}, false)
			if err != nil {
				b.Fatal(err)
			}
			s.close()
		}
	})
	b.Run("open with a passphrase", func(b *testing.B) {
		dir := b.TempDir()
		mustOpenStore(b, dir, Passphrase([]byte("x"))).close()
		for b.Loop() {
			s, err := openStore(dir, Passphrase([]byte("x")), false)
			if err != nil {
				b.Fatal(err)
			}
			s.close()
		}
	})
}
