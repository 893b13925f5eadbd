package turnserver

import (
	"maps"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/stun/v4"

	"sotto/turncred"
)

func keyOf(name, password string) []byte { return turncred.Key(name, defaultRealm, password) }

// testUsers: a lasting name and password are good for an allocation, within the quotas; and once
// they are not any more, that is over too, for client and peer. Others go on.
func testUsers(t *testing.T, plane string) {
	users := map[string][]byte{
		"alice": keyOf("alice", "of alice"), "bob": keyOf("bob", "of bob"),
		"carol": keyOf("carol", "of carol"),
	}
	s := startRelay(t, plane, func(c *Config) { c.Users, c.MaxPerUser = users, 1 })
	client := func(name, password string) *rawClient {
		c := newRawClient(t, s, "")
		c.username, c.password = name, password
		return c
	}
	for _, c := range [][2]string{
		{"alice", "of bob"}, {"alice", ""}, {"Alice", "of alice"}, {"dave", ""},
		{"\x00alice", "of alice"},
	} {
		if code := codeOf(client(c[0], c[1]).request(stun.MethodAllocate, udpTransport)); code != 401 {
			t.Errorf("%q with %q: code %d", c[0], c[1], code)
		}
	}
	const short, long = 300 * time.Millisecond, 30 * time.Second
	other := listenOn(t, "127.0.0.2")
	at := addrPort(other.LocalAddr())
	passes := func(c *rawClient, within time.Duration) bool {
		_, _ = c.conn.Write([]byte("\x40\x00\x00\x04data"))
		_ = other.SetReadDeadline(time.Now().Add(within))
		_, err := other.Read(make([]byte, 100))
		return err == nil
	}
	clients := make(map[string]*rawClient)
	for name := range users {
		clients[name] = client(name, "of "+name)
		clients[name].mustSucceed(stun.MethodAllocate, udpTransport)
		clients[name].mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(at))
		if !passes(clients[name], long) {
			t.Errorf("nothing of %s passes", name)
		}
	}
	second := client("alice", "of alice")
	if code := codeOf(second.request(stun.MethodAllocate, udpTransport)); code != 486 {
		t.Errorf("a second allocation: code %d", code)
	}
	minted := newRawClient(t, s, "alice") // by somebody else, for an alice of his
	minted.mustSucceed(stun.MethodAllocate, udpTransport)

	users = maps.Clone(users)
	delete(users, "alice")
	users["bob"] = keyOf("bob", "another")
	cfg := s.cfg
	cfg.Users = users
	if err := s.Reload(cfg); err != nil {
		t.Fatal(err)
	}
	eventually(t, "two allocations are left", func() bool { return len(relaysOf(s)) == 2 })
	for _, name := range []string{"alice", "bob"} { // they hear nothing of it
		binding := stun.MustBuild(stun.TransactionID, stun.BindingRequest)
		if _, err := clients[name].conn.Write(binding.Raw); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 1000)
		_ = clients[name].conn.SetReadDeadline(time.Now().Add(long))
		n, err := clients[name].conn.Read(buf)
		answer := &stun.Message{Raw: buf[:n]}
		if err != nil || answer.Decode() != nil || answer.TransactionID != binding.TransactionID {
			t.Errorf("%s is told % x", name, answer.Raw)
		}
	}
	if passes(clients["alice"], short) || passes(clients["bob"], short) || !passes(clients["carol"], long) {
		t.Error("who is no user any more passes, or who is one does not")
	}
	for _, name := range []string{"alice", "bob"} {
		if code := codeOf(clients[name].request(stun.MethodRefresh)); code != 401 {
			t.Errorf("%s refreshes: code %d", name, code)
		}
	}
	clients["carol"].mustSucceed(stun.MethodRefresh)
	minted.mustSucceed(stun.MethodRefresh)
	client("bob", "another").mustSucceed(stun.MethodAllocate, udpTransport)

	cfg.Users = nil // nothing said of them
	if err := s.Reload(cfg); err != nil {
		t.Fatal(err)
	}
	clients["carol"].mustSucceed(stun.MethodRefresh)
	if err := s.SetUsers(nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "one allocation is left", func() bool { return len(relaysOf(s)) == 1 })
	minted.mustSucceed(stun.MethodRefresh)
}

// TestUserGoesMeanwhile: who is taken out while his allocation is made does not keep it.
func TestUserGoesMeanwhile(t *testing.T) {
	forEachDataPlane(t, func(t *testing.T, plane string) {
		var relay atomic.Pointer[Server]
		s := startRelay(t, plane, func(c *Config) {
			c.Users = map[string][]byte{"alice": keyOf("alice", "hers")}
			c.tune.onCreated = func() {
				if err := relay.Load().SetUsers(nil); err != nil {
					t.Error(err)
				}
			}
		})
		relay.Store(s)
		alice := newRawClient(t, s, "")
		alice.username, alice.password = "alice", "hers"
		alice.mustSucceed(stun.MethodAllocate, udpTransport)
		eventually(t, "the allocation ends", func() bool { return len(relaysOf(s)) == 0 })
	})
}

// TestUserOfAConnection: it ends with its user.
func TestUserOfAConnection(t *testing.T) {
	s := startRelay(t, planeAuto, func(c *Config) {
		c.TCP, c.Secrets = []string{"127.0.0.1:0"}, nil
		c.Users = map[string][]byte{"alice": keyOf("alice", "hers")}
	})
	conn, err := net.Dial("tcp", s.Addrs().TCP[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	alice := &rawClient{t: t, conn: conn, username: "alice", password: "hers"}
	alice.mustSucceed(stun.MethodAllocate, udpTransport)
	if err := s.SetUsers(map[string][]byte{}); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	if n, err := conn.Read(make([]byte, 100)); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("it is still there: %d bytes, %v", n, err)
	}
}

// TestNoSuchUsers: names that cannot be told from minted ones, and keys that are none.
func TestNoSuchUsers(t *testing.T) {
	key := keyOf("alice", "hers")
	for name, key := range map[string][]byte{
		"": key, "1700000000": key, "alice:1700000000": key, "1700000000:alice": key,
		"al\x00ice": key, "\xff": key,
		strings.Repeat("a", maxUserName+1): key, "alice": key[:15], "bob": nil,
	} {
		cfg := Config{UDP: []string{"127.0.0.1:0"}, AllowPeers: loopback}
		cfg.Users = map[string][]byte{name: key}
		if _, err := New(cfg); err == nil {
			t.Errorf("%q with a key of %d bytes", name, len(key))
		} else if name == "alice" && strings.Contains(err.Error(), name) {
			t.Errorf("it names a user: %v", err)
		}
	}
	if _, err := New(Config{UDP: []string{"127.0.0.1:0"}, AllowPeers: loopback}); err == nil {
		t.Error("neither secrets nor users")
	}
}
