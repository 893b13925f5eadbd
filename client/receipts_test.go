package client

import (
	"testing"

	"sotto/wire"
)

// Somebody who lets their mailbox run full, and goes on writing, does not fill this disk with receipts.
func TestReceiptsDoNotPileUp(t *testing.T) {
	t.Parallel()
	alice, bob := apart(t)
	for range 2 * maxReceiptsWaiting {
		alice.sendReceipt(bob.first(), [][]byte{randomBytes(16)})
	}
	if n := len(alice.store.list(recordOutbox)); n != maxReceiptsWaiting {
		t.Errorf("%d receipts wait", n)
	}
}

// Receipts of somebody to whom nothing was ever sent are no events, which would crowd out others.
func TestReceiptsOfStrangers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := w.online("alice"), w.online("bob")
	alice.send(t, "bob", "hello")
	bob.hears(t, "hello")
	alice.sendReceipt(bob.first(), [][]byte{randomBytes(16)})
	alice.send(t, "bob", "that was a receipt")
	for {
		select {
		case e := <-bob.Events():
			switch e := e.(type) {
			case MessageDelivered:
				t.Fatal("the receipt is an event")
			case Message:
				if e.Text == "that was a receipt" {
					return
				}
			}
		case <-patience(t).Done():
			t.Fatal("no message in time")
		}
	}
}

// To a stranger it is not told that a message arrived, which would tell that this device is there.
func TestStrangersGetNoReceipts(t *testing.T) {
	t.Parallel()
	alice, bob := apart(t)
	from := *alice.knownAs(bob)
	text := &wire.Content{Id: randomBytes(16), Body: &wire.Content_Text{Text: &wire.Text{Body: "hi"}}}
	for _, accepted := range []bool{false, true} {
		from.Accepted = accepted
		alice.show(opened{from: &from, device: firstDevice, content: text})
		if n := len(alice.receipts.take()); (n == 1) != accepted {
			t.Errorf("accepted: %t, receipts for %d", accepted, n)
		}
	}
}
