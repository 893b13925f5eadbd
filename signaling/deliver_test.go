package signaling

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io/fs"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"sotto/signaling/store"
	"sotto/wire"
)

// TestOrderWhenTheWindowFills: more than a device may have unacknowledged goes to the mailbox, behind what went straight before.
func TestOrderWhenTheWindowFills(t *testing.T) {
	s := serve(t, func(_ *Config, t *timing) { t.straight = time.Minute }) // so that only the window stores
	alice, bob := s.connected(t, "alice"), s.connected(t, "bob")
	bob.live(t)
	var sent [][]byte
	for range 30 { // the window takes 1 MiB
		e := alice.envelope(bob, 60_000)
		sent = append(sent, e.Id)
		if _, err := alice.post(e); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := alice.answer(30); err != nil {
		t.Fatal(err)
	}
	for range 2 { // bob never acknowledges: the next link begins again
		for i, id := range sent[:17] {
			e, err := bob.receive()
			if err != nil || !bytes.Equal(e.Id, id) {
				t.Fatalf("envelope %d: %x, %v; want %x", i, e.GetId(), err, id)
			}
		}
		bob.connect(t)
	}
	for i, id := range sent {
		e, err := bob.receive()
		if err != nil || !bytes.Equal(e.Id, id) {
			t.Fatalf("envelope %d: %x, %v; want %x", i, e.GetId(), err, id)
		}
		bob.acknowledge(e) // which opens the window
	}
}

func TestCallSignallingExpires(t *testing.T) {
	s := serve(t, func(_ *Config, t *timing) { t.sweep = 10 * time.Millisecond })
	alice, bob := s.connected(t, "alice"), s.register(t, "bob")
	call, text := alice.envelope(bob, 10), alice.envelope(bob, 10)
	call.Ttl = 60
	for _, e := range []*wire.Envelope{call, text} {
		if err := alice.send(e); err != nil {
			t.Fatal(err)
		}
	}
	s.later(61 * time.Second)
	bob.connect(t)
	if e, err := bob.receive(); err != nil || !bytes.Equal(e.Id, text.Id) {
		t.Errorf("delivered %v, %v", e, err)
	}
	for deadline := time.Now().Add(patience); counterOf(t, s, "sotto_signaling_envelopes_expired_total", "") != 1; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it was not swept")
		}
	}
}

func TestMailboxLimits(t *testing.T) {
	s := serve(t, func(c *Config, _ *timing) { c.Limits.Mailbox = 20 })
	carol, bob := s.connected(t, "carol"), s.register(t, "bob")
	for _, name := range []string{"mallory", "accomplice"} {
		d := s.connected(t, name)
		for n := range 5 {
			err := d.send(d.envelope(bob, 10))
			if n < 4 && err != nil || n >= 4 && code(err) != wire.Error_MAILBOX_FULL {
				t.Errorf("%s, envelope %d: %v", name, n, err)
			}
		}
	}
	if err := carol.send(carol.envelope(bob, 10)); err != nil {
		t.Errorf("two senders filled the mailbox for all: %v", err)
	}
}

func TestSendsPerDevice(t *testing.T) {
	s := serve(t, func(c *Config, _ *timing) { c.Limits.Sends = Rate{3, time.Hour} })
	alice, bob := s.connected(t, "alice"), s.register(t, "bob")
	for n := range 4 {
		err := alice.send(alice.envelope(bob, 10))
		if n < 3 && err != nil || n == 3 && code(err) != wire.Error_RATE_LIMITED {
			t.Errorf("envelope %d: %v", n, err)
		}
	}
	alice.connect(t) // a new link is the same device
	if err := alice.send(alice.envelope(bob, 10)); code(err) != wire.Error_RATE_LIMITED {
		t.Errorf("on a new link: %v", err)
	}
}

// TestAcknowledgedBytesLeaveTheDisk is the promise over the whole server: what was delivered is in no file once EraseEvery is over.
func TestAcknowledgedBytesLeaveTheDisk(t *testing.T) {
	s := serve(t, func(c *Config, _ *timing) { c.EraseEvery = 200 * time.Millisecond })
	alice, bob, carol := s.connected(t, "alice"), s.register(t, "bob"), s.register(t, "carol")
	delivered, waiting := alice.envelope(bob, 500), alice.envelope(carol, 500)
	for _, e := range []*wire.Envelope{delivered, waiting} {
		if err := alice.send(e); err != nil {
			t.Fatal(err)
		}
		if !onDisk(t, s.cfg.DataDir, e.Ciphertext) {
			t.Fatal("a stored envelope is not found: the search is blind")
		}
	}
	bob.connect(t)
	e, err := bob.receive()
	if err != nil {
		t.Fatal(err)
	}
	bob.acknowledge(e)
	for deadline := time.Now().Add(patience); onDisk(t, s.cfg.DataDir, delivered.Ciphertext); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the acknowledged envelope is still in a file")
		}
	}
	if !onDisk(t, s.cfg.DataDir, waiting.Ciphertext) {
		t.Error("the waiting envelope is gone too")
	}
}

// onDisk says whether the first 64 bytes are in any file below dir.
func onDisk(t *testing.T, dir string, b []byte) (found bool) {
	t.Helper()
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil // the engine removes files meanwhile
		}
		content, _ := os.ReadFile(path)
		found = found || bytes.Contains(content, b[:64])
		return nil
	})
	return found
}

// TestLogsAndMetricsNameNobody runs what a server does, failures included, and searches what it says.
func TestLogsAndMetricsNameNobody(t *testing.T) {
	s := serve(t, func(c *Config, t *timing) { c.OpenRegistration, t.sweep = false, 5*time.Millisecond })
	token, _ := s.NewInvitation(time.Hour, 2)
	var devices []*testDevice
	for _, name := range []string{"alice-liddell", "bob-dobalina"} {
		d := newDevice(s, name)
		_, result, _ := s.post(t, d.registration(token))
		d.account = result.Account
		d.connect(t)
		devices = append(devices, d)
	}
	alice, bob := devices[0], devices[1]
	s.post(t, newDevice(s, "carol-kaye").registration(token))
	alice.dial(func(n []byte, b [32]byte) *wire.Authenticate { return bob.identityProof(make([]byte, 32), b) })
	alice.connect(t)
	sent := alice.envelope(bob, 100)
	alice.send(sent)
	alice.fetch(bob.account, 0)
	alice.fetch(randomBytes(16), 0)
	alice.settle(t)
	w := httptest.NewRecorder()
	s.MetricsHandler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	said := s.log.String() + w.Body.String()
	if !strings.Contains(said, "sotto_signaling_links") {
		t.Fatal("no metrics")
	}
	secrets := map[string]string{"token": token, "address": "127.0.0.1"}
	for _, d := range devices {
		secrets["user name "+d.username] = d.username
		secrets["account in hex "+d.username] = hex.EncodeToString(d.account)
		secrets["account "+d.username] = uuid.UUID(d.account).String()
	}
	secrets["ciphertext"] = hex.EncodeToString(sent.Ciphertext[:8])
	for name, secret := range secrets {
		if strings.Contains(said, secret) {
			t.Errorf("%s is in the log or the metrics", name)
		}
	}
}

func TestHealth(t *testing.T) {
	s := serve(t)
	get := func() int {
		response, err := s.client().Get(s.http.URL + "/healthz")
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return response.StatusCode
	}
	if got := get(); got != 200 {
		t.Errorf("health: %d", got)
	}
	s.Server.store = failing{s.Server.store}
	s.later(2 * time.Second)
	if got := get(); got != 503 {
		t.Errorf("health with a failing store: %d", got)
	}
}

// failing is a store whose disk does not take writes.
type failing struct{ store.Store }

func (failing) Check() error { return errors.New("disk on fire") }
