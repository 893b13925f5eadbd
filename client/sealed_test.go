package client

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"sotto/wire"
)

// After the first message between two people, whatever they do: no envelope says who sent it, and none comes over a link that does.
func TestEnvelopesNameNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := spied(t, w)
	alice, bob := friends(t, w)
	if identified, sealed := s.sends(); identified != 1 || sealed == 0 {
		t.Fatalf("of the first exchange %d envelopes were identified, %d sealed; want the first message alone", identified, sealed)
	}
	s.forget()
	id := alice.send(t, "bob", "how are you?")
	bob.hears(t, "how are you?")
	if d := expect[MessageDelivered](t, alice); d.ID != id {
		t.Errorf("delivered %v", d.ID)
	}
	wholeCall(t, alice, bob, CallOptions{}, "direct")
	wholeCall(t, bob, alice, CallOptions{}, "direct")
	alice.reopen(t, w)
	alice.start(t)
	alice.send(t, "bob", "still here")
	bob.hears(t, "still here")

	identified, sealed := s.sends()
	if identified != 0 || sealed < 20 {
		t.Errorf("%d envelopes were identified, %d sealed", identified, sealed)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	accounts := [][]byte{alice.account.Account[:], bob.account.Account[:]}
	for _, f := range s.seen {
		if f.path != anonymousPath {
			continue
		}
		e := f.GetSendSealed().GetEnvelope()
		if list := f.GetFetchDeviceList(); list != nil { // before the first text over a new link
			e = &wire.Envelope{Recipient: list.Account}
		}
		for i, sender := range accounts {
			if bytes.Equal(e.GetRecipient(), accounts[1-i]) && (bytes.Contains(f.raw, sender) || bytes.Contains(f.raw, []byte(alice.Username()))) {
				t.Fatal("a frame on an anonymous link names its sender")
			}
		}
		if e == nil {
			t.Errorf("%T on an anonymous link", f.Body)
		}
	}
	if len(s.delivered) < 20 {
		t.Errorf("%d envelopes were delivered", len(s.delivered))
	}
	for _, e := range s.delivered {
		if len(e.Sender) != 0 || e.SenderDevice != 0 || e.Type != typeSealed {
			t.Fatal("a delivered envelope names its sender")
		}
	}
	for _, p := range []*person{alice, bob} {
		if c := p.Contacts(); len(c) != 1 || !c[0].Sealed {
			t.Errorf("%s has %+v", p.Username(), c)
		}
	}
}

// The server does not take sealed envelopes, for this reason or that: they arrive all the same, in order, and the sender hears that the
// server learns who writes.
func TestSealedRefused(t *testing.T) {
	t.Parallel()
	over := func(code wire.Error_Code) func(s *spy) {
		return func(s *spy) {
			s.refuse = func(path string, f *wire.ClientFrame) wire.Error_Code {
				if path == anonymousPath {
					return code
				}
				return wire.Error_UNKNOWN
			}
		}
	}
	door := func(status int) func(s *spy) {
		return func(s *spy) {
			s.shut = func(path string) int {
				if path == anonymousPath {
					return status
				}
				return 0
			}
		}
	}
	for name, refuse := range map[string]func(*spy){
		"token void":         over(wire.Error_FORBIDDEN),
		"bad request":        over(wire.Error_BAD_REQUEST),
		"unavailable":        over(wire.Error_UNAVAILABLE),
		"half full":          over(wire.Error_MAILBOX_FULL), // another contact has filled it
		"breaks":             over(breaks),
		"no such link":       door(404),
		"forbidden to proxy": door(403),
		"too many links":     door(429),
		"no certificates": func(s *spy) {
			s.refuse = func(_ string, f *wire.ClientFrame) wire.Error_Code {
				if f.GetGetSenderCertificate() != nil {
					return wire.Error_BAD_REQUEST
				}
				return wire.Error_UNKNOWN
			}
		},
		"no certificates now": func(s *spy) {
			s.refuse = func(_ string, f *wire.ClientFrame) wire.Error_Code {
				if f.GetGetSenderCertificate() != nil {
					return wire.Error_UNAVAILABLE
				}
				return wire.Error_UNKNOWN
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			s := spied(t, w)
			alice, bob := friends(t, w)
			expect[MessageDelivered](t, bob)
			alice.hasSent(t)
			alice.reopen(t, w)
			s.do(func() { refuse(s) })
			alice.wait(func(w *timing) { w.sealCall, w.sealText = 100*time.Millisecond, 300*time.Millisecond })
			if err := alice.changeSealing(func(s *sealing) { s.Certificate, s.certificate = nil, nil }); err != nil {
				t.Fatal(err)
			}
			alice.start(t)
			s.forget()
			for n := range 3 {
				if _, err := alice.Send(patience(t), "bob", fmt.Sprint(n)); err != nil {
					t.Fatal(err)
				}
			}
			for n := range 3 {
				bob.hears(t, fmt.Sprint(n))
			}
			if shown := expect[SenderShown](t, alice); shown.Contact.Username != "bob" {
				t.Errorf("shown to %v", shown.Contact)
			}
			if identified := s.identifiedTo(bob); identified != 3 {
				t.Errorf("%d envelopes were identified", identified)
			}
			quiet[SenderShown](t, alice) // once is enough
		})
	}
}

// hasSent waits until nothing waits.
func (p *person) hasSent(t testing.TB) {
	t.Helper()
	eventually(t, "the outbox is empty", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.outbox.entries) == 0
	})
}

// A server that refused, or was told to, is tried again at the next link.
func TestSealedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := spied(t, w)
	alice, bob := friends(t, w)
	expect[MessageDelivered](t, bob)
	s.do(func() {
		s.shut = func(path string) int {
			if path == anonymousPath {
				return 404
			}
			return 0
		}
	})
	s.cut()
	s.forget()
	alice.send(t, "bob", "one")
	bob.hears(t, "one")
	expect[SenderShown](t, alice)
	s.do(func() { s.shut = nil })
	s.cut()
	s.forget()
	alice.send(t, "bob", "two")
	bob.hears(t, "two")
	if identified, sealed := s.sends(); identified != 0 || sealed == 0 {
		t.Errorf("%d envelopes were identified, %d sealed", identified, sealed)
	}
}

// While the anonymous link cannot be opened, calls go out after a short time and texts after a longer one, and what goes to others who
// gave no token does not wait.
func TestNothingWaitsForTheAnonymousLink(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := spied(t, w)
	alice, bob := friends(t, w)
	expect[MessageDelivered](t, bob)
	carol := w.online("carol")
	s.do(func() {
		s.shut = func(path string) int {
			if path == anonymousPath {
				return 503
			}
			return 0
		}
	})
	alice.reopen(t, w)
	alice.wait(func(w *timing) { w.sealCall, w.sealText = 200*time.Millisecond, time.Hour })
	alice.start(t)
	text, err := alice.Send(patience(t), "bob", "this waits")
	if err != nil {
		t.Fatal(err)
	}
	alice.send(t, "carol", "this does not")
	carol.hears(t, "this does not")
	_, callee := ring(t, alice, bob, CallOptions{})
	callee.Hangup()
	alice.mu.Lock()
	waits := false
	for _, entry := range alice.outbox.entries {
		waits = waits || entry.Message == text
	}
	alice.mu.Unlock()
	if !waits {
		t.Error("the text did not wait")
	}
	s.do(func() { s.shut = nil })
	bob.hears(t, "this waits")
}

// The link is closed when it is not used, and opened when it is.
func TestAnonymousLinkIsKeptWhileUsed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := spied(t, w)
	alice, bob := w.online("alice"), w.register("bob")
	bob.wait(func(w *timing) { w.unused = 200 * time.Millisecond })
	bob.start(t)
	alice.send(t, "bob", "hi")
	bob.hears(t, "hi")
	for n := range 3 {
		bob.send(t, "alice", "yes?")
		alice.hears(t, "yes?")
		s.mu.Lock()
		opened := s.opened[anonymousPath]
		s.mu.Unlock()
		if n == 0 && opened == 0 {
			t.Error("no anonymous link was opened")
		}
		eventually(t, "the anonymous link is closed", func() bool {
			bob.anonymous.link.mu.Lock()
			defer bob.anonymous.link.mu.Unlock()
			return bob.anonymous.link.up == nil
		})
	}
	if identified, sealed := s.sends(); identified != 1 || sealed < 3 {
		t.Errorf("%d envelopes were identified, %d sealed", identified, sealed)
	}
}

// A session that was lost is begun anew without telling the server who wants to talk to whom.
func TestBundleIsFetchedAnonymously(t *testing.T) {
	t.Parallel()
	for _, refused := range []bool{false, true} {
		t.Run(fmt.Sprint("refused ", refused), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			s := spied(t, w)
			alice, bob := friends(t, w)
			if err := alice.store.update(func(tx *tx) error { tx.delete(sessionRecord(bob)); return nil }); err != nil {
				t.Fatal(err)
			}
			s.forget()
			if refused {
				s.do(func() {
					s.refuse = func(path string, f *wire.ClientFrame) wire.Error_Code {
						if path == anonymousPath {
							return wire.Error_FORBIDDEN
						}
						return wire.Error_UNKNOWN
					}
				})
			}
			alice.send(t, "bob", "from the beginning")
			bob.hears(t, "from the beginning")
			s.mu.Lock()
			defer s.mu.Unlock()
			fetches := map[string]int{}
			for _, f := range s.seen {
				if f.GetFetchBundles() != nil {
					fetches[f.path]++
				}
			}
			want := map[string]int{anonymousPath: 1}
			if refused {
				want[linkPath] = 1
			}
			if fmt.Sprint(fetches) != fmt.Sprint(want) {
				t.Errorf("bundles were fetched over %v, want %v", fetches, want)
			}
		})
	}
}

// What comes sealed under a new identity key is held back as all else is.
func TestSealedUnderAnotherKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := spied(t, w)
	alice, bob := anotherBob(t, w)
	bob.mu.Lock()
	bob.contacts[alice.Account()] = &contact{
		Username: "alice", Account: alice.Account(), Identity: alice.identity.Public().Bytes(), Accepted: true, Token: alice.sealing.Token,
	}
	bob.mu.Unlock()
	bob.send(t, "alice", "it is me")
	eventually(t, "the message is held back", func() bool { return len(alice.store.list(recordHeld)) == 1 })
	if identified, sealed := s.sends(); identified != 0 || sealed != 1 {
		t.Fatalf("%d envelopes were identified, %d sealed", identified, sealed)
	}
	var changed *IdentityChangedError
	if _, err := alice.Send(patience(t), "bob", "hello"); !errors.As(err, &changed) {
		t.Fatal(err)
	}
	if err := alice.AcceptIdentity(patience(t), "bob", alice.number(t, "bob")); err != nil {
		t.Fatal(err)
	}
	if m := alice.hears(t, "it is me"); m.From.Username != "bob" {
		t.Errorf("from %+v", m.From)
	}
}

func TestRemoveContact(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := spied(t, w)
	alice, bob := friends(t, w)
	expect[MessageDelivered](t, bob) // nothing else is on its way to bob
	carol := w.online("carol")
	carol.send(t, "bob", "hi")
	bob.hears(t, "hi")
	bob.send(t, "carol", "hi")
	carol.hears(t, "hi")
	expect[MessageDelivered](t, bob)
	alice.send(t, "bob", "unread")
	expect[Message](t, bob)
	before := bob.sealing.Token

	if err := bob.RemoveContact("nobody"); err == nil {
		t.Error("removed nobody")
	}
	if err := bob.RemoveContact("alice"); err != nil {
		t.Fatal(err)
	}
	if n := len(bob.store.list(recordInbox)) + bob.inbox.unread; n != 0 {
		t.Errorf("%d texts are left", n)
	}
	for _, record := range []string{recordContact, recordSession} {
		if names := bob.store.list(record + alice.Account().String()); len(names) != 0 {
			t.Errorf("%v is left", names)
		}
	}
	if bytes.Equal(before, bob.sealing.Token) {
		t.Fatal("the delivery token is the old one")
	}
	eventually(t, "the server knows the new token", func() bool {
		bob.mu.Lock()
		defer bob.mu.Unlock()
		return bob.sealing.Told
	})

	// Alice's token is void: the server does not take it, and bob has no session with a stranger.
	s.forget()
	alice.send(t, "bob", "are you there?")
	expect[SenderShown](t, alice)
	if identified, _ := s.sends(); identified != 1 {
		t.Errorf("%d envelopes were identified", identified)
	}
	// So is carol's, until bob's next message brings the new one.
	s.forget()
	carol.send(t, "bob", "one")
	bob.hears(t, "one")
	expect[SenderShown](t, carol)
	bob.send(t, "carol", "two")
	carol.hears(t, "two")
	s.forget()
	carol.send(t, "bob", "three")
	bob.hears(t, "three")
	if identified, sealed := s.sends(); identified != 0 || sealed == 0 {
		t.Errorf("with the new token %d envelopes were identified, %d sealed", identified, sealed)
	}
	bob.reopen(t, w)
	if c := bob.Contacts(); len(c) != 1 || c[0].Username != "carol" {
		t.Errorf("contacts are %+v", c)
	}
	// Bob can have alice back.
	bob.start(t)
	bob.send(t, "alice", "I am")
	alice.hears(t, "I am")
	alice.send(t, "bob", "good")
	bob.hears(t, "good")
}

// What waits for somebody who is removed is not sent.
func TestRemoveContactWithOutbox(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	alice.reopen(t, w)
	id, err := alice.Send(t.Context(), "bob", "never")
	if err != nil {
		t.Fatal(err)
	}
	if err := alice.RemoveContact("bob"); err != nil {
		t.Fatal(err)
	}
	if failed := expect[MessageFailed](t, alice); failed.ID != id {
		t.Errorf("failed: %+v", failed)
	}
	alice.start(t)
	alice.send(t, "bob", "hello again")
	bob.hears(t, "hello again")
}

// Accounts from before there were delivery tokens get one.
func TestOldAccountGetsToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice := w.register("alice")
	if err := alice.store.update(func(tx *tx) error { tx.delete(recordSealing); return nil }); err != nil {
		t.Fatal(err)
	}
	alice.reopen(t, w)
	token := alice.sealing.Token
	alice.reopen(t, w)
	if len(token) != wire.DeliveryTokenSize || !bytes.Equal(token, alice.sealing.Token) {
		t.Error("no token, or another one each time")
	}
}

// A certificate is renewed at a new link even if the old one is over, and one that is nearly over is not used.
func TestCertificateIsRenewed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	alice.mu.Lock()
	s := alice.sealing
	alice.mu.Unlock()
	end := s.certificate.Expires
	for _, test := range []struct {
		at time.Time
		ok bool
	}{{time.Now(), true}, {end.Add(-certificateEnd - time.Second), true}, {end.Add(-certificateEnd), false}, {end.Add(time.Hour), false}} {
		if s.certified(test.at) != test.ok {
			t.Errorf("%v before its end: %v", end.Sub(test.at), !test.ok)
		}
	}
	if wait := alice.untilRenewal(); wait < 12*time.Hour || wait > 19*time.Hour {
		t.Errorf("renewed in %v", wait)
	}
	alice.reopen(t, w)
	_, issuer := testIssuer(t)
	old := issue(t, issuer, alice, time.Now().Add(-time.Hour))
	err := alice.changeSealing(func(s *sealing) { s.Certificate, s.certificate = old.Bytes(), old })
	if err != nil {
		t.Fatal(err)
	}
	alice.start(t)
	alice.send(t, "bob", "with a new certificate")
	bob.hears(t, "with a new certificate")
	bob.send(t, "alice", "and back")
	alice.hears(t, "and back")
	quiet[SenderShown](t, alice)
}
