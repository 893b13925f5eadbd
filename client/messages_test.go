package client

import (
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"sotto/e2ee/ratchet"
	"sotto/signaling"
	"sotto/wire"
)

func TestMessagesBothWays(t *testing.T) {
	t.Parallel()
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

func TestOfflineDelivery(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := w.online("alice"), w.register("bob")
	for _, text := range []string{"one", "two", "three"} {
		alice.send(t, "bob", text)
	}
	bob.start(t)
	for _, text := range []string{"one", "two", "three"} {
		bob.hears(t, text)
	}
}

func TestUnhandledMessageComesAgainAfterRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := w.online("alice"), w.online("bob")
	alice.send(t, "bob", "important")
	expect[Message](t, bob) // and no Done
	bob.reopen(t, w)
	bob.start(t)
	bob.hears(t, "important")
	bob.reopen(t, w)
	bob.start(t)
	alice.send(t, "bob", "next")
	bob.hears(t, "next")
}

func TestServerRestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	w.stop()
	if down := expect[LinkDown](t, alice); down.Final || down.Retry == 0 {
		t.Errorf("link down: %+v", down)
	}
	id, err := alice.Send(patience(t), "bob", "while it was away")
	if err != nil {
		t.Fatal(err)
	}
	w.start()
	if err := alice.WaitSent(patience(t), id); err != nil {
		t.Fatal(err)
	}
	bob.hears(t, "while it was away")
}

func TestDuplicatesAreNotShown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	bob.reopen(t, w)
	alice.reopen(t, w)
	e := bob.sealed(t, "alice", "once")
	again := proto.CloneOf(e)
	again.Id = randomBytes(16) // a server that lies about what it delivers
	for _, e := range []*wire.Envelope{e, e, again} {
		if err := alice.take(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	alice.reopen(t, w)
	for _, e := range []*wire.Envelope{e, again} {
		if err := alice.take(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(alice.inbox.unshown); n != 1 {
		t.Errorf("%d messages in the inbox", n)
	}
}

func TestChangedIdentityKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := w.online("alice"), w.online("bob")
	// Alice has pinned another key for bob than the one he has now.
	if _, err := alice.AddContact(patience(t), "bob"); err != nil {
		t.Fatal(err)
	}
	alice.mu.Lock()
	_, err := alice.changeContact(alice.named("bob"), func(p *contact) {
		p.Identity = ratchet.GenerateKeyPair().Public().Bytes()
	}, func(tx *tx) error { tx.delete(sessionRecord(bob)); return nil })
	alice.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	before, err := alice.SafetyNumber("bob")
	if err != nil {
		t.Fatal(err)
	}

	// A message that claims another key changes nothing unless it proves to be made with it.
	forged := bob.sealedWhileConnected(t, "alice")
	forged.Ciphertext[len(forged.Ciphertext)-1] ^= 1
	if err := alice.take(t.Context(), forged); err != nil {
		t.Fatal(err)
	}
	if p, err := alice.Contact("bob"); err != nil || p.Changed {
		t.Errorf("a forgery changed the contact: %+v, %v", p, err)
	}

	var changed *IdentityChangedError
	if _, err := alice.Send(patience(t), "bob", "hello"); !errors.As(err, &changed) || changed.Username != "bob" {
		t.Fatalf("sending: %v", err)
	}
	if e := expect[IdentityChanged](t, alice); e.Contact.Username != "bob" || !e.Contact.Changed {
		t.Errorf("event %+v", e)
	}
	if _, err := alice.Call(patience(t), "bob", CallOptions{}); !errors.As(err, &changed) {
		t.Errorf("calling: %v", err)
	}
	// What bob sends is held back, over a restart too.
	bob.send(t, "alice", "it is me")
	eventually(t, "the message is held back", func() bool { return len(alice.store.list(recordHeld)) == 1 })
	alice.reopen(t, w)
	alice.start(t)
	quiet[Message](t, alice)
	if _, err := alice.Send(patience(t), "bob", "hello"); !errors.As(err, &changed) {
		t.Fatalf("sending: %v", err)
	}

	number, err := alice.SafetyNumber("bob")
	if err != nil {
		t.Fatal(err)
	}
	if err := alice.AcceptIdentity(patience(t), "bob", number); err != nil {
		t.Fatal(err)
	}
	alice.hears(t, "it is me")
	alice.send(t, "bob", "so it is")
	bob.hears(t, "so it is")
	after, err := alice.SafetyNumber("bob")
	if err != nil || after == before {
		t.Errorf("the safety number is still %q: %v", after, err)
	}
}

func TestOneTimeKeysRunOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(cfg *signaling.Config) {
		cfg.Limits.PairFetches = signaling.Rate{Burst: 1000, Every: time.Millisecond}
		cfg.Limits.BundleFetches = cfg.Limits.PairFetches
	})
	alice, bob := w.online("alice"), w.register("bob")
	id, err := alice.lookUp(patience(t), "bob")
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; ; n++ {
		bundle, err := alice.fetchBundle(patience(t), ratchet.Address{Account: id, Device: firstDevice})
		if err != nil {
			t.Fatal(err)
		}
		if bundle.OneTime == nil {
			if n != preKeyBatch {
				t.Errorf("%d one-time keys were handed out, %d uploaded", n, preKeyBatch)
			}
			break
		}
	}
	// The last resort serves, for one sender and the next; a repeated first message is refused all the same.
	alice.send(t, "bob", "from alice")
	carol := w.online("carol")
	carol.send(t, "bob", "from carol")
	bob.start(t)
	bob.hears(t, "from alice")
	bob.hears(t, "from carol")
	// Connected, bob has sent new ones.
	eventually(t, "new one-time keys", func() bool {
		bundle, err := alice.fetchBundle(patience(t), ratchet.Address{Account: id, Device: firstDevice})
		return err == nil && bundle.OneTime != nil
	})
}

func TestUsedPreKeysAreReplaced(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(cfg *signaling.Config) {
		cfg.Limits.PairFetches = signaling.Rate{Burst: 1000, Every: time.Millisecond}
		cfg.Limits.BundleFetches = cfg.Limits.PairFetches
	})
	alice, bob := w.online("alice"), w.register("bob")
	bob.wait(func(w *timing) { w.keys = 10 * time.Millisecond })
	bob.start(t)
	var last *ratchet.Bundle
	for range preKeyBatch - preKeyLow + 1 {
		var err error
		if last, err = alice.fetchBundle(patience(t), bob.first()); err != nil {
			t.Fatal(err)
		}
	}
	alice.send(t, "bob", "uses one")
	bob.hears(t, "uses one")
	eventually(t, "new one-time keys while connected", func() bool {
		bundle, err := alice.fetchBundle(patience(t), bob.first())
		return err == nil && bundle.OneTime != nil && bundle.OneTime.ID > last.OneTime.ID+preKeyBatch
	})
}

func TestSenderWhoseNameIsNotConfirmed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, mallory := w.online("alice"), w.online("mallory")
	w.online("bob")
	mallory.account.Username = "bob" // claims to be
	mallory.send(t, "alice", "it is bob")
	m := alice.hears(t, "it is bob")
	if m.From.Username != "" || m.From.String() != mallory.Account().String() {
		t.Errorf("shown as %v", m.From)
	}
	alice.send(t, m.From.String(), "you are not")
	mallory.hears(t, "you are not")
}

func TestSendErrors(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice := w.online("alice")
	w.online("bob")
	for name, test := range map[string]struct{ to, text string }{
		"empty":     {"bob", ""},
		"long":      {"bob", strings.Repeat("x", MaxText+1)},
		"not UTF-8": {"bob", "\xff"},
		"oneself":   {"alice", "hi"},
		"no name":   {"B!", "hi"},
		"unknown":   {"nobody", "hi"},
	} {
		if _, err := alice.Send(patience(t), test.to, test.text); err == nil {
			t.Errorf("%s: no error", name)
		} else if (name == "unknown") != errors.Is(err, ErrNoSuchUser) {
			t.Errorf("%s: %v", name, err)
		}
	}
	alice.send(t, "bob", strings.Repeat("x", MaxText))
}
