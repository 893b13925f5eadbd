package storetest

import (
	"crypto/sha256"
	"slices"
	"testing"
	"time"

	"sotto/signaling/store"
)

// deletedAccount: nothing of it is left or can come back, its name and id are not given again, and
// others keep what they have.
func deletedAccount(t *testing.T, s store.Store, reopen func() store.Store) {
	alice, bob := Create(t, s, "alice", keysOf("alice")), Create(t, s, "bob", store.Keys{})
	account := store.Account{ID: alice.Address.Account, Username: "alice"}
	second := further(alice, 2)
	want(t, s.AddDevice(second, keysOf("second"), store.DeviceList{}, listOf("one")), nil)
	want(t, s.SetDeliveryToken(account.ID, [32]byte{1}), nil)
	want(t, s.SetConditions(account.ID, func(c *store.Conditions) { c.Disabled = true }), nil)
	for _, d := range []store.Device{alice, second} {
		want(t, Put(s, NewEnvelope(d.Address, bob.Address.Account, 10, now, time.Hour), wide), nil)
	}
	sent := NewEnvelope(bob.Address, account.ID, 10, now, time.Hour)
	want(t, Put(s, sent, wide), nil)

	for _, other := range []store.Account{
		{ID: bob.Address.Account, Username: "alice"}, {ID: account.ID, Username: "nobody"},
	} {
		want(t, s.DeleteAccount(other), store.ErrNotFound)
	}
	if gone, err := s.Deleted(account.ID); gone || err != nil {
		t.Errorf("deleted before it was: %v, %v", gone, err)
	}
	want(t, s.DeleteAccount(account), nil)
	check := func() {
		t.Helper()
		if gone, err := s.Deleted(account.ID); !gone || err != nil {
			t.Errorf("deleted: %v, %v", gone, err)
		}
		_, err := s.AccountByName("alice")
		want(t, err, store.ErrNotFound)
		want(t, s.DeleteAccount(account), store.ErrNotFound)
		holds(t, s, account.ID, store.DeviceList{})
		_, err = s.DeliveryToken(account.ID)
		want(t, err, store.ErrNotFound)
		if c, err := s.Conditions(account.ID); c != (store.Conditions{}) || err != nil {
			t.Errorf("conditions %v, %v", c, err)
		}
		for _, d := range []store.Device{alice, second} {
			_, err := s.Device(d.Address)
			want(t, err, store.ErrNotFound)
			_, err = s.TakeKeys(d.Address)
			want(t, err, store.ErrNotFound)
			same(t, Read(t, s, d.Address, now))
		}
		same(t, Read(t, s, bob.Address, now), sent)
		other, device := NewDevice("alice")
		want(t, s.CreateAccount(other, device, store.Keys{}, nil, now), store.ErrUsernameTaken)

		// What a link that has not ended yet may still ask for.
		none, two := store.DeviceList{}, listOf("two")
		late := NewEnvelope(alice.Address, bob.Address.Account, 10, now, time.Hour)
		want(t, Put(s, late, wide), store.ErrNotFound)
		want(t, s.AddDevice(further(alice, 3), store.Keys{}, none, two), store.ErrNotFound)
		want(t, s.RenewList(account.ID, none, two), store.ErrNotFound)
		want(t, s.SetDeliveryToken(account.ID, [32]byte{2}), store.ErrNotFound)
		want(t, s.SetConditions(account.ID, func(*store.Conditions) {}), store.ErrNotFound)
		_, err = s.AddKeys(alice.Address, keysOf("late"), 10)
		want(t, err, store.ErrNotFound)
	}
	check()
	want(t, s.Scrub(t.Context()), nil)
	s = reopen()
	check()
	if n, err := s.Sweep(t.Context(), now.Add(2*time.Hour)); n != 1 || err != nil { // what alice sent
		t.Errorf("%d envelopes expired, %v", n, err)
	}
}

func conditions(t *testing.T, s store.Store, reopen func() store.Store) {
	alice, bob := Create(t, s, "alice", store.Keys{}), Create(t, s, "bob", store.Keys{})
	account := alice.Address.Account
	check := func(want store.Conditions) {
		t.Helper()
		for range 2 {
			if c, err := s.Conditions(account); c != want || err != nil {
				t.Errorf("conditions %v, %v, want %v", c, err, want)
			}
			if c, err := s.Conditions(bob.Address.Account); c != (store.Conditions{}) || err != nil {
				t.Errorf("the other's conditions %v, %v", c, err)
			}
			s = reopen()
		}
	}
	quota := store.Limits{Count: 10, Bytes: 1000}
	check(store.Conditions{})
	want(t, s.SetConditions(account, func(c *store.Conditions) { c.Disabled = true }), nil)
	check(store.Conditions{Disabled: true})
	want(t, s.SetConditions(account, func(c *store.Conditions) { c.Mailbox = quota }), nil)
	check(store.Conditions{Disabled: true, Mailbox: quota})
	want(t, s.SetConditions(account, func(c *store.Conditions) { *c = store.Conditions{} }), nil)
	check(store.Conditions{})
	unknown, _ := NewDevice("carol")
	disable := func(c *store.Conditions) { c.Disabled = true }
	want(t, s.SetConditions(unknown.ID, disable), store.ErrNotFound)
}

// standings: accounts by name in pages, invitations, and the totals of all.
func standings(t *testing.T, s store.Store, reopen func() store.Store) {
	alice, bob := Create(t, s, "alice", store.Keys{}), Create(t, s, "bob", store.Keys{})
	carol := Create(t, s, "carol", store.Keys{})
	second := further(alice, 2)
	want(t, s.AddDevice(second, store.Keys{}, store.DeviceList{}, listOf("one")), nil)
	for _, size := range []int{10, 20} {
		e := NewEnvelope(alice.Address, bob.Address.Account, size, now, time.Hour)
		want(t, Put(s, e, wide), nil)
	}
	to := NewEnvelope(second.Address, carol.Address.Account, 5, now, time.Hour)
	want(t, Put(s, to, wide), nil)
	gone := NewEnvelope(bob.Address, alice.Address.Account, 7, now, time.Hour)
	want(t, Put(s, gone, wide), nil)
	want(t, s.Erase(gone.To, gone.From, gone.ID), nil)
	disable := func(c *store.Conditions) { c.Disabled = true }
	want(t, s.SetConditions(bob.Address.Account, disable), nil)

	one, two := sha256.Sum256([]byte("one")), sha256.Sum256([]byte("two"))
	old := sha256.Sum256([]byte("old"))
	want(t, s.AddInvitation(one, 1, now.Add(time.Hour)), nil)
	want(t, s.AddInvitation(two, 3, now.Add(2*time.Hour)), nil)
	want(t, s.AddInvitation(old, 1, now.Add(-time.Hour)), nil)

	s = reopen()
	all := []store.Standing{
		{
			Account: store.Account{ID: alice.Address.Account, Username: "alice"},
			Devices: 2, Waiting: store.Waiting{Envelopes: 3, Bytes: 35},
		},
		{
			Account: store.Account{ID: bob.Address.Account, Username: "bob"},
			Devices: 1, Conditions: store.Conditions{Disabled: true},
		},
		{Account: store.Account{ID: carol.Address.Account, Username: "carol"}, Devices: 1},
	}
	for _, c := range []struct {
		after string
		limit int
		want  []store.Standing
	}{
		{"", 10, all}, {"", 2, all[:2]}, {"alice", 1, all[1:2]},
		{"bob", 10, all[2:]}, {"carol", 10, nil},
	} {
		if got, err := s.Standings(c.after, c.limit); !slices.Equal(got, c.want) || err != nil {
			t.Errorf("%d after %q: %v, %v", c.limit, c.after, got, err)
		}
	}
	totals, err := s.Totals()
	if err != nil || totals != (store.Totals{
		Accounts: 3, Disabled: 1, Devices: 4, Mailboxes: 2, Invitations: 3,
		Waiting: store.Waiting{Envelopes: 3, Bytes: 35},
	}) {
		t.Errorf("%+v, %v", totals, err)
	}
	if used, free, err := s.Disk(); used <= 0 || free <= 0 || err != nil {
		t.Errorf("%d bytes used, %d free, %v", used, free, err)
	}

	list, err := s.Invitations(now)
	if err != nil || len(list) != 2 || !slices.ContainsFunc(list, func(i store.Invitation) bool {
		return i.Hash == two && i.Uses == 3 && i.Expires.Equal(now.Add(2*time.Hour))
	}) {
		t.Errorf("invitations %v, %v", list, err)
	}
	want(t, s.RemoveInvitation(two), nil)
	want(t, s.RemoveInvitation(two), store.ErrNotFound)
	want(t, s.CheckInvitation(two, now), store.ErrBadInvitation)
	want(t, s.CheckInvitation(one, now), nil)
	if list, err := s.Invitations(now); len(list) != 1 || err != nil {
		t.Errorf("invitations %v, %v", list, err)
	}
}

func linksAreCounted(t *testing.T, s store.Store, reopen func() store.Store) {
	alice := Create(t, s, "alice", store.Keys{})
	count := func(number, before uint64) {
		t.Helper()
		if highest, err := s.CountLink(alice.Address, number); highest != before || err != nil {
			t.Errorf("link %d: before it %d, %v; want %d", number, highest, err, before)
		}
	}
	count(0, 0)
	count(3, 0)
	count(2, 3)
	count(3, 3)
	count(5, 3)
	s = reopen()
	count(0, 5)
	_, err := s.CountLink(further(alice, 2).Address, 1)
	want(t, err, store.ErrNotFound)
	want(t, s.DeleteAccount(store.Account{ID: alice.Address.Account, Username: "alice"}), nil)
	_, err = s.CountLink(alice.Address, 9)
	want(t, err, store.ErrNotFound)
}
