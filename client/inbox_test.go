package client

import "testing"

// A program that does not deal with its messages: the next ones wait, unacknowledged, and come once there is room.
func TestInboxFull(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	expect[MessageDelivered](t, bob) // nothing else is on its way to bob
	bob.mu.Lock()
	bob.inbox.unread = maxUnread - 1
	bob.mu.Unlock()
	alice.send(t, "bob", "one")
	one := expect[*Message](t, bob)
	alice.send(t, "bob", "two")
	bob.link.mu.Lock()
	l := bob.link.up
	bob.link.mu.Unlock()
	eventually(t, "the next message waits", func() bool { return len(l.deliveries) == 1 })
	if n := len(bob.store.list(recordInbox)); n != 1 {
		t.Errorf("%d messages on disk", n)
	}
	for range 2 { // once is enough
		if err := one.Done(); err != nil {
			t.Fatal(err)
		}
	}
	bob.hears(t, "two")
	bob.mu.Lock()
	defer bob.mu.Unlock()
	if bob.inbox.unread != maxUnread-1 {
		t.Errorf("%d messages count as unread, want %d", bob.inbox.unread, maxUnread-1)
	}
}

// Strangers cannot fill the inbox for those who are accepted.
func TestStrangersShareOfTheInbox(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	carol := w.online("carol")
	bob.mu.Lock()
	bob.inbox.unread = maxStrangersUnread
	bob.mu.Unlock()
	carol.send(t, "bob", "from a stranger")
	alice.send(t, "bob", "from a contact")
	bob.hears(t, "from a contact")
}

func TestUnreadIsCountedAfterRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	alice.send(t, "bob", "one")
	expect[*Message](t, bob)
	bob.reopen(t, w)
	if bob.inbox.unread != 1 {
		t.Errorf("%d messages count as unread", bob.inbox.unread)
	}
}
