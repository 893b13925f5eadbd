package store_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sotto/signaling/store"
	"sotto/signaling/store/storetest"
)

// TestDeletedAccountLeavesTheFiles: of an account that was deleted no key, no envelope and no token
// is in the files after a Scrub. Its name is part of a key: the engine drops the deletion of that
// from the tables in the background, and bounds of tables from its manifests, of which it keeps
// two, as it starts.
func TestDeletedAccountLeavesTheFiles(t *testing.T) {
	dir := t.TempDir()
	p := open(t, dir)
	defer func() { p.Close() }()
	random := func() []byte { b := make([]byte, 33); rand.Read(b); return b }
	account, device := storetest.NewDevice("a-name-that-nothing-else-has")
	once, token := random(), [32]byte(random())
	keys := store.Keys{Signed: random(), LastResort: random()}
	keys.OneTime = []store.OneTimeKey{{ID: 1, Data: once}}
	now := time.Now()
	if err := p.CreateAccount(account, device, keys, nil, now); err != nil {
		t.Fatal(err)
	}
	if err := p.SetDeliveryToken(account.ID, token); err != nil {
		t.Fatal(err)
	}
	e := storetest.NewEnvelope(device.Address, store.UUID{1}, 2000, now, time.Hour)
	if err := storetest.Put(p, e, store.Limits{Count: 100, Bytes: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	traces := map[string][]byte{
		"name": []byte(account.Username), "one-time key": once,
		"delivery token": token[:], "envelope": e.Body[:64],
		"identity key": []byte(base64.StdEncoding.EncodeToString(device.IdentityKey[:])),
		"signed key":   []byte(base64.StdEncoding.EncodeToString(keys.Signed)),
		"last resort":  []byte(base64.StdEncoding.EncodeToString(keys.LastResort)),
	}
	left := func() (names []string) {
		t.Helper()
		for name, trace := range traces {
			if traceIn(t, dir, trace) {
				names = append(names, name)
			}
		}
		return names
	}
	if found := left(); len(found) != len(traces) {
		t.Fatalf("only %q is found before: the search is blind", found)
	}
	if err := p.DeleteAccount(account); err != nil {
		t.Fatal(err)
	}
	if err := p.Scrub(t.Context()); err != nil {
		t.Fatal(err)
	}
	found := left()
	deadline := time.Now().Add(time.Minute)
	for ; slices.Equal(found, []string{"name"}); found = left() {
		if time.Now().After(deadline) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if len(found) > 0 {
		t.Errorf("still in the files: %q", found)
	}
	for range 2 {
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
		p = open(t, dir)
	}
	if inFiles(t, dir, func(b []byte) bool { return bytes.Contains(b, []byte(account.Username)) }) {
		t.Error("after two more starts a file still has the name")
	}
}

// traceIn looks into all files but the manifest.
func traceIn(t *testing.T, dir string, trace []byte) (found bool) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasPrefix(d.Name(), "MANIFEST") {
			return err
		}
		b, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) { // the engine removed it just now
			return nil
		}
		found = found || bytes.Contains(b, trace)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
