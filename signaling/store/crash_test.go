package store

import (
	"bytes"
	"crypto/rand"
	"errors"
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

// TestAnsweredIsDurable: each change that was answered is there after a crash at that moment.
func TestAnsweredIsDurable(t *testing.T) {
	for _, c := range durable() {
		t.Run(c.name, func(t *testing.T) {
			for range 5 {
				disk := vfs.NewCrashableMem()
				p := opened(t, disk)
				for _, change := range c.changes {
					if err := change(p); err != nil {
						t.Fatal(err)
					}
				}
				after := opened(t, disk.CrashClone(vfs.CrashCloneCfg{}))
				if there, err := c.there(after); err != nil || !there {
					t.Fatalf("it is lost: %v", err)
				}
			}
		})
	}
}

// A durableCase is changes, and whether the last of them is there.
type durableCase struct {
	name    string
	there   func(*Pebble) (bool, error)
	changes []func(*Pebble) error
}

func durable() []durableCase {
	now := time.Now()
	bob := Device{Address: Address{Account: UUID{1}, Device: 1}}
	second := Device{Address: Address{Account: UUID{1}, Device: 2}}
	account, hash := bob.Address.Account, [32]byte{1}
	one := DeviceList{List: []byte("one"), Signature: []byte("signed")}
	two := DeviceList{List: []byte("two"), Signature: []byte("signed")}
	keys := Keys{OneTime: []OneTimeKey{{ID: 1, Data: []byte("key")}}}

	create := func(p *Pebble) error {
		return p.CreateAccount(Account{account, "bob"}, bob, Keys{}, nil, now)
	}
	invite := func(p *Pebble) error { return p.AddInvitation(hash, 1, now.Add(time.Hour)) }
	upload := func(p *Pebble) error { _, err := p.AddKeys(bob.Address, keys, 10); return err }
	take := func(p *Pebble) error { _, err := p.TakeKeys(bob.Address); return err }
	token := func(p *Pebble) error { return p.SetDeliveryToken(account, hash) }
	add := func(p *Pebble) error { return p.AddDevice(second, Keys{}, DeviceList{}, one) }
	remove := func(p *Pebble) error { return p.RemoveDevice(second.Address, one, two) }
	renew := func(p *Pebble) error { return p.RenewList(account, one, two) }
	put := func(p *Pebble) error {
		e := Envelope{To: bob.Address, From: UUID{2}, Accepted: now, Expires: now.Add(time.Hour)}
		wait, err := p.Put(e, wide)
		if err != nil {
			return err
		}
		return wait()
	}

	known := func(p *Pebble) (bool, error) {
		a, err := p.AccountByName("bob")
		return a.ID == account, err
	}
	invited := func(p *Pebble) (bool, error) { return true, p.CheckInvitation(hash, now) }
	has := func(n int) func(*Pebble) (bool, error) {
		return func(p *Pebble) (bool, error) {
			c, err := p.KeyCounts(bob.Address)
			return c.OneTime == n, err
		}
	}
	tokenIs := func(p *Pebble) (bool, error) {
		got, err := p.DeliveryToken(account)
		return got == hash, err
	}
	listIs := func(want DeviceList) func(*Pebble) (bool, error) {
		return func(p *Pebble) (bool, error) {
			l, err := p.DeviceList(account)
			return bytes.Equal(l.List, want.List), err
		}
	}
	waits := func(p *Pebble) (bool, error) {
		list, _, err := p.Mailbox(bob.Address, 0, 10, now)
		return len(list) == 1, err
	}
	type changes = []func(*Pebble) error
	return []durableCase{
		{"an account", known, changes{create}},
		{"an invitation", invited, changes{invite}},
		{"keys", has(1), changes{create, upload}},
		{"keys that were given away", has(0), changes{create, upload, take}},
		{"a token", tokenIs, changes{create, token}},
		{"a device", listIs(one), changes{create, add}},
		{"a device that went", listIs(two), changes{create, add, remove}},
		{"a list", listIs(two), changes{create, add, renew}},
		{"an envelope", waits, changes{create, put}},
	}
}

// opened is a store on such a disk, closed with the test.
func opened(t *testing.T, disk vfs.FS) *Pebble {
	t.Helper()
	p, err := openPebble("data", disk, quiet)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// TestTheRestIsDurableSoon: what nobody waits for, marks and erasures, outlives a crash that comes
// some seconds later.
func TestTheRestIsDurableSoon(t *testing.T) {
	disk := vfs.NewCrashableMem()
	p := opened(t, disk)
	now := time.Now()
	bob := Device{Address: Address{Account: UUID{1}, Device: 1}}
	err := p.CreateAccount(Account{bob.Address.Account, "bob"}, bob, Keys{}, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	end := now.Add(time.Hour)
	stored := Envelope{To: bob.Address, From: UUID{2}, Accepted: now, Expires: end}
	straight := stored
	straight.ID = [16]byte{1}
	wait, err := p.Put(stored, wide)
	if err == nil {
		err = wait()
	}
	if err == nil {
		err = p.Erase(stored.To, stored.From, stored.ID)
	}
	if err == nil {
		err = p.MarkDelivered(straight)
	}
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		after, err := openPebble("data", disk.CrashClone(vfs.CrashCloneCfg{}), quiet)
		if err != nil {
			t.Fatal(err)
		}
		left, _, err1 := after.Mailbox(bob.Address, 0, 10, now)
		seen, err2 := after.Seen(straight)
		if err := errors.Join(err1, err2, after.Close()); err != nil {
			t.Fatal(err)
		}
		if len(left) == 0 && seen {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after a crash %d envelopes are back, a mark is there: %v", len(left), seen)
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
