package signaling

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/proto"

	"sotto/signaling/store"
	"sotto/wire"
)

// TestNewTokenVoidsTheOld at once, also on links that are open, and for bundles; and after a restart still.
func TestNewTokenVoidsTheOld(t *testing.T) {
	s := serve(t)
	bob := s.connected(t, "bob")
	old := bob.setToken(t)
	nobody := s.anonymously(t)
	use := func(token []byte, want wire.Error_Code) {
		t.Helper()
		err := nobody.sendSealed(sealed(bob, 10), token)
		if code(err) != want {
			t.Errorf("sending: %v, want %v", err, want)
		}
		if _, err := nobody.fetchSealed(bob.account, 1, token); code(err) != want {
			t.Errorf("bundles: %v, want %v", err, want)
		}
	}
	use(old, wire.Error_UNKNOWN)
	token := bob.setToken(t)
	use(old, wire.Error_FORBIDDEN)
	use(token, wire.Error_UNKNOWN)
	s.restart(t)
	nobody = s.anonymously(t)
	use(old, wire.Error_FORBIDDEN)
	use(token, wire.Error_UNKNOWN)
}

func TestTokensSetPerAccount(t *testing.T) {
	s := serve(t, func(c *Config, _ *timing) { c.Limits.Tokens = Rate{2, time.Hour} })
	bob := s.connected(t, "bob")
	bob.setToken(t)
	bob.setToken(t)
	if err := bob.setHash([32]byte{}); code(err) != wire.Error_RATE_LIMITED {
		t.Errorf("a third token: %v", err)
	}
	short := &wire.ClientFrame{Body: &wire.ClientFrame_SetDeliveryToken{SetDeliveryToken: &wire.SetDeliveryToken{Hash: make([]byte, 31)}}}
	if _, err := bob.ask(short); code(err) != wire.Error_BAD_REQUEST {
		t.Errorf("a hash of 31 bytes: %v", err)
	}
}

// TestSealedTwiceIsOnce: stored or straight, over one link or another, before and after a restart.
func TestSealedTwiceIsOnce(t *testing.T) {
	s := serve(t)
	bob := s.connected(t, "bob")
	token := bob.setToken(t)
	bob.conn.Close()
	stored, live := sealed(bob, 10), sealed(bob, 10)
	for range 3 {
		if err := s.anonymously(t).sendSealed(stored, token); err != nil {
			t.Fatal(err)
		}
	}
	bob.connect(t)
	take := func(want *wire.Envelope) {
		t.Helper()
		got, err := bob.receive()
		if err != nil || !bytes.Equal(got.Id, want.Id) {
			t.Fatal(got, err)
		}
		bob.acknowledge(got)
	}
	take(stored)
	bob.live(t)
	nobody := s.anonymously(t)
	id, _ := nobody.postSealed(live, token)
	take(live)
	if _, err := nobody.answer(id); err != nil {
		t.Fatal(err)
	}
	s.restart(t)
	bob.connect(t)
	nobody = s.anonymously(t)
	for _, e := range []*wire.Envelope{stored, live} {
		if err := nobody.sendSealed(e, token); err != nil {
			t.Fatal(err)
		}
	}
	last := sealed(bob, 10)
	nobody.postSealed(last, token)
	take(last)
}

// TestOrderOfBothPaths: what one sends over its link and what one sends over an anonymous link arrive each in order, the mailbox first
// and then what came meanwhile.
func TestOrderOfBothPaths(t *testing.T) {
	const each = 60
	s := serve(t, func(_ *Config, t *timing) { t.straight = 20 * time.Millisecond })
	alice, bob := s.connected(t, "alice"), s.connected(t, "bob")
	token := bob.setToken(t)
	bob.conn.Close()
	nobody := s.anonymously(t)
	send := func(d *testDevice, post func(i int) (uint64, error)) chan error {
		sent := make(chan error, 1)
		go func() {
			for i := range each {
				id, err := post(i)
				if err == nil && i%10 == 9 {
					_, err = d.answer(id)
				}
				if err != nil {
					sent <- err
					return
				}
			}
			sent <- nil
		}()
		return sent
	}
	named := send(alice, func(i int) (uint64, error) {
		e := alice.envelope(bob, 10)
		e.Ciphertext[0] = byte(i)
		return alice.post(e)
	})
	unnamed := send(nobody, func(i int) (uint64, error) {
		e := sealed(bob, 10)
		e.Ciphertext[0] = byte(i)
		return nobody.postSealed(e, token)
	})
	next := map[string]int{}
	for links := 0; next[""]+next[string(alice.account)] < 2*each; links++ {
		bob.connect(t)
		for n := 0; n < 20 && next[""]+next[string(alice.account)] < 2*each; n++ {
			e, err := bob.receive()
			if err != nil {
				t.Fatal(err)
			}
			from := string(e.Sender)
			switch i := int(e.Ciphertext[0]); {
			case i > next[from]:
				t.Fatalf("envelope %d of %x came before %d", i, from, next[from])
			case i == next[from]:
				next[from]++
			}
			if n < 15 { // the others come again, on the next link
				bob.acknowledge(e)
			}
		}
	}
	for _, sent := range []chan error{named, unnamed} {
		if err := <-sent; err != nil {
			t.Error(err)
		}
	}
}

// TestNobodyIsNamedAnywhere: a device that has a link, a certificate and an envelope on its way from the same address leaves no more traces
// in the files than before it sealed one, and the recipient's mailbox says nothing of it.
func TestNobodyIsNamedAnywhere(t *testing.T) {
	s := serve(t)
	alice, bob := s.connected(t, "alice"), s.connected(t, "bob")
	token := bob.setToken(t)
	bob.conn.Close()
	certificate, err := alice.certificate()
	if err != nil {
		t.Fatal(err)
	}
	before := timesOnDisk(t, s.cfg.DataDir, alice.account)
	e := sealed(bob, 500)
	if err := s.anonymously(t).sendSealed(e, token); err != nil {
		t.Fatal(err)
	}
	if !onDisk(t, s.cfg.DataDir, e.Ciphertext) {
		t.Fatal("the envelope is not found: the search is blind")
	}
	if after := timesOnDisk(t, s.cfg.DataDir, alice.account); after != before {
		t.Errorf("alice is in the files %d times, after a sealed envelope %d times", before, after)
	}
	for name, secret := range map[string][]byte{"the token": token, "the certificate": certificate.Certificate} {
		if timesOnDisk(t, s.cfg.DataDir, secret) > 0 {
			t.Errorf("%s is in the files", name)
		}
	}
	list, _, err := s.store.Mailbox(bob.storeAddress(), 0, 10, time.Now())
	if err != nil || len(list) != 1 || list[0].From != (store.UUID{}) {
		t.Fatalf("the mailbox: %v, %v", list, err)
	}
	want := proto.Clone(e).(*wire.Envelope)
	want.Ttl, want.AcceptedAt = 30*86400, uint64(list[0].Accepted.UnixMilli())
	got := &wire.Envelope{}
	if err := proto.Unmarshal(list[0].Body, got); err != nil || !proto.Equal(got, want) {
		t.Errorf("stored: %v, %v; want %v", got, err, want)
	}
	if err := alice.send(alice.envelope(bob, 500)); err != nil {
		t.Fatal(err)
	}
	if after := timesOnDisk(t, s.cfg.DataDir, alice.account); after <= before {
		t.Error("an envelope that names alice does not either: the search is blind")
	}
}

// timesOnDisk counts b in the files below dir.
func timesOnDisk(t *testing.T, dir string, b []byte) (n int) {
	t.Helper()
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil
		}
		content, _ := os.ReadFile(path)
		n += bytes.Count(content, b)
		return nil
	})
	return n
}

// TestStrangersDoNotShutFriendsOut: who does not know the token uses up nothing of the recipient's, and each source only its own.
func TestStrangersDoNotShutFriendsOut(t *testing.T) {
	s := serve(t, func(c *Config, _ *timing) {
		c.Limits.SealedSends, c.Limits.SealedFetches = Rate{30, time.Hour}, Rate{30, time.Hour}
		c.Limits.SealedTo, c.Limits.FetchedFrom = Rate{5, time.Hour}, Rate{3, time.Hour}
	})
	bob := s.connected(t, "bob")
	token := bob.setToken(t)
	friend := s.anonymously(t)
	count := func(request func() error) (answers map[wire.Error_Code]int) {
		answers = map[wire.Error_Code]int{}
		for range 25 {
			answers[code(request())]++
		}
		return answers
	}
	if stranger := s.elsewhere(t); stranger != nil {
		send := func() error { return stranger.sendSealed(sealed(bob, 10), randomBytes(16)) }
		fetch := func() error { _, err := stranger.fetchSealed(bob.account, 0, randomBytes(16)); return err }
		for name, request := range map[string]func() error{"send": send, "fetch": fetch} {
			got := fmt.Sprint(count(request), count(request))
			if want := "map[FORBIDDEN:25] map[FORBIDDEN:5 RATE_LIMITED:20]"; got != want {
				t.Errorf("a stranger's %s: %s, want %s", name, got, want)
			}
		}
	}
	got := count(func() error { return friend.sendSealed(sealed(bob, 10), token) })
	if got[wire.Error_UNKNOWN] != 5 || got[wire.Error_RATE_LIMITED] != 20 {
		t.Errorf("friends sent: %v", got)
	}
	got = count(func() error { _, err := friend.fetchSealed(bob.account, 0, token); return err })
	if got[wire.Error_UNKNOWN] != 3 || got[wire.Error_RATE_LIMITED] != 22 {
		t.Errorf("friends fetched: %v", got)
	}
}

// elsewhere opens an anonymous link from another address; nil where 127.0.0.2 is not this machine.
func (s *testServer) elsewhere(t *testing.T) *testDevice {
	t.Helper()
	from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	dialer := websocket.Dialer{NetDialContext: from.DialContext}
	conn, _, err := dialer.Dial(s.anonymousURL(), nil)
	if err != nil {
		return nil
	}
	t.Cleanup(func() { conn.Close() })
	d := &testDevice{server: s, conn: conn}
	if _, err := d.read(); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestSealedSendsAreNotLogged: neither log nor metrics tell tokens, recipients or where they came from.
func TestSealedSendsAreNotLogged(t *testing.T) {
	s := serve(t)
	bob := s.connected(t, "bob-dobalina")
	token, wrong := bob.setToken(t), randomBytes(16)
	nobody := s.anonymously(t)
	e := sealed(bob, 100)
	nobody.sendSealed(e, token)
	nobody.sendSealed(e, wrong)
	nobody.fetchSealed(bob.account, 0, wrong)
	nobody.conn.WriteMessage(websocket.BinaryMessage, []byte{0xff})
	w := httptest.NewRecorder()
	s.MetricsHandler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	said := s.log.String() + w.Body.String()
	if !strings.Contains(said, "sotto_signaling_delivery_tokens_refused_total 2") || !strings.Contains(said, "sotto_signaling_links_anonymous 1") {
		t.Error("the metrics do not count")
	}
	hash := wire.DeliveryTokenHash(token)
	for name, secret := range map[string][]byte{
		"token": token, "wrong token": wrong, "hash": hash[:], "account": bob.account, "id": e.Id, "ciphertext": e.Ciphertext[:8],
	} {
		if strings.Contains(said, hex.EncodeToString(secret)) || strings.Contains(said, string(secret)) {
			t.Errorf("%s is in the log or the metrics", name)
		}
	}
	if strings.Contains(said, "127.0.0.1") {
		t.Error("an address is in the log or the metrics")
	}
}
