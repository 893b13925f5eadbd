package client

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"sotto/client/callflow"
	"sotto/e2ee/linking"
	"sotto/e2ee/ratchet"
	"sotto/wire"
)

// The devices of accounts (docs/protocol.md, "Further devices"). An account's identity is its first device's identity key, which is pinned,
// and which signs the list of the account's devices.
//
//  1. A list comes with bundles, in content of the contact's, or is fetched: when content names a higher epoch than the one that is known,
//     when a device writes that is not listed, and when the server does not know a device any more.
//  2. It is taken if the pinned key has signed it and its epoch is higher than any before (verifyList, takeList). All dealings with devices
//     that are not on it any more are forgotten in the same transaction.
//  3. From then on everything goes to exactly those devices (sessions.go), and what comes of others is dropped (inbox.go).
//
// So the server can keep a newer list back. It cannot slip in a device.

const firstDevice = 1

// A peerDevice is one device of a contact's.
type peerDevice struct {
	id       uint8
	identity []byte
}

// devices are those of a contact's list; without one, the first device.
func (p *contact) devices() (devices []peerDevice) {
	if p.listed == nil {
		return []peerDevice{{firstDevice, p.Identity}}
	}
	for _, d := range p.listed.Devices {
		devices = append(devices, peerDevice{uint8(d.Id), d.IdentityKey})
	}
	return devices
}

// outdated says that of a later list than the one here only the epoch is known. Nothing is begun with the contact, and nothing taken from
// their further devices, before that is there: a server that keeps it back is found out by what the first device says.
func (p *contact) outdated() bool { return p.Epoch > 0 && p.listed == nil || p.Heard > p.Epoch }

// lost says that a device was removed. No later list can have it: ids are not given again.
func (p *contact) lost(device uint8) bool {
	return uint32(device) <= p.listed.GetLastId() && p.listed.IdentityOf(uint32(device)) == nil
}

var errUnlisted = errors.New("the device is not on the list that the account's first device has signed")

// remote is one of the contact's devices to the session layer.
func (p *contact) remote(device uint8) (ratchet.Remote, error) {
	remote := ratchet.Remote{Address: ratchet.Address{Account: p.Account, Device: device}}
	for _, d := range p.devices() {
		if d.id == device {
			var err error
			remote.Identity, err = ratchet.ParsePublicKey(d.identity)
			return remote, err
		}
	}
	return remote, errUnlisted
}

// has tells whether a key is that of one of the contact's devices.
func (p *contact) has(device uint8, key ratchet.PublicKey) bool {
	remote, err := p.remote(device)
	return err == nil && remote.Identity.Equal(key)
}

// remotes are all devices of a contact's that things are sent to: of this account all others.
func (c *Client) remotes(p *contact) (remotes []ratchet.Remote, err error) {
	for _, d := range p.devices() {
		remote, err := p.remote(d.id)
		if err != nil {
			return nil, err
		}
		if remote.Address != c.local().Address {
			remotes = append(remotes, remote)
		}
	}
	return remotes, nil
}

// readList reads the list of a record.
func (p *contact) readList() (err error) {
	if p.List != nil {
		p.listed, err = wire.ParseDeviceList(p.List)
	}
	return err
}

var (
	errListRefused = errors.New("the server gave a list of devices that the account's first device has not signed: do not trust it")
	errListOlder   = errors.New("the server gave an older list of an account's devices than there is: do not trust it")
)

// verified is a list that is newer than the one in a contact's record.
type verified struct {
	signed *wire.SignedDeviceList
	list   *wire.DeviceList
}

// verifyList returns nil if there is nothing new.
func (c *Client) verifyList(p *contact, signed *wire.SignedDeviceList) (*verified, error) {
	none := len(signed.GetList()) == 0
	switch same := none && p.Epoch == 0 || p.List != nil && bytes.Equal(signed.GetList(), p.List); {
	case same && !p.outdated():
		return nil, nil
	case same || none:
		return nil, errListOlder
	}
	list, err := linking.OpenList(c.account.Server, p.Account[:], p.Identity, signed)
	switch {
	case err != nil:
		return nil, errListRefused
	case list.Epoch < max(p.Epoch, p.Heard):
		return nil, errListOlder
	case !list.MayFollow(p.listed): // two of one epoch, or an id given again
		return nil, errListRefused
	}
	return &verified{signed, list}, nil
}

// takeList changes a contact's record, with a list unless that is nil. c.mu is held.
func (c *Client) takeList(p *contact, v *verified, change func(*contact), also func(*tx) error) (*contact, error) {
	if v == nil {
		return c.changeContact(p, change, also)
	}
	past := c.dealingsWith(func(a ratchet.Address) bool {
		if a.Account != p.Account {
			return false
		}
		remote, err := p.remote(a.Device)
		return err != nil || !bytes.Equal(v.list.IdentityOf(uint32(a.Device)), remote.Identity.Bytes())
	})
	var gone []callflow.Address
	for _, d := range p.devices() {
		if !bytes.Equal(v.list.IdentityOf(uint32(d.id)), d.identity) {
			gone = append(gone, callflow.Address{Account: callflow.Account(p.Account), Device: d.id})
		}
	}
	own, before := p.Account == c.account.Account, len(p.devices())
	var next *sealing
	if own && c.account.Device == firstDevice && len(gone) > 0 {
		next = c.sealing.replaced() // they know the old token
	}
	p, err := c.changeContact(p, func(p *contact) {
		p.Epoch, p.List, p.Signature, p.listed = v.list.Epoch, v.signed.List, v.signed.Signature, v.list
		change(p)
	}, func(t *tx) error {
		past.erase(t)
		if next != nil {
			if err := putJSON(t, recordSealing, next); err != nil {
				return err
			}
		}
		return also(t)
	})
	if err != nil {
		return nil, err
	}
	c.forget(past, nil)
	c.calls.devicesRemoved(gone)
	if next != nil {
		c.sealing = *next
		c.tokenReplaced()
	}
	if own {
		c.epoch.Store(p.Epoch)
		c.lists.wake()
	} else if p.Accepted && (len(gone) > 0 || len(p.devices()) > before) {
		c.events.offer(DevicesChanged{p.public(), len(p.devices())})
	}
	return p, nil
}

// learnList takes a list that came by itself. c.mu is held.
func (c *Client) learnList(p *contact, signed *wire.SignedDeviceList) (*contact, error) {
	v, err := c.verifyList(p, signed)
	if err != nil || v == nil {
		return p, err
	}
	return c.takeList(p, v, func(*contact) {}, func(*tx) error { return nil })
}

// dealings are what there is with devices besides their contact's record.
type dealings struct {
	records []string
	waiting []*outgoing
	sent    []*sentContent
	mending []ratchet.Address
}

// dealingsWith collects them. c.mu is held.
func (c *Client) dealingsWith(match func(ratchet.Address) bool) *dealings {
	d := new(dealings)
	for _, prefix := range []string{recordSession, recordMending} {
		for _, name := range c.store.list(prefix) {
			if a, err := recordAddress(name, prefix); err == nil && match(a) {
				d.records = append(d.records, name)
			}
		}
	}
	for _, entry := range c.outbox.entries {
		if match(entry.address()) {
			d.waiting, d.records = append(d.waiting, entry), append(d.records, entry.record)
		}
	}
	for _, kept := range slices.Concat(c.sent.texts, c.sent.steps) {
		if match(kept.address()) {
			d.sent = append(d.sent, kept)
			if kept.record != "" {
				d.records = append(d.records, kept.record)
			}
		}
	}
	for a := range c.retries.mending {
		if match(a) {
			d.mending = append(d.mending, a)
		}
	}
	return d
}

func (d *dealings) erase(t *tx) {
	for _, record := range d.records {
		t.delete(record)
	}
}

// forget takes out of memory what was erased. reason is why messages will not be sent, nil if that matters no more. c.mu is held.
func (c *Client) forget(d *dealings, reason error) {
	c.sent.remove(d.sent)
	for _, a := range d.mending {
		delete(c.retries.mending, a)
	}
	for _, entry := range d.waiting {
		c.takeOut(entry, reason)
	}
}

// addressRecord names a record about a device.
func addressRecord(prefix string, a ratchet.Address) string {
	return prefix + uuid.UUID(a.Account).String() + "/" + strconv.Itoa(int(a.Device))
}

// recordAddress reads such a name. One without a device is from before accounts had several: it is about the first.
func recordAddress(name, prefix string) (a ratchet.Address, err error) {
	account, device, found := strings.Cut(strings.TrimPrefix(name, prefix), "/")
	id, err := uuid.Parse(account)
	n := uint64(firstDevice)
	if err == nil && found {
		n, err = strconv.ParseUint(device, 10, 7)
	}
	return ratchet.Address{Account: id, Device: uint8(n)}, err
}

// lists are the accounts whose list is to be fetched. Client.mu guards it.
type lists struct {
	wanted  map[uuid.UUID]bool      // false: only sessions with their devices are to be begun
	checked map[uuid.UUID]listCheck // over the link that is up (freshlist.go)
	fetched hourly
	some    chan struct{} // has room for one
}

func (l *lists) init() {
	*l = lists{wanted: map[uuid.UUID]bool{}, checked: map[uuid.UUID]listCheck{}, fetched: hourly{}, some: make(chan struct{}, 1)}
}

// want has a list fetched soon, or sessions begun with the devices of the one that is known. c.mu is held.
func (l *lists) want(id uuid.UUID, fetch bool) {
	l.wanted[id] = l.wanted[id] || fetch
	l.wake()
}

func (l *lists) wake() {
	select {
	case l.some <- struct{}{}:
	default:
	}
}

func (l *lists) take() map[uuid.UUID]bool {
	taken := l.wanted
	l.wanted = map[uuid.UUID]bool{}
	return taken
}

// keepListed fetches the lists that are wanted, begins sessions with accepted contacts' new devices, so that Send need not, and tells of
// changes of this account's devices.
func (c *Client) keepListed(ctx context.Context) {
	var again <-chan time.Time
	for {
		select {
		case <-c.lists.some:
		case <-again:
		case <-ctx.Done():
			return
		}
		again = nil
		c.mu.Lock()
		wanted := c.lists.take()
		c.mu.Unlock()
		for id, fetch := range wanted {
			if err := c.renewList(ctx, id, fetch); err != nil && ctx.Err() == nil {
				c.log.Warn("the list of a contact's devices was not renewed", "error", err)
			}
		}
		if err := c.tellDevices(ctx); err != nil && ctx.Err() == nil {
			c.log.Warn("not everybody was told of this account's devices yet", "error", err)
			again = time.After(max(mendAgain, retryAfter(err)))
		}
	}
}

func (c *Client) renewList(ctx context.Context, id uuid.UUID, fetch bool) error {
	if fetch {
		if _, err := c.fetchList(ctx, id); err != nil {
			return err
		}
	}
	c.mu.Lock()
	p := c.contacts[id]
	c.mu.Unlock()
	if p == nil || !p.Accepted || p.Appeared != nil {
		return nil
	}
	if err := c.ensureSessions(ctx, id, ""); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.spread(id)
}

var errTooOften = errors.New("the server was asked too often for the devices of this account: try again later")

// fetchList asks the server for an account's list, and takes it if it is newer. Somebody who is no contact yet is not stored: their record
// has the identity key that their list names.
func (c *Client) fetchList(ctx context.Context, id uuid.UUID) (*contact, error) {
	c.mu.Lock()
	if len(c.lists.fetched) > maxStrangers {
		clear(c.lists.fetched)
	}
	p, spent := c.contacts[id], c.lists.fetched.spend(ratchet.Address{Account: id}, time.Now())
	c.mu.Unlock()
	if !spent {
		return p, errTooOften
	}
	signed, err := c.askForList(ctx, id)
	if err != nil {
		return p, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if id == c.account.Account {
		return c.learnList(c.ownContact(), signed)
	}
	if p = c.contacts[id]; p != nil {
		return c.learnList(p, signed)
	}
	list, err := wire.ParseDeviceList(signed.GetList())
	if err != nil {
		return nil, errUnlisted
	}
	p = &contact{Account: id, Identity: list.IdentityOf(firstDevice)}
	if _, err := c.verifyList(p, signed); err != nil {
		return nil, err
	}
	p.Epoch, p.List, p.Signature, p.listed = list.Epoch, signed.List, signed.Signature, list
	return p, nil
}

// askForList asks the server for an account's list.
func (c *Client) askForList(ctx context.Context, id uuid.UUID) (*wire.SignedDeviceList, error) {
	reply, err := c.askAbout(ctx, id, func(token []byte) *wire.ClientFrame {
		return &wire.ClientFrame{Body: &wire.ClientFrame_FetchDeviceList{
			FetchDeviceList: &wire.FetchDeviceList{Account: id[:], DeliveryToken: token},
		}}
	})
	return reply.GetDeviceList(), err
}
