package storetest

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sotto/signaling/store"
)

func keysOf(name string) store.Keys {
	return store.Keys{
		Signed:       []byte(name + " signed"),
		LastResort:   []byte(name + " last"),
		OneTime:      []store.OneTimeKey{{ID: 1, Data: []byte(name + " curve")}},
		OneTimeKyber: []store.OneTimeKey{{ID: 1, Data: []byte(name + " kyber")}},
	}
}

// further returns another device of an account.
func further(of store.Device, id uint8) store.Device {
	_, d := NewDevice("")
	d.Address = store.Address{Account: of.Address.Account, Device: id}
	return d
}

func listOf(text string) store.DeviceList {
	return store.DeviceList{List: []byte(text), Signature: []byte("signed " + text)}
}

func holds(t *testing.T, s store.Store, account store.UUID, want store.DeviceList, devices ...store.Device) {
	t.Helper()
	got, err := s.DeviceList(account)
	if err != nil || string(got.List) != string(want.List) || string(got.Signature) != string(want.Signature) {
		t.Errorf("list %q, %v", got, err)
	}
	list, err := s.Devices(account)
	if err != nil || len(list) != len(devices) {
		t.Fatalf("%d devices, %v; want %d", len(list), err, len(devices))
	}
	for i, d := range devices {
		if list[i] != d {
			t.Errorf("device %d is %v", i, list[i])
		}
	}
}

func furtherDevices(t *testing.T, s store.Store, reopen func() store.Store) {
	alice, bob := Create(t, s, "alice", keysOf("alice")), Create(t, s, "bob", store.Keys{})
	account := alice.Address.Account
	none, one, two := store.DeviceList{}, listOf("one"), listOf("two")
	holds(t, s, account, none, alice)
	second, third := further(alice, 2), further(alice, 3)
	want(t, s.AddDevice(second, keysOf("second"), none, one), nil)
	holds(t, s, account, one, alice, second)
	want(t, s.AddDevice(third, keysOf("third"), none, two), store.ErrListChanged)
	holds(t, s, account, one, alice, second)
	want(t, s.AddDevice(third, keysOf("third"), one, two), nil)
	s = reopen()
	holds(t, s, account, two, alice, second, third)
	holds(t, s, bob.Address.Account, none, bob)
	taken, err := s.TakeKeys(second.Address)
	if err != nil || taken.Device != second || string(taken.OneTime) != "second curve" || string(taken.Kyber) != "second kyber" || string(taken.Signed) != "second signed" {
		t.Error(taken, err)
	}
	// Each has a mailbox of its own.
	e := NewEnvelope(third.Address, bob.Address.Account, 10, now, time.Hour)
	want(t, Put(s, e, wide), nil)
	same(t, Read(t, s, third.Address, now), e)
	same(t, Read(t, s, second.Address, now))

	// Of changes that follow the same list, one is made.
	var all sync.WaitGroup
	var made atomic.Int32
	for range 8 {
		all.Go(func() {
			if s.RemoveDevice(third.Address, two, listOf("three")) == nil {
				made.Add(1)
			}
		})
	}
	all.Wait()
	if made.Load() != 1 {
		t.Errorf("%d changes were made", made.Load())
	}
	holds(t, s, account, listOf("three"), alice, second)

	// Or only the list changes.
	want(t, s.RenewList(account, two, listOf("four")), store.ErrListChanged)
	want(t, s.RenewList(account, listOf("three"), listOf("four")), nil)
	s = reopen()
	holds(t, s, account, listOf("four"), alice, second)
}

func removedDevice(t *testing.T, s store.Store, reopen func() store.Store) {
	alice, bob := Create(t, s, "alice", keysOf("alice")), Create(t, s, "bob", store.Keys{})
	account, from := alice.Address.Account, bob.Address.Account
	second := further(alice, 2)
	want(t, s.AddDevice(second, keysOf("second"), store.DeviceList{}, listOf("one")), nil)
	old := NewEnvelope(second.Address, from, 10, now, time.Hour)
	own := NewEnvelope(alice.Address, from, 10, now, time.Hour)
	want(t, Put(s, old, wide), nil)
	want(t, Put(s, own, wide), nil)
	want(t, s.RemoveDevice(second.Address, store.DeviceList{}, listOf("two")), store.ErrListChanged)
	same(t, Read(t, s, second.Address, now), old)
	want(t, s.RemoveDevice(second.Address, listOf("one"), listOf("two")), nil)
	check := func() {
		t.Helper()
		holds(t, s, account, listOf("two"), alice)
		same(t, Read(t, s, second.Address, now))
		same(t, Read(t, s, alice.Address, now), own)
		_, err := s.Device(second.Address)
		want(t, err, store.ErrNotFound)
		_, err = s.TakeKeys(second.Address)
		want(t, err, store.ErrNotFound)
		_, err = s.AddKeys(second.Address, keysOf("late"), 10)
		want(t, err, store.ErrNotFound)
		want(t, Put(s, NewEnvelope(second.Address, from, 10, now, time.Hour), wide), store.ErrNotFound)
	}
	check()
	s = reopen()
	check()

	// Another device gets the address, and nothing of the one before: what that was sent does not expire in its place.
	again := further(alice, 2)
	want(t, s.AddDevice(again, keysOf("again"), listOf("two"), listOf("three")), nil)
	e := NewEnvelope(again.Address, from, 10, now, 24*time.Hour)
	want(t, Put(s, e, wide), nil)
	want(t, s.Scrub(t.Context()), nil)
	if n, err := s.Sweep(t.Context(), now.Add(2*time.Hour)); n != 1 || err != nil { // alice's
		t.Errorf("%d envelopes expired, %v", n, err)
	}
	same(t, Read(t, s, again.Address, now), e)
	taken, err := s.TakeKeys(again.Address)
	if err != nil || string(taken.OneTime) != "again curve" {
		t.Error(taken, err)
	}
}
