package main

import (
	"bytes"
	"strings"
	"testing"

	"sotto/client"
)

// Every event around a message that cannot be decrypted is a sentence, or an object for scripts.
func TestShowRetry(t *testing.T) {
	bob := client.Contact{Username: "bob"}
	for _, test := range []struct {
		event          client.Event
		sentence, json string
	}{
		{client.Undecryptable{From: bob, Asked: true}, "something from bob could not be decrypted; their device was asked to send it again",
			`{"event":"undecryptable","peer":"bob","asked":true}`},
		{client.Undecryptable{From: bob}, "something from bob could not be decrypted; ask them to send it again",
			`{"event":"undecryptable","peer":"bob"}`},
		{client.SessionReset{Contact: bob, Resent: 2}, "bob could not decrypt something: a new session has begun, and it is sent again (2)",
			`{"event":"session_reset","peer":"bob","resent":2}`},
		{client.SessionReset{Contact: bob}, "a new session with bob has begun, since something could not be decrypted",
			`{"event":"session_reset","peer":"bob"}`},
	} {
		for asJSON, want := range map[bool]string{false: test.sentence, true: test.json} {
			var stdout bytes.Buffer
			if err := showEvent(newOutput(&stdout, nil, asJSON), test.event); err != nil {
				t.Fatal(err)
			}
			if got := strings.TrimSuffix(stdout.String(), "\n"); got != want {
				t.Errorf("%T is %q, want %q", test.event, got, want)
			}
		}
	}
}
