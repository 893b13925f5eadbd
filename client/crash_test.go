package client

import (
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"sotto/e2ee/ratchet"
	"sotto/wire"
)

// onMemory moves a person's account to a disk whose power can fail.
func (p *person) onMemory(t testing.TB) *memDisk {
	t.Helper()
	disk := newMemDisk()
	s, err := newStore("DIR", disk, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	p.mu.Lock() // nothing changes meanwhile
	err = s.update(func(tx *tx) error {
		for _, name := range p.store.list("") {
			value, err := p.store.get(name)
			if err != nil {
				return err
			}
			tx.put(name, value)
		}
		return nil
	})
	p.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	disk.steps = 0
	return disk
}

// from opens an account on such a disk.
func (w *world) from(t testing.TB, disk *memDisk) *person {
	t.Helper()
	s, err := newStore("DIR", disk, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	a, err := readAccount(s)
	if err != nil {
		t.Fatal(err)
	}
	c, err := newClient(s, a, w.options())
	if err != nil {
		t.Fatal(err)
	}
	p := &person{Client: c}
	t.Cleanup(func() { p.Close() })
	return p
}

// The power fails at each step of sending: the message goes out once after the restart, or Send had failed and it never does. Either
// way the session goes on.
func TestOutboxSurvivesPowerFailure(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	disk := alice.onMemory(t)
	random := rand.New(rand.NewPCG(1, 2))
	for step := 1; ; step++ {
		disk.steps, disk.failAt, disk.err, disk.off = 0, 0, errPower, true
		before := w.from(t, disk)
		disk.steps, disk.failAt = 0, step
		_, err := before.Send(t.Context(), "bob", "before")
		finished := disk.steps < step
		if finished && err != nil {
			t.Fatal(err)
		}
		disk = disk.afterPowerFailure(random)
		after := w.from(t, disk)
		after.start(t)
		after.send(t, "bob", "after")
		heard := 0
		for m := expect[Message](t, bob); m.Text != "after"; m = expect[Message](t, bob) {
			heard++
		}
		if heard > 1 || err == nil && heard == 0 {
			t.Fatalf("step %d: Send returned %v, bob heard it %d times", step, err, heard)
		}
		after.Close()
		quiet[Undecryptable](t, bob)
		if finished {
			return
		}
	}
}

// The power fails at each step of receiving: the message is shown once.
func TestInboxSurvivesPowerFailure(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	disk := alice.onMemory(t)
	bob.reopen(t, w)
	random := rand.New(rand.NewPCG(3, 4))
	for step := 1; ; step++ {
		e := bob.sealed(t, "alice", "once")
		disk.steps, disk.failAt, disk.err, disk.off = 0, 0, errPower, true
		before := w.from(t, disk)
		disk.steps, disk.failAt = 0, step
		err := before.take(t.Context(), e)
		finished := disk.steps < step
		if err != nil && (finished || !errors.Is(err, errPower)) {
			t.Fatal(err)
		}
		disk = disk.afterPowerFailure(random)
		after := w.from(t, disk)
		if err == nil && len(after.inbox.unshown) != 1 {
			t.Fatalf("step %d: acknowledged and lost", step)
		}
		// The server brings what was not acknowledged, and perhaps what was.
		for range 2 {
			if err := after.take(t.Context(), e); err != nil {
				t.Fatal(err)
			}
		}
		after.start(t)
		after.hears(t, "once")
		if len(after.inbox.unshown) != 0 {
			t.Fatalf("step %d: shown twice", step)
		}
		after.Close()
		if finished {
			return
		}
	}
}

// sealedWhileConnected is another message as the server would bring it; its text is empty.
func (p *person) sealedWhileConnected(t testing.TB, to string) *wire.Envelope {
	t.Helper()
	contact, err := p.meet(patience(t), to)
	if err != nil {
		t.Fatal(err)
	}
	remote, err := contact.remote(firstDevice)
	if err != nil {
		t.Fatal(err)
	}
	var message ratchet.Message
	p.mu.Lock()
	defer p.mu.Unlock()
	err = p.store.update(func(tx *tx) error {
		s, err := readSession(tx, remote.Address)
		if err != nil {
			return err
		}
		if message, err = s.ratchet.Encrypt(p.local(), remote, pad(nil, 0, padTo), time.Now()); err != nil {
			return err
		}
		return s.write(tx, remote.Address)
	})
	if err != nil {
		t.Fatal(err)
	}
	return &wire.Envelope{
		Id: randomBytes(16), Sender: p.account.Account[:], SenderDevice: firstDevice, Recipient: contact.Account[:], RecipientDevice: firstDevice,
		Type: message.Type, Ciphertext: message.Bytes,
	}
}

// sealed is a message as the server would bring it. The sender must not be connected.
func (p *person) sealed(t testing.TB, to, text string) *wire.Envelope {
	t.Helper()
	content := p.newContent()
	content.Body = &wire.Content_Text{Text: &wire.Text{Body: text}}
	return p.sealedContent(t, to, content)
}

func (p *person) sealedContent(t testing.TB, to string, content *wire.Content) *wire.Envelope {
	t.Helper()
	contact, err := p.meet(patience(t), to)
	if err == nil {
		err = p.post(contact, content, outgoing{})
	}
	if err != nil {
		t.Fatal(err)
	}
	entry := p.outbox.entries[len(p.outbox.entries)-1]
	e := new(wire.Envelope)
	if err := proto.Unmarshal(entry.Envelope, e); err != nil {
		t.Fatal(err)
	}
	e.Sender, e.SenderDevice = p.account.Account[:], firstDevice
	p.settle(entry, nil)
	return e
}
