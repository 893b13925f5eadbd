// Package wycheproof hands test vectors of Project Wycheproof to the tests of package e2ee's parts. Only tests import it.
//
// testdata holds files of github.com/C2SP/wycheproof at commit b51abcfb8daf, compressed and otherwise unchanged; they are under the Apache
// License 2.0, as this repository is.
package wycheproof

import (
	"compress/gzip"
	"embed"
	"encoding/hex"
	"encoding/json"
	"slices"
	"testing"
)

//go:embed testdata
var files embed.FS

// Hex is a byte string written in hexadecimal.
type Hex []byte

// UnmarshalText decodes it.
func (h *Hex) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// Case is what all vectors have in common. A type for an algorithm's vectors embeds it.
type Case struct {
	ID      int `json:"tcId"`
	Comment string
	Flags   []string
	Result  string // valid, invalid or acceptable
}

// Valid reports whether the operation must succeed. What is "acceptable" is left to the implementation.
func (c *Case) Valid() bool { return c.Result == "valid" }

// Has reports whether the vector was made for the case of that name.
func (c *Case) Has(flag string) bool { return slices.Contains(c.Flags, flag) }

// Load reads the groups of vectors for an algorithm: slices of Tests beside what they have in common. It fails unless there are as many
// vectors as the caller counts on.
func Load[Group any](t testing.TB, algorithm string, vectors int) []Group {
	t.Helper()
	f, err := files.Open("testdata/" + algorithm + ".json.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	unpacked, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		NumberOfTests int
		TestGroups    []Group
	}
	if err := json.NewDecoder(unpacked).Decode(&file); err != nil {
		t.Fatal(err)
	}
	if file.NumberOfTests != vectors {
		t.Fatalf("%s has %d vectors, not %d", algorithm, file.NumberOfTests, vectors)
	}
	return file.TestGroups
}
