// Package storetest holds what every store.Store must show, whatever its engine.
package storetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"sotto/signaling/store"
)

// Run runs the suite. open returns a new empty store and a function that closes it and opens it again on the same data.
func Run(t *testing.T, open func(t *testing.T) (s store.Store, reopen func() store.Store)) {
	for _, c := range []struct {
		name string
		test func(*testing.T, store.Store, func() store.Store)
	}{
		{"accounts", accounts},
		{"invitations", invitations},
		{"an invitation is used once at a time", invitationRace},
		{"delivery tokens", tokens},
		{"keys", keys},
		{"further devices", furtherDevices},
		{"a removed device", removedDevice},
		{"a deleted account", deletedAccount},
		{"links are counted", linksAreCounted},
		{"conditions", conditions},
		{"what operators see", standings},
		{"each one-time key is handed out once", takeRace},
		{"mailbox", mailbox},
		{"putting twice is putting once", duplicates},
		{"limits", limits},
		{"limits of senders without a name", namelessLimits},
		{"expiry", expiry},
		{"concurrent puts and erases", putRace},
		{"scrub", scrub},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, reopen := open(t)
			c.test(t, s, reopen)
		})
	}
}

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

var wide = store.Limits{Count: 1 << 20, Bytes: 1 << 40}

// NewDevice returns an account and its device with random ids.
func NewDevice(username string) (store.Account, store.Device) {
	a := store.Account{Username: username}
	rand.Read(a.ID[:])
	d := store.Device{Address: store.Address{Account: a.ID, Device: 1}, RegistrationID: 77}
	rand.Read(d.IdentityKey[:])
	return a, d
}

// Create makes an account with device 1.
func Create(t testing.TB, s store.Store, username string, k store.Keys) store.Device {
	t.Helper()
	a, d := NewDevice(username)
	if err := s.CreateAccount(a, d, k, nil, now); err != nil {
		t.Fatal(err)
	}
	return d
}

// NewEnvelope returns an envelope with random id and body.
func NewEnvelope(to store.Address, from store.UUID, size int, at time.Time, ttl time.Duration) store.Envelope {
	e := store.Envelope{To: to, From: from, Body: make([]byte, size), Accepted: at, Expires: at.Add(ttl)}
	rand.Read(e.ID[:])
	rand.Read(e.Body)
	return e
}

// Put puts and waits.
func Put(s store.Store, e store.Envelope, l store.Limits) error {
	wait, err := s.Put(e, l)
	if err != nil {
		return err
	}
	return wait()
}

func want(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got error %v, want %v", err, want)
	}
}

func accounts(t *testing.T, s store.Store, reopen func() store.Store) {
	d := Create(t, s, "alice", store.Keys{Signed: []byte("s"), LastResort: []byte("l")})
	a2, d2 := NewDevice("alice")
	want(t, s.CreateAccount(a2, d2, store.Keys{}, nil, now), store.ErrUsernameTaken)
	_, err := s.Device(d2.Address)
	want(t, err, store.ErrNotFound)
	_, err = s.AccountByName("alic")
	want(t, err, store.ErrNotFound)
	for range 2 {
		a, err := s.AccountByName("alice")
		if err != nil || a.ID != d.Address.Account || a.Username != "alice" {
			t.Errorf("AccountByName: %v, %v", a, err)
		}
		got, err := s.Device(d.Address)
		if err != nil || got != d {
			t.Errorf("Device: %v, %v", got, err)
		}
		list, err := s.Devices(d.Address.Account)
		if err != nil || len(list) != 1 || list[0] != d {
			t.Errorf("Devices: %v, %v", list, err)
		}
		if list, err := s.Devices(a2.ID); err != nil || len(list) != 0 {
			t.Errorf("Devices of nobody: %v, %v", list, err)
		}
		s = reopen()
	}
}

func invitations(t *testing.T, s store.Store, reopen func() store.Store) {
	hash := [32]byte{1}
	want(t, s.CheckInvitation(hash, now), store.ErrBadInvitation)
	want(t, s.AddInvitation(hash, 2, now.Add(time.Hour)), nil)
	want(t, s.CheckInvitation(hash, now.Add(time.Hour)), store.ErrBadInvitation)
	a, d := NewDevice("alice")
	want(t, s.CreateAccount(a, d, store.Keys{}, &hash, now), nil)
	s = reopen()
	// A failed registration uses nothing up.
	_, taken := NewDevice("alice")
	want(t, s.CreateAccount(a, taken, store.Keys{}, &hash, now), store.ErrUsernameTaken)
	b, db := NewDevice("bob")
	want(t, s.CreateAccount(b, db, store.Keys{}, &hash, now), nil)
	want(t, s.CheckInvitation(hash, now), store.ErrBadInvitation)
	c, dc := NewDevice("carol")
	want(t, s.CreateAccount(c, dc, store.Keys{}, &hash, now), store.ErrBadInvitation)
	_, err := s.AccountByName("carol")
	want(t, err, store.ErrNotFound)

	none := [32]byte{3}
	want(t, s.AddInvitation(none, 0, now.Add(time.Hour)), nil)
	want(t, s.CheckInvitation(none, now), store.ErrBadInvitation)

	old := [32]byte{2}
	want(t, s.AddInvitation(old, 1, now.Add(time.Minute)), nil)
	if _, err := s.Sweep(context.Background(), now.Add(2*time.Minute)); err != nil {
		t.Fatal(err)
	}
	want(t, s.CheckInvitation(old, now), store.ErrBadInvitation) // it is gone, not only expired
}

func invitationRace(t *testing.T, s store.Store, _ func() store.Store) {
	hash := [32]byte{1}
	want(t, s.AddInvitation(hash, 5, now.Add(time.Hour)), nil)
	var mu sync.Mutex
	made := 0
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			a, d := NewDevice(fmt.Sprint("user", i))
			err := s.CreateAccount(a, d, store.Keys{}, &hash, now)
			if err != nil && !errors.Is(err, store.ErrBadInvitation) {
				t.Error(err)
			}
			if err == nil {
				mu.Lock()
				made++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if made != 5 {
		t.Errorf("an invitation of 5 uses made %d accounts", made)
	}
}

func tokens(t *testing.T, s store.Store, reopen func() store.Store) {
	alice, bob := Create(t, s, "alice", store.Keys{}), Create(t, s, "bob", store.Keys{})
	check := func(account store.UUID, hash [32]byte) {
		t.Helper()
		if got, err := s.DeliveryToken(account); err != nil || got != hash {
			t.Errorf("DeliveryToken: %x, %v; want %x", got, err, hash)
		}
	}
	_, err := s.DeliveryToken(alice.Address.Account)
	want(t, err, store.ErrNotFound)
	for _, hash := range [][32]byte{{1}, {1}, {2}, {}} {
		want(t, s.SetDeliveryToken(alice.Address.Account, hash), nil)
		check(alice.Address.Account, hash)
		s = reopen()
		check(alice.Address.Account, hash)
	}
	_, err = s.DeliveryToken(bob.Address.Account)
	want(t, err, store.ErrNotFound)
	want(t, s.SetDeliveryToken(bob.Address.Account, [32]byte{3}), nil)
	check(alice.Address.Account, [32]byte{})
}

// OneTime makes keys with the ids first to last, whose data is kind and id.
func OneTime(kind string, first, last uint32) (list []store.OneTimeKey) {
	for id := first; id <= last; id++ {
		list = append(list, store.OneTimeKey{ID: id, Data: fmt.Append(nil, kind, id)})
	}
	return list
}

func keys(t *testing.T, s store.Store, reopen func() store.Store) {
	d := Create(t, s, "alice", store.Keys{
		Signed: []byte("signed"), LastResort: []byte("last"), OneTime: OneTime("c", 1, 2), OneTimeKyber: OneTime("k", 1, 1),
	})
	_, other := NewDevice("nobody")
	_, err := s.TakeKeys(other.Address)
	want(t, err, store.ErrNotFound)
	_, err = s.KeyCounts(other.Address)
	want(t, err, store.ErrNotFound)
	_, err = s.AddKeys(other.Address, store.Keys{}, 10)
	want(t, err, store.ErrNotFound)

	check := func(curve, kyber string, last bool, left store.Counts) {
		t.Helper()
		k, err := s.TakeKeys(d.Address)
		if err != nil || string(k.OneTime) != curve || string(k.Kyber) != kyber || k.LastResort != last || k.Device != d {
			t.Errorf("TakeKeys: %q %q %v %v, want %q %q %v", k.OneTime, k.Kyber, k.LastResort, err, curve, kyber, last)
		}
		if c, err := s.KeyCounts(d.Address); err != nil || c != left {
			t.Errorf("KeyCounts: %v, %v; want %v", c, err, left)
		}
		s = reopen()
	}
	check("c1", "k1", false, store.Counts{OneTime: 1})
	check("c2", "last", true, store.Counts{})
	check("", "last", true, store.Counts{})

	// An upload that comes twice brings nothing back that may have been handed out.
	for range 2 {
		if _, err := s.AddKeys(d.Address, store.Keys{OneTime: OneTime("c", 1, 4), OneTimeKyber: OneTime("k", 2, 2)}, 10); err != nil {
			t.Fatal(err)
		}
	}
	check("c3", "k2", false, store.Counts{OneTime: 1})

	// The limit holds, and what was over it can come again.
	c, err := s.AddKeys(d.Address, store.Keys{Signed: []byte("signed2"), OneTime: OneTime("c", 5, 30)}, 10)
	if err != nil || c.OneTime != 10 {
		t.Errorf("AddKeys over the limit: %v, %v", c, err)
	}
	check("c4", "last", true, store.Counts{OneTime: 9})
	c, err = s.AddKeys(d.Address, store.Keys{OneTime: OneTime("c", 14, 30)}, 10)
	if err != nil || c.OneTime != 10 {
		t.Errorf("AddKeys again: %v, %v", c, err)
	}
	k, err := s.TakeKeys(d.Address)
	if err != nil || string(k.Signed) != "signed2" {
		t.Errorf("the signed key was not replaced: %q, %v", k.Signed, err)
	}
}

func takeRace(t *testing.T, s store.Store, _ func() store.Store) {
	const total = 50
	d := Create(t, s, "alice", store.Keys{LastResort: []byte("last"), OneTime: OneTime("c", 1, total), OneTimeKyber: OneTime("k", 1, total)})
	var mu sync.Mutex
	seen := map[string]int{}
	lastResort := 0
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range total / 4 { // twice as many as there are
				k, err := s.TakeKeys(d.Address)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if k.OneTime != nil {
					seen[string(k.OneTime)]++
				}
				if k.LastResort {
					lastResort++
				} else {
					seen[string(k.Kyber)]++
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	if len(seen) != 2*total || lastResort != 8*(total/4)-total {
		t.Errorf("%d different keys, want %d; last resort %d times", len(seen), 2*total, lastResort)
	}
	for key, n := range seen {
		if n != 1 {
			t.Errorf("key %s was handed out %d times", key, n)
		}
	}
}

// Read returns a whole mailbox, a few at a time.
func Read(t *testing.T, s store.Store, a store.Address, at time.Time) (list []store.Stored) {
	t.Helper()
	place := uint64(0)
	for {
		some, next, err := s.Mailbox(a, place, 3, at)
		if err != nil {
			t.Fatal(err)
		}
		if next == place {
			return list
		}
		list, place = append(list, some...), next
	}
}

func same(t *testing.T, got []store.Stored, want ...store.Envelope) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("the mailbox holds %d envelopes, want %d", len(got), len(want))
	}
	for i, g := range got {
		w := want[i]
		if g.To != w.To || g.From != w.From || g.ID != w.ID || !bytes.Equal(g.Body, w.Body) || !g.Accepted.Equal(w.Accepted) || !g.Expires.Equal(w.Expires) {
			t.Errorf("envelope %d differs", i)
		}
		if i > 0 && g.Place <= got[i-1].Place {
			t.Errorf("place %d does not come after %d", g.Place, got[i-1].Place)
		}
	}
}

func mailbox(t *testing.T, s store.Store, reopen func() store.Store) {
	alice, bob := Create(t, s, "alice", store.Keys{}), Create(t, s, "bob", store.Keys{})
	second := further(bob, 2)
	neighbour := second.Address
	want(t, s.AddDevice(second, store.Keys{}, store.DeviceList{}, listOf("one")), nil)
	var sent []store.Envelope
	for range 10 {
		e := NewEnvelope(bob.Address, alice.Address.Account, 100, now, time.Hour)
		want(t, Put(s, e, wide), nil)
		sent = append(sent, e)
	}
	other := NewEnvelope(neighbour, alice.Address.Account, 100, now, time.Hour)
	want(t, Put(s, other, wide), nil)
	same(t, Read(t, s, bob.Address, now), sent...)
	s = reopen()
	same(t, Read(t, s, bob.Address, now), sent...)
	same(t, Read(t, s, neighbour, now), other)

	for _, i := range []int{9, 0, 4} { // the last too: its place must not be given away again
		want(t, s.Erase(bob.Address, alice.Address.Account, sent[i].ID), nil)
		want(t, s.Erase(bob.Address, alice.Address.Account, sent[i].ID), nil)
	}
	left := append(append([]store.Envelope{}, sent[1:4]...), sent[5:9]...)
	same(t, Read(t, s, bob.Address, now), left...)
	last := Read(t, s, bob.Address, now)[6].Place
	s = reopen()
	same(t, Read(t, s, bob.Address, now), left...)
	e := NewEnvelope(bob.Address, alice.Address.Account, 0, now, time.Hour)
	want(t, Put(s, e, wide), nil)
	list, _, err := s.Mailbox(bob.Address, last+1, 10, now)
	if err != nil {
		t.Fatal(err)
	}
	same(t, list, e) // a reader that had seen the erased last envelope sees the new one
	want(t, s.Erase(bob.Address, alice.Address.Account, [16]byte{1}), nil)
	want(t, s.Check(), nil)
}

func duplicates(t *testing.T, s store.Store, reopen func() store.Store) {
	alice, bob := Create(t, s, "alice", store.Keys{}), Create(t, s, "bob", store.Keys{})
	e := NewEnvelope(bob.Address, alice.Address.Account, 10, now, time.Hour)
	straight := NewEnvelope(bob.Address, alice.Address.Account, 10, now, time.Hour)
	want(t, Put(s, e, wide), nil)
	want(t, Put(s, e, wide), nil)
	want(t, s.MarkDelivered(straight), nil)
	same(t, Read(t, s, bob.Address, now), e)
	want(t, s.Erase(bob.Address, alice.Address.Account, e.ID), nil)
	s = reopen()
	for _, e := range []store.Envelope{e, straight} {
		if seen, err := s.Seen(e); err != nil || !seen {
			t.Errorf("Seen: %v, %v", seen, err)
		}
		want(t, Put(s, e, wide), nil)
	}
	same(t, Read(t, s, bob.Address, now))

	// The same id of another sender, and to another device, is another envelope.
	a, b := e, e
	a.From, b.To.Device = bob.Address.Account, 2
	want(t, s.AddDevice(further(bob, 2), store.Keys{}, store.DeviceList{}, listOf("one")), nil)
	for _, e := range []store.Envelope{a, b} {
		if seen, err := s.Seen(e); err != nil || seen {
			t.Errorf("Seen of another: %v, %v", seen, err)
		}
		want(t, Put(s, e, wide), nil)
	}
	same(t, Read(t, s, bob.Address, now), a)

	// It is remembered until the horizon, and then forgotten.
	for _, c := range []struct {
		after time.Duration
		want  bool
	}{{store.Horizon - time.Minute, true}, {store.Horizon + time.Minute, false}} {
		if _, err := s.Sweep(context.Background(), now.Add(c.after)); err != nil {
			t.Fatal(err)
		}
		for _, e := range []store.Envelope{e, straight} {
			if seen, err := s.Seen(e); err != nil || seen != c.want {
				t.Errorf("Seen after %v: %v, %v", c.after, seen, err)
			}
		}
	}
}

func limits(t *testing.T, s store.Store, reopen func() store.Store) {
	bob := Create(t, s, "bob", store.Keys{})
	l := store.Limits{Count: 20, Bytes: 1000}
	sender := func() store.UUID { a, _ := NewDevice(""); return a.ID }
	put := func(from store.UUID, size int) (store.Envelope, error) {
		e := NewEnvelope(bob.Address, from, size, now, time.Hour)
		return e, Put(s, e, l)
	}
	ok := func(from store.UUID, size int) store.Envelope {
		t.Helper()
		e, err := put(from, size)
		want(t, err, nil)
		return e
	}
	full := func(from store.UUID, size int) {
		t.Helper()
		_, err := put(from, size)
		want(t, err, store.ErrMailboxFull)
	}
	alice := sender()
	first := ok(alice, 1)
	for range 3 {
		ok(alice, 1)
	}
	full(alice, 1) // her fifth would be more than a quarter of what is left
	s = reopen()
	full(alice, 1)
	want(t, s.Erase(bob.Address, alice, first.ID), nil)
	ok(alice, 1)

	// A crowd that takes what it can leaves room for whoever comes next, until all is taken.
	taken, crowd := 4, 0
	for ; taken < 20; crowd++ {
		from := sender()
		ok(from, 1)
		for taken++; ; taken++ {
			if _, err := put(from, 1); err != nil {
				want(t, err, store.ErrMailboxFull)
				break
			}
		}
	}
	if crowd < 6 {
		t.Errorf("one and %d others filled the mailbox", crowd)
	}
	full(sender(), 1)
	if got := Read(t, s, bob.Address, now); len(got) != 20 {
		t.Errorf("%d envelopes in a mailbox of 20", len(got))
	}

	// The same in bytes; expired ones do not count.
	if _, err := s.Sweep(context.Background(), now.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	ok(alice, 200)
	full(alice, 1)
	full(sender(), 801)
	ok(sender(), 700)
	full(sender(), 101)
	ok(sender(), 100)
	full(sender(), 1)
}

func namelessLimits(t *testing.T, s store.Store, _ func() store.Store) {
	bob, carol := Create(t, s, "bob", store.Keys{}), Create(t, s, "carol", store.Keys{})
	l := store.Limits{Count: 20, Bytes: 1000}
	nobody := store.UUID{}
	fill := func(to store.Address, from store.UUID, size int) (n int) {
		t.Helper()
		for {
			err := Put(s, NewEnvelope(to, from, size, now, time.Hour), l)
			if err != nil {
				want(t, err, store.ErrMailboxFull)
				return n
			}
			n++
		}
	}
	if n := fill(bob.Address, nobody, 1); n != 10 {
		t.Errorf("senders without a name have %d of 20 places", n)
	}
	a, _ := NewDevice("")
	if n := fill(bob.Address, a.ID, 1); n != 2 {
		t.Errorf("and then one with a name has %d of the 10 left", n)
	}
	if n := fill(carol.Address, nobody, 100); n != 5 {
		t.Errorf("senders without a name have %d times 100 of 1000 bytes", n)
	}
	if n := fill(carol.Address, a.ID, 50); n != 2 {
		t.Errorf("and then one with a name has %d times 50 of the 500 left", n)
	}
	// Those with a name leave them half of what is left.
	dave := Create(t, s, "dave", store.Keys{})
	if n := fill(dave.Address, a.ID, 1); n != 4 {
		t.Errorf("one with a name has %d of 20 places", n)
	}
	if n := fill(dave.Address, nobody, 1); n != 8 {
		t.Errorf("and then those without one have %d of the 16 left", n)
	}
}

func expiry(t *testing.T, s store.Store, reopen func() store.Store) {
	alice, bob := Create(t, s, "alice", store.Keys{}), Create(t, s, "bob", store.Keys{})
	call := NewEnvelope(bob.Address, alice.Address.Account, 10, now, time.Minute)
	text := NewEnvelope(bob.Address, alice.Address.Account, 10, now, 30*24*time.Hour)
	want(t, Put(s, call, wide), nil)
	want(t, Put(s, text, wide), nil)
	same(t, Read(t, s, bob.Address, now.Add(59*time.Second)), call, text)
	same(t, Read(t, s, bob.Address, now.Add(time.Minute)), text) // before any sweep
	s = reopen()
	for _, c := range []struct {
		after time.Duration
		n     int
	}{{time.Second, 0}, {time.Minute, 1}, {29 * 24 * time.Hour, 0}, {30 * 24 * time.Hour, 1}} {
		n, err := s.Sweep(context.Background(), now.Add(c.after))
		if err != nil || n != c.n {
			t.Errorf("Sweep after %v: %d, %v; want %d", c.after, n, err, c.n)
		}
		if c.n > 0 { // acknowledged too late
			want(t, s.Erase(bob.Address, alice.Address.Account, call.ID), nil)
		}
	}
	same(t, Read(t, s, bob.Address, now))
	want(t, s.Erase(bob.Address, alice.Address.Account, text.ID), nil)
}

// putRace: whatever happens at the same time, the mailbox holds in the end what was put and not erased, and counts it right.
func putRace(t *testing.T, s store.Store, reopen func() store.Store) {
	bob := Create(t, s, "bob", store.Keys{})
	const senders, each = 8, 50
	var all sync.WaitGroup
	for range senders {
		from, _ := NewDevice("")
		all.Go(func() {
			for i := range each {
				e := NewEnvelope(bob.Address, from.ID, 10, now, time.Hour)
				if err := Put(s, e, wide); err != nil {
					t.Error(err)
					return
				}
				if i%2 == 0 {
					if err := s.Erase(bob.Address, from.ID, e.ID); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	all.Wait()
	s = reopen()
	const left = senders * each / 2
	if got := Read(t, s, bob.Address, now); len(got) != left {
		t.Errorf("%d left, want %d", len(got), left)
	}
	from, _ := NewDevice("")
	l := wide
	l.Count = left + 1
	want(t, Put(s, NewEnvelope(bob.Address, from.ID, 1, now, time.Hour), l), nil)
	want(t, Put(s, NewEnvelope(bob.Address, from.ID, 1, now, time.Hour), l), store.ErrMailboxFull)
}

// scrub leaves what was not erased. That it removes what was is shown for each engine, on its own files.
func scrub(t *testing.T, s store.Store, reopen func() store.Store) {
	alice, bob := Create(t, s, "alice", store.Keys{}), Create(t, s, "bob", store.Keys{})
	a := NewEnvelope(bob.Address, alice.Address.Account, 100, now, time.Hour)
	b := NewEnvelope(bob.Address, alice.Address.Account, 100, now, time.Hour)
	want(t, Put(s, a, wide), nil)
	want(t, Put(s, b, wide), nil)
	want(t, s.Erase(bob.Address, alice.Address.Account, a.ID), nil)
	for range 2 {
		want(t, s.Scrub(context.Background()), nil)
		same(t, Read(t, s, bob.Address, now), b)
	}
	s = reopen()
	same(t, Read(t, s, bob.Address, now), b)
}
