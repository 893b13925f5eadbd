package turnserver

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/pion/stun/v4"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"sotto/turncred"
)

// testCallOutlivesItsCredential: with the credential expired the allocation is refreshed and opens new peers; nothing new begins with it.
func testCallOutlivesItsCredential(t *testing.T, plane string) {
	c := &clock{}
	s := startRelay(t, plane, func(cfg *Config) { cfg.tune.now = c.now })
	alice, late := newRawClient(t, s, "alice"), newRawClient(t, s, "alice")
	late.username, late.password = alice.username, alice.password
	alice.mustSucceed(stun.MethodAllocate, udpTransport)

	c.advance(turncred.MaxTTL + time.Second)
	alice.mustSucceed(stun.MethodRefresh)
	alice.mustSucceed(stun.MethodCreatePermission, peer("127.0.0.2:9"))
	alice.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peer("127.0.0.2:9"))
	if code := codeOf(late.request(stun.MethodAllocate, udpTransport)); code != 401 {
		t.Errorf("a new allocation with the expired credential: code %d", code)
	}
	if code := codeOf(alice.request(stun.MethodAllocate, udpTransport)); code != 401 {
		t.Errorf("another allocation on the same 5-tuple: code %d", code)
	}
	// The same name with a forged expiry is another username: it proves nothing.
	forger := *alice
	forger.username = "9" + alice.username
	if code := codeOf(forger.request(stun.MethodRefresh)); code != 401 {
		t.Errorf("a forged username: code %d", code)
	}
	// Nor does the right username with a wrong password.
	forger = *alice
	forger.password = "wrong"
	if code := codeOf(forger.request(stun.MethodRefresh)); code != 401 {
		t.Errorf("a wrong password: code %d", code)
	}
	// The client may come with a newer credential of the same id.
	renewed := *alice
	renewed.username, renewed.password = turncred.Mint(testSecret, "alice", time.Minute, c.now())
	renewed.mustSucceed(stun.MethodRefresh)

	c.advance(credentialGrace)
	if code := codeOf(alice.request(stun.MethodRefresh)); code != 401 {
		t.Errorf("a day later: code %d", code)
	}
}

// testPionClientRefreshesAfterExpiry is the same with the client that ICE uses, its own timers and a short allocation.
func testPionClientRefreshesAfterExpiry(t *testing.T, plane string) {
	c := &clock{}
	s := startRelay(t, plane, func(cfg *Config) { cfg.tune.now, cfg.tune.lifetime = c.now, 2*time.Second })
	conn := allocate(t, pionClient(t, s, "alice"))
	c.advance(time.Hour)
	other := listenOn(t, "127.0.0.2")
	exchangeBothWays(t, conn, other.LocalAddr(), other, conn.LocalAddr())
	eventually(t, "three refreshes", func() bool { return testutil.ToFloat64(s.metrics.refreshed) >= 3 }) // 3 s, past the first lifetime
	exchangeBothWays(t, conn, other.LocalAddr(), other, conn.LocalAddr())
}

// testSecretsRotate: both secrets are good while both are configured; a call set up with the old one survives its removal.
func testSecretsRotate(t *testing.T, plane string) {
	fresh := []byte("the secret that replaces it")
	s := startRelay(t, plane, nil)
	withFresh := func() *rawClient {
		c := newRawClient(t, s, "bob")
		c.username, c.password = turncred.Mint(fresh, "bob", time.Minute, time.Now())
		return c
	}
	if code := codeOf(withFresh().request(stun.MethodAllocate, udpTransport)); code != 401 {
		t.Errorf("a secret nobody configured: code %d", code)
	}
	alice, other := newRawClient(t, s, "alice"), listenOn(t, "127.0.0.2")
	alice.mustSucceed(stun.MethodAllocate, udpTransport)
	alice.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(addrPort(other.LocalAddr())))
	passes := func(when string) {
		t.Helper()
		_, _ = alice.conn.Write([]byte{0x40, 0, 0, 4, 'd', 'a', 't', 'a'})
		_ = other.SetReadDeadline(time.Now().Add(3 * time.Second))
		if _, err := other.Read(make([]byte, 100)); err != nil {
			t.Errorf("%s nothing passes: %v", when, err)
		}
	}
	passes("with the old secret")
	if err := s.SetSecrets([][]byte{testSecret, fresh}); err != nil {
		t.Fatal(err)
	}
	passes("with both")
	withFresh().mustSucceed(stun.MethodAllocate, udpTransport)
	newRawClient(t, s, "carol").mustSucceed(stun.MethodAllocate, udpTransport)
	if err := s.SetSecrets([][]byte{fresh}); err != nil {
		t.Fatal(err)
	}
	if code := codeOf(newRawClient(t, s, "carol").request(stun.MethodAllocate, udpTransport)); code != 401 {
		t.Errorf("the retired secret: code %d", code)
	}
	passes("with the new secret")
	alice.mustSucceed(stun.MethodRefresh)
	alice.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(addrPort(other.LocalAddr())))
	passes("once refreshed")
	tooMany := slices.Repeat([][]byte{fresh}, maxSecrets+1)
	for _, bad := range [][][]byte{nil, {[]byte("short")}, tooMany} {
		if s.SetSecrets(bad) == nil {
			t.Errorf("%d secrets are accepted: none, a short one, too many", len(bad))
		}
	}
}

// testFormsOfCredentials: what other minters write: id and expiry in either order, an expiry alone,
// HMAC-SHA256. Who is who for quotas goes by the id in all of them.
func testFormsOfCredentials(t *testing.T, plane string) {
	s := startRelay(t, plane, func(c *Config) {
		c.MaxPerUser = 1
		c.Secrets = append([][]byte{[]byte("another secret, tried first")}, c.Secrets...)
	})
	later, over := s.now().Add(time.Hour).Unix(), s.now().Add(-time.Hour).Unix()
	alice := fmt.Sprintf("%d:alice", later)
	for _, c := range []struct {
		username string
		password func([]byte, string) string
		code     int
	}{
		{alice, turncred.PasswordSHA256, 0},
		{fmt.Sprintf("alice:%d", later), turncred.Password, 486},
		{fmt.Sprintf("bob:%d", later), turncred.Password, 0},
		{fmt.Sprintf("bob:%d", later+1), turncred.PasswordSHA256, 486},
		{fmt.Sprint(later), turncred.Password, 0},
		{fmt.Sprint(later + 1), turncred.PasswordSHA256, 0}, // another user
		{fmt.Sprintf("%d:%d", later, over), turncred.Password, 0},
		{fmt.Sprintf("%d:%d", over, later), turncred.Password, 401},
		{fmt.Sprintf("carol:%d", over), turncred.Password, 401},
		{fmt.Sprint(over), turncred.PasswordSHA256, 401},
		{"carol", turncred.Password, 401},
		{alice, func(secret []byte, _ string) string {
			return turncred.PasswordSHA256(secret, "bob")
		}, 401},
	} {
		client := newRawClient(t, s, "")
		client.username, client.password = c.username, c.password(testSecret, c.username)
		if code := codeOf(client.request(stun.MethodAllocate, udpTransport)); code != c.code {
			t.Errorf("%q: code %d, want %d", c.username, code, c.code)
		}
	}
}

// testQuotas: by user over several addresses, by address over several users, in all; and given back.
func testQuotas(t *testing.T, plane string) {
	for _, c := range []struct {
		name   string
		change func(*Config)
		user   func(i int) string
	}{
		{"of a user", func(c *Config) { c.MaxPerUser = 3 }, func(int) string { return "alice" }},
		{"of an address", func(c *Config) { c.MaxPerAddress = 3 }, func(i int) string { return string(rune('a' + i)) }},
		{"in all", func(c *Config) { c.MaxAllocations = 3 }, func(i int) string { return string(rune('a' + i)) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := startRelay(t, plane, c.change)
			var first *rawClient
			for i := range 3 {
				client := newRawClient(t, s, c.user(i))
				client.mustSucceed(stun.MethodAllocate, udpTransport)
				if first == nil {
					first = client
				}
			}
			fourth := newRawClient(t, s, c.user(3))
			if code := codeOf(fourth.request(stun.MethodAllocate, udpTransport)); code != 486 {
				t.Errorf("the fourth: code %d", code)
			}
			first.mustSucceed(stun.MethodRefresh, lifetime(0))
			fourth.mustSucceed(stun.MethodAllocate, udpTransport)
			// What fails after the quota was granted must not keep it.
			fourth.mustSucceed(stun.MethodRefresh, lifetime(0))
			for range 5 {
				tcp := stun.RawAttribute{Type: stun.AttrRequestedTransport, Value: []byte{6, 0, 0, 0}}
				if code := codeOf(fourth.request(stun.MethodAllocate, tcp)); code != 442 {
					t.Errorf("a TCP allocation: code %d", code)
				}
			}
			fourth.mustSucceed(stun.MethodAllocate, udpTransport)
		})
	}
}

// testEvenPorts: a client may have an even port; a pair of ports, or one that was reserved, is not to be had (RFC 8656 sections 18.6 and 18.9), and
// it may go on without.
func testEvenPorts(t *testing.T, plane string) {
	s := startRelay(t, plane, nil)
	alice := newRawClient(t, s, "alice")
	for name, attr := range map[string]stun.RawAttribute{
		"even port, and next": {Type: stun.AttrEvenPort, Value: []byte{0x80}},
		"reserved port":       {Type: stun.AttrReservationToken, Value: []byte("12345678")},
	} {
		if code := codeOf(alice.request(stun.MethodAllocate, udpTransport, attr)); code != 508 {
			t.Errorf("%s: code %d", name, code)
		}
	}
	for n := range 4 {
		even := stun.RawAttribute{Type: stun.AttrEvenPort, Value: []byte{0}}
		if at := relayedAddr(t, newRawClient(t, s, "alice").mustSucceed(stun.MethodAllocate, udpTransport, even)); at.Port()%2 != 0 {
			t.Errorf("an even port: %d", at.Port())
		}
		s.users.mu.Lock()
		counted := s.users.total
		s.users.mu.Unlock()
		if relays := len(relaysOf(s)); relays != n+1 || counted != n+1 {
			t.Errorf("%d relays, %d allocations are counted", relays, counted)
		}
	}
}
