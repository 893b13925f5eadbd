package ratchet

import (
	"encoding/binary"
	"errors"
	"runtime"
	"testing"
	"time"
)

// manySessions makes a pair whose first has all the archived sessions it may. With the current session there is a message that was
// overtaken by 1,500.
func manySessions(t testing.TB) (bob, alice *device, far Message) {
	alice, bob = established(t)
	for range maxArchived {
		alice.initiate(bob, true)
		bob.expect(alice, alice.encrypt(bob, "x"), "x")
	}
	for range shortJump + 500 {
		alice.encrypt(bob, "lost")
	}
	return bob, alice, alice.encrypt(bob, "far")
}

// forge makes a message with a counter and an index of an attacker's choice, for the first key epoch.
func forge(ratchetKey PublicKey, jump uint32, size int) Message {
	m := forged(ratchetKey, jump, size)
	return Message{TypeMessage, append(m.encode(), make([]byte, macSize)...)}
}

func forged(ratchetKey PublicKey, jump uint32, size int) *signalMessage {
	pq := append(binary.AppendUvarint([]byte{1, 1}, uint64(jump)), 0)
	return &signalMessage{ratchetKey: ratchetKey, counter: jump, ciphertext: make([]byte, size), pq: pq}
}

// forgeFirst makes one that begins a session, as far as its pre-keys go.
func forgeFirst(to *device, jump uint32, size int) (from *device, m Message) {
	from = newDevice(to.t, "mallory")
	from.initiate(to, false)
	outer := *from.record.current.pending
	inner := forged(GenerateKeyPair().Public(), jump, size)
	inner.addresses = addressBinding(from.local.Address, to.local.Address)
	outer.message = append(inner.encode(), make([]byte, macSize)...)
	return from, Message{TypePreKeyMessage, outer.encode()}
}

// spent returns a limit that is reached.
func spent(now time.Time) *LongJumps {
	l := new(LongJumps)
	for l.try(now) {
	}
	return l
}

// What is not authentic costs no more than 64 KiB of memory, however long it is and however far ahead, whichever the limit and whether or
// not the ratchet key is known.
func TestForgedMessageAllocatesLittle(t *testing.T) {
	bob, alice, _ := manySessions(t)
	known := bob.record.current.receiving[0].ratchetKey
	most := uint64(0)
	refuse := func(from *device, m Message) {
		t.Helper()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := bob.record.Decrypt(bob.local, from.remote(), m.Type, m.Bytes, bob, start)
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Fatal("accepted")
		}
		n := after.TotalAlloc - before.TotalAlloc
		most = max(most, n)
		if n > 64<<10 && !underRace {
			t.Errorf("limit %v, %d bytes of type %d: %d bytes allocated", bob.local.LongJumps != nil, len(m.Bytes), m.Type, n)
		}
	}
	for _, limit := range []*LongJumps{nil, spent(start)} {
		bob.local.LongJumps = limit
		for _, jump := range []uint32{0, 1, shortJump / maxArchived, shortJump, maxJump - 1, maxJump} {
			for _, size := range []int{16, 60 << 10} {
				refuse(alice, forge(known, jump, size))
				refuse(alice, forge(GenerateKeyPair().Public(), jump, size))
				mallory, first := forgeFirst(bob, jump, size)
				refuse(mallory, first)
			}
		}
	}
	t.Logf("%d bytes at most", most)
}

// Refused long jumps are limited in number and time; authentic ones are not, and short ones never.
func TestLongJumps(t *testing.T) {
	bob, alice, far := manySessions(t)
	limit := new(LongJumps)
	bob.local.LongJumps = limit

	forged := forge(GenerateKeyPair().Public(), maxJump, 16)
	for range longJumps {
		bob.refuse(alice, forged, ErrUndecryptable)
	}
	if limit.tries != longJumps {
		t.Fatalf("%d tries counted, want %d", limit.tries, longJumps)
	}
	bob.refuse(alice, far, ErrUndecryptable)
	near := alice.encrypt(bob, "beyond")
	bob.refuse(alice, near, ErrUndecryptable)

	decrypt := func(m Message, now time.Time) error {
		_, err := bob.record.Decrypt(bob.local, alice.remote(), m.Type, m.Bytes, bob, now)
		return err
	}
	if err := decrypt(far, start.Add(longJumpsTime-1)); err == nil {
		t.Error("the limit ended before its time")
	}
	if err := decrypt(far, start.Add(longJumpsTime)); err != nil {
		t.Errorf("after a minute: %v", err)
	}
	if limit.tries != 0 {
		t.Error("an authentic long jump was counted")
	}
	limit.tries = longJumps
	if err := decrypt(near, start.Add(longJumpsTime)); err != nil {
		t.Errorf("a short jump was refused: %v", err)
	}
}

// A long jump behind an unknown ratchet key is tried in the current session, and in no archived one.
func TestLongJumpInArchivedSession(t *testing.T) {
	alice, bob := established(t)
	old := alice.record.current
	alice.initiate(bob, true)
	bob.expect(alice, alice.encrypt(bob, "a new session"), "a new session")
	alice.record.promote(old)
	for range shortJump + 1 {
		alice.encrypt(bob, "lost")
	}
	bob.refuse(alice, alice.encrypt(bob, "far"), ErrUndecryptable)

	alice.record.promote(alice.record.archived[0])
	for range shortJump + 1 {
		alice.encrypt(bob, "lost")
	}
	bob.expect(alice, alice.encrypt(bob, "far"), "far")
}

// A chain goes as far as it is allowed to, and only once.
func TestWorkBeforeAuthentication(t *testing.T) {
	chain := &receivingChain{}
	work := maxJump
	if _, err := chain.at(maxJump+1, &work); !errors.Is(err, errFar) || work != maxJump {
		t.Fatal(err, work)
	}
	if _, err := chain.at(maxJump-1, &work); err != nil || work != 1 {
		t.Fatal(err, work)
	}
	if _, err := chain.at(2, &work); !errors.Is(err, errFar) || work != 1 {
		t.Fatal(err, work)
	}
	if chain.index != 0 || len(chain.skipped) != 0 {
		t.Fatal("the chain moved without a commit")
	}
}

func TestSkipLimits(t *testing.T) {
	alice, bob := established(t)
	skip := func(n int) {
		for range n {
			alice.encrypt(bob, "")
		}
	}
	early := alice.encrypt(bob, "early")
	skip(maxSkipped - 1)
	bob.expect(alice, alice.encrypt(bob, "x"), "x") // keeps exactly maxSkipped
	bob.expect(alice, early, "early")
	forgotten := alice.encrypt(bob, "forgotten")
	kept := alice.encrypt(bob, "kept")
	skip(maxSkipped - 1)
	bob.expect(alice, alice.encrypt(bob, "x"), "x")
	bob.expect(alice, kept, "kept")
	bob.refuse(alice, forgotten, ErrDuplicate)

	// The post-quantum ratchet counts from the last used index, so the limit that is met first is one less than maxJump.
	skip(maxJump - 1)
	last := alice.encrypt(bob, "last")
	bob.expect(alice, last, "last")
	skip(maxJump)
	bob.refuse(alice, alice.encrypt(bob, "too far"), ErrUndecryptable)
}

// TestReceivingChainLimits: a chain takes exactly the work it is allowed, and keeps exactly
// maxSkipped seeds however often it jumps.
func TestReceivingChainLimits(t *testing.T) {
	c := &receivingChain{}
	for _, allowed := range []int{0, 1, 10, maxSkipped - 1, maxSkipped, maxSkipped + 1, 1} {
		work := allowed
		if _, err := c.at(c.index+uint32(allowed)+1, &work); !errors.Is(err, errFar) || work != allowed {
			t.Errorf("work of %d with %d allowed: %v, %d left", allowed+1, allowed, err, work)
		}
		a, err := c.at(c.index+uint32(allowed), &work)
		if err != nil || work != 0 {
			t.Fatalf("work of %d with as much allowed: %v, %d left", allowed, err, work)
		}
		before := len(c.skipped)
		a.commit()
		if want := min(before+allowed, maxSkipped); len(c.skipped) != want {
			t.Errorf("%d seeds are kept after a jump of %d, want %d", len(c.skipped), allowed, want)
		}
	}
}

func TestFiveReceivingChains(t *testing.T) {
	alice, bob := established(t)
	var late []Message
	for range maxReceivingChains + 1 {
		late = append(late, alice.encrypt(bob, "late"))
		bob.expect(alice, alice.encrypt(bob, "x"), "x")
		alice.expect(bob, bob.encrypt(alice, "y"), "y")
	}
	bob.refuse(alice, late[0], ErrUndecryptable)
	for _, m := range late[1:] {
		bob.expect(alice, m, "late")
	}
}
