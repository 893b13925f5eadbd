package safety

import (
	"bytes"
	"encoding/hex"
	"errors"
	"slices"
	"testing"
)

// The codes of vectors[2], made by libsignal-client 0.103.0.
const (
	aliceShows = "080212220a201a56ae41482e3ebfc3f2eccac38537703710be5ea676c0d8fb0ee6f336c3ee081a220a207334b4c49e58fa44bddd9e7de1271640f0e2412c71d72f04f1836f7e4398582a"
	bobShows   = "080212220a207334b4c49e58fa44bddd9e7de1271640f0e2412c71d72f04f1836f7e4398582a1a220a201a56ae41482e3ebfc3f2eccac38537703710be5ea676c0d8fb0ee6f336c3ee08"
)

// codes are what alice's and bob's devices show each other.
func codes(t testing.TB) (alice, bob Code) {
	v := vectors[2]
	a, b := key(t, v.localKey), key(t, v.remoteKey)
	return NewCode(a, b, []byte(v.localID), []byte(v.remoteID)), NewCode(b, a, []byte(v.remoteID), []byte(v.localID))
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestCodeVectors(t *testing.T) {
	alice, bob := codes(t)
	if got := alice.Bytes(); !bytes.Equal(got, unhex(t, aliceShows)) {
		t.Errorf("alice shows %x", got)
	}
	if got := bob.Bytes(); !bytes.Equal(got, unhex(t, bobShows)) {
		t.Errorf("bob shows %x", got)
	}
}

func TestCompare(t *testing.T) {
	v := vectors[2]
	a, b := key(t, v.localKey), key(t, v.remoteKey)
	mallory, carol := b, b
	mallory[7] ^= 1
	carol[8] ^= 1
	aliceID, bobID := []byte(v.localID), []byte(v.remoteID)
	alice, bob := codes(t)
	other := bob.Bytes()
	other[1] = 1
	for _, test := range []struct {
		name    string
		scanned []byte
		want    error
	}{
		{"what bob shows alice", bob.Bytes(), nil},
		{"bob has another key of alice's", NewCode(b, mallory, bobID, aliceID).Bytes(), ErrMismatch},
		{"alice has another key of bob's", NewCode(mallory, a, bobID, aliceID).Bytes(), ErrMismatch},
		{"both have the key of somebody in between", NewCode(mallory, mallory, bobID, aliceID).Bytes(), ErrMismatch},
		{"what bob shows carol", NewCode(b, carol, bobID, []byte("carol")).Bytes(), ErrMismatch},
		{"bob's key under another account", NewCode(b, a, []byte("bobby"), aliceID).Bytes(), ErrMismatch},
		{"what alice shows bob", alice.Bytes(), ErrOthers},
		{"what alice shows carol", NewCode(a, carol, aliceID, []byte("carol")).Bytes(), ErrOthers},
		{"version 1", other, ErrVersion},
		{"version 300, of another form", []byte{0x08, 0xac, 0x02, 0x22, 1, 'x'}, ErrVersion},
		{"a web address", []byte("https://example.org/"), ErrMalformed},
		{"nothing", nil, ErrMalformed},
	} {
		if err := alice.Compare(test.scanned); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
	if err := bob.Compare(alice.Bytes()); err != nil {
		t.Error("bob, who scans what alice shows:", err)
	}
}

// TestEveryBitCounts: no other bytes than the right ones match, and nothing but the version's byte makes another version.
func TestEveryBitCounts(t *testing.T) {
	alice, bob := codes(t)
	for i := range 8 * len(bob.Bytes()) {
		changed := bob.Bytes()
		changed[i/8] ^= 1 << (i % 8)
		err := alice.Compare(changed)
		if err == nil || errors.Is(err, ErrOthers) || errors.Is(err, ErrVersion) && i/8 != 1 {
			t.Errorf("bit %d of byte %d: %v", i%8, i/8, err)
		}
	}
	for i := range bob.Bytes() {
		if err := alice.Compare(bob.Bytes()[:i]); !errors.Is(err, ErrMalformed) {
			t.Errorf("the first %d bytes: %v", i, err)
		}
	}
}

// TestOneEncoding has the same fields in other clothes.
func TestOneEncoding(t *testing.T) {
	alice, bob := codes(t)
	good := bob.Bytes()
	version, own, peer := good[:2], good[2:38], good[38:]
	for name, b := range map[string][]byte{
		"another order":         slices.Concat(version, peer, own),
		"version last":          slices.Concat(own, peer, version),
		"version twice":         slices.Concat(version, good),
		"a half twice":          slices.Concat(good, peer),
		"a half missing":        slices.Concat(version, own),
		"a long varint":         slices.Concat([]byte{0x08, 0x82, 0x00}, own, peer),
		"no version":            slices.Concat(own, peer),
		"an unknown field":      slices.Concat(good, []byte{0x20, 1}),
		"a field within a half": slices.Concat(version, []byte{0x12, 36}, own[2:], []byte{0x10, 1}, peer),
		"a half of 33 bytes":    slices.Concat(version, []byte{0x12, 35, 0x0a, 33}, own[4:], []byte{0}, peer),
		"a byte more":           slices.Concat(good, []byte{0}),
	} {
		if err := alice.Compare(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzCompare(f *testing.F) {
	alice, bob := codes(f)
	f.Add(alice.Bytes())
	f.Add(bob.Bytes())
	f.Add([]byte{0x08, 0x01})
	f.Add([]byte("https://example.org/"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := parseCode(b); err == nil && !bytes.Equal(c.Bytes(), b) {
			t.Fatalf("%x is accepted beside %x", b, c.Bytes())
		}
		if (alice.Compare(b) == nil) != bytes.Equal(b, bob.Bytes()) {
			t.Fatalf("%x: %v", b, alice.Compare(b))
		}
	})
}
