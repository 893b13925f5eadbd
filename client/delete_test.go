package client

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"sotto/wire"
)

// TestDeleteAccount: it is gone at the server and on this device; the other device hears of it and
// removes what it has; contacts are refused; the name is not given again.
func TestDeleteAccount(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := w.online("alice"), w.online("bob")
	second := w.link(alice)
	second.start(t)
	alice.send(t, "bob", "farewell")
	bob.hears(t, "farewell")

	if err := second.DeleteAccount(patience(t)); !refused(err, wire.Error_FORBIDDEN) {
		t.Fatalf("the second device deletes it: %v", err)
	}
	other := filepath.Join(alice.dir, "note")
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := alice.DeleteAccount(patience(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := alice.Send(t.Context(), "bob", "hello"); err == nil {
		t.Error("the client goes on")
	}
	left, err := os.ReadDir(alice.dir)
	if err != nil || len(left) != 1 || left[0].Name() != "note" {
		t.Errorf("left in the directory: %v, %v; it is not for us to remove what is not ours", left, err)
	}
	if _, err := Open(alice.dir, w.options()); !errors.Is(err, ErrNoAccount) {
		t.Errorf("opening it: %v", err)
	}

	for down := expect[LinkDown](t, second); !down.Final; down = expect[LinkDown](t, second) {
	}
	err = second.WaitConnected(patience(t))
	if !errors.Is(err, ErrAccountDeleted) || !errors.Is(err, ErrUnauthenticated) {
		t.Errorf("the other device: %v", err)
	}
	second.reopen(t, w)
	if err := second.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := second.WaitConnected(patience(t)); !errors.Is(err, ErrAccountDeleted) {
		t.Errorf("the other device, later: %v", err)
	}
	if err := second.DeleteAccount(patience(t)); err != nil {
		t.Errorf("removing what it has: %v", err)
	}
	if _, err := os.Stat(second.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its directory: %v", err)
	}

	carol := w.online("carol")
	if _, err := carol.Send(patience(t), "alice", "hello"); !errors.Is(err, ErrNoSuchUser) {
		t.Errorf("a stranger writes: %v", err)
	}
	id, err := bob.Send(patience(t), "alice", "are you there?")
	if err == nil {
		err = bob.WaitSent(patience(t), id)
	}
	if err == nil {
		t.Error("a contact's message counts as sent")
	}
	again := RegisterOptions{Options: w.options(), Server: w.url(), Username: "alice"}
	if _, err := Register(t.Context(), t.TempDir(), again); !refused(err, wire.Error_USERNAME_TAKEN) {
		t.Errorf("registering the name again: %v", err)
	}
}

// TestDeleteAccountAnswerLost: the link breaks after the server has deleted the account and before
// it has said so. The next one tells, and the device erases what it has.
func TestDeleteAccountAnswerLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cut := newCut(t, w.address)
	w.front = "http://" + cut.Addr().String()
	alice := w.online("alice")
	cut.mute()
	if err := alice.DeleteAccount(patience(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(alice.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the directory: %v", err)
	}
}

// A cut is a proxy whose present connections can be made to lose what comes from the server, and to
// end with it.
type cut struct {
	net.Listener
	mu      sync.Mutex
	muted   bool
	present []net.Conn
}

func newCut(t testing.TB, server string) *cut {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cut{Listener: l}
	var relaying sync.WaitGroup
	t.Cleanup(func() {
		l.Close()
		c.mu.Lock()
		for _, conn := range c.present {
			conn.Close()
		}
		c.mu.Unlock()
		relaying.Wait()
	})
	relaying.Go(func() {
		for {
			device, err := l.Accept()
			if err != nil {
				return
			}
			upstream, err := net.Dial("tcp", server)
			if err != nil {
				t.Error(err)
				return
			}
			c.mu.Lock()
			c.present = append(c.present, device, upstream)
			born := c.muted
			c.mu.Unlock()
			relaying.Go(func() { _, _ = io.Copy(upstream, device); upstream.Close() })
			relaying.Go(func() {
				defer device.Close()
				b := make([]byte, 4096)
				for {
					n, err := upstream.Read(b)
					c.mu.Lock()
					lost := c.muted && !born
					c.mu.Unlock()
					if lost || err != nil {
						return
					}
					if _, err := device.Write(b[:n]); err != nil {
						return
					}
				}
			})
		}
	})
	return c
}

func (c *cut) mute() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.muted = true
}
