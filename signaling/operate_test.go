package signaling

import (
	"encoding/base64"
	"errors"
	"maps"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"sotto/sealedwire"
	"sotto/signaling/store"
	"sotto/wire"
)

// ended reads what a link is told at its end, past deliveries.
func (d *testDevice) ended(t testing.TB) *wire.Error {
	t.Helper()
	for {
		f, err := d.read()
		if err != nil {
			t.Fatalf("the link ended without a word: %v", err)
		}
		if e := f.GetError(); e != nil && f.ReplyTo == 0 {
			if _, err := d.read(); !websocket.IsCloseError(err, websocket.ClosePolicyViolation) {
				t.Errorf("after %v: %v", e, err)
			}
			return e
		}
	}
}

// reason is what an error of the server's gives as such.
func reason(err error) wire.Error_Reason {
	var e *codeError
	if errors.As(err, &e) && e.frame.Code == wire.Error_UNAUTHENTICATED {
		return e.frame.Reason
	}
	return wire.Error_UNSPECIFIED
}

// TestDisabledAccount: its links end and its devices are refused, with the reason; only who has its
// key hears that. What others send waits, and is there when the account is enabled again.
func TestDisabledAccount(t *testing.T) {
	s := serve(t)
	alice, bob := s.connected(t, "alice"), s.connected(t, "bob")
	second := alice.link(t, 2, 1)
	second.connect(t)
	code := alice.openLinking(t)
	waiting := s.requestLinking(t.Context(), newDevice(s, "alice").linkRequest(t, code))
	alice.linkingRequest(t)

	if err := s.DisableAccount("nobody"); !errors.Is(err, ErrNoAccount) {
		t.Errorf("nobody: %v", err)
	}
	if err := s.DisableAccount("alice"); err != nil {
		t.Fatal(err)
	}
	for _, d := range []*testDevice{alice, second} {
		if e := d.ended(t); reason(&codeError{e}) != wire.Error_ACCOUNT_DISABLED {
			t.Errorf("device %d was told %v", d.device, e)
		}
		if err := d.dial(d.identityProof); reason(err) != wire.Error_ACCOUNT_DISABLED {
			t.Errorf("device %d logs in: %v", d.device, err)
		}
	}
	if a := wait(t, waiting); a.err == nil {
		t.Error("a device was linked to a disabled account")
	}
	err := alice.dial(func(nonce []byte, binding [32]byte) *wire.Authenticate {
		a := alice.identityProof(nonce, binding)
		a.Signature = bob.sign([]byte("something else"))
		return a
	})
	if reason(err) != wire.Error_UNSPECIFIED || !strings.Contains(err.Error(), "UNAUTHENTICATED") {
		t.Errorf("somebody without the key is told %v", err)
	}
	e := bob.envelope(alice, 100)
	if err := bob.send(e); err != nil {
		t.Errorf("sending to a disabled account: %v", err)
	}
	s.restart(t)
	if err := alice.dial(alice.identityProof); reason(err) != wire.Error_ACCOUNT_DISABLED {
		t.Errorf("after a restart: %v", err)
	}
	if err := s.EnableAccount("alice"); err != nil {
		t.Fatal(err)
	}
	alice.connect(t)
	if got, err := alice.receive(); err != nil || string(got.Id) != string(e.Id) {
		t.Errorf("what was sent meanwhile: %v, %v", got, err)
	}
}

// TestDisabledWhileAuthenticating: who comes between the look at the account and the hub is ended
// too.
func TestDisabledWhileAuthenticating(t *testing.T) {
	s := serve(t)
	alice := s.register(t, "alice")
	s.close(t)
	disabling := &disabling{}
	s.wrap = func(all store.Store) store.Store { disabling.Store = all; return disabling }
	s.open(t)
	disabling.disable = func() {
		if err := s.DisableAccount("alice"); err != nil {
			t.Error(err)
		}
	}
	if err := alice.dial(alice.identityProof); err == nil {
		if e := alice.ended(t); e.Reason != wire.Error_ACCOUNT_DISABLED {
			t.Errorf("told %v", e)
		}
	} else if reason(err) != wire.Error_ACCOUNT_DISABLED {
		t.Error(err)
	}
}

// disabling is a store that disables an account when the server, done with its proof, counts its
// keys.
type disabling struct {
	store.Store
	disable func()
}

func (d *disabling) KeyCounts(a store.Address) (store.Counts, error) {
	d.disable()
	return d.Store.KeyCounts(a)
}

func deleteAccount(username string) *wire.ClientFrame {
	m := &wire.DeleteAccount{Username: username}
	return &wire.ClientFrame{Body: &wire.ClientFrame_DeleteAccount{DeleteAccount: m}}
}

// TestDeletingOnesAccount: device 1 deletes it, with its name; the other devices hear of it now or
// when they come next; for everybody else there is no such account, and its name is not given
// again.
func TestDeletingOnesAccount(t *testing.T) {
	s := serve(t)
	alice, bob := s.connected(t, "alice"), s.connected(t, "bob")
	second, third := alice.link(t, 2, 1), (*testDevice)(nil)
	second.connect(t)
	third = alice.link(t, 3, 2, second)
	e := alice.envelope(bob, 100)
	bob.conn.Close()
	if err := alice.send(e); err != nil {
		t.Fatal(err)
	}
	bob.connect(t)
	for _, c := range []struct {
		by   *testDevice
		name string
		want wire.Error_Code
	}{
		{second, "alice", wire.Error_FORBIDDEN}, {alice, "bob", wire.Error_BAD_REQUEST},
		{alice, "carol", wire.Error_BAD_REQUEST}, {alice, "", wire.Error_BAD_REQUEST},
	} {
		if _, err := c.by.ask(deleteAccount(c.name)); code(err) != c.want {
			t.Errorf("device %d deletes %q: %v", c.by.device, c.name, err)
		}
	}
	if f, err := alice.ask(deleteAccount("alice")); err != nil || f.GetDone() == nil {
		t.Fatal(f, err)
	}
	for _, d := range []*testDevice{alice, second} {
		if e := d.ended(t); reason(&codeError{e}) != wire.Error_ACCOUNT_DELETED {
			t.Errorf("device %d was told %v", d.device, e)
		}
	}
	for range 2 {
		for _, d := range []*testDevice{alice, second, third} {
			if err := d.dial(d.identityProof); reason(err) != wire.Error_ACCOUNT_DELETED {
				t.Errorf("device %d logs in: %v", d.device, err)
			}
		}
		s.restart(t)
	}
	bob.connect(t)
	if got, err := bob.receive(); err != nil || string(got.Id) != string(e.Id) {
		t.Errorf("what alice had sent: %v, %v", got, err)
	}
	if err := bob.send(bob.envelope(alice, 100)); code(err) != wire.Error_NOT_FOUND {
		t.Errorf("sending to a deleted account: %v", err)
	}
	q := &wire.LookUp{Username: "alice"}
	_, err := bob.ask(&wire.ClientFrame{Body: &wire.ClientFrame_LookUp{LookUp: q}})
	if code(err) != wire.Error_NOT_FOUND {
		t.Errorf("looking it up: %v", err)
	}
	for _, again := range []*testDevice{alice, newDevice(s, "alice")} {
		_, _, refusal := s.post(t, again.registration(""))
		if refusal.GetCode() != wire.Error_USERNAME_TAKEN {
			t.Errorf("the name is given again: %v", refusal)
		}
	}
}

// TestOperatorDeletesAccount: likewise.
func TestOperatorDeletesAccount(t *testing.T) {
	s := serve(t)
	alice := s.connected(t, "alice")
	if err := s.DeleteAccount("alice"); err != nil {
		t.Fatal(err)
	}
	if e := alice.ended(t); e.Reason != wire.Error_ACCOUNT_DELETED {
		t.Errorf("told %v", e)
	}
	if err := s.DeleteAccount("alice"); !errors.Is(err, ErrNoAccount) {
		t.Errorf("once more: %v", err)
	}
}

// TestMailboxQuota: an account's own holds in place of the server's, for each of its devices.
func TestMailboxQuota(t *testing.T) {
	s := serve(t)
	alice, bob, carol := s.register(t, "alice"), s.register(t, "bob"), s.connected(t, "carol")
	if err := s.SetMailboxQuota("alice", 5, 0); err != nil {
		t.Fatal(err)
	}
	fill := func(to *testDevice) (stored int) {
		t.Helper()
		for range 10 {
			switch err := carol.send(carol.envelope(to, 100)); {
			case err == nil:
				stored++
			case code(err) != wire.Error_MAILBOX_FULL:
				t.Fatal(err)
			}
		}
		return stored
	}
	if n := fill(alice); n < 1 || n >= 5 {
		t.Errorf("one sender got %d into a mailbox of 5", n)
	}
	if n := fill(bob); n != 10 {
		t.Errorf("the other's mailbox took %d of 10", n)
	}
	a, err := s.Account("alice")
	quota := Quota{5, s.Server.cfg.Limits.MailboxBytes, true}
	if err != nil || a.Mailbox != quota || a.Waiting.Envelopes < 1 {
		t.Errorf("%+v, %v", a, err)
	}
	if err := s.SetMailboxQuota("alice", 0, 0); err != nil {
		t.Fatal(err)
	}
	if n := fill(alice); n != 10 {
		t.Errorf("with the server's limit again it took %d of 10", n)
	}
	list, err := s.Accounts("alice", 10)
	if err != nil || len(list) != 2 || list[0].Name != "bob" || list[0].Mailbox.Own {
		t.Errorf("%+v, %v", list, err)
	}
	if s.SetMailboxQuota("alice", -1, 0) == nil {
		t.Error("a quota below nothing was set")
	}
	if err := s.SetMailboxQuota("nobody", 1, 1); !errors.Is(err, ErrNoAccount) {
		t.Errorf("a quota for nobody: %v", err)
	}
}

// TestTokensBeginWithALetterOrDigit, so that no command line takes one for a flag.
func TestTokensBeginWithALetterOrDigit(t *testing.T) {
	for range 2000 { // of which some 60 would not
		token := newToken()
		random, err := base64.RawURLEncoding.DecodeString(token)
		if err != nil || len(random) != 21 || strings.ContainsAny(token[:1], "-_") {
			t.Fatalf("%q: %d bytes, %v", token, len(random), err)
		}
	}
}

// TestInvitationsTakenBack: by what the list shows, or by the token.
func TestInvitationsTakenBack(t *testing.T) {
	s := serve(t, func(c *Config, _ *timing) { c.OpenRegistration = false })
	var tokens []string
	for range 3 {
		token, err := s.NewInvitation(time.Hour, 2)
		if err != nil {
			t.Fatal(err)
		}
		tokens = append(tokens, token)
	}
	list, err := s.Invitations()
	if err != nil || len(list) != 3 || list[0].Uses != 2 || time.Until(list[0].Expires) > time.Hour {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, i := range list {
		shows := func(token string) bool { return strings.Contains(token, i.ID) }
		if slices.ContainsFunc(tokens, shows) {
			t.Error("the list shows a token")
		}
	}
	if err := s.RevokeInvitation(tokens[0]); err != nil {
		t.Error(err)
	}
	left, _ := s.Invitations()
	if err := s.RevokeInvitation(strings.ToUpper(left[0].ID)); err != nil || len(left) != 2 {
		t.Errorf("%d left, %v", len(left), err)
	}
	for _, which := range []string{tokens[0], left[0].ID, ""} {
		if err := s.RevokeInvitation(which); !errors.Is(err, ErrNoInvitation) {
			t.Errorf("revoking %q: %v", which, err)
		}
	}
	good := 0
	for i, token := range tokens {
		d := newDevice(s, "user"+strconv.Itoa(i))
		if status, _, _ := s.post(t, d.registration(token)); status == 200 {
			good++
		}
	}
	if good != 1 {
		t.Errorf("%d of 3 invitations are good after two were taken back", good)
	}
}

// TestGauges: what is in the store shows in the metrics, and State says the same.
func TestGauges(t *testing.T) {
	s := serve(t)
	alice, bob, carol := s.register(t, "alice"), s.register(t, "bob"), s.connected(t, "carol")
	for _, to := range []*testDevice{alice, alice, bob} {
		if err := carol.send(carol.envelope(to, 100)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.DisableAccount("bob"); err != nil {
		t.Fatal(err)
	}
	state, err := s.State()
	totals := state.Totals
	if err != nil || state.Links != 1 || totals.Accounts != 3 || totals.Waiting.Envelopes != 3 {
		t.Errorf("%+v, %v", state, err)
	}
	for _, c := range []struct {
		name, label string
		want        float64
	}{
		{"sotto_signaling_accounts", `"enabled"`, 2}, {"sotto_signaling_accounts", `"disabled"`, 1},
		{"sotto_signaling_devices ", "", 3}, {"sotto_signaling_mailboxes ", "", 2},
		{"sotto_signaling_mailbox_envelopes ", "", 3},
		{"sotto_signaling_mailbox_bytes ", "", float64(state.Totals.Waiting.Bytes)},
	} {
		if got := counterOf(t, s, c.name, c.label); got != c.want {
			t.Errorf("%s{%s} is %v, want %v", c.name, c.label, got, c.want)
		}
	}
	for _, name := range []string{
		"sotto_signaling_store_bytes ", "sotto_signaling_disk_free_bytes ",
	} {
		if got := counterOf(t, s, name, ""); got <= 0 {
			t.Errorf("%s is %v", name, got)
		}
	}
	if state.StoreBytes <= 0 || state.FreeBytes <= 0 || state.Uptime <= 0 {
		t.Errorf("%+v", state)
	}
	s.later(2 * censusEvery)
	if err := s.DeleteAccount("alice"); err != nil {
		t.Fatal(err)
	}
	if got := counterOf(t, s, "sotto_signaling_accounts", `"enabled"`); got != 1 {
		t.Errorf("%v accounts after one was deleted", got)
	}
	stopped := s.Server
	s.close(t)
	w := httptest.NewRecorder()
	r := httptest.NewRequest("GET", "/metrics", nil)
	stopped.MetricsHandler().ServeHTTP(w, r) // the store is closed
	if w.Code != 200 {
		t.Errorf("metrics of a server that has stopped: %d", w.Code)
	}
}

// TestBackupUnderLoad: a copy made while envelopes come and go, and accounts too, serves all that
// was answered before it was begun.
func TestBackupUnderLoad(t *testing.T) {
	s := serve(t, func(c *Config, _ *timing) {
		c.Limits.Sends = Rate{1 << 20, time.Millisecond}
		c.Limits.Mailbox = 1 << 20
	})
	sink, online := s.register(t, "sink"), s.connected(t, "online")
	var mu sync.Mutex
	answered := map[string]bool{}
	users := []*testDevice{sink, online}
	stop := make(chan struct{})
	var load sync.WaitGroup
	for i := range 3 {
		sender := s.connected(t, "sender"+strconv.Itoa(i))
		users = append(users, sender)
		load.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				e := sender.envelope(sink, 1000)
				if err := sender.send(e); err != nil {
					t.Error(err)
					return
				}
				if err := sender.send(sender.envelope(online, 100)); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				answered[string(e.Id)] = true
				mu.Unlock()
			}
		})
	}
	load.Go(func() {
		for {
			e, err := online.receive()
			if err != nil || online.acknowledge(e) != nil {
				return // closed below
			}
		}
	})
	taken := func(least int) (ids map[string]bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
			mu.Lock()
			ids = maps.Clone(answered)
			mu.Unlock()
			if len(ids) >= least {
				return ids
			}
			if time.Now().After(deadline) {
				t.Fatal("nothing is sent")
			}
		}
	}
	before := taken(50)
	dir := filepath.Join(t.TempDir(), "backup")
	if err := s.Backup(dir); err != nil {
		t.Fatal(err)
	}
	if err := s.Backup(dir); err == nil {
		t.Error("a backup was made into the place of another")
	}
	taken(len(before) + 50) // the server goes on
	close(stop)
	online.conn.Close()
	load.Wait()

	cfg := s.cfg
	cfg.DataDir = dir
	restored := &testServer{cfg: cfg, t: s.t, log: s.log}
	var err error
	if restored.Server, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	restored.http = httptest.NewServer(restored.Handler())
	defer restored.close(t)
	for _, d := range users {
		d.server = restored
		d.connect(t)
	}
	for len(before) > 0 {
		e, err := sink.receive()
		if err != nil {
			t.Fatalf("%d envelopes that were answered are missing: %v", len(before), err)
		}
		delete(before, string(e.Id))
		if err := sink.acknowledge(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := users[2].send(users[2].envelope(users[3], 10)); err != nil {
		t.Errorf("sending on the restored server: %v", err)
	}
	root := func(s *testServer) sealedwire.PublicKey { return s.issuer.root }
	if root(restored) != root(s) {
		t.Error("the restored server has another trust root")
	}
}
