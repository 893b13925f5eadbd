package client

import (
	"errors"
	"testing"
	"time"

	"sotto/wire"
)

// swapped are alice and carol, where the server told alice that carol's account is bob's.
func swapped(t *testing.T) (w *world, alice, carol *person) {
	t.Helper()
	w = newWorld(t)
	s := spied(t, w)
	alice, carol = w.online("alice"), w.online("carol")
	w.online("bob")
	account := carol.Account()
	lie := true
	s.mu.Lock()
	s.alter = func(f *wire.ServerFrame) *wire.ServerFrame {
		if lie && f.GetAccount().GetUsername() == "bob" {
			f.GetAccount().Account, lie = account[:], false
		}
		return f
	}
	s.mu.Unlock()
	alice.send(t, "bob", "for bob")
	carol.hears(t, "for bob")
	return w, alice, carol
}

// The server answers a look-up of bob with carol's account. Her answer says who she is.
func TestAnotherNameAnswers(t *testing.T) {
	t.Parallel()
	w, alice, carol := swapped(t)
	carol.send(t, "alice", "who is this?")
	e := expect[NameDisputed](t, alice)
	if e.Contact.Username != "bob" || e.Contact.Claims != "carol" {
		t.Errorf("disputed: %+v", e.Contact)
	}
	carol.send(t, "alice", "and what do you want?")

	// Nothing is sent, and nothing shown, also after a restart.
	if _, err := alice.Send(patience(t), "bob", "a secret"); !errors.Is(err, ErrNameDisputed) {
		t.Errorf("sending to bob: %v", err)
	}
	if _, err := alice.Call(patience(t), "bob", CallOptions{}); !errors.Is(err, ErrNameDisputed) {
		t.Errorf("calling bob: %v", err)
	}
	alice.reopen(t, w)
	alice.start(t)
	if _, err := carol.Call(patience(t), "alice", CallOptions{}); err != nil {
		t.Fatal(err)
	}
	dave := w.online("dave")
	dave.send(t, "alice", "from dave")
	alice.hears(t, "from dave") // and nothing before
	if alice.calls.with(carol.Account()) {
		t.Error("carol's call rings")
	}
	alice.mu.Lock()
	shown := alice.nextUnshown()
	waiting := len(alice.inbox.unshown)
	alice.mu.Unlock()
	if shown != nil || waiting < 2 {
		t.Errorf("%+v is shown, %d wait", shown, waiting)
	}

	// Alice takes the name: what waited comes, and bob is free to be asked for.
	for _, wrong := range []string{"bob", "dave", ""} {
		if _, err := alice.AcceptName(patience(t), "bob", wrong); err == nil {
			t.Errorf("the name %q was taken", wrong)
		}
	}
	if p, err := alice.AcceptName(patience(t), "bob", "carol"); err != nil || p.Username != "carol" {
		t.Fatalf("%+v, %v", p, err)
	}
	if m := alice.hears(t, "who is this?"); m.From.Username != "carol" {
		t.Errorf("from %+v", m.From)
	}
	alice.hears(t, "and what do you want?")
	alice.send(t, "carol", "sorry")
	carol.hears(t, "sorry")
	alice.send(t, "bob", "now for bob")
	if p, err := alice.Contact("bob"); err != nil || p.Account == carol.Account() {
		t.Errorf("bob is %+v, %v", p, err)
	}
}

// Who is called instead is found out when their device rings, before they can be heard.
func TestAnotherNameIsCalled(t *testing.T) {
	t.Parallel()
	_, alice, _ := swapped(t)
	call, err := alice.Call(patience(t), "bob", CallOptions{})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-call.Done():
	case <-patience(t).Done():
		t.Fatal("the call goes on")
	}
	if reason, err := call.End(), call.Err(); reason != Failed || !errors.Is(err, ErrNameDisputed) {
		t.Errorf("the call ended: %v, %v", reason, err)
	}
}

// A name that somebody gives is no proof that it is theirs.
func TestClaimedNameIsAsked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	w.online("dave")
	bob.account.Username = "dave"
	bob.send(t, "alice", "I am dave")
	expect[NameDisputed](t, alice)
	if _, err := alice.AcceptName(patience(t), "bob", "dave"); err == nil {
		t.Error("dave's name was taken for bob")
	}
}

// Who was nameless at first, here since the server did not confirm a name, is asked for again.
func TestNamelessAreAskedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := w.online("alice"), w.online("bob")
	bob.account.Username = "nobody"
	bob.send(t, "alice", "one")
	if m := alice.hears(t, "one"); m.From.Username != "" {
		t.Fatalf("from %+v", m.From)
	}
	bob.account.Username = "bob"
	bob.send(t, "alice", "two")
	if m := alice.hears(t, "two"); m.From.Username != "bob" {
		t.Errorf("then from %+v", m.From)
	}
}

func TestNamelessLookups(t *testing.T) {
	t.Parallel()
	var n namelessLookups
	one, two, now := newID(1), newID(2), time.Now()
	for i, test := range []struct {
		at   time.Duration
		id   [16]byte
		want bool
	}{
		{0, one, true}, {0, one, false}, {time.Minute, one, false}, {time.Second, two, false},
		{time.Minute, two, true}, {9 * time.Minute, one, false}, {10 * time.Minute, one, true},
		{11 * time.Minute, two, true},
	} {
		if got := n.may(test.id, 10*time.Minute, now.Add(test.at)); got != test.want {
			t.Errorf("%d: %v", i, got)
		}
	}
	if len(n.by) > 2 {
		t.Errorf("%d are remembered", len(n.by))
	}
}

func newID(b byte) (id [16]byte) { id[0] = b; return id }
