package client

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"sotto/wire"
)

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
	one := expect[Message](t, bob)
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
	expect[Message](t, bob)
	bob.reopen(t, w)
	if bob.inbox.unread != 1 {
		t.Errorf("%d messages count as unread", bob.inbox.unread)
	}
}

// An envelope is acknowledged once it is on disk. A device whose disk fails leaves it with the
// server, which brings it again.
func TestNothingIsAcknowledgedBeforeItIsStored(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := spied(t, w)
	alice, bob := friends(t, w)
	settled(t, alice, bob)
	disk := bob.onMemory(t)
	alice.send(t, "bob", "once")
	s.forget()

	failing := w.from(t, disk)
	disk.failAt, disk.err, disk.off, disk.steps = 1, errPower, true, 0
	if err := failing.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	acknowledged := false
	eventually(t, "the text is delivered again", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, f := range s.seen {
			acknowledged = acknowledged || f.GetAck() != nil
		}
		return acknowledged || len(s.delivered) >= 2
	})
	if acknowledged {
		t.Fatal("it is acknowledged, and not stored")
	}
	failing.Close()
	disk.failAt = 0
	mended := w.from(t, disk)
	mended.start(t)
	mended.hears(t, "once")
}

// Before the server has said what certificates go back to, what is sealed waits, unacknowledged.
func TestSealedWaitsForTheRoot(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := spied(t, w)
	alice, bob := friends(t, w)
	settled(t, alice, bob)
	bob.reopen(t, w)
	err := bob.changeSealing(func(s *sealing) {
		s.Root, s.Certificate, s.certificate = nil, nil, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	alice.send(t, "bob", "sealed")
	if _, sealed := s.sends(); sealed == 0 {
		t.Fatal("it did not go out sealed")
	}
	var withheld []*wire.ServerFrame
	s.do(func() {
		s.seen, s.delivered = nil, nil
		s.alter = func(f *wire.ServerFrame) *wire.ServerFrame {
			if f.GetSenderCertificate() == nil {
				return f
			}
			withheld = append(withheld, f)
			return nil
		}
	})
	bob.start(t)
	l, err := bob.link.wait(patience(t))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the text is there and the certificate is not", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(withheld) > 0 && len(s.delivered) > 0
	})
	eventually(t, "bob looks at it", func() bool { return len(l.deliveries) == 0 })
	s.do(func() { s.alter = nil }) // for another link, if there has to be one
	if err := l.dispatch(t.Context(), withheld[0]); err != nil {
		t.Fatal(err)
	}
	bob.hears(t, "sealed")
}

// Only what is for this device is looked at, whatever the server delivers.
func TestEnvelopesForOthers(t *testing.T) {
	t.Parallel()
	alice, bob := apart(t)
	good := bob.unsealed(t, alice.writes(t, bob, "for bob's first device"))
	long := make([]byte, maxCiphertext+1)
	for name, change := range map[string]func(e *wire.Envelope){
		"for another account": func(e *wire.Envelope) { e.Recipient = alice.account.Account[:] },
		"for nobody":          func(e *wire.Envelope) { e.Recipient = nil },
		"for another device":  func(e *wire.Envelope) { e.RecipientDevice = 2 },
		"without a whole id":  func(e *wire.Envelope) { e.Id = e.Id[1:] },
		"of no device":        func(e *wire.Envelope) { e.SenderDevice = 0 },
		"of nobody":           func(e *wire.Envelope) { e.Sender = nil },
		"too long":            func(e *wire.Envelope) { e.Ciphertext = long },
	} {
		e := proto.CloneOf(good)
		change(e)
		bob.gets(t, e)
		if len(bob.inbox.unshown) != 0 || len(bob.outbox.entries) != 0 {
			t.Errorf("%s: something came of it", name)
		}
	}
	bob.gets(t, good)
	if len(bob.inbox.unshown) != 1 {
		t.Error("the envelope itself is not shown")
	}
}
