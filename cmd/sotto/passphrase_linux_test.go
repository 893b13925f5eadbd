package main

import (
	"testing"
)

// TestPassphraseTwice: a mistyped passphrase would lock its person out of a new account.
func TestPassphraseTwice(t *testing.T) {
	for typed, want := range map[string]string{
		"one\ntwo\n": "the two passphrases differ: try again",
		"one\none\n": "the server cannot be reached",
	} {
		ours, theirs := pseudoTerminal(t)
		screen := read(t, "register", ours)
		if _, err := ours.WriteString(typed); err != nil {
			t.Fatal(err)
		}
		sotto(t, t.TempDir(), theirs, "register", "alice", "--server", "http://127.0.0.1:1", "--passphrase-file", "-")
		screen.find(want)
	}
}
