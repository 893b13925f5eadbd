package client

import (
	"errors"
	"strings"
	"testing"

	"sotto/e2ee/ratchet"
	"sotto/e2ee/safety"
)

func (p *person) shows(t *testing.T, to string) []byte {
	t.Helper()
	code, err := p.SafetyCode(to)
	if err != nil {
		t.Fatal(err)
	}
	return code
}

func (p *person) verified(t *testing.T, of string) bool {
	t.Helper()
	contact, err := p.Contact(of)
	if err != nil {
		t.Fatal(err)
	}
	return contact.Verified
}

// Two people compare, one by a code and one by digits; it is remembered, and of nobody else.
func TestVerify(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob, carol := w.online("alice"), w.online("bob"), w.online("carol")
	for _, add := range []struct {
		who  *person
		whom string
	}{{alice, "bob"}, {alice, "carol"}, {bob, "alice"}, {bob, "carol"}, {carol, "alice"}} {
		if _, err := add.who.AddContact(patience(t), add.whom); err != nil {
			t.Fatal(err)
		}
	}
	version1 := bob.shows(t, "alice")
	version1[1] = 1
	for _, test := range []struct {
		name    string
		scanned []byte
		want    error
		says    string
	}{
		{"what alice shows bob", alice.shows(t, "bob"), safety.ErrOthers, "your own device"},
		{"what alice shows carol", alice.shows(t, "carol"), safety.ErrOthers, "your own device"},
		{"what carol shows alice", carol.shows(t, "alice"), safety.ErrOthers, "carol"},
		{"what bob shows carol", bob.shows(t, "carol"), safety.ErrMismatch, "what their device shows for you"},
		{"version 1", version1, safety.ErrVersion, "60 digits"},
		{"no code", []byte("https://example.org"), safety.ErrMalformed, ""},
	} {
		if err := alice.VerifyCode(patience(t), "bob", test.scanned); !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	if err := alice.VerifyNumber(patience(t), "bob", carol.number(t, "alice")); !errors.Is(err, safety.ErrOthers) {
		t.Errorf("carol's number: %v", err)
	}
	for _, digits := range []string{"", strings.Repeat("0", 60), bob.number(t, "alice")[:70]} {
		if err := alice.VerifyNumber(patience(t), "bob", digits); !errors.Is(err, safety.ErrMismatch) {
			t.Errorf("%q: %v", digits, err)
		}
	}
	if alice.verified(t, "bob") || alice.verified(t, "carol") {
		t.Fatal("somebody is verified already")
	}

	if err := alice.VerifyCode(patience(t), "bob", bob.shows(t, "alice")); err != nil {
		t.Fatal(err)
	}
	if err := bob.VerifyNumber(patience(t), "alice", strings.ReplaceAll(alice.number(t, "bob"), " ", "")); err != nil {
		t.Fatal(err)
	}
	alice.reopen(t, w)
	if !alice.verified(t, "bob") || !bob.verified(t, "alice") || alice.verified(t, "carol") {
		t.Errorf("bob %v, alice %v, carol %v", alice.verified(t, "bob"), bob.verified(t, "alice"), alice.verified(t, "carol"))
	}
	if err := alice.VerifyCode(patience(t), "dave", nil); err == nil || !strings.Contains(err.Error(), "add them first") {
		t.Errorf("nobody's: %v", err)
	}
}

// Somebody in the middle shows each of two people another key: whatever they compare, it does not match.
func TestVerifyFindsTheMiddle(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := anotherBob(t, w)
	bob.mu.Lock()
	_, err := bob.changeContact(&contact{Username: "alice", Account: alice.Account(), Accepted: true}, func(p *contact) {
		p.Identity = ratchet.GenerateKeyPair().Public().Bytes()
	}, nil)
	bob.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if err := alice.VerifyCode(patience(t), "bob", bob.shows(t, "alice")); !errors.Is(err, safety.ErrMismatch) {
		t.Error("by code:", err)
	}
	if err := alice.VerifyNumber(patience(t), "bob", bob.number(t, "alice")); !errors.Is(err, safety.ErrMismatch) {
		t.Error("by digits:", err)
	}
	if alice.verified(t, "bob") {
		t.Error("bob is verified")
	}
}

// The mark goes when another key appears. Accepting that key does not bring it back; comparing does, and accepts it as well.
func TestVerifiedIsForOneKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := anotherBob(t, w)
	alice.verifyPinned(t)
	bob.send(t, "alice", "my new key")
	eventually(t, "bob's key appears", func() bool { p, _ := alice.Contact("bob"); return p.Changed })
	if alice.verified(t, "bob") {
		t.Error("verified, although another key appeared")
	}
	if err := alice.VerifyCode(patience(t), "bob", bob.shows(t, "alice")); err != nil {
		t.Fatal(err)
	}
	alice.hears(t, "my new key")
	if p, err := alice.Contact("bob"); err != nil || p.Changed || !p.Verified {
		t.Errorf("after comparing: %+v, %v", p, err)
	}
	alice.send(t, "bob", "I see")
	bob.hears(t, "I see")
}

func TestAcceptedIsNotVerified(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := anotherBob(t, w)
	alice.verifyPinned(t)
	bob.send(t, "alice", "my new key")
	eventually(t, "bob's key appears", func() bool { p, _ := alice.Contact("bob"); return p.Changed })
	if err := alice.AcceptIdentity(patience(t), "bob", alice.number(t, "bob")); err != nil {
		t.Fatal(err)
	}
	alice.hears(t, "my new key")
	if alice.verified(t, "bob") {
		t.Error("an accepted key counts as verified")
	}
}

// verifyPinned verifies the key that anotherBob has pinned, whose device would show this number.
func (p *person) verifyPinned(t *testing.T) {
	t.Helper()
	if err := p.VerifyNumber(patience(t), "bob", p.number(t, "bob")); err != nil {
		t.Fatal(err)
	}
	if !p.verified(t, "bob") {
		t.Fatal("bob is not verified")
	}
}

// A server that makes a key of its own appear for a contact does not leave the user with the choice between that and none: comparing with
// the contact's device shows that the pinned key is right.
func TestForgedKeyIsForgotten(t *testing.T) {
	t.Parallel()
	for name, verify := range map[string]func(alice, bob *person) error{
		"by digits": func(alice, bob *person) error {
			return alice.VerifyNumber(patience(t), "bob", bob.number(t, "alice"))
		},
		"by code": func(alice, bob *person) error {
			return alice.VerifyCode(patience(t), "bob", bob.shows(t, "alice"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			alice, bob := friends(t, w)
			alice.gets(t, bob.forged(t, alice, ratchet.GenerateKeyPair(), "I am bob, really"))
			var changed *IdentityChangedError
			if _, err := alice.Send(t.Context(), "bob", "are you?"); !errors.As(err, &changed) {
				t.Fatal(err)
			}
			if err := alice.VerifyNumber(patience(t), "bob", strings.Repeat("0", 60)); !errors.Is(err, safety.ErrMismatch) {
				t.Error("another number:", err)
			}
			if err := verify(alice, bob); err != nil {
				t.Fatal(err)
			}
			if p, err := alice.Contact("bob"); err != nil || p.Changed || !p.Verified {
				t.Errorf("after comparing: %+v, %v", p, err)
			}
			if n := len(alice.store.list(recordHeld)); n != 0 {
				t.Errorf("%d envelopes are still held back", n)
			}
			alice.send(t, "bob", "it is you")
			bob.hears(t, "it is you")
		})
	}
}
