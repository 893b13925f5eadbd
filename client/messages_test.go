package client

import (
	"testing"
)

func TestMessagesBothWays(t *testing.T) {
	w := newWorld(t)
	alice, bob := w.online("alice"), w.online("bob")

	alice.send(t, "bob", "hello")
	m := bob.hears(t, "hello")
	if m.From.Username != "alice" || m.From.Account != alice.Account() || m.From.Accepted {
		t.Errorf("from %+v", m.From)
	}
	bob.send(t, "alice", "hello yourself")
	alice.hears(t, "hello yourself")

	// Bob has written to alice, so she is his contact now and learns of deliveries.
	id := alice.send(t, "bob", "how are you?")
	bob.hears(t, "how are you?")
	if d := expect[MessageDelivered](t, alice); d.ID != id || d.To != "bob" {
		t.Errorf("delivered %+v", d)
	}

	ours, err := alice.SafetyNumber("bob")
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := bob.SafetyNumber("alice")
	if err != nil {
		t.Fatal(err)
	}
	if ours != theirs || len(ours) != 60+11 {
		t.Errorf("safety numbers %q and %q", ours, theirs)
	}
}
