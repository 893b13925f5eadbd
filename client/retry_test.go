package client

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"sotto/e2ee/ratchet"
	"sotto/e2ee/sealed"
	"sotto/wire"
)

// sessionWith is the record of the sessions with somebody, and goBack puts an older one back, as a restored backup would.
func (p *person) sessionWith(t testing.TB, other *person) []byte {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	value, err := p.store.get(sessionRecord(other))
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func (p *person) goBack(t testing.TB, other *person, value []byte) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.store.update(func(tx *tx) error { tx.put(sessionRecord(other), value); return nil }); err != nil {
		t.Fatal(err)
	}
}

// talk moves both sessions on.
func talk(t testing.TB, alice, bob *person) {
	t.Helper()
	for i := range 3 {
		text := fmt.Sprint("talk ", i)
		alice.send(t, "bob", text)
		bob.hears(t, text)
		bob.send(t, "alice", text)
		alice.hears(t, text)
	}
}

// hearsAll expects texts, in any order, each once.
func (p *person) hearsAll(t testing.TB, texts ...string) {
	t.Helper()
	left := slices.Clone(texts)
	for len(left) > 0 {
		m := expect[Message](t, p)
		i := slices.Index(left, m.Text)
		if i < 0 {
			t.Fatalf("%s heard %q, and still expects %q", p.Username(), m.Text, left)
		}
		left = slices.Delete(left, i, i+1)
		if err := m.Done(); err != nil {
			t.Fatal(err)
		}
	}
}

// settled waits until the receipts of all that was sent are in. Of the first message there is none: it went to somebody who had not
// accepted its sender yet.
func settled(t testing.TB, people ...*person) {
	t.Helper()
	for _, p := range people {
		eventually(t, "what "+p.Username()+" has sent is erased", func() bool {
			p.mu.Lock()
			defer p.mu.Unlock()
			kept := slices.DeleteFunc(p.store.list(recordSent), func(name string) bool { return name == fmt.Sprintf("%s%020d", recordSent, 1) })
			return len(kept)+len(p.store.list(recordMending))+len(p.outbox.entries) == 0
		})
	}
}

// One side's session goes back to an older state. What cannot be decrypted is sent anew, once, and both go on.
func TestRetry(t *testing.T) {
	t.Parallel()
	for _, lost := range []string{"recipient", "sender"} {
		for rounds := 1; rounds <= 2; rounds++ { // of talk in which the session moved on: the ratchet fails in another way each time
			t.Run(fmt.Sprint(lost, " loses ", rounds), func(t *testing.T) {
				t.Parallel()
				w := newWorld(t)
				alice, bob := friends(t, w)
				loser, other := bob, alice
				if lost == "sender" {
					loser, other = alice, bob
				}
				before := loser.sessionWith(t, other)
				for range rounds {
					talk(t, alice, bob)
				}
				settled(t, alice, bob)
				loser.goBack(t, other, before)

				id := alice.send(t, "bob", "again")
				if u := expect[Undecryptable](t, bob); u.From.Username != "alice" || !u.Asked {
					t.Errorf("bob: %+v", u)
				}
				if r := expect[SessionReset](t, alice); r.Contact.Username != "bob" || r.Resent != 1 {
					t.Errorf("alice: %+v", r)
				}
				if r := expect[SessionReset](t, bob); r.Contact.Username != "alice" || r.Resent != 0 {
					t.Errorf("bob: %+v", r)
				}
				if m := bob.hears(t, "again"); m.ID != id {
					t.Error("another id")
				}
				if d := expect[MessageDelivered](t, alice); d.ID != id {
					t.Error("the receipt is for another message")
				}
				talk(t, alice, bob)
				settled(t, alice, bob)
				quiet[Undecryptable](t, alice)
				quiet[Undecryptable](t, bob)
			})
		}
	}
}

// Both sessions go back, to different states, and both have something to say.
func TestRetryBothWays(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	ofAlice := alice.sessionWith(t, bob)
	talk(t, alice, bob)
	ofBob := bob.sessionWith(t, alice)
	talk(t, alice, bob)
	settled(t, alice, bob)
	alice.goBack(t, bob, ofAlice)
	bob.goBack(t, alice, ofBob)

	var sending sync.WaitGroup
	sending.Go(func() { alice.send(t, "bob", "from alice") })
	sending.Go(func() { bob.send(t, "alice", "from bob") })
	sending.Wait()
	bob.hearsAll(t, "from alice")
	alice.hearsAll(t, "from bob")
	talk(t, alice, bob)
	settled(t, alice, bob)
}

// More messages wait for a device whose session is broken than it may ask for: one request brings all of them.
func TestRetryManyMessages(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := spied(t, w)
	alice, bob := friends(t, w)
	before := bob.sessionWith(t, alice)
	talk(t, alice, bob)
	settled(t, alice, bob)
	bob.reopen(t, w)
	bob.goBack(t, alice, before)
	var texts []string
	for i := range 3 * maxRetries {
		texts = append(texts, fmt.Sprint("waiting ", i))
		alice.send(t, "bob", texts[i])
	}
	s.forget()
	bob.start(t)
	for _, text := range texts {
		bob.hears(t, text) // in order
	}
	settled(t, alice)
	if n := s.requests(t, alice); n == 0 || n > maxRetries {
		t.Errorf("bob has asked %d times", n)
	}
	talk(t, alice, bob)
}

// requests counts the requests that a person got, which nobody else can open.
func (s *spy) requests(t testing.TB, to *person) int {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := map[string]bool{}
	for _, e := range s.delivered {
		if inner := to.unsealed(t, e); inner.GetType() == sealed.TypePlaintext {
			ids[string(e.Id)] = true
		}
	}
	return len(ids)
}

// unsealed is what is sealed for a person, nil if nothing is.
func (p *person) unsealed(t testing.TB, e *wire.Envelope) *wire.Envelope {
	t.Helper()
	if e.GetType() != typeSealed || !bytes.Equal(e.GetRecipient(), p.account.Account[:]) {
		return nil
	}
	inner, _, err := p.unseal(e)
	if err != nil {
		t.Fatal(err)
	}
	return inner
}

// A call is offered anew while that makes sense.
func TestRetryCall(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	before := bob.sessionWith(t, alice)
	talk(t, alice, bob)
	settled(t, alice, bob)
	bob.goBack(t, alice, before)
	wholeCall(t, alice, bob, CallOptions{}, "direct")
	talk(t, alice, bob)
}

// asked lets a person fail on a text of another's, and returns their request as the server would bring it. Neither is connected.
func asked(t testing.TB, from, to *person, text string) (request *wire.Envelope, id MessageID) {
	t.Helper()
	id, err := from.Send(patience(t), to.Username(), text)
	if err != nil {
		t.Fatal(err)
	}
	if err := to.take(t.Context(), from.leaves(t, to)); err != nil {
		t.Fatal(err)
	}
	if u := expect[Undecryptable](t, to); !u.Asked {
		t.Fatal("no request")
	}
	return to.leaves(t, from), id
}

// leaves takes the last entry out of the outbox, sealed as it would leave.
func (p *person) leaves(t testing.TB, to *person) *wire.Envelope {
	t.Helper()
	p.mu.Lock()
	entry := p.outbox.entries[len(p.outbox.entries)-1]
	d := &departure{entry, p.contacts[to.Account()], p.sealing.certificate, waySealed}
	p.mu.Unlock()
	frame, err := p.frame(d)
	if err != nil {
		t.Fatal(err)
	}
	p.settle(entry, nil)
	e := frame.GetSendSealed().GetEnvelope()
	e.AcceptedAt = timestamp(time.Now())
	return e
}

// broken is a pair that is not connected, and the first's messages fail at the second.
func broken(t testing.TB, w *world) (alice, bob *person) {
	t.Helper()
	alice, bob = friends(t, w)
	before := bob.sessionWith(t, alice)
	talk(t, alice, bob)
	settled(t, alice, bob)
	alice.reopen(t, w)
	bob.reopen(t, w)
	bob.goBack(t, alice, before)
	return alice, bob
}

// A recipient who cannot decrypt what is sent anew either: the sender hears that, and it ends there, however much is sent.
func TestRetryInVain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := spied(t, w)
	alice, bob := broken(t, w)
	carol := w.online("carol") // has sessions with both
	for _, p := range []*person{alice, bob} {
		p.start(t)
		carol.send(t, p.Username(), "hi")
		p.hears(t, "hi")
		p.reopen(t, w)
	}
	if err := bob.store.update(func(tx *tx) error { // no session that begins from here on can be read either
		keys, err := readPreKeys(tx)
		if err != nil {
			return err
		}
		keys.OneTime, keys.OneTimeKyber = nil, nil
		for i := range keys.Signed {
			keys.Signed[i].Private = ratchet.GenerateKeyPair().Marshal()
		}
		return keys.write(tx)
	}); err != nil {
		t.Fatal(err)
	}
	alice.start(t)
	bob.start(t)
	s.forget()
	const texts = 2 * maxRetries
	ids := map[MessageID]bool{}
	for i := range texts {
		ids[alice.send(t, "bob", fmt.Sprint("in vain ", i))] = true
		expect[Undecryptable](t, bob)
	}
	if failed := expect[MessageFailed](t, alice); !ids[failed.ID] || failed.To != "bob" {
		t.Errorf("%+v", failed)
	}
	eventually(t, "bob gave up asking", func() bool {
		bob.mu.Lock()
		defer bob.mu.Unlock()
		return !bob.retries.asked.spend(alice.first(), time.Now())
	})
	eventually(t, "alice has nothing left to do", func() bool {
		alice.mu.Lock()
		defer alice.mu.Unlock()
		return len(alice.retries.mending)+len(alice.outbox.entries) == 0
	})
	// What somebody else sends arrives behind all that the two have sent each other so far: a circle would turn on in between.
	const turns = 3
	for turn := range turns {
		for _, p := range []*person{bob, alice} {
			carol.send(t, p.Username(), fmt.Sprint("turn ", turn))
			p.hears(t, fmt.Sprint("turn ", turn))
		}
	}
	if n := s.requests(t, alice); n > maxRetries {
		t.Errorf("bob has asked %d times", n)
	}
	identified, unnamed := s.sends()
	// Each text once, at most once anew, at most one content for each new session, and the requests; and carol's.
	if n := identified + unnamed; n > texts+texts+maxRetries+maxRetries+2*turns {
		t.Errorf("%d envelopes", n)
	}
	quiet[Message](t, bob)
}

// The power fails at each step of answering a request. The text arrives once.
func TestRetrySurvivesPowerFailure(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	talk(t, alice, bob)
	settled(t, bob, alice)
	disk := alice.onMemory(t)
	bob.reopen(t, w)
	random := rand.New(rand.NewPCG(5, 6))
	for step := 1; ; step++ {
		text := fmt.Sprint("step ", step)
		disk.steps, disk.failAt, disk.err, disk.off = 0, 0, errPower, true
		before := w.from(t, disk)
		bob.loseSessions(t, before)
		clear(bob.retries.asked) // an hour later
		request, id := asked(t, before, bob, text)
		disk.steps, disk.failAt = 0, step
		err := before.take(t.Context(), request)
		if err == nil {
			err = before.mendOffline(t, bob)
		}
		finished := disk.steps < step
		if finished != (err == nil) {
			t.Fatalf("step %d: %v", step, err)
		}
		before.Close()
		disk = disk.afterPowerFailure(random)

		after := w.from(t, disk)
		if err := after.take(t.Context(), request); err != nil { // the server brings it again
			t.Fatal(err)
		}
		if err := after.mendOffline(t, bob); err != nil {
			t.Fatal(err)
		}
		if n := len(after.outbox.entries); n != 1 {
			t.Fatalf("step %d: %d envelopes", step, n)
		}
		if err := bob.take(t.Context(), after.leaves(t, bob)); err != nil {
			t.Fatal(err)
		}
		if heard := bob.inbox.unshown; len(heard) != step || heard[step-1].Text != text || heard[step-1].ID != id {
			t.Fatalf("step %d: bob has heard %d messages", step, len(heard))
		}
		if err := after.take(t.Context(), bob.sealed(t, "alice", "answer")); err != nil {
			t.Fatal(err)
		}
		after.Close()
		if finished {
			return
		}
	}
}

// mendOffline does what keepMending does, without a link.
func (p *person) mendOffline(t testing.TB, with *person) error {
	t.Helper()
	bundle := with.lastResortBundle(t)
	p.mu.Lock()
	defer p.mu.Unlock()
	m := p.retries.mending[with.first()]
	if m == nil {
		return nil
	}
	to := p.contacts[with.Account()]
	remote, err := to.remote(firstDevice)
	if err != nil {
		t.Fatal(err)
	}
	return p.resend(to, remote, m, bundle)
}

// lastResortBundle is what the server gives when there are no one-time keys left.
func (p *person) lastResortBundle(t testing.TB) *ratchet.Bundle {
	t.Helper()
	var keys *preKeys
	if err := p.store.update(func(tx *tx) (err error) { keys, err = readPreKeys(tx); return err }); err != nil {
		t.Fatal(err)
	}
	last, resort := keys.Signed[len(keys.Signed)-1], keys.LastResort[len(keys.LastResort)-1]
	signed, err1 := ratchet.UnmarshalKeyPair(last.Private)
	kyber, err2 := ratchet.UnmarshalKyberKeyPair(resort.Private)
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	return &ratchet.Bundle{
		RegistrationID: p.account.RegistrationID, Identity: p.identity.Public(),
		SignedID: last.ID, SignedKey: signed.Public(), SignedSignature: p.identity.Sign(signed.Public().Bytes()),
		KyberID: resort.ID, KyberKey: kyber.Public(), KyberSignature: p.identity.Sign(kyber.Public()),
	}
}

func (p *person) loseSessions(t testing.TB, with *person) {
	t.Helper()
	if err := p.store.update(func(tx *tx) error { tx.delete(sessionRecord(with)); return nil }); err != nil {
		t.Fatal(err)
	}
}
