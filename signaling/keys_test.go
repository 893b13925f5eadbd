package signaling

import (
	"encoding/hex"
	"fmt"
	"sync"
	"testing"
	"time"

	"sotto/e2ee/xeddsa"
	"sotto/turncred"
	"sotto/wire"
)

func (d *testDevice) fetch(account []byte, device uint32) ([]*wire.Bundle, error) {
	f, err := d.ask(&wire.ClientFrame{Body: &wire.ClientFrame_FetchBundles{FetchBundles: &wire.FetchBundles{Account: account, Device: device}}})
	return f.GetBundles().GetBundles(), err
}

func (d *testDevice) upload(k *wire.PreKeys) (*wire.KeyCounts, error) {
	f, err := d.ask(&wire.ClientFrame{Body: &wire.ClientFrame_UploadPreKeys{UploadPreKeys: k}})
	return f.GetKeyCounts(), err
}

// TestBundlesOverTheLink: eight devices ask at once, and every one-time key goes to one of them.
func TestBundlesOverTheLink(t *testing.T) {
	s := serve(t, func(c *Config, _ *timing) { c.Limits.PairFetches = Rate{100, time.Hour} })
	bob := s.connected(t, "bob")
	counts, err := bob.upload(bob.preKeys(30))
	if err != nil || counts.OneTime != 32 || counts.OneTimeKyber != 32 {
		t.Fatal(counts, err)
	}
	var mu sync.Mutex
	seen := map[string]int{}
	lastResort := 0
	var all sync.WaitGroup
	for i := range 8 {
		asker := s.connected(t, fmt.Sprint("asker", i))
		all.Go(func() {
			for n := range 6 {
				bundles, err := asker.fetch(bob.account, uint32(n%2))
				if err != nil || len(bundles) != 1 {
					t.Error(bundles, err)
					return
				}
				b := bundles[0]
				public := [32]byte(b.IdentityKey[1:])
				if !xeddsa.Verify(&public, b.SignedPreKey.PublicKey, b.SignedPreKey.Signature) || !xeddsa.Verify(&public, b.Kyber.PublicKey, b.Kyber.Signature) {
					t.Error("a signature does not fit")
				}
				mu.Lock()
				if b.OneTime != nil {
					seen["curve "+string(b.OneTime.PublicKey)]++
				}
				if b.LastResort {
					lastResort++
				} else {
					seen["kyber "+string(b.Kyber.PublicKey)]++
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if len(seen) != 64 || lastResort != 8*6-32 {
		t.Errorf("%d different keys, want 64; last resort %d times, want %d", len(seen), lastResort, 8*6-32)
	}
	for _, n := range seen {
		if n != 1 {
			t.Errorf("a one-time key was handed out %d times", n)
		}
	}
	if counts, err = bob.upload(&wire.PreKeys{}); err != nil || counts.OneTime != 0 || counts.OneTimeKyber != 0 {
		t.Error(counts, err)
	}
}

func TestUploadIsChecked(t *testing.T) {
	s := serve(t)
	alice, bob := s.connected(t, "alice"), s.connected(t, "bob")
	if _, err := alice.upload(bob.preKeys(1)); code(err) != wire.Error_BAD_REQUEST {
		t.Errorf("keys signed by another identity: %v", err)
	}
	for name, change := range map[string]func(*wire.PreKeys){
		"a one-time key without id":        func(k *wire.PreKeys) { k.OneTime[0].Id = 0 },
		"a one-time key that is none":      func(k *wire.PreKeys) { k.OneTime[0].PublicKey = []byte{5} },
		"a Kyber key without id":           func(k *wire.PreKeys) { k.OneTimeKyber[0].Id = 0 },
		"a Kyber key with the last's id":   func(k *wire.PreKeys) { k.LastResortKyber.Id = k.OneTimeKyber[0].Id },
		"a Kyber key that nobody signed":   func(k *wire.PreKeys) { k.OneTimeKyber[0].Signature = nil },
		"a signed key that nobody signed":  func(k *wire.PreKeys) { k.SignedPreKey.Signature = nil },
		"a last resort that nobody signed": func(k *wire.PreKeys) { k.LastResortKyber.Signature = nil },
	} {
		keys := alice.preKeys(1)
		change(keys)
		if _, err := alice.upload(keys); code(err) != wire.Error_BAD_REQUEST {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := alice.upload(alice.preKeys(1)); err != nil {
		t.Errorf("keys as they should be: %v", err)
	}
	if _, err := alice.fetch(randomBytes(16), 0); code(err) != wire.Error_NOT_FOUND {
		t.Errorf("bundles of nobody: %v", err)
	}
	if _, err := alice.fetch(bob.account, 2); code(err) != wire.Error_NOT_FOUND {
		t.Errorf("a bundle of no device: %v", err)
	}
}

// TestRequestsAreLimited: what costs the server work, or others their keys, an account has so often
// and no more.
func TestRequestsAreLimited(t *testing.T) {
	twice := Rate{2, time.Hour}
	s := serve(t, func(c *Config, _ *timing) {
		c.Relay = &RelayConfig{
			URLs:   []string{"turn:127.0.0.1:3478?transport=udp"},
			Secret: []byte("0123456789abcdef0123456789abcdef"), TTL: time.Hour,
		}
		c.Limits.Uploads, c.Limits.BundleFetches, c.Limits.Relays = twice, twice, twice
	})
	mallory, bob := s.connected(t, "mallory"), s.connected(t, "bob")
	relay := &wire.ClientFrame_GetRelay{GetRelay: &wire.GetRelayCredentials{}}
	for name, ask := range map[string]func(*testDevice) error{
		"uploads": func(d *testDevice) error { _, err := d.upload(d.preKeys(1)); return err },
		"bundles": func(d *testDevice) error {
			other := s.register(t, "u"+hex.EncodeToString(randomBytes(4)))
			_, err := d.fetch(other.account, 1)
			return err
		},
		"relays": func(d *testDevice) error { _, err := d.ask(&wire.ClientFrame{Body: relay}); return err },
	} {
		for n := range 4 {
			if err := ask(mallory); n < 2 && err != nil || n >= 2 && code(err) != wire.Error_RATE_LIMITED {
				t.Errorf("%s, the %d. time: %v", name, n+1, err)
			}
		}
		if err := ask(bob); err != nil {
			t.Errorf("%s, somebody else: %v", name, err)
		}
	}
}

// TestNobodyDrainsPreKeys: one account gets few bundles of another, and others still get theirs.
func TestNobodyDrainsPreKeys(t *testing.T) {
	s := serve(t, func(c *Config, _ *timing) { c.Limits.PairFetches = Rate{3, time.Hour} })
	mallory, alice, bob := s.connected(t, "mallory"), s.connected(t, "alice"), s.connected(t, "bob")
	for n := range 10 {
		_, err := mallory.fetch(bob.account, 0)
		if n < 3 && err != nil || n >= 3 && code(err) != wire.Error_RATE_LIMITED {
			t.Errorf("fetch %d: %v", n, err)
		}
	}
	if _, err := alice.fetch(bob.account, 0); err != nil {
		t.Error(err)
	}
}

// TestOneNightOfFetching: with the default limits one account that asks as often as it may leaves most of the keys of another.
func TestOneNightOfFetching(t *testing.T) {
	s := serve(t)
	mallory, bob := s.connected(t, "mallory"), s.connected(t, "bob")
	if _, err := bob.upload(bob.preKeys(90)); err != nil {
		t.Fatal(err)
	}
	fetched := 0
	for range 12 * 6 { // every ten minutes
		for {
			_, err := mallory.fetch(bob.account, 1)
			if code(err) == wire.Error_RATE_LIMITED {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			fetched++
		}
		s.later(10 * time.Minute)
	}
	if fetched < 20 || fetched > 20+24 {
		t.Errorf("%d bundles in twelve hours", fetched)
	}
}

func TestLookUp(t *testing.T) {
	s := serve(t, func(c *Config, _ *timing) { c.Limits.LookUps = Rate{4, time.Hour} })
	alice, bob := s.connected(t, "alice"), s.register(t, "bob")
	ask := func(name string) (*wire.Account, error) {
		f, err := alice.ask(&wire.ClientFrame{Body: &wire.ClientFrame_LookUp{LookUp: &wire.LookUp{Username: name}}})
		return f.GetAccount(), err
	}
	if a, err := ask("bob"); err != nil || string(a.Account) != string(bob.account) || a.Username != "bob" {
		t.Error(a, err)
	}
	_, nobody := ask("nobody")
	_, invalid := ask("No Name!")
	if code(nobody) != wire.Error_NOT_FOUND || nobody.Error() != invalid.Error() {
		t.Errorf("nobody: %v; invalid: %v", nobody, invalid)
	}
	ask("bob")
	if _, err := ask("bob"); code(err) != wire.Error_RATE_LIMITED {
		t.Errorf("after the limit: %v", err)
	}
}

func TestRelayCredentials(t *testing.T) {
	secret := []byte("0123456789abcdef0123456789abcdef")
	s := serve(t, func(c *Config, _ *timing) {
		c.Relay = &RelayConfig{URLs: []string{"turn:127.0.0.1:3478?transport=udp"}, Secret: secret, TTL: time.Hour}
	})
	ask := func(d *testDevice) *wire.RelayCredentials {
		t.Helper()
		f, err := d.ask(&wire.ClientFrame{Body: &wire.ClientFrame_GetRelay{GetRelay: &wire.GetRelayCredentials{}}})
		if err != nil {
			t.Fatal(err)
		}
		return f.GetRelayCredentials()
	}
	alice, bob := s.connected(t, "alice"), s.connected(t, "bob")
	c := ask(alice)
	id, expires, err := turncred.Check([][]byte{secret}, c.Username, c.Password, time.Now())
	if err != nil || len(c.Urls) != 1 {
		t.Fatalf("the relay would refuse: %v", err)
	}
	if left := time.Until(expires); left > 10*time.Minute || left < 9*time.Minute {
		t.Errorf("credentials hold for %v", left)
	}
	if again, _, _ := turncred.Check([][]byte{secret}, ask(alice).Username, c.Password, time.Now()); again != "" && again != id {
		t.Error("an account is another to the relay each time")
	}
	if other, _, _ := turncred.Parse(ask(bob).Username); other == id {
		t.Error("two accounts are one to the relay")
	}

	fresh := []byte("the secret that replaces the first one")
	if err := s.SetRelaySecret(fresh); err != nil {
		t.Fatal(err)
	}
	c = ask(alice)
	if _, _, err := turncred.Check([][]byte{fresh}, c.Username, c.Password, time.Now()); err != nil {
		t.Errorf("after the change of the secret: %v", err)
	}
	if s.SetRelaySecret([]byte("short")) == nil {
		t.Error("a short secret was taken")
	}

	if err := s.SetRelayURLs([]string{"turn:127.0.0.2:3478", "turns:127.0.0.2:5349"}); err != nil {
		t.Fatal(err)
	}
	if c = ask(bob); len(c.Urls) != 2 || c.Urls[0] != "turn:127.0.0.2:3478" {
		t.Errorf("after the relay has moved: %q", c.Urls)
	}

	none := serve(t)
	if s.SetRelayURLs(nil) == nil || none.SetRelayURLs(c.Urls) == nil {
		t.Error("no address, or one for no relay, was taken")
	}
	if none.SetRelaySecret(fresh) == nil {
		t.Error("a secret was taken for no relay")
	}
	without := none.connected(t, "alice")
	if _, err := without.ask(&wire.ClientFrame{Body: &wire.ClientFrame_GetRelay{GetRelay: &wire.GetRelayCredentials{}}}); code(err) != wire.Error_NOT_FOUND {
		t.Errorf("without a relay: %v", err)
	}
}
