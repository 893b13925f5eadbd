package client

import (
	"testing"

	"sotto/signaling"
)

// The sender hears that the recipient's mailbox is full, nothing is lost, and all goes out when
// there is room.
func TestMailboxFullIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(cfg *signaling.Config) { cfg.Limits.Mailbox = 40 })
	alice, bob := w.online("alice"), w.online("bob")
	alice.send(t, "bob", "hi") // bob does not accept her: all goes by name
	bob.hears(t, "hi")
	if err := bob.Close(); err != nil {
		t.Fatal(err)
	}
	var first MessageID
	const texts = 14
	for range texts {
		id, err := alice.Send(patience(t), "bob", "more")
		if err != nil {
			t.Fatal(err)
		}
		if first == (MessageID{}) {
			first = id
		}
	}
	if full := expect[MailboxFull](t, alice); full.To != "bob" || full.ID == first {
		t.Errorf("told %+v", full)
	}
	id, err := alice.Send(patience(t), "bob", "and more") // which waits behind the others
	if err != nil {
		t.Fatal(err)
	}
	if full := expect[MailboxFull](t, alice); full.ID != id {
		t.Errorf("of one that waits behind others: told %+v", full)
	}
	bob.reopen(t, w)
	bob.start(t)
	for range 5 {
		bob.hears(t, "more")
	}
	alice.reopen(t, w) // over a new link all is tried at once
	alice.start(t)
	for range texts - 5 {
		bob.hears(t, "more")
	}
	bob.hears(t, "and more")
}
