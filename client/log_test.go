package client

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"sotto/client/callflow"
)

type lockedBuffer struct {
	sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.Lock()
	defer b.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.Lock()
	defer b.Unlock()
	return b.Buffer.String()
}

// Everything that is logged while a lot happens, at every level: no name, no account, no address, no text, no token of a call.
func TestLogsSayNothingOfUsers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, withRelay(t))
	logged := new(lockedBuffer)
	w.log = slog.New(slog.NewTextHandler(logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	alice, bob := friends(t, w)
	caller, callee := ring(t, alice, bob, CallOptions{RelayOnly: true})
	if err := callee.Accept(patience(t), callee.media()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both hear", func() bool { return caller.speaker.heard() > 5 && callee.speaker.heard() > 5 })
	if err := caller.Hangup(); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, callee, Normal)

	bob.wait(func(w *timing) { w.Agree = time.Millisecond })
	alice.mu.Lock()
	changed, err := alice.changeContact(alice.named("bob"), func(p *contact) { p.Appeared = alice.identity.Public().Bytes() }, nil)
	alice.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	alice.calls.do(func() error { // fails, naming bob to the program
		to := callflow.Address{Account: callflow.Account(changed.Account), Device: firstDevice}
		return alice.calls.send(callflow.Send{To: to, Call: callflow.CallID(caller.ID()), Message: callflow.Hangup{}})
	})
	garbled := bob.sealedWhileConnected(t, "alice")
	garbled.Ciphertext[len(garbled.Ciphertext)-1] ^= 1
	if err := alice.take(t.Context(), garbled); err != nil {
		t.Fatal(err)
	}
	w.stop()
	expect[LinkDown](t, alice)

	text := logged.String()
	if !strings.Contains(text, "level=WARN") || !strings.Contains(text, "no link") {
		t.Fatalf("the log lacks what happened:\n%s", text)
	}
	for _, secret := range []string{"alice", "bob", alice.Account().String(), bob.Account().String(), "127.0.0.1", w.address, caller.ID().String()} {
		if strings.Contains(text, secret) {
			t.Errorf("the log holds %q:\n%s", secret, text)
		}
	}
}
