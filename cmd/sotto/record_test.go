package main

import (
	"os"
	"testing"
)

// Two calls within one second leave two recordings.
func TestRecordingsDoNotOverwriteEachOther(t *testing.T) {
	tr := &tracks{flags: &mediaFlags{record: t.TempDir()}, peer: "bob"}
	names := map[string]bool{}
	for range 3 {
		name := tr.recording(".wav")
		if err := os.WriteFile(name, nil, 0o600); err != nil || names[name] {
			t.Errorf("%s: %v, again: %v", name, err, names[name])
		}
		names[name] = true
	}
}
