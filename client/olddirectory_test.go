package client

import (
	"testing"

	"sotto/e2ee/ratchet"
)

// testdata/onedevice has two accounts as they were stored before accounts had several devices: alice's, with a text in the outbox, one to
// be sent anew, and both kept until receipts come; and bob's.
func TestDirectoryFromBeforeSeveralDevices(t *testing.T) {
	open := func(name string) *person {
		p := &person{dir: copyDir(t, "testdata/onedevice/"+name)}
		var err error
		if p.Client, err = Open(p.dir, Options{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close() })
		return p
	}
	alice, bob := open("alice"), open("bob")
	if len(alice.retries.mending) != 1 || alice.retries.mending[bob.first()] == nil {
		t.Fatalf("to be sent anew: %d", len(alice.retries.mending))
	}
	if len(alice.outbox.entries) != 1 || alice.outbox.entries[0].address() != bob.first() {
		t.Fatal("what waited does not go to bob's first device")
	}
	for _, kept := range alice.sent.texts {
		if kept.address() != bob.first() {
			t.Fatal("what was sent to bob is not his first device's")
		}
	}

	// The session goes on, in both directions, and is stored under its new name.
	bring := func(from, to *person) {
		t.Helper()
		e := from.outbox.entries[len(from.outbox.entries)-1].envelope
		e.Sender, e.SenderDevice = from.account.Account[:], firstDevice
		if err := to.take(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	bring(alice, bob)
	if _, err := bob.Send(t.Context(), "alice", "five"); err != nil {
		t.Fatal(err)
	}
	bring(bob, alice)
	if got := len(bob.inbox.unshown) + len(alice.inbox.unshown); got != 2 {
		t.Fatalf("%d texts have arrived, want 2", got)
	}
	for p, with := range map[*person]*person{alice: bob, bob: alice} {
		if names := p.store.list(recordSession); len(names) != 1 || names[0] != sessionRecord(with) {
			t.Errorf("records of sessions: %q", names)
		}
	}
}

func TestRecordNamesOfDevices(t *testing.T) {
	const account = "00010203-0405-0607-0809-0a0b0c0d0e0f"
	id := [16]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	for name, want := range map[string]uint8{account: 1, account + "/1": 1, account + "/127": 127} {
		a, err := recordAddress("session/"+name, "session/")
		if err != nil || a != (ratchet.Address{Account: id, Device: want}) {
			t.Errorf("%s is about %d: %v", name, a.Device, err)
		}
	}
	for _, name := range []string{"", "1", account + "/", account + "/128", account + "/x", account + "/1/2"} {
		if _, err := recordAddress("session/"+name, "session/"); err == nil {
			t.Errorf("%q is taken", name)
		}
	}
}
