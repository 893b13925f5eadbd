package client

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"sotto/e2ee/ratchet"
	"sotto/e2ee/sealed"
	"sotto/sealedwire"
	"sotto/wire"
)

// testIssuer is a server's side of sealed sender.
func testIssuer(t testing.TB) (sealedwire.PublicKey, *sealedwire.Issuer) {
	t.Helper()
	root, server := sealedwire.GeneratePrivateKey(), sealedwire.GeneratePrivateKey()
	issuer, err := sealedwire.NewIssuer(server, root.Certify(1, server.Public()))
	if err != nil {
		t.Fatal(err)
	}
	return root.Public(), issuer
}

func issue(t testing.TB, issuer *sealedwire.Issuer, p *person, expires time.Time) *sealedwire.SenderCertificate {
	t.Helper()
	return certify(t, issuer, p.Account(), firstDevice, p.identity, expires)
}

func certify(
	t testing.TB, issuer *sealedwire.Issuer, account uuid.UUID, device uint8, key *ratchet.KeyPair, expires time.Time,
) *sealedwire.SenderCertificate {
	t.Helper()
	certificate, err := issuer.Issue(sealedwire.Sender{
		Account: account, Device: device, Identity: sealedwire.PublicKey(key.Public().Bytes()),
	}, expires.Truncate(time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

// sealedBy seals what the server would bring, with a certificate and the key it is for.
func sealedBy(t testing.TB, key *ratchet.KeyPair, certificate *sealedwire.SenderCertificate, to *person, inner *wire.Envelope) *wire.Envelope {
	t.Helper()
	message, err := sealed.Seal(key, to.identity.Public(), &sealed.Content{Type: inner.Type, Sender: certificate, Message: inner.Ciphertext})
	if err != nil {
		t.Fatal(err)
	}
	return &wire.Envelope{
		Id: inner.Id, Recipient: inner.Recipient, RecipientDevice: inner.RecipientDevice, Type: typeSealed, Ciphertext: message,
		AcceptedAt: timestamp(time.Now()),
	}
}

// What a server that lies, or anybody else, could bring as a sealed envelope: only what the contact sealed under their pinned key is
// shown, and that once.
func TestForgedSealedEnvelopes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	mallory := w.online("mallory")
	alice.reopen(t, w)
	bob.reopen(t, w)
	root, issuer := testIssuer(t)
	_, otherIssuer := testIssuer(t)
	if err := alice.changeSealing(func(s *sealing) { s.Root = root[:] }); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	tomorrow := now.Add(24 * time.Hour)
	good := issue(t, issuer, bob, tomorrow)
	for _, test := range []struct {
		name string
		ok   bool
		make func(inner *wire.Envelope) *wire.Envelope
	}{
		{"as it should be", true, func(e *wire.Envelope) *wire.Envelope { return sealedBy(t, bob.identity, good, alice, e) }},
		{"with its sender's name on it", true, func(e *wire.Envelope) *wire.Envelope {
			e = sealedBy(t, bob.identity, good, alice, e)
			e.Sender, e.SenderDevice = bob.account.Account[:], firstDevice
			return e
		}},
		{"with another's name on it", false, func(e *wire.Envelope) *wire.Envelope {
			e = sealedBy(t, bob.identity, good, alice, e)
			e.Sender, e.SenderDevice = mallory.account.Account[:], firstDevice
			return e
		}},
		{"from another device of its sender", false, func(e *wire.Envelope) *wire.Envelope {
			e = sealedBy(t, bob.identity, good, alice, e)
			e.Sender, e.SenderDevice = bob.account.Account[:], 2
			return e
		}},
		{"certified by another root", false, func(e *wire.Envelope) *wire.Envelope {
			return sealedBy(t, bob.identity, issue(t, otherIssuer, bob, tomorrow), alice, e)
		}},
		{"expired", false, func(e *wire.Envelope) *wire.Envelope {
			return sealedBy(t, bob.identity, issue(t, issuer, bob, now.Add(-time.Hour)), alice, e)
		}},
		{"expired while it waited at the server", true, func(e *wire.Envelope) *wire.Envelope {
			e = sealedBy(t, bob.identity, issue(t, issuer, bob, now.Add(-9*24*time.Hour)), alice, e)
			e.AcceptedAt = timestamp(now.Add(-10 * 24 * time.Hour))
			return e
		}},
		{"older than the server keeps anything", false, func(e *wire.Envelope) *wire.Envelope {
			e = sealedBy(t, bob.identity, issue(t, issuer, bob, now.Add(-39*24*time.Hour)), alice, e)
			e.AcceptedAt = timestamp(now.Add(-40 * 24 * time.Hour))
			return e
		}},
		{"expired, and accepted before its time", false, func(e *wire.Envelope) *wire.Envelope {
			e = sealedBy(t, bob.identity, issue(t, issuer, bob, now.Add(-time.Hour)), alice, e)
			e.AcceptedAt = 0
			return e
		}},
		{"the server certifies another key for the contact", false, func(e *wire.Envelope) *wire.Envelope {
			key := ratchet.GenerateKeyPair()
			return sealedBy(t, key, certify(t, issuer, bob.Account(), firstDevice, key, tomorrow), alice, e)
		}},
		{"the contact's message under another's certificate", false, func(e *wire.Envelope) *wire.Envelope {
			return sealedBy(t, mallory.identity, issue(t, issuer, mallory, tomorrow), alice, e)
		}},
		{"from oneself", false, func(e *wire.Envelope) *wire.Envelope {
			return sealedBy(t, alice.identity, issue(t, issuer, alice, tomorrow), alice, e)
		}},
		{"sealed twice", false, func(e *wire.Envelope) *wire.Envelope {
			sealed := sealedBy(t, bob.identity, good, alice, e)
			sealed.Ciphertext = append([]byte{0x11}, sealed.Ciphertext...)
			return sealed
		}},
		{"for somebody else", false, func(e *wire.Envelope) *wire.Envelope { return sealedBy(t, bob.identity, good, mallory, e) }},
		{"a type that only a seal proves, without one", false, func(e *wire.Envelope) *wire.Envelope {
			e = proto.CloneOf(e)
			e.Type = sealed.TypePlaintext
			return e
		}},
	} {
		e := test.make(bob.sealed(t, "alice", test.name))
		before := len(alice.inbox.unshown)
		replayed := proto.CloneOf(e)
		replayed.Id = randomBytes(16)
		for _, e := range []*wire.Envelope{e, e, replayed} {
			if err := alice.take(t.Context(), e); err != nil {
				t.Fatalf("%s: %v", test.name, err)
			}
		}
		want := 0
		if test.ok {
			want = 1
		}
		if n := len(alice.inbox.unshown) - before; n != want {
			t.Errorf("%s: shown %d times, want %d", test.name, n, want)
		}
		for len(alice.Events()) > 0 {
			if e, ok := (<-alice.Events()).(Undecryptable); ok && !test.ok { // the repetition looks like a session that went back
				t.Errorf("%s: %T", test.name, e)
			}
		}
	}
	if p, err := alice.Contact("bob"); err != nil || p.Changed || len(alice.Contacts()) != 1 {
		t.Errorf("contacts are %+v", alice.Contacts())
	}
}

// Before the server has said what certificates go back to, sealed envelopes are left with it.
func TestSealedBeforeTheRootIsKnown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	alice.reopen(t, w)
	bob.reopen(t, w)
	root, issuer := testIssuer(t)
	if err := alice.changeSealing(func(s *sealing) { s.Root = nil }); err != nil {
		t.Fatal(err)
	}
	e := sealedBy(t, bob.identity, issue(t, issuer, bob, time.Now().Add(time.Hour)), alice, bob.sealed(t, "alice", "hello"))
	if err := alice.take(t.Context(), e); err != errNoRoot {
		t.Fatal(err)
	}
	if err := alice.changeSealing(func(s *sealing) { s.Root = root[:] }); err != nil {
		t.Fatal(err)
	}
	if err := alice.take(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	if n := len(alice.inbox.unshown); n != 1 {
		t.Errorf("%d messages", n)
	}
}

// Whatever a contact, or who has their certificate, seals: it is dropped without harm.
func FuzzSealedEnvelope(f *testing.F) {
	c := fuzzedClient(f)
	root, issuer := testIssuer(f)
	c.sealing.Root = root[:]
	key := ratchet.GenerateKeyPair()
	known := &contact{Account: uuid.New(), Identity: key.Public().Bytes(), Token: newToken()}
	c.contacts[known.Account] = known
	alice := &person{Client: c}
	tomorrow := time.Now().Add(24 * time.Hour)
	certificates := map[bool]*sealedwire.SenderCertificate{
		false: certify(f, issuer, known.Account, firstDevice, key, tomorrow), true: certify(f, issuer, uuid.New(), firstDevice, key, tomorrow),
	}
	f.Add(true, uint32(3), []byte{0x44, 8, 1})
	f.Add(false, uint32(2), []byte{0x44})
	f.Add(false, uint32(8), []byte{0xc0, 0x42, 0, 0x80})
	f.Fuzz(func(t *testing.T, stranger bool, kind uint32, message []byte) {
		if kind != ratchet.TypeMessage && kind != ratchet.TypePreKeyMessage && kind != 7 {
			kind = sealed.TypePlaintext
		}
		e := sealedBy(t, key, certificates[stranger], alice, &wire.Envelope{
			Id: randomBytes(16), Recipient: c.account.Account[:], RecipientDevice: firstDevice, Type: kind, Ciphertext: message,
		})
		if err := c.take(t.Context(), e); err != nil {
			t.Error(err)
		}
		if len(c.contacts) != 1 || len(c.inbox.unshown) != 0 || c.contacts[known.Account].Appeared != nil {
			t.Error("something came of it")
		}
	})
}
