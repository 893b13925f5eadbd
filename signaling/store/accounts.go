package store

import (
	"errors"
	"time"
)

func (p *Pebble) AddInvitation(hash [32]byte, uses int, expires time.Time) error {
	b := p.db.NewBatch()
	key := invitationKey(hash)
	b.Set(key, mustJSON(invitationRecord{Uses: uses, Expires: expires.UnixMilli()}), nil)
	b.Set(expiryKey(expires, key), nil, nil)
	wait, err := p.apply(b)
	if err != nil {
		return err
	}
	return wait()
}

func (p *Pebble) CheckInvitation(hash [32]byte, now time.Time) error {
	_, err := p.invitation(hash, now)
	return err
}

func (p *Pebble) invitation(hash [32]byte, now time.Time) (invitationRecord, error) {
	var inv invitationRecord
	err := p.getJSON(invitationKey(hash), &inv)
	if errors.Is(err, ErrNotFound) || err == nil && (inv.Uses < 1 || now.UnixMilli() >= inv.Expires) {
		return inv, ErrBadInvitation
	}
	return inv, err
}

func (p *Pebble) Invitations(now time.Time) (list []Invitation, err error) {
	prefix := []byte{kindInvitation}
	err = p.each(prefix, prefix, func(key, value []byte) (bool, error) {
		var inv invitationRecord
		if err := parseJSON(value, &inv); err != nil || len(key) != 33 {
			return false, errDamaged
		}
		if inv.Uses > 0 && now.UnixMilli() < inv.Expires {
			expires := time.UnixMilli(inv.Expires)
			list = append(list, Invitation{[32]byte(key[1:]), inv.Uses, expires})
		}
		return true, nil
	})
	return list, err
}

func (p *Pebble) RemoveInvitation(hash [32]byte) error {
	p.names.Lock()
	defer p.names.Unlock()
	var inv invitationRecord
	key := invitationKey(hash)
	if err := p.getJSON(key, &inv); err != nil {
		return err
	}
	b := p.db.NewBatch()
	b.Delete(key, nil)
	b.Delete(expiryKey(time.UnixMilli(inv.Expires), key), nil)
	wait, err := p.apply(b)
	if err != nil {
		return err
	}
	return wait()
}

func (p *Pebble) CreateAccount(a Account, d Device, k Keys, invitation *[32]byte, now time.Time) error {
	wait, err := p.createAccount(a, d, k, invitation, now)
	if err != nil {
		return err
	}
	return wait()
}

func (p *Pebble) createAccount(a Account, d Device, k Keys, invitation *[32]byte, now time.Time) (wait func() error, err error) {
	p.names.Lock()
	defer p.names.Unlock()
	b := p.db.NewBatch()
	if invitation != nil {
		inv, err := p.invitation(*invitation, now)
		if err != nil {
			return nil, err
		}
		inv.Uses--
		if inv.Uses == 0 {
			b.Delete(invitationKey(*invitation), nil)
		} else {
			b.Set(invitationKey(*invitation), mustJSON(inv), nil)
		}
	}
	for _, key := range [][]byte{accountKey(a.Username), goneName(a.Username)} {
		switch held, err := p.get(key); {
		case err != nil:
			return nil, err
		case held != nil:
			return nil, ErrUsernameTaken
		}
	}
	b.Set(accountKey(a.Username), a.ID[:], nil)
	b.Set(keyOf(kindDevice, d.Address), mustJSON(deviceRecord{d.RegistrationID, d.IdentityKey[:]}), nil)
	var state keyState
	state.add(b, d.Address, k, len(k.OneTime)+len(k.OneTimeKyber))
	b.Set(keyOf(kindKeyState, d.Address), mustJSON(state), nil)
	return p.apply(b)
}

func (p *Pebble) AccountByName(username string) (Account, error) {
	id, err := p.get(accountKey(username))
	if err != nil {
		return Account{}, err
	}
	if id == nil {
		return Account{}, ErrNotFound
	}
	if len(id) != 16 {
		return Account{}, errDamaged
	}
	return Account{ID: UUID(id), Username: username}, nil
}

func (p *Pebble) Device(a Address) (Device, error) {
	var r deviceRecord
	if err := p.getJSON(keyOf(kindDevice, a), &r); err != nil {
		return Device{}, err
	}
	return r.device(a)
}

func (r deviceRecord) device(a Address) (Device, error) {
	if len(r.IdentityKey) != 33 {
		return Device{}, errDamaged
	}
	return Device{Address: a, RegistrationID: r.RegistrationID, IdentityKey: [33]byte(r.IdentityKey)}, nil
}

func (p *Pebble) Devices(account UUID) ([]Device, error) {
	var list []Device
	prefix := append([]byte{kindDevice}, account[:]...)
	err := p.each(prefix, prefix, func(key, value []byte) (bool, error) {
		d, err := p.Device(addressIn(key))
		list = append(list, d)
		return true, err
	})
	return list, err
}

// SetDeliveryToken holds a lock until the hash is durable: what another call finds equal is durable too.
func (p *Pebble) SetDeliveryToken(account UUID, hash [32]byte) error {
	defer p.device(Address{Account: account})()
	held, err := p.DeliveryToken(account)
	if err == nil && held == hash {
		return nil
	}
	if err != nil && !errors.Is(err, ErrNotFound) {
		return err
	}
	if _, err := p.Device(Address{account, 1}); err != nil { // deleted, perhaps a moment ago
		return err
	}
	b := p.db.NewBatch()
	b.Set(tokenKey(account), hash[:], nil)
	wait, err := p.apply(b)
	if err != nil {
		return err
	}
	return wait()
}

func (p *Pebble) DeliveryToken(account UUID) (hash [32]byte, err error) {
	v, err := p.get(tokenKey(account))
	switch {
	case err != nil:
		return hash, err
	case v == nil:
		return hash, ErrNotFound
	case len(v) != len(hash):
		return hash, errDamaged
	}
	return [32]byte(v), nil
}
