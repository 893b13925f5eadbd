package store

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"log/slog"
	mrand "math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// TestCrashLosesNothingAcknowledged drops what was not synced, at any moment while eight writers put, erase and take keys: all
// that was acknowledged before the crash is there, no key that was handed out is there again, and nothing is damaged.
func TestCrashLosesNothingAcknowledged(t *testing.T) {
	rounds := 16
	if testing.Short() {
		rounds = 4
	}
	for round := range rounds {
		t.Run(fmt.Sprint(round), func(t *testing.T) { crash(t, round) })
	}
}

var (
	quiet = slog.New(slog.DiscardHandler)
	wide  = Limits{Count: 1 << 20, Bytes: 1 << 40}
)

func crash(t *testing.T, round int) {
	const writers = 8
	rng := mrand.New(mrand.NewPCG(uint64(round), 0))
	disk := vfs.NewCrashableMem()
	p, err := openPebble("data", disk, quiet)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Truncate(time.Millisecond)
	bob := Address{Account: UUID{1}, Device: 1}
	keys := Keys{LastResort: []byte("last")}
	for id := range uint32(100) {
		keys.OneTime = append(keys.OneTime, OneTimeKey{ID: id + 1, Data: fmt.Append(nil, id+1)})
	}
	if err := p.CreateAccount(Account{bob.Account, "bob"}, Device{Address: bob}, keys, nil, now); err != nil {
		t.Fatal(err)
	}

	var mu sync.Mutex
	acknowledged := map[[16]byte][]byte{} // put and not erased
	erased := map[[16]byte]bool{}         // Erase was called: may be there or not
	taken := map[string]bool{}
	stop := make(chan struct{})
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				e := Envelope{To: bob, From: UUID{2, byte(w)}, Body: make([]byte, 500), Accepted: now, Expires: now.Add(time.Hour)}
				rand.Read(e.ID[:])
				rand.Read(e.Body)
				wait, err := p.Put(e, wide)
				if err == nil {
					err = wait()
				}
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				acknowledged[e.ID] = e.Body
				erase := len(acknowledged)%3 == 0
				if erase {
					erased[e.ID] = true
				}
				mu.Unlock()
				if erase {
					p.Erase(bob, e.From, e.ID)
				}
				if w == 0 {
					k, err := p.TakeKeys(bob)
					if err != nil {
						t.Error(err)
						return
					}
					mu.Lock()
					taken[string(k.OneTime)] = true
					mu.Unlock()
				}
			}
		})
	}
	time.Sleep(time.Duration(1+rng.IntN(20)) * time.Millisecond) // the moment is arbitrary, the claim holds at any
	mu.Lock()
	// What is in the maps now was acknowledged before the crash.
	after := disk.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: []int{0, 0, 50, 90}[round%4], RNG: rng})
	want := make(map[[16]byte][]byte, len(acknowledged))
	for id, body := range acknowledged {
		want[id] = body
	}
	maybe := make(map[[16]byte]bool, len(erased))
	for id := range erased {
		maybe[id] = true
	}
	gone := make(map[string]bool, len(taken))
	for k := range taken {
		gone[k] = true
	}
	mu.Unlock()
	close(stop)
	all.Wait()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}

	p, err = openPebble("data", after, quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	list, _, err := p.Mailbox(bob, 0, 1<<20, now)
	if err != nil {
		t.Fatal(err)
	}
	got := map[[16]byte][]byte{}
	for _, e := range list {
		got[e.ID] = e.Body
	}
	lost := 0
	for id, body := range want {
		if !maybe[id] && !bytes.Equal(got[id], body) {
			lost++
		}
	}
	if lost > 0 {
		t.Errorf("%d of %d acknowledged envelopes are lost", lost, len(want))
	}
	head, err := p.head(bob)
	if n := int(head.total().count); err != nil || n != len(list) {
		t.Errorf("the mailbox counts %d and holds %d, %v", n, len(list), err)
	}
	for {
		k, err := p.TakeKeys(bob)
		if err != nil {
			t.Fatal(err)
		}
		if k.OneTime == nil {
			break
		}
		if gone[string(k.OneTime)] {
			t.Errorf("key %s was handed out before the crash, and after", k.OneTime)
		}
	}
}

// TestNoKeyNamesASender: the engine notes some keys outside of what Scrub rewrites, so none may hold the sender of what waits.
func TestNoKeyNamesASender(t *testing.T) {
	p, err := openPebble("data", vfs.NewMem(), quiet)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	now := time.Now()
	bob := Address{UUID{1}, 1}
	if err := p.CreateAccount(Account{bob.Account, "bob"}, Device{Address: bob}, Keys{}, nil, now); err != nil {
		t.Fatal(err)
	}
	e := Envelope{To: bob, From: UUID([]byte("the sender's id ")), ID: [16]byte{2}, Accepted: now, Expires: now.Add(time.Hour)}
	wait, err := p.Put(e, wide)
	if err != nil {
		t.Fatal(err)
	}
	if err := wait(); err != nil {
		t.Fatal(err)
	}
	keys := 0
	err = p.each(nil, nil, func(key, _ []byte) (bool, error) {
		keys++
		if bytes.Contains(key, e.From[:]) {
			t.Errorf("a key of kind %c names the sender", key[0])
		}
		return true, nil
	})
	if err != nil || keys == 0 {
		t.Errorf("%d keys, %v", keys, err)
	}
}
