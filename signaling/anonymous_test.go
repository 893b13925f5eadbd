package signaling

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"sotto/wire"
)

// anonymous opens a link of nobody.
func (s *testServer) anonymously(t testing.TB) *testDevice {
	t.Helper()
	conn, _, err := websocket.DefaultDialer.Dial(s.anonymousURL(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	d := &testDevice{server: s, conn: conn}
	welcome, err := d.read()
	if err != nil || welcome.GetWelcome() == nil {
		t.Fatalf("instead of Welcome: %v, %v", welcome, err)
	}
	d.welcome = welcome.GetWelcome()
	return d
}

func (s *testServer) anonymousURL() string {
	return "ws" + strings.TrimPrefix(s.http.URL, "http") + "/v1/anonymous"
}

// setToken gives the account a new delivery token.
func (d *testDevice) setToken(t testing.TB) (token []byte) {
	t.Helper()
	token = randomBytes(wire.DeliveryTokenSize)
	if err := d.setHash(wire.DeliveryTokenHash(token)); err != nil {
		t.Fatal(err)
	}
	return token
}

func (d *testDevice) setHash(hash [32]byte) error {
	_, err := d.ask(&wire.ClientFrame{Body: &wire.ClientFrame_SetDeliveryToken{SetDeliveryToken: &wire.SetDeliveryToken{Hash: hash[:]}}})
	return err
}

// sealed makes an envelope as it comes over an anonymous link.
func sealed(to *testDevice, size int) *wire.Envelope {
	return &wire.Envelope{Id: randomBytes(16), Recipient: to.account, RecipientDevice: to.device, Type: typeSealed, Ciphertext: randomBytes(size)}
}

func sendSealed(e *wire.Envelope, token []byte) *wire.ClientFrame {
	return &wire.ClientFrame{Body: &wire.ClientFrame_SendSealed{SendSealed: &wire.SendSealed{Envelope: e, DeliveryToken: token}}}
}

func (d *testDevice) sendSealed(e *wire.Envelope, token []byte) error {
	_, err := d.ask(sendSealed(e, token))
	return err
}

func (d *testDevice) postSealed(e *wire.Envelope, token []byte) (id uint64, err error) {
	d.next++
	f := sendSealed(e, token)
	f.Id = d.next
	return d.next, d.write(f)
}

func (d *testDevice) fetchSealed(account []byte, device uint32, token []byte) ([]*wire.Bundle, error) {
	f, err := d.ask(&wire.ClientFrame{Body: &wire.ClientFrame_FetchBundles{
		FetchBundles: &wire.FetchBundles{Account: account, Device: device, DeliveryToken: token},
	}})
	return f.GetBundles().GetBundles(), err
}

// The main job: an envelope of nobody to a device that is not there, and to one that is.
func TestSealedEnvelopes(t *testing.T) {
	s := serve(t)
	bob := s.connected(t, "bob")
	token := bob.setToken(t)
	bob.conn.Close()
	nobody := s.anonymously(t)
	if w := nobody.welcome; w.ServerTime == 0 || w.PingInterval != 30 || w.KeyCounts != nil {
		t.Errorf("Welcome: %v", w)
	}
	offline, live := sealed(bob, 300), sealed(bob, 300)
	if err := nobody.sendSealed(offline, token); err != nil {
		t.Fatal(err)
	}
	bob.connect(t)
	check := func(sent *wire.Envelope) {
		t.Helper()
		got, err := bob.receive()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Id, sent.Id) || !bytes.Equal(got.Ciphertext, sent.Ciphertext) || got.Type != typeSealed || got.AcceptedAt == 0 {
			t.Errorf("delivered: %v", got)
		}
		if len(got.Sender) != 0 || got.SenderDevice != 0 {
			t.Errorf("it names a sender: %v", got)
		}
		bob.acknowledge(got)
	}
	check(offline)
	bob.live(t)
	id, err := nobody.postSealed(live, token)
	if err != nil {
		t.Fatal(err)
	}
	check(live)
	if _, err := nobody.answer(id); err != nil {
		t.Fatal(err)
	}
	if n := counterOf(t, s, "sotto_signaling_envelopes_accepted_total", `path="straight",sender="nameless"`); n != 1 {
		t.Errorf("%v envelopes of nobody went straight, want 1", n)
	}
	if list, _, err := s.store.Mailbox(bob.storeAddress(), 0, 10, time.Now()); err != nil || len(list) != 0 {
		t.Errorf("the mailbox still holds %d, %v", len(list), err)
	}
}

func TestSealedRefusals(t *testing.T) {
	s := serve(t)
	alice, bob := s.connected(t, "alice"), s.connected(t, "bob")
	token := bob.setToken(t)
	nobody := s.anonymously(t)
	for _, c := range []struct {
		name   string
		change func(*wire.SendSealed)
		want   wire.Error_Code
	}{
		{"as it should be", func(*wire.SendSealed) {}, -1},
		{"no envelope", func(m *wire.SendSealed) { m.Envelope = nil }, wire.Error_BAD_REQUEST},
		{"short id", func(m *wire.SendSealed) { m.Envelope.Id = m.Envelope.Id[:15] }, wire.Error_BAD_REQUEST},
		{"device 0", func(m *wire.SendSealed) { m.Envelope.RecipientDevice = 0 }, wire.Error_BAD_REQUEST},
		{"type 2", func(m *wire.SendSealed) { m.Envelope.Type = typeSignalMessage }, wire.Error_BAD_REQUEST},
		{"type 7", func(m *wire.SendSealed) { m.Envelope.Type = 7 }, wire.Error_BAD_REQUEST},
		{"a sender", func(m *wire.SendSealed) { m.Envelope.Sender = alice.account }, wire.Error_BAD_REQUEST},
		{"a sender's device", func(m *wire.SendSealed) { m.Envelope.SenderDevice = 1 }, wire.Error_BAD_REQUEST},
		{"empty", func(m *wire.SendSealed) { m.Envelope.Ciphertext = nil }, wire.Error_BAD_REQUEST},
		{"largest", func(m *wire.SendSealed) { m.Envelope.Ciphertext = make([]byte, maxCiphertext) }, -1},
		{"too large", func(m *wire.SendSealed) { m.Envelope.Ciphertext = make([]byte, maxCiphertext+1) }, wire.Error_TOO_LARGE},
		{"no token", func(m *wire.SendSealed) { m.DeliveryToken = nil }, wire.Error_BAD_REQUEST},
		{"short token", func(m *wire.SendSealed) { m.DeliveryToken = token[:15] }, wire.Error_BAD_REQUEST},
		{"wrong token", func(m *wire.SendSealed) { m.DeliveryToken = randomBytes(16) }, wire.Error_FORBIDDEN},
		{"account without a token", func(m *wire.SendSealed) { m.Envelope.Recipient = alice.account }, wire.Error_FORBIDDEN},
		{"no account", func(m *wire.SendSealed) { m.Envelope.Recipient = randomBytes(16) }, wire.Error_FORBIDDEN},
		{"no device, wrong token", func(m *wire.SendSealed) {
			m.Envelope.RecipientDevice, m.DeliveryToken = 2, randomBytes(16)
		}, wire.Error_FORBIDDEN},
		{"no device", func(m *wire.SendSealed) { m.Envelope.RecipientDevice = 2 }, wire.Error_NOT_FOUND},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := &wire.SendSealed{Envelope: sealed(bob, 10), DeliveryToken: token}
			c.change(m)
			_, err := nobody.ask(&wire.ClientFrame{Body: &wire.ClientFrame_SendSealed{SendSealed: m}})
			if c.want == -1 && err != nil || c.want != -1 && code(err) != c.want {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	if n := counterOf(t, s, "sotto_signaling_delivery_tokens_refused_total", ""); n != 4 {
		t.Errorf("%v tokens were refused, want 4", n)
	}
	// A frame above the limit ends the link.
	nobody.conn.WriteMessage(websocket.BinaryMessage, make([]byte, maxAnonymousFrame+1))
	if _, err := nobody.read(); err == nil {
		t.Error("a frame above the limit was taken")
	}
}

// TestEachLinkItsFrames: what names its sender goes over one kind of link and what does not over the other, and neither takes both.
func TestEachLinkItsFrames(t *testing.T) {
	s := serve(t)
	alice, bob := s.connected(t, "alice"), s.connected(t, "bob")
	token := bob.setToken(t)
	nobody := s.anonymously(t)
	empty := sha256.Sum256(nil)
	for name, f := range map[string]*wire.ClientFrame{
		"nothing":                 {},
		"authenticate":            {Body: &wire.ClientFrame_Authenticate{Authenticate: alice.identityProof(make([]byte, 32), [32]byte{})}},
		"send":                    {Body: &wire.ClientFrame_Send{Send: alice.envelope(bob, 10)}},
		"send sealed":             {Body: &wire.ClientFrame_Send{Send: sealed(bob, 10)}},
		"ack":                     {Body: &wire.ClientFrame_Ack{Ack: &wire.Ack{EnvelopeId: make([]byte, 16)}}},
		"upload":                  {Body: &wire.ClientFrame_UploadPreKeys{UploadPreKeys: alice.preKeys(1)}},
		"bundles without a token": {Body: &wire.ClientFrame_FetchBundles{FetchBundles: &wire.FetchBundles{Account: bob.account}}},
		"look up":                 {Body: &wire.ClientFrame_LookUp{LookUp: &wire.LookUp{Username: "bob"}}},
		"relay":                   {Body: &wire.ClientFrame_GetRelay{GetRelay: &wire.GetRelayCredentials{}}},
		"certificate":             {Body: &wire.ClientFrame_GetSenderCertificate{GetSenderCertificate: &wire.GetSenderCertificate{}}},
		"set token":               {Body: &wire.ClientFrame_SetDeliveryToken{SetDeliveryToken: &wire.SetDeliveryToken{Hash: empty[:]}}},
	} {
		if _, err := nobody.ask(f); code(err) != wire.Error_BAD_REQUEST {
			t.Errorf("%s over an anonymous link: %v", name, err)
		}
	}
	if err := alice.sendSealed(sealed(bob, 10), token); code(err) != wire.Error_BAD_REQUEST {
		t.Errorf("send_sealed over a link: %v", err)
	}
	if _, err := alice.fetchSealed(bob.account, 0, token); code(err) != wire.Error_BAD_REQUEST {
		t.Errorf("bundles with a token over a link: %v", err)
	}
	// A retry request to somebody whose token one does not have is sealed, and named outside too.
	e := sealed(bob, 10)
	if err := alice.send(e); err != nil {
		t.Fatal(err)
	}
	if got, err := bob.receive(); err != nil || got.Type != typeSealed || !bytes.Equal(got.Sender, alice.account) || got.SenderDevice != 1 {
		t.Errorf("delivered %v, %v", got, err)
	}
}

func TestAnonymousHandshake(t *testing.T) {
	s := serve(t, func(c *Config, _ *timing) { c.Limits.AnonymousPer = 2 })
	dial := func(header http.Header) int {
		conn, response, err := websocket.DefaultDialer.Dial(s.anonymousURL(), header)
		if err == nil {
			t.Cleanup(func() { conn.Close() })
		}
		return response.StatusCode
	}
	for _, c := range []struct {
		name   string
		header http.Header
		want   int
	}{
		{"another server name", http.Header{"Host": {"other.example"}}, http.StatusBadRequest},
		{"a page", http.Header{"Origin": {"https://evil.example"}}, http.StatusForbidden},
		{"the first", nil, http.StatusSwitchingProtocols},
		{"the second", nil, http.StatusSwitchingProtocols},
		{"one too many", nil, http.StatusServiceUnavailable},
	} {
		if got := dial(c.header); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	s := serve(t)
	for _, path := range []string{"/v1/link", "/v1/anonymous"} {
		r, w := httptest.NewRequest("GET", path, nil), httptest.NewRecorder()
		r.Host, r.TLS = "127.0.0.1", &tls.ConnectionState{Version: tls.VersionTLS12}
		if s.Handler().ServeHTTP(w, r); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "TLS 1.3") {
			t.Errorf("%s over TLS 1.2: %d %q", path, w.Code, w.Body)
		}
	}
}

// TestIdleAnonymousLinkEnds: pings do not keep it, requests do; and its place is free again.
func TestIdleAnonymousLinkEnds(t *testing.T) {
	s := serve(t, func(c *Config, t *timing) {
		t.idle, t.ping = 400*time.Millisecond, 50*time.Millisecond
		c.Limits.AnonymousPer = 1
	})
	nobody := s.anonymously(t)
	start := time.Now()
	for last := start; time.Since(start) < 3*s.t.idle; {
		_, err := nobody.fetchSealed(randomBytes(16), 0, randomBytes(16))
		pause := time.Since(last)
		if last = time.Now(); code(err) != wire.Error_FORBIDDEN {
			if pause < s.t.idle {
				t.Fatalf("after a pause of %v it ended: %v", pause, err)
			}
			t.Logf("the machine paused for %v: what is not in use ends, as it did", pause)
			return
		}
		time.Sleep(s.t.idle / 10)
	}
	if f, err := nobody.read(); !websocket.IsCloseError(err, websocket.CloseNormalClosure) {
		t.Errorf("not in use, it got %v, %v", f, err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		conn, _, err := websocket.DefaultDialer.Dial(s.anonymousURL(), nil)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("its place is not free: %v", err)
		}
	}
}

func TestShutdownEndsAnonymousLinks(t *testing.T) {
	s := serve(t)
	nobody := s.anonymously(t)
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		s.close(t)
	}()
	if f, err := nobody.read(); err != nil || f.GetError().GetCode() != wire.Error_UNAVAILABLE {
		t.Errorf("got %v, %v", f, err)
	}
	if f, err := nobody.read(); !websocket.IsCloseError(err, websocket.CloseGoingAway) {
		t.Errorf("and then %v, %v", f, err)
	}
	<-closed
}
