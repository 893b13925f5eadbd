package signaling

import (
	"bytes"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/proto"

	"sotto/wire"
)

// The main job: two devices, one there and one not.
func TestEnvelopeToConnectedAndOfflineDevice(t *testing.T) {
	s := serve(t)
	alice, bob := s.connected(t, "alice"), s.register(t, "bob")

	offline := alice.envelope(bob, 300)
	if err := alice.send(offline); err != nil {
		t.Fatal(err)
	}
	bob.connect(t)
	got, err := bob.receive()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Ciphertext, offline.Ciphertext) || !bytes.Equal(got.Sender, alice.account) || got.SenderDevice != 1 || got.AcceptedAt == 0 {
		t.Errorf("delivered: %v", got)
	}
	bob.acknowledge(got)
	bob.live(t)

	live := alice.envelope(bob, 300)
	id, err := alice.post(live)
	if err != nil {
		t.Fatal(err)
	}
	got, err = bob.receive()
	if err != nil || !bytes.Equal(got.Id, live.Id) {
		t.Fatalf("delivered: %v, %v", got, err)
	}
	bob.acknowledge(got)
	if _, err := alice.answer(id); err != nil {
		t.Fatal(err)
	}
	if n := counterOf(t, s, "sotto_signaling_envelopes_accepted_total", "straight"); n != 1 {
		t.Errorf("%v envelopes went straight, want 1", n)
	}
	if list, _, err := s.store.Mailbox(bob.storeAddress(), 0, 10, time.Now()); err != nil || len(list) != 0 {
		t.Errorf("the mailbox still holds %d, %v", len(list), err)
	}
}

func TestServerWritesTheSender(t *testing.T) {
	s := serve(t)
	alice, bob := s.connected(t, "alice"), s.connected(t, "bob")
	forged := alice.envelope(bob, 10)
	forged.Sender, forged.SenderDevice, forged.AcceptedAt = bob.account, 7, 1
	if _, err := alice.post(forged); err != nil {
		t.Fatal(err)
	}
	got, err := bob.receive()
	if err != nil || !bytes.Equal(got.Sender, alice.account) || got.SenderDevice != 1 || got.AcceptedAt == 1 {
		t.Errorf("delivered %v, %v", got, err)
	}
}

// A device that is connected and silent: the sender is answered, and the envelope is not lost with the link.
func TestUnacknowledgedEnvelopeIsStored(t *testing.T) {
	s := serve(t)
	alice, bob := s.connected(t, "alice"), s.connected(t, "bob")
	bob.live(t)
	sent := alice.envelope(bob, 10)
	start := time.Now()
	if err := alice.send(sent); err != nil { // bob does not acknowledge
		t.Fatal(err)
	}
	if waited := time.Since(start); waited < s.t.straight {
		t.Errorf("Sent after %v, before bob had his time", waited)
	}
	bob.conn.Close()
	bob.connect(t)
	if got, err := bob.receive(); err != nil || !bytes.Equal(got.Id, sent.Id) {
		t.Errorf("delivered %v, %v", got, err)
	}
}

// TestOrder sends pipelined while the recipient comes, goes and is replaced: what arrives first of each envelope is in order.
func TestOrder(t *testing.T) {
	const total = 300
	s := serve(t, func(c *Config, _ *timing) { c.Limits.Sends = Rate{total, time.Second} })
	alice, bob := s.connected(t, "alice"), s.register(t, "bob")
	sent := make(chan error, 1)
	go func() {
		var ids []uint64
		for i := range total {
			e := alice.envelope(bob, 100)
			e.Ciphertext[0], e.Ciphertext[1] = byte(i>>8), byte(i)
			id, err := alice.post(e)
			if err != nil {
				sent <- err
				return
			}
			if ids = append(ids, id); len(ids) == 20 { // as a client does, not all without an answer
				if _, err := alice.answer(ids[0]); err != nil {
					sent <- err
					return
				}
				ids = ids[1:]
			}
		}
		for _, id := range ids {
			if _, err := alice.answer(id); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	next := 0
	for links := 0; next < total; links++ {
		bob.connect(t) // replaces the link before, with its unacknowledged envelopes
		for n := 0; n < 40+links && next < total; n++ {
			e, err := bob.receive()
			if err != nil {
				t.Fatal(err)
			}
			i := int(e.Ciphertext[0])<<8 | int(e.Ciphertext[1])
			if i > next {
				t.Fatalf("envelope %d came before %d", i, next)
			}
			if i == next {
				next++
			}
			if i%7 != 0 || n < 20 { // some are left for the next link
				bob.acknowledge(e)
			}
		}
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
}

func TestSendingTwiceIsSendingOnce(t *testing.T) {
	s := serve(t)
	alice, bob := s.connected(t, "alice"), s.register(t, "bob")
	stored, live := alice.envelope(bob, 10), alice.envelope(bob, 10)
	for range 3 {
		if err := alice.send(stored); err != nil {
			t.Fatal(err)
		}
	}
	bob.connect(t)
	got, err := bob.receive()
	if err != nil || !bytes.Equal(got.Id, stored.Id) {
		t.Fatal(got, err)
	}
	bob.acknowledge(got)
	bob.live(t)
	id, _ := alice.post(live)
	if got, err = bob.receive(); err != nil || !bytes.Equal(got.Id, live.Id) {
		t.Fatal(got, err)
	}
	bob.acknowledge(got)
	if _, err := alice.answer(id); err != nil {
		t.Fatal(err)
	}

	s.restart(t)
	alice.connect(t)
	bob.connect(t)
	for _, e := range []*wire.Envelope{stored, live} {
		if err := alice.send(e); err != nil {
			t.Fatal(err)
		}
	}
	last := alice.envelope(bob, 10)
	if _, err := alice.post(last); err != nil {
		t.Fatal(err)
	}
	if got, err = bob.receive(); err != nil || !bytes.Equal(got.Id, last.Id) {
		t.Errorf("after the restart %x was delivered again, %v", got.GetId(), err)
	}
}

func TestAuthentication(t *testing.T) {
	s := serve(t)
	alice, bob := s.register(t, "alice"), s.register(t, "bob")
	for _, c := range []struct {
		name  string
		proof func(nonce []byte, binding [32]byte) *wire.Authenticate
		want  wire.Error_Code
	}{
		{"another nonce", func(n []byte, b [32]byte) *wire.Authenticate { return alice.identityProof(make([]byte, 32), b) }, wire.Error_UNAUTHENTICATED},
		{"another channel", func(n []byte, b [32]byte) *wire.Authenticate { b[0] ^= 1; return alice.identityProof(n, b) }, wire.Error_UNAUTHENTICATED},
		{"another server", func(n []byte, b [32]byte) *wire.Authenticate {
			a := alice.identityProof(n, b)
			a.Signature = alice.sign(wire.AuthenticationToSign("other.example", n, alice.account, 1, b))
			return a
		}, wire.Error_UNAUTHENTICATED},
		{"another's key", func(n []byte, b [32]byte) *wire.Authenticate {
			a := alice.identityProof(n, b)
			a.Signature = bob.sign(wire.AuthenticationToSign("127.0.0.1", n, alice.account, 1, b))
			return a
		}, wire.Error_UNAUTHENTICATED},
		{"unknown account", func(n []byte, b [32]byte) *wire.Authenticate {
			a := alice.identityProof(n, b)
			a.Account = make([]byte, 16)
			return a
		}, wire.Error_UNAUTHENTICATED},
		{"unknown device", func(n []byte, b [32]byte) *wire.Authenticate {
			a := alice.identityProof(n, b)
			a.Device = 2
			return a
		}, wire.Error_UNAUTHENTICATED},
		{"no signature", func(n []byte, b [32]byte) *wire.Authenticate {
			a := alice.identityProof(n, b)
			a.Signature = nil
			return a
		}, wire.Error_UNAUTHENTICATED},
		{"device 0", func(n []byte, b [32]byte) *wire.Authenticate {
			a := alice.identityProof(n, b)
			a.Device = 0
			return a
		}, wire.Error_BAD_REQUEST},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := alice.dial(c.proof)
			if code(err) != c.want {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	alice.connect(t)
}

// TestChannelBinding: over TLS the signature holds for this channel only, and zeros do not pass.
func TestChannelBinding(t *testing.T) {
	s := serve(t)
	alice := s.register(t, "alice")
	s.http.Close()
	s.http = httptest.NewUnstartedServer(s.Handler())
	s.http.TLS = &tls.Config{MinVersion: tls.VersionTLS13}
	s.http.StartTLS()
	alice.connect(t)
	alice.conn.Close()
	err := alice.dial(func(n []byte, _ [32]byte) *wire.Authenticate { return alice.identityProof(n, [32]byte{}) })
	if code(err) != wire.Error_UNAUTHENTICATED {
		t.Errorf("a signature without the channel: %v", err)
	}

	// Who says over which channel it comes is told that the server sees another one.
	claimed := func(claim []byte) error {
		return alice.dial(func(n []byte, binding [32]byte) *wire.Authenticate {
			proof := alice.identityProof(n, binding)
			proof.ChannelBinding = claim
			return proof
		})
	}
	if err := claimed(make([]byte, 32)); reason(err) != wire.Error_OTHER_CHANNEL {
		t.Errorf("over another channel: %v", err)
	}
	bob := newDevice(s, "bob")
	registration := bob.registration("")
	registration.ChannelBinding = make([]byte, 32)
	status, _, refusal := s.post(t, registration)
	if status != http.StatusUnauthorized || refusal.GetReason() != wire.Error_OTHER_CHANNEL {
		t.Errorf("registered over another channel: %d %v", status, refusal)
	}
}

func TestStrangersAreShownOut(t *testing.T) {
	s := serve(t, func(c *Config, t *timing) {
		t.authenticate = 100 * time.Millisecond
		c.Limits.UnauthenticatedPer = 2
	})
	url := "ws" + strings.TrimPrefix(s.http.URL, "http") + "/v1/link"
	var conns []*websocket.Conn
	for range 2 {
		c, _, err := websocket.DefaultDialer.Dial(url, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
	}
	if _, response, err := websocket.DefaultDialer.Dial(url, nil); err == nil || response.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a third stranger: %v, %v", response, err)
	}
	d := &testDevice{conn: conns[0]}
	if f, err := d.read(); err != nil || len(f.GetHello().GetNonce()) != wire.NonceSize {
		t.Fatal(f, err)
	}
	if f, err := d.read(); err != nil || f.GetError().GetCode() != wire.Error_UNAUTHENTICATED {
		t.Errorf("a silent stranger got %v, %v", f, err)
	}
	if _, err := d.read(); !websocket.IsCloseError(err, websocket.ClosePolicyViolation) {
		t.Errorf("and then %v", err)
	}
	// A first frame above the limit is not read.
	big := &testDevice{conn: conns[1]}
	big.read()
	conns[1].WriteMessage(websocket.BinaryMessage, make([]byte, maxFirstFrame+1))
	if _, err := big.read(); err == nil {
		if _, err = big.read(); err == nil {
			t.Error("a first frame above the limit was taken")
		}
	}
}

func TestOriginAndName(t *testing.T) {
	s := serve(t, func(c *Config, _ *timing) { c.AllowedOrigins = []string{"https://chat.example"} })
	for _, c := range []struct {
		name   string
		header http.Header
		status int
	}{
		{"a program", http.Header{}, http.StatusSwitchingProtocols},
		{"an allowed page", http.Header{"Origin": {"https://chat.example"}}, http.StatusSwitchingProtocols},
		{"another page", http.Header{"Origin": {"https://evil.example"}}, http.StatusForbidden},
		{"two pages", http.Header{"Origin": {"https://chat.example", "https://a.example"}},
			http.StatusForbidden},
		{"no origin (sandboxed page)", http.Header{"Origin": {"null"}}, http.StatusForbidden},
		{"another server name", http.Header{"Host": {"other.example"}}, http.StatusBadRequest},
	} {
		t.Run(c.name, func(t *testing.T) {
			dialer := websocket.Dialer{EnableCompression: true}
			conn, response, err := dialer.Dial("ws"+strings.TrimPrefix(s.http.URL, "http")+"/v1/link", c.header)
			if err == nil {
				defer conn.Close()
			}
			if response == nil || response.StatusCode != c.status {
				t.Errorf("got %v, %v; want %d", response, err, c.status)
			}
			if e := response.Header.Get("Sec-Websocket-Extensions"); e != "" {
				t.Errorf("the server agreed to %q", e)
			}
		})
	}
}

func TestNewerLinkReplacesTheOlder(t *testing.T) {
	s := serve(t)
	alice := s.connected(t, "alice")
	old := *alice
	alice.connect(t)
	f, err := old.read()
	if err != nil || f.GetError().GetCode() != wire.Error_REPLACED {
		t.Errorf("the older link got %v, %v", f, err)
	}
	if _, err := old.read(); !websocket.IsCloseError(err, websocket.ClosePolicyViolation) {
		t.Errorf("and then %v", err)
	}
	alice.settle(t)
}

func TestDeadLinkIsFound(t *testing.T) {
	s := serve(t, func(_ *Config, t *timing) { t.ping, t.silence = 20*time.Millisecond, time.Second })
	alice, bob := s.connected(t, "alice"), s.connected(t, "bob")
	go func() { // bob's default handler answers pings while it reads
		for {
			if _, _, err := bob.conn.ReadMessage(); err != nil {
				return
			}
		}
	}()
	alice.conn.SetPingHandler(func(string) error { return nil }) // reads, and does not answer
	if _, err := alice.read(); err == nil {
		t.Error("a link without pongs stayed")
	}
	deadline := time.Now().Add(3 * s.t.silence)
	for time.Now().Before(deadline) {
		if s.hub.get(bob.storeAddress()) == nil {
			t.Fatal("a link with pongs was ended")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// A device that asks and never reads its answers is cut off, with a bound on what waits for it.
func TestSlowReaderIsCutOff(t *testing.T) {
	s := serve(t, func(c *Config, t *timing) {
		t.write = 300 * time.Millisecond
		c.Limits.Frames = Rate{1 << 20, time.Microsecond}
	})
	alice := s.connected(t, "alice")
	// The system would hold megabytes of answers before the server notices.
	alice.conn.NetConn().(*net.TCPConn).SetReadBuffer(4 << 10)
	s.hub.get(alice.storeAddress()).conn.NetConn().(*net.TCPConn).SetWriteBuffer(4 << 10)
	frame, _ := proto.Marshal(&wire.ClientFrame{Id: 1, Body: &wire.ClientFrame_LookUp{LookUp: &wire.LookUp{Username: strings.Repeat("x", 30)}}})
	deadline := time.Now().Add(patience)
	for s.hub.get(alice.storeAddress()) != nil {
		if time.Now().After(deadline) {
			t.Fatal("still there")
		}
		alice.conn.SetWriteDeadline(time.Now().Add(time.Second))
		if err := alice.conn.WriteMessage(websocket.BinaryMessage, frame); err != nil {
			var timeout interface{ Timeout() bool }
			if errors.As(err, &timeout) && timeout.Timeout() {
				continue
			}
			break
		}
	}
}

func TestMalformedFramesAreAnswered(t *testing.T) {
	s := serve(t)
	alice, bob := s.connected(t, "alice"), s.register(t, "bob")
	alice.conn.WriteMessage(websocket.BinaryMessage, []byte{0xff, 0xff})
	if f, err := alice.read(); err != nil || f.GetError().GetCode() != wire.Error_BAD_REQUEST {
		t.Error(f, err)
	}
	alice.conn.WriteMessage(websocket.TextMessage, []byte("hello"))
	if f, err := alice.read(); err != nil || f.GetError().GetCode() != wire.Error_BAD_REQUEST {
		t.Error(f, err)
	}
	for _, c := range []struct {
		name   string
		change func(*wire.Envelope)
		want   wire.Error_Code
	}{
		{"short id", func(e *wire.Envelope) { e.Id = e.Id[:15] }, wire.Error_BAD_REQUEST},
		{"no recipient", func(e *wire.Envelope) { e.Recipient = nil }, wire.Error_BAD_REQUEST},
		{"device 0", func(e *wire.Envelope) { e.RecipientDevice = 0 }, wire.Error_BAD_REQUEST},
		{"device 128", func(e *wire.Envelope) { e.RecipientDevice = 128 }, wire.Error_BAD_REQUEST},
		{"device 257", func(e *wire.Envelope) { e.RecipientDevice = 257 }, wire.Error_BAD_REQUEST},
		{"unknown device", func(e *wire.Envelope) { e.RecipientDevice = 2 }, wire.Error_NOT_FOUND},
		{"unknown account", func(e *wire.Envelope) { e.Recipient = randomBytes(16) }, wire.Error_NOT_FOUND},
		{"unknown type", func(e *wire.Envelope) { e.Type = 1 }, wire.Error_BAD_REQUEST},
		{"empty", func(e *wire.Envelope) { e.Ciphertext = nil }, wire.Error_BAD_REQUEST},
		{"largest", func(e *wire.Envelope) { e.Ciphertext = make([]byte, maxCiphertext) }, -1},
		{"too large", func(e *wire.Envelope) { e.Ciphertext = make([]byte, maxCiphertext+1) }, wire.Error_TOO_LARGE},
		{"30 days", func(e *wire.Envelope) { e.Ttl = 30 * 86400 }, -1},
		{"longer", func(e *wire.Envelope) { e.Ttl = 30*86400 + 1 }, wire.Error_BAD_REQUEST},
		{"as long as it gets", func(e *wire.Envelope) { e.Ttl = 1<<32 - 1 }, wire.Error_BAD_REQUEST},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := alice.envelope(bob, 10)
			c.change(e)
			err := alice.send(e)
			if c.want == -1 && err != nil || c.want != -1 && code(err) != c.want {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	// A frame above the limit ends the link.
	alice.conn.WriteMessage(websocket.BinaryMessage, make([]byte, maxFrame+1))
	if _, err := alice.read(); err == nil {
		t.Error("a frame above the limit was taken")
	}
}
