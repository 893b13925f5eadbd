package client

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"sotto/e2ee/ratchet"
	"sotto/e2ee/sealed"
	"sotto/sealedwire"
	"sotto/wire"
)

// Whatever comes instead of a contact's own request, once, changes nothing.
func TestForgedRetryRequests(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	mallory := w.online("mallory")
	alice, bob := broken(t, w)
	alice.start(t)
	alice.send(t, "mallory", "hello") // an accepted contact of alice's, with a certificate of the same server
	mallory.hears(t, "hello")
	mallory.send(t, "alice", "hello")
	alice.hears(t, "hello")
	alice.reopen(t, w)
	mallory.reopen(t, w)

	request, id := asked(t, alice, bob, "secret")
	inner := alice.unsealed(t, request)
	named, err := ratchet.ParseDecryptionError(inner.Ciphertext)
	if err != nil {
		t.Fatal(err)
	}
	own := func(change func(*ratchet.DecryptionError)) []byte {
		e := *named
		change(&e)
		return e.PlaintextContent()
	}
	bobs := func(content []byte) *wire.Envelope {
		return sealedBy(t, bob.identity, bob.sealing.certificate, alice, &wire.Envelope{
			Id: randomBytes(16), Recipient: inner.Recipient, RecipientDevice: firstDevice, Type: sealed.TypePlaintext, Ciphertext: content,
		})
	}
	sealedAgain := func(key *ratchet.KeyPair, certificate *sealedwire.SenderCertificate) *wire.Envelope {
		e := proto.CloneOf(inner)
		e.Id = randomBytes(16)
		return sealedBy(t, key, certificate, alice, e)
	}
	_, otherServer := testIssuer(t)
	otherKey := ratchet.GenerateKeyPair()
	tomorrow := time.Now().Add(24 * time.Hour)
	altered := proto.CloneOf(request)
	altered.Ciphertext[len(altered.Ciphertext)/2] ^= 1
	unsealed := proto.CloneOf(inner)
	unsealed.Sender, unsealed.SenderDevice = bob.account.Account[:], firstDevice

	ignored := func(name string, e *wire.Envelope) {
		t.Helper()
		before := alice.records(t)
		if err := alice.take(t.Context(), e); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if after := alice.records(t); !bytes.Equal(before, after) {
			t.Errorf("%s: something was done", name)
		}
	}
	for name, e := range map[string]*wire.Envelope{
		"not sealed":                    unsealed,
		"altered":                       altered,
		"of another contact":            sealedAgain(mallory.identity, mallory.sealing.certificate),
		"certified by another server":   sealedAgain(bob.identity, issue(t, otherServer, bob, tomorrow)),
		"another key, another server":   sealedAgain(otherKey, certify(t, otherServer, bob.Account(), firstDevice, otherKey, tomorrow)),
		"for another device":            bobs(own(func(e *ratchet.DecryptionError) { e.Device = 2 })),
		"another key, another message":  bobs(own(func(e *ratchet.DecryptionError) { e.RatchetKey, e.Timestamp = bob.identity.Public(), 1 })),
		"no key and another message":    bobs(own(func(e *ratchet.DecryptionError) { e.RatchetKey, e.Timestamp = ratchet.PublicKey{}, 1 })),
		"malformed":                     bobs(inner.Ciphertext[1:]),
		"of a later version":            bobs(append(slices.Clone(inner.Ciphertext), 0)),
		"nothing":                       bobs(nil),
		"of a session's own encryption": bobs([]byte{0x44}),
	} {
		ignored(name, e)
	}

	// The server certifies what it likes: whose key has not listed the device asks in vain.
	root, issuer := testIssuer(t)
	trust := func(root []byte) {
		t.Helper()
		if err := alice.changeSealing(func(s *sealing) { s.Root = root }); err != nil {
			t.Fatal(err)
		}
	}
	trusted := alice.sealing.Root
	trust(root[:])
	for name, certificate := range map[string]*sealedwire.SenderCertificate{
		"another key":       certify(t, issuer, bob.Account(), firstDevice, otherKey, tomorrow),
		"another device":    certify(t, issuer, bob.Account(), 2, otherKey, tomorrow),
		"somebody's device": certify(t, issuer, mallory.Account(), 2, otherKey, tomorrow),
	} {
		ignored("certified by the server: "+name, sealedAgain(otherKey, certificate))
	}
	trust(trusted)
	if len(alice.retries.mending) > 0 {
		t.Error("something is to be sent anew")
	}
	for alice.retries.reset.spend(bob.first(), time.Now()) {
	}
	ignored("a session too many in an hour", request)
	delete(alice.retries.reset, bob.first())

	// The request itself, and then the same again and again: under its id, under another, and after alice has sent anew.
	again := proto.CloneOf(request)
	again.Id = randomBytes(16)
	take := func(e *wire.Envelope) {
		t.Helper()
		if err := alice.take(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	take(request)
	if len(alice.store.list(recordMending)) != 1 {
		t.Fatal("the request was not taken")
	}
	ignored("the same again", request)
	ignored("the same under another id", again)
	alice.start(t)
	if r := expect[SessionReset](t, alice); r.Resent != 1 {
		t.Errorf("%+v", r)
	}
	session := alice.sessionWith(t, bob)
	for _, e := range []*wire.Envelope{request, again} {
		e.AcceptedAt -= uint64((7 * 24 * time.Hour).Milliseconds()) // a server may say so, or bring it as late
		take(e)
	}
	if !bytes.Equal(session, alice.sessionWith(t, bob)) || len(alice.store.list(recordMending)) > 0 {
		t.Error("a request that came again did something")
	}
	bob.start(t)
	if m := bob.hears(t, "secret"); m.ID != id {
		t.Error("another id")
	}
	talk(t, alice, bob)
	quiet[SessionReset](t, alice)
}

// records is everything a person has stored.
func (p *person) records(t testing.TB) []byte {
	t.Helper()
	var all []byte
	for _, name := range p.store.list("") {
		value, err := p.store.get(name)
		if err != nil {
			t.Fatal(err)
		}
		all = fmt.Appendf(all, "%s %x\n", name, value)
	}
	return all
}

// Nobody but accepted contacts is asked: a request tells that this device is there.
func TestStrangersAreNotAsked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := spied(t, w)
	alice, bob := w.online("alice"), w.online("bob")
	alice.send(t, "bob", "one")
	bob.hears(t, "one")
	alice.reopen(t, w)
	bob.reopen(t, w)
	if _, err := alice.Send(t.Context(), "bob", "two"); err != nil {
		t.Fatal(err)
	}
	e := alice.leaves(t, bob)
	before := bob.sessionWith(t, alice)
	inner := bob.unsealed(t, e)
	inner.Ciphertext[len(inner.Ciphertext)-1] ^= 1
	s.forget()
	if err := bob.take(t.Context(), sealedBy(t, alice.identity, alice.sealing.certificate, bob, inner)); err != nil {
		t.Fatal(err)
	}
	if u := expect[Undecryptable](t, bob); u.Asked {
		t.Error("a stranger was asked")
	}
	if len(bob.outbox.entries) != 0 || !bytes.Equal(before, bob.sessionWith(t, alice)) {
		t.Error("a stranger's envelope left something behind")
	}
}

// A server that makes up envelopes in a contact's name causes a few requests, which change nothing at the contact's end.
func TestGarbageInAContactsName(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	talk(t, alice, bob)
	settled(t, alice, bob)
	alice.reopen(t, w)
	bob.reopen(t, w)
	if _, err := alice.Send(t.Context(), "bob", "true"); err != nil {
		t.Fatal(err)
	}
	good := bob.unsealed(t, alice.leaves(t, bob))
	var requests []*wire.Envelope
	for i := range 5 * maxRetries {
		e := proto.CloneOf(good)
		e.Id = randomBytes(16)
		e.Ciphertext[5]++ // in the ratchet key
		e.Ciphertext[6] = byte(i)
		if err := bob.take(t.Context(), e); err != nil {
			t.Fatal(err)
		}
		if u := expect[Undecryptable](t, bob); u.Asked {
			requests = append(requests, bob.leaves(t, alice))
		}
		if err := bob.take(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	if len(requests) != maxRetries {
		t.Errorf("%d requests", len(requests))
	}
	before := alice.records(t)
	for _, e := range requests {
		if err := alice.take(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(before, alice.records(t)) {
		t.Error("garbage had alice do something")
	}
	if err := bob.take(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	bob.start(t)
	bob.hears(t, "true")
}

// A first message under another key than the contact's is not theirs, and nobody is asked for it.
func TestFirstMessagesOfOthersAreNotAskedFor(t *testing.T) {
	t.Parallel()
	alice, bob := apart(t)
	reader, signed := ratchet.GenerateKeyPair(), ratchet.GenerateKeyPair() // whom bob cannot be
	kyber, public := ratchet.GenerateKyberKeyPair(), signed.Public()
	bundle := &ratchet.Bundle{
		RegistrationID: ratchet.RegistrationID(reader.Public()), Identity: reader.Public(),
		SignedID: 1, SignedKey: public, SignedSignature: reader.Sign(public.Bytes()),
		KyberID: 1, KyberKey: kyber.Public(), KyberSignature: reader.Sign(kyber.Public()),
	}
	for name, key := range map[string]*ratchet.KeyPair{
		"another": ratchet.GenerateKeyPair(), "alice's": alice.identity,
	} {
		local := ratchet.Local{Identity: key, Address: alice.first()}
		remote := ratchet.Remote{Address: bob.first(), Identity: reader.Public()}
		r := new(ratchet.Record)
		if err := r.Initiate(local, remote, bundle, time.Now()); err != nil {
			t.Fatal(err)
		}
		m, err := r.Encrypt(local, remote, []byte("hello"), time.Now())
		if err != nil {
			t.Fatal(err)
		}
		e := &wire.Envelope{Id: randomBytes(16), Type: m.Type, Ciphertext: m.Bytes}
		asked, err := bob.ask(bob.knownAs(alice), firstDevice, e)
		if err != nil || asked != (key == alice.identity) {
			t.Errorf("under %s key: asked %t, %v", name, asked, err)
		}
	}
}
