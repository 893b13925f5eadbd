package turnserver

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/pion/stun/v4"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"sotto/turncred"
)

// testAnswers is what RFC 8489 and RFC 8656 want to hear in each case, signed wherever the client
// has proved who it is.
func testAnswers(t *testing.T, plane string) {
	s := startRelay(t, plane, func(c *Config) { c.tune.shortest = 0 })
	attr := func(a stun.AttrType, v ...byte) stun.Setter { return stun.RawAttribute{Type: a, Value: v} }
	four, six := attr(stun.AttrRequestedAddressFamily, 1, 0, 0, 0), attr(stun.AttrRequestedAddressFamily, 2, 0, 0, 0)
	allocated := func() *rawClient {
		c := newRawClient(t, s, "alice")
		c.mustSucceed(stun.MethodAllocate, udpTransport)
		return c
	}
	fresh := func() *rawClient { return newRawClient(t, s, "alice") }
	other := func(change func(*rawClient)) func() *rawClient {
		return func() *rawClient {
			c := fresh()
			change(c)
			return c
		}
	}
	bound := func() *rawClient {
		c := allocated()
		c.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peer("127.0.0.2:9"))
		return c
	}
	allocate, refresh := stun.MethodAllocate, stun.MethodRefresh
	permission, channel := stun.MethodCreatePermission, stun.MethodChannelBind
	for _, c := range []struct {
		name   string
		client func() *rawClient
		method stun.Method
		attrs  []stun.Setter
		code   int
	}{
		{"a wrong password", other(func(c *rawClient) { c.password = "guess" }), allocate, []stun.Setter{udpTransport}, 401},
		{"an unknown user name", other(func(c *rawClient) { c.username = "somebody" }), allocate, []stun.Setter{udpTransport}, 401},
		{"a credential that is over", other(func(c *rawClient) {
			c.username, c.password = turncred.Mint(testSecret, "alice", time.Second, s.now().Add(-time.Hour))
		}), allocate, []stun.Setter{udpTransport}, 401},
		{"an attribute that must be understood", fresh, allocate, []stun.Setter{udpTransport, attr(0x7f00, 1)}, 420},
		{"an attribute that need not be", fresh, allocate, []stun.Setter{udpTransport, attr(0xff00, 1)}, 0},
		{"DONT-FRAGMENT", fresh, allocate, []stun.Setter{udpTransport, attr(stun.AttrDontFragment)}, 420},

		{"no transport", fresh, allocate, nil, 400},
		{"TCP towards peers", fresh, allocate, []stun.Setter{attr(stun.AttrRequestedTransport, 6, 0, 0, 0)}, 442},
		{"another transport", fresh, allocate, []stun.Setter{attr(stun.AttrRequestedTransport, 132, 0, 0, 0)}, 442},
		{"IPv4", fresh, allocate, []stun.Setter{udpTransport, four}, 0},
		{"a family that is not there", fresh, allocate, []stun.Setter{udpTransport, six}, 440},
		{"a family that is none", fresh, allocate, []stun.Setter{udpTransport, attr(stun.AttrRequestedAddressFamily, 9, 0, 0, 0)}, 440},
		{"two families, one of them asked for alone", fresh, allocate,
			[]stun.Setter{udpTransport, four, attr(attrAdditionalAddressFamily, 2, 0, 0, 0)}, 400},
		{"another family, which is optional", fresh, allocate,
			[]stun.Setter{udpTransport, attr(attrAdditionalAddressFamily, 2, 0, 0, 0)}, 0},
		{"a reservation and an even port", fresh, allocate, []stun.Setter{udpTransport,
			attr(stun.AttrReservationToken, 1, 2, 3, 4, 5, 6, 7, 8), attr(stun.AttrEvenPort, 0)}, 400},
		{"a reservation", fresh, allocate, []stun.Setter{udpTransport, attr(stun.AttrReservationToken, 1, 2, 3, 4, 5, 6, 7, 8)}, 508},
		{"a second allocation", allocated, allocate, []stun.Setter{udpTransport}, 437},

		{"a refresh of the same family", allocated, refresh, []stun.Setter{four}, 0},
		{"a refresh of another family", allocated, refresh, []stun.Setter{six}, 443},
		{"a refresh without allocation", fresh, refresh, nil, 437},

		{"a permission for nobody", allocated, permission, nil, 400},
		{"a permission of another family", allocated, permission, []stun.Setter{peer("[2606:4700::1]:9")}, 443},
		{"one of two of another family", allocated, permission, []stun.Setter{peer("127.0.0.2:9"), peer("[2606:4700::1]:9")}, 443},
		{"a forbidden peer", allocated, permission, []stun.Setter{peer("10.0.0.1:9")}, 403},
		{"a permission without port", allocated, permission, []stun.Setter{peer("127.0.0.2:0")}, 0},

		{"a channel to nobody", allocated, channel, []stun.Setter{channelAttr(0x4000)}, 400},
		{"a channel to two", allocated, channel, []stun.Setter{channelAttr(0x4000), peer("127.0.0.2:9"), peer("127.0.0.2:8")}, 400},
		{"a channel without number", allocated, channel, []stun.Setter{peer("127.0.0.2:9")}, 400},
		{"a channel number too low", allocated, channel, []stun.Setter{channelAttr(0x3fff), peer("127.0.0.2:9")}, 400},
		{"the last channel number", allocated, channel, []stun.Setter{channelAttr(0x7fff), peer("127.0.0.2:9")}, 0},
		{"a channel number too high", allocated, channel, []stun.Setter{channelAttr(0x8000), peer("127.0.0.2:9")}, 400},
		{"a channel to no port", allocated, channel, []stun.Setter{channelAttr(0x4000), peer("127.0.0.2:0")}, 400},
		{"the same channel again", bound, channel, []stun.Setter{channelAttr(0x4000), peer("127.0.0.2:9")}, 0},
		{"a bound number for another peer", bound, channel, []stun.Setter{channelAttr(0x4000), peer("127.0.0.2:8")}, 400},
		{"another number for a bound peer", bound, channel, []stun.Setter{channelAttr(0x4001), peer("127.0.0.2:9")}, 400},
		{"a channel to a forbidden peer", allocated, channel, []stun.Setter{channelAttr(0x4000), peer("10.0.0.1:9")}, 403},
		{"a channel of another family", allocated, channel, []stun.Setter{channelAttr(0x4000), peer("[2606:4700::1]:9")}, 443},
	} {
		client := c.client()
		m := client.request(c.method, c.attrs...)
		if code := codeOf(m); code != c.code {
			t.Errorf("%s: code %d, want %d", c.name, code, c.code)
			continue
		}
		var e stun.ErrorCodeAttribute
		if c.code != 0 && (e.GetFrom(m) != nil || string(e.Reason) != reasons[e.Code] || len(e.Reason) == 0) {
			t.Errorf("%s: reason %q", c.name, e.Reason)
		}
		if key := stun.NewLongTermIntegrity(client.username, string(client.realm), client.password); c.code == 401 {
			var nonce stun.Nonce
			var realm stun.Realm
			if nonce.GetFrom(m) != nil || realm.GetFrom(m) != nil || m.Contains(stun.AttrMessageIntegrity) {
				t.Errorf("%s: %v", c.name, m)
			}
		} else if key.Check(m) != nil {
			t.Errorf("%s: the answer is not signed", c.name)
		}
	}

	for asked, want := range map[uint32]time.Duration{0: 600, 1: 600, 599: 600, 700: 700, 3600: 3599, 1 << 31: 3599} {
		m := fresh().mustSucceed(allocate, udpTransport, lifetime(asked))
		got, err := m.Get(stun.AttrLifetime)
		if err != nil || time.Duration(got[2])<<8+time.Duration(got[3]) != want {
			t.Errorf("a lifetime of %d s: % x, %v", asked, got, err)
		}
	}
	// Who says less than all of who he is.
	c := fresh()
	c.request(refresh)
	key := stun.NewLongTermIntegrity(c.username, string(c.realm), c.password)
	for name, attrs := range map[string][]stun.Setter{
		"no user name": {c.realm, c.nonce}, "no realm": {stun.NewUsername(c.username), c.nonce}, "no nonce": {stun.NewUsername(c.username), c.realm},
	} {
		if code := codeOf(c.ask(append(append([]stun.Setter{stun.NewType(refresh, stun.ClassRequest)}, attrs...), key)...)); code != 400 {
			t.Errorf("%s: code %d, want 400", name, code)
		}
	}
	elsewhere := []stun.Setter{
		stun.NewType(refresh, stun.ClassRequest), stun.NewUsername(c.username),
		stun.NewRealm("elsewhere"), c.nonce, key,
	}
	if code := codeOf(c.ask(elsewhere...)); code != 401 {
		t.Errorf("another realm: code %d, want 401", code)
	}
	if code := codeOf(c.ask(stun.BindingRequest, attr(0x7f00, 1))); code != 420 {
		t.Errorf("Binding with an attribute that must be understood: code %d, want 420", code)
	}
	if m := c.ask(stun.NewType(stun.MethodBinding, stun.ClassIndication)); m != nil {
		t.Errorf("an indication is answered: %v", m)
	}
}

// testNonces: a request that was seen on the way is of no use from another address or over another
// transport.
func testNonces(t *testing.T, plane string) {
	s := startRelay(t, plane, func(c *Config) { overStreams(t, c) })
	alice := newRawClient(t, s, "alice")
	alice.mustSucceed(stun.MethodAllocate, udpTransport)
	thief := newRawClient(t, s, "alice")
	thief.nonce, thief.realm, thief.username, thief.password = alice.nonce, alice.realm, alice.username, alice.password
	for method, attrs := range map[stun.Method][]stun.Setter{
		stun.MethodAllocate: {udpTransport}, stun.MethodRefresh: nil,
		stun.MethodCreatePermission: {peer("127.0.0.2:9")}, stun.MethodChannelBind: {channelAttr(0x4000), peer("127.0.0.2:9")},
	} {
		if code := codeOf(thief.once(method, attrs...)); code != 438 {
			t.Errorf("%v from another port: code %d, want 438", method, code)
		}
	}
	if world.offloads { // its lab has no way for TCP
		return
	}
	conn, err := net.DialTCP("tcp4", net.TCPAddrFromAddrPort(addrPort(alice.conn.LocalAddr())), net.TCPAddrFromAddrPort(s.Addrs().TCP[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	thief.conn = conn
	if code := codeOf(thief.once(stun.MethodAllocate, udpTransport)); code != 438 {
		t.Errorf("the same address over TCP: code %d, want 438", code)
	}
	if code := codeOf(thief.request(stun.MethodAllocate, udpTransport)); code != 0 {
		t.Errorf("with the nonce that was told there: code %d", code)
	}
}

// testManyBehindOneAddress: two hundred users behind one address join at once, each with two
// requests and no retry over TCP and TLS, and all get their allocation at once; whoever else is
// there keeps asking by STUN meanwhile.
func testManyBehindOneAddress(t *testing.T, plane string) {
	const users = 200
	s := startRelay(t, plane, func(c *Config) {
		overStreams(t, c)
		c.MaxAllocations, c.MaxPerAddress, c.MaxConnectionsPerAddress = 10_000, 10_000, 10_000
	})
	var all sync.WaitGroup
	for i := range users {
		c := newRawClient(t, s, fmt.Sprint("user", i))
		all.Go(func() {
			if code := codeOf(patient(c, stun.MethodAllocate, udpTransport)); code != 0 {
				t.Errorf("user %d by UDP: code %d", i, code)
			}
		})
	}
	all.Wait()
	if n := testutil.ToFloat64(s.metrics.droppedSilenced); n != 0 {
		t.Errorf("%v of them were not answered", n)
	}
	if world.offloads {
		return // its lab has no way for TCP
	}
	idle := newRawClient(t, s, "idle")
	for range 2 * strangerBurst { // STUN keepalives use up what strangers at this address may ask over UDP
		idle.conn.Write(stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw)
	}
	for _, over := range []struct {
		name string
		dial func() (net.Conn, error)
	}{
		{"TCP", func() (net.Conn, error) { return net.Dial("tcp4", s.Addrs().TCP[0].String()) }},
		{"TLS", func() (net.Conn, error) {
			return tls.Dial("tcp4", s.Addrs().TLS[0].String(), &tls.Config{InsecureSkipVerify: true})
		}},
	} {
		for i := range users {
			conn, err := over.dial()
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
			c := &rawClient{t: t, conn: conn}
			c.username, c.password = turncred.Mint(testSecret, fmt.Sprint("user", i), time.Minute, s.now())
			all.Go(func() {
				if code := codeOf(patient(c, stun.MethodAllocate, udpTransport)); code != 0 {
					t.Errorf("user %d by %s: code %d", i, over.name, code)
				}
			})
		}
		all.Wait()
	}
	// Over UDP a source may be forged, so a first request is answered no more often than before; a
	// signed one always is.
	late := newRawClient(t, s, "late")
	late.realm = stun.NewRealm(s.cfg.Realm)
	f := &frontend{s: s, local: s.Addrs().UDP[0], transport: "udp"}
	late.nonce = stun.NewNonce(s.nonces.nonce(f, tuple{client: addrPort(late.conn.LocalAddr())}, s.now()))
	for range 2 * strangerBurst {
		idle.conn.Write(stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw)
	}
	late.mustSucceed(stun.MethodAllocate, udpTransport)
}

// patient is request for a client that many others keep waiting.
func patient(c *rawClient, method stun.Method, attrs ...stun.Setter) (answer *stun.Message) {
	for deadline := time.Now().Add(10 * time.Second); answer == nil && time.Now().Before(deadline); {
		if len(c.nonce) == 0 {
			if first := c.ask(stun.NewType(method, stun.ClassRequest), udpTransport); first == nil ||
				c.nonce.GetFrom(first) != nil || c.realm.GetFrom(first) != nil {
				continue
			}
		}
		answer = c.request(method, attrs...)
	}
	return answer
}

// TestNonces: one is good for an hour, at the address that it was given to and at that listener.
func TestNonces(t *testing.T) {
	n, now := newNonces(), time.Unix(1_800_000_000, 0)
	f := &frontend{local: netip.MustParseAddrPort("192.0.2.1:3478"), transport: "udp"}
	client := tuple{client: netip.MustParseAddrPort("198.51.100.7:4000")}
	nonce := []byte(n.nonce(f, client, now))
	port, address, local := client, client, client
	port.client = netip.MustParseAddrPort("198.51.100.7:4001")
	address.client = netip.MustParseAddrPort("198.51.100.8:4000")
	local.local = netip.MustParseAddr("192.0.2.2")
	other := &frontend{local: f.local, transport: "dtls"}
	for _, c := range []struct {
		name  string
		f     *frontend
		at    tuple
		age   time.Duration
		valid bool
	}{
		{"at once", f, client, 0, true},
		{"within the hour", f, client, nonceLife - time.Second, true},
		{"after it", f, client, nonceLife, false},
		{"before its time", f, client, -time.Hour, false},
		{"at another port", f, port, 0, false},
		{"at another address", f, address, 0, false},
		{"at another address of ours", f, local, 0, false},
		{"over another transport", other, client, 0, false},
	} {
		if n.valid(c.f, c.at, nonce, now.Add(c.age)) != c.valid {
			t.Errorf("%s: it is not %t", c.name, c.valid)
		}
	}
	if newNonces().valid(f, client, nonce, now) {
		t.Error("another server's is good")
	}
}
