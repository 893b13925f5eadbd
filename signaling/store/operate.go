package store

import (
	"cmp"
	"errors"
	"hash/maphash"
	"maps"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

// What operators do and see.

func (p *Pebble) DeleteAccount(a Account) error {
	p.names.Lock()
	defer p.names.Unlock()
	held, err := p.AccountByName(a.Username)
	if err != nil {
		return err
	}
	if held.ID != a.ID {
		return ErrNotFound
	}
	p.lists.Lock() // until it is durable: what DeviceList returns is
	defer p.lists.Unlock()
	devices, err := p.Devices(a.ID)
	if err != nil {
		return err
	}
	b := p.db.NewBatch()
	unlock := p.account(a.ID, devices)
	for _, d := range devices {
		if err := p.eraseDevice(b, d.Address); err != nil {
			unlock()
			return errors.Join(err, b.Close())
		}
	}
	for _, key := range [][]byte{
		accountKey(a.Username), conditionsKey(a.ID), tokenKey(a.ID), listKey(a.ID),
	} {
		b.Delete(key, nil)
	}
	b.Set(goneName(a.Username), nil, nil)
	b.Set(goneID(a.ID), nil, nil)
	if err := markRemoved(b, Address{a.ID, 0}); err != nil {
		unlock()
		return errors.Join(err, b.Close())
	}
	wait, err := p.apply(b)
	unlock()
	if err != nil {
		return err
	}
	return wait()
}

// account locks an account, whose lock is that of device 0, and its devices. Some of them may share
// a lock; nobody else holds two.
func (p *Pebble) account(account UUID, devices []Device) (unlock func()) {
	stripes := map[uint64]bool{p.stripe(Address{account, 0}): true}
	for _, d := range devices {
		stripes[p.stripe(d.Address)] = true
	}
	order := slices.Sorted(maps.Keys(stripes))
	for _, n := range order {
		p.stripes[n].Lock()
	}
	return func() {
		for _, n := range order {
			p.stripes[n].Unlock()
		}
	}
}

func (p *Pebble) stripe(a Address) uint64 {
	return maphash.Comparable(p.seed, a) % uint64(len(p.stripes))
}

func (p *Pebble) Deleted(account UUID) (bool, error) {
	v, err := p.get(goneID(account))
	return v != nil, err
}

func (p *Pebble) Conditions(account UUID) (c Conditions, err error) {
	if err := p.getJSON(conditionsKey(account), &c); err != nil && !errors.Is(err, ErrNotFound) {
		return Conditions{}, err
	}
	return c, nil
}

func (p *Pebble) SetConditions(account UUID, change func(*Conditions)) error {
	wait, err := p.setConditions(account, change)
	if err != nil {
		return err
	}
	return wait()
}

func (p *Pebble) setConditions(
	account UUID, change func(*Conditions),
) (wait func() error, err error) {
	defer p.account(account, nil)()
	if _, err := p.Device(Address{account, 1}); err != nil {
		return nil, err
	}
	c, err := p.Conditions(account)
	if err != nil {
		return nil, err
	}
	b := p.db.NewBatch()
	if change(&c); c == (Conditions{}) {
		b.Delete(conditionsKey(account), nil)
	} else {
		b.Set(conditionsKey(account), mustJSON(c), nil)
	}
	return p.apply(b)
}

func (p *Pebble) Standings(after string, limit int) (list []Standing, err error) {
	var found []Account
	prefix := []byte{kindAccount}
	err = p.each(prefix, append(accountKey(after), 0), func(key, value []byte) (bool, error) {
		if len(value) != 16 {
			return false, errDamaged
		}
		found = append(found, Account{ID: UUID(value), Username: string(key[1:])})
		return len(found) < limit, nil
	})
	for _, a := range found {
		if err != nil {
			break
		}
		var s Standing
		s, err = p.Standing(a)
		list = append(list, s)
	}
	return list, err
}

func (p *Pebble) Standing(a Account) (Standing, error) {
	s := Standing{Account: a}
	devices, err := p.Devices(a.ID)
	if err != nil {
		return s, err
	}
	s.Devices = len(devices)
	for _, d := range devices {
		h, err := p.head(d.Address)
		if err != nil {
			return s, err
		}
		s.Waiting.add(h.total())
	}
	s.Conditions, err = p.Conditions(a.ID)
	return s, err
}

func (w *Waiting) add(t tally) {
	w.Envelopes += int(t.count)
	w.Bytes += int64(t.bytes)
}

// Totals reads one short record for each account, device and mailbox.
func (p *Pebble) Totals() (t Totals, err error) {
	for _, count := range []struct {
		kind  byte
		visit func(value []byte) error
	}{
		{kindAccount, func([]byte) error { t.Accounts++; return nil }},
		{kindDevice, func([]byte) error { t.Devices++; return nil }},
		{kindInvitation, func([]byte) error { t.Invitations++; return nil }},
		{kindConditions, func(value []byte) error {
			var c Conditions
			err := parseJSON(value, &c)
			if c.Disabled {
				t.Disabled++
			}
			return err
		}},
		{kindHead, func(value []byte) error {
			h, err := parseHead(value)
			if in := h.total(); in.count > 0 {
				t.Mailboxes++
				t.Waiting.add(in)
			}
			return err
		}},
	} {
		prefix := []byte{count.kind}
		e := p.each(prefix, prefix, func(_, value []byte) (bool, error) {
			return true, count.visit(value)
		})
		err = cmp.Or(err, e)
	}
	return t, err
}

func (p *Pebble) Disk() (used, free int64, err error) {
	usage, err := p.fsys.GetDiskUsage(p.dir)
	return int64(p.db.Metrics().DiskSpaceUsage()), int64(usage.AvailBytes), err
}

// Backup is a checkpoint of the engine: tables are linked where the file system is the same, and
// copied elsewhere; the log is copied, after all of it has been written.
func (p *Pebble) Backup(dir string) error { return p.db.Checkpoint(dir, pebble.WithFlushedWAL()) }
