package store

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"

	"github.com/cockroachdb/pebble/v2"
)

// DeviceList waits for a change that is going on: what it returns is durable. Peers never go back behind a list that they have seen.
func (p *Pebble) DeviceList(account UUID) (DeviceList, error) {
	p.lists.RLock()
	defer p.lists.RUnlock()
	return p.deviceList(account)
}

func (p *Pebble) deviceList(account UUID) (DeviceList, error) {
	var l DeviceList
	if err := p.getJSON(listKey(account), &l); err != nil && !errors.Is(err, ErrNotFound) {
		return DeviceList{}, err
	}
	return l, nil
}

func (p *Pebble) AddDevice(d Device, k Keys, held, list DeviceList) error {
	return p.changeList(d.Address, held, list, func(b *pebble.Batch) error {
		b.Set(keyOf(kindDevice, d.Address), mustJSON(deviceRecord{d.RegistrationID, d.IdentityKey[:]}), nil)
		var state keyState
		state.add(b, d.Address, k, len(k.OneTime)+len(k.OneTimeKyber))
		return b.Set(keyOf(kindKeyState, d.Address), mustJSON(state), nil)
	})
}

func (p *Pebble) RemoveDevice(a Address, held, list DeviceList) error {
	return p.changeList(a, held, list, func(b *pebble.Batch) error { return p.eraseDevice(b, a) })
}

// eraseDevice adds to a batch what takes a device out of the store. The caller holds the device's
// lock.
func (p *Pebble) eraseDevice(b *pebble.Batch, a Address) error {
	prefix := keyOf(kindEnvelope, a)
	err := p.each(prefix, prefix, func(key, value []byte) (bool, error) {
		e, err := parseEnvelope(a, value)
		if err != nil {
			return false, err
		}
		b.Delete(key, nil)
		// A device that is given this address later counts places from 1 again: an entry left in
		// the index would erase its envelopes.
		return true, b.Delete(expiryKey(e.Expires, key), nil)
	})
	if err != nil {
		return err
	}
	for _, kind := range []byte{kindOneTime, kindSeen} {
		prefix := keyOf(kind, a)
		b.DeleteRange(prefix, upperBound(prefix), nil)
	}
	for _, kind := range []byte{kindDevice, kindKeyState, kindHead, kindLinks} {
		b.Delete(keyOf(kind, a), nil)
	}
	return markRemoved(b, a)
}

// markRemoved lets the next Scrub look for what is left in the files. The mark is that of no other
// removal: see forgetRemoved.
func markRemoved(b *pebble.Batch, a Address) error {
	return b.Set(keyOf(kindRemoved, a), []byte(rand.Text()), nil)
}

func (p *Pebble) RenewList(account UUID, held, list DeviceList) error {
	return p.changeList(Address{account, 1}, held, list, func(*pebble.Batch) error { return nil })
}

// changeList puts a list in place of the held one, together with what change adds to the batch, and returns when that is durable.
func (p *Pebble) changeList(a Address, held, list DeviceList, change func(*pebble.Batch) error) error {
	p.lists.Lock()
	defer p.lists.Unlock()
	now, err := p.deviceList(a.Account)
	if err != nil {
		return err
	}
	if !bytes.Equal(now.List, held.List) {
		return ErrListChanged
	}
	if _, err := p.Device(Address{a.Account, 1}); err != nil { // deleted, perhaps a moment ago
		return err
	}
	b := p.db.NewBatch()
	b.Set(listKey(a.Account), mustJSON(list), nil)
	unlock := p.device(a)
	if err := change(b); err != nil {
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

// removed returns the marks of removed devices whose bytes may still be in the files.
func (p *Pebble) removed() (marks map[Address]string, err error) {
	marks = map[Address]string{}
	prefix := []byte{kindRemoved}
	err = p.each(prefix, prefix, func(key, value []byte) (bool, error) {
		marks[addressIn(key)] = string(value)
		return true, nil
	})
	return marks, err
}

// scrubRemoved rewrites the files that hold what mailboxes do not: the records and keys of removed devices, and the lists they were on. It
// looks only where they were; to rewrite everybody's keys would take long.
func (p *Pebble) scrubRemoved(ctx context.Context, marks map[Address]string) error {
	for a, mark := range marks {
		prefixes := [][]byte{
			keyOf(kindDevice, a), keyOf(kindKeyState, a), keyOf(kindOneTime, a), keyOf(kindSeen, a),
			listKey(a.Account),
		}
		if a.Device == 0 { // the account
			prefixes = [][]byte{
				{kindAccount}, conditionsKey(a.Account), tokenKey(a.Account), listKey(a.Account),
			}
		}
		for _, prefix := range prefixes {
			if err := p.db.Compact(ctx, prefix, upperBound(prefix), false); err != nil {
				return err
			}
		}
		if err := p.forgetRemoved(a, mark); err != nil {
			return err
		}
	}
	return nil
}

// forgetRemoved deletes a mark, unless the address was given to a device and taken away again meanwhile.
func (p *Pebble) forgetRemoved(a Address, mark string) error {
	p.lists.Lock()
	defer p.lists.Unlock()
	key := keyOf(kindRemoved, a)
	if now, err := p.get(key); err != nil || string(now) != mark {
		return err
	}
	b := p.db.NewBatch()
	b.Delete(key, nil)
	return p.applyLater(b)
}

func (p *Pebble) CountLink(a Address, number uint64) (highest uint64, err error) {
	defer p.device(a)()
	if _, err := p.Device(a); err != nil {
		return 0, err
	}
	v, err := p.get(keyOf(kindLinks, a))
	if err != nil {
		return 0, err
	}
	if len(v) == 8 {
		highest = binary.BigEndian.Uint64(v)
	}
	if number <= highest {
		return highest, nil
	}
	b := p.db.NewBatch()
	b.Set(keyOf(kindLinks, a), binary.BigEndian.AppendUint64(nil, number), nil)
	return highest, p.applyLater(b)
}
