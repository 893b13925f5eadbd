package interop

import (
	"errors"
	"testing"
	"time"

	"sotto/e2ee/ratchet"
)

// bothRoles runs a test once with us as the first peer, once with the library.
func bothRoles(t *testing.T, run func(t *testing.T, first, second peer)) {
	o := startOracle(t)
	t.Run("we first", func(t *testing.T) {
		our, their := meet(t, o)
		run(t, our, their)
	})
	t.Run("library first", func(t *testing.T) {
		our, their := meet(t, o)
		run(t, their, our)
	})
}

// Both start at once: each replies in the session it decrypted last, crossing messages swap the two, nothing is lost.
func TestSimultaneousStart(t *testing.T) {
	bothRoles(t, func(t *testing.T, first, second peer) {
		b1, b2 := first.bundle(true), second.bundle(true)
		if err := errors.Join(first.process(b2), second.process(b1)); err != nil {
			t.Fatal(err)
		}
		for range 4 { // all of them cross
			m1, m2 := seal(t, first, "one"), seal(t, second, "two")
			expect(t, second, m1, "one")
			expect(t, first, m2, "two")
		}
		for range 3 { // and an alternating exchange settles on one session
			say(t, first, second, "ping")
			say(t, second, first, "pong")
		}
		m := seal(t, first, "settled")
		if m.Type != ratchet.TypeMessage {
			t.Errorf("still a pre-key message")
		}
		expect(t, second, m, "settled")
		refuse(t, second, m, true)
	})
}

// Every message decrypts once: the first, a further pre-key message, one that was overtaken, and one of an older chain.
func TestReplay(t *testing.T) {
	bothRoles(t, func(t *testing.T, first, second peer) {
		if err := first.process(second.bundle(true)); err != nil {
			t.Fatal(err)
		}
		var seen []message
		deliver := func(to peer, m message, text string) {
			expect(t, to, m, text)
			refuse(t, to, m, true)
			seen = append(seen, m)
		}
		m1, m2 := seal(t, first, "one"), seal(t, first, "two")
		deliver(second, m2, "two") // the later one begins the session
		deliver(second, m1, "one") // although its one-time pre-key is gone
		say(t, second, first, "answer")
		m3, m4 := seal(t, first, "three"), seal(t, first, "four")
		deliver(second, m4, "four")
		deliver(second, m3, "three")
		say(t, second, first, "answer")
		say(t, first, second, "next chain")
		for _, m := range seen {
			refuse(t, second, m, true)
		}
	})
}

// A message of a session that was replaced meanwhile still decrypts, and its session becomes the current one again.
func TestArchivedSession(t *testing.T) {
	bothRoles(t, func(t *testing.T, first, second peer) {
		start(t, first, second, true)
		say(t, second, first, "answer")
		late := seal(t, first, "late")
		start(t, first, second, true) // a new session, by the same side
		expect(t, second, late, "late")
		say(t, second, first, "in the promoted session")
		say(t, first, second, "and back")
		start(t, second, first, true) // and one by the other
		say(t, first, second, "answer")
	})
}

// Forty sessions are kept besides the current one, the oldest is dropped first.
func TestFortyArchivedSessions(t *testing.T) {
	bothRoles(t, func(t *testing.T, first, second peer) {
		var late []message
		for range 42 {
			start(t, first, second, true)
			say(t, second, first, "answer")
			late = append(late, seal(t, first, "late"))
		}
		refuse(t, second, late[0], false)
		expect(t, second, late[1], "late") // promoted: the others move on by one, the last of them stays
		expect(t, second, late[2], "late")
		expect(t, second, late[41], "late")
	})
}

// Without a one-time pre-key the session starts all the same; a one-time key handed out twice begins one session only.
func TestPreKeyExhaustion(t *testing.T) {
	bothRoles(t, func(t *testing.T, first, second peer) {
		b := second.bundle(false)
		if b.PreKeyID != nil {
			t.Fatal("the bundle has a one-time pre-key")
		}
		for range 3 { // the same signed and Kyber keys, again and again
			if err := first.process(b); err != nil {
				t.Fatal(err)
			}
			say(t, first, second, "first")
			say(t, second, first, "answer")
		}

		b = second.bundle(true)
		if err := first.process(b); err != nil {
			t.Fatal(err)
		}
		one := seal(t, first, "one")
		if err := first.process(b); err != nil {
			t.Fatal(err)
		}
		two := seal(t, first, "two")
		expect(t, second, one, "one")
		refuse(t, second, two, false)
		start(t, first, second, true) // nothing of the refused message stays behind
		say(t, second, first, "answer")
	})
}

// The library's first message to our last-resort key decrypts once, even when the session it began is forgotten.
func TestLastResortReuse(t *testing.T) {
	our, their := meet(t, startOracle(t))
	if err := their.process(our.bundle(false)); err != nil {
		t.Fatal(err)
	}
	m := seal(t, their, "first")
	expect(t, our, m, "first")
	our.record = new(ratchet.Record)
	refuse(t, our, m, true)
	start(t, their, our, false) // but another session with the same keys is welcome
}

// A message is for one device from one device: under any other name neither side takes it.
func TestAddressBinding(t *testing.T) {
	o := startOracle(t)
	our, their := meet(t, o)
	if err := our.process(their.bundle(true)); err != nil {
		t.Fatal(err)
	}
	m := seal(t, our, "to them")
	right := their.remote
	their.remote = args{"name": right["name"], "device": 2}
	refuse(t, their, m, false)
	their.remote = args{"name": newOurs(t).name(), "device": 1}
	refuse(t, their, m, false)
	their.remote = right
	expect(t, their, m, "to them")

	our, their = meet(t, o)
	if err := their.process(our.bundle(true)); err != nil {
		t.Fatal(err)
	}
	m = seal(t, their, "to us")
	us, remote := our.local.Address, our.remote.Address
	our.remote.Address.Device = 2
	refuse(t, our, m, false)
	our.remote.Address = remote
	our.local.Address.Device = 2
	refuse(t, our, m, false)
	our.local.Address = us
	expect(t, our, m, "to us")
}

// A party whose identity key changed is not believed, on either side, before the new key is accepted.
func TestChangedIdentity(t *testing.T) {
	o := startOracle(t)
	our, their := meet(t, o)
	start(t, our, their, true)
	say(t, their, our, "answer")

	again := newOurs(t) // we lose everything
	again.local.Address, again.remote = our.local.Address, our.remote
	if err := again.process(their.bundle(true)); err != nil {
		t.Fatal(err)
	}
	m := seal(t, again, "it is me")
	var refused *libraryError
	if _, err := their.decrypt(m); !errors.As(err, &refused) || refused.Name != "UntrustedIdentity" {
		t.Fatal(err)
	}
	o.must("party.trust", their.with(args{"identityKey": again.local.Identity.Public().Bytes()}), nil)
	expect(t, their, m, "it is me")

	our, their = meet(t, o)
	start(t, their, our, true)
	say(t, our, their, "answer")
	fresh := newTheirs(o, their.name) // they lose everything
	fresh.remote = their.remote
	if err := fresh.process(our.bundle(true)); err != nil {
		t.Fatal(err)
	}
	m = seal(t, fresh, "it is me")
	if _, err := our.decrypt(m); !errors.Is(err, ratchet.ErrIdentityChanged) {
		t.Fatal(err)
	}
	our.remote.Identity = fresh.identity
	expect(t, our, m, "it is me")
}

// A session that nobody answered is not used for ever: 29 days do, 31 do not.
func TestUnansweredSession(t *testing.T) {
	o := startOracle(t)
	our, their := meet(t, o)
	const day = 24 * time.Hour
	for _, p := range []struct {
		peer
		now *time.Time
		to  peer
	}{{our, &our.now, their}, {their, &their.now, our}} {
		*p.now = time.Now()
		if err := p.process(p.to.bundle(true)); err != nil {
			t.Fatal(err)
		}
		*p.now = p.now.Add(29 * day)
		if _, err := p.encrypt("still"); err != nil {
			t.Errorf("%T after 29 days: %v", p.peer, err)
		}
		*p.now = p.now.Add(2 * day)
		if _, err := p.encrypt("too late"); err == nil {
			t.Errorf("%T encrypts after 31 days", p.peer)
		}
	}
}

// A flight of messages that is lost may be as long as 24,999. To show that of what we receive takes 50,000 messages of the library:
// the short form leaves it out.
func TestLongestJump(t *testing.T) {
	longestJump := func(t *testing.T, first, second peer) {
		start(t, first, second, true)
		say(t, second, first, "answer")
		say(t, first, second, "in step")
		for range 24_998 {
			seal(t, first, "lost")
		}
		early := seal(t, first, "overtaken")
		say(t, first, second, "24,999 on")
		expect(t, second, early, "overtaken")
		for range 25_000 {
			seal(t, first, "lost")
		}
		refuse(t, second, seal(t, first, "25,000 on"), false)
	}
	our, their := meet(t, startOracle(t))
	longestJump(t, our, their)
	if *messages >= 10_000 {
		our, their = meet(t, their.oracle)
		longestJump(t, their, our)
	}
}
