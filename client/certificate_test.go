package client

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"sotto/e2ee/ratchet"
	"sotto/sealedwire"
	"sotto/wire"
)

// A certificate is taken only if it is this device's own, and as long as everybody's: by any other
// the server could tell whose the sealed messages are.
func TestCertificatesThatAreNotTaken(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	s := spied(t, w)
	alice, bob := w.online("alice"), w.online("bob")
	root, server := sealedwire.GeneratePrivateKey(), sealedwire.GeneratePrivateKey()
	under := func(root *sealedwire.PrivateKey, id uint32) *sealedwire.Issuer {
		i, err := sealedwire.NewIssuer(server, root.Certify(id, server.Public()))
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	issuer := func(id uint32) *sealedwire.Issuer { return under(root, id) }
	elsewhere := under(sealedwire.GeneratePrivateKey(), 1)
	another := ratchet.GenerateKeyPair()
	end, over := time.Now().Add(time.Hour), time.Now().Add(-time.Hour)
	id := alice.Account()
	trusted := root.Public()
	for name, test := range map[string]struct {
		certificate *sealedwire.SenderCertificate
		taken       bool
	}{
		"its own":           {certify(t, issuer(1), id, 1, alice.identity, end), true},
		"another account's": {certify(t, issuer(1), bob.Account(), 1, alice.identity, end), false},
		"another device's":  {certify(t, issuer(1), id, 2, alice.identity, end), false},
		"another key's":     {certify(t, issuer(1), id, 1, another, end), false},
		"a longer one":      {certify(t, issuer(1<<7), id, 1, alice.identity, end), false},
		"another root's":    {certify(t, elsewhere, id, 1, alice.identity, end), false},
		"one that is over":  {certify(t, issuer(1), id, 1, alice.identity, over), false},
	} {
		s.do(func() {
			s.alter = func(f *wire.ServerFrame) *wire.ServerFrame {
				if got := f.GetSenderCertificate(); got != nil {
					got.TrustRoot, got.Certificate = trusted[:], test.certificate.Bytes()
				}
				return f
			}
		})
		l, err := alice.link.wait(patience(t))
		if err != nil {
			t.Fatal(err)
		}
		alice.mu.Lock()
		alice.sealing.Root = nil
		alice.mu.Unlock()
		if err := alice.certify(patience(t), l); (err == nil) != test.taken {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// The key that certificates go back to is the one of the first link. A server with another one is
// told of; nothing is sealed, and what others seal waits until it is accepted.
func TestServerKeyIsPinned(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	for _, p := range []*person{alice, bob} {
		if err := p.Close(); err != nil {
			t.Fatal(err)
		}
	}
	w.stop()
	if err := os.Remove(filepath.Join(w.config.DataDir, "certificates")); err != nil {
		t.Fatal(err)
	}
	w.start()

	bob.reopen(t, w)
	bob.start(t)
	expect[ServerKeyChanged](t, bob)
	if err := bob.AcceptServerKey(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "bob has a certificate", func() bool {
		bob.mu.Lock()
		defer bob.mu.Unlock()
		return bob.sealing.certificate != nil
	})
	bob.send(t, "alice", "sealed under the new key")

	alice.reopen(t, w)
	alice.start(t)
	expect[ServerKeyChanged](t, alice)
	alice.send(t, "bob", "by name")
	bob.hears(t, "by name")
	quiet[Message](t, alice)
	if err := alice.AcceptServerKey(); err != nil {
		t.Fatal(err)
	}
	alice.hears(t, "sealed under the new key")
}
