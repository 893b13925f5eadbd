package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"sotto/e2ee/linking"
	"sotto/wire"
)

// The devices of this account. The account has a contact's record of its own, as soon as it has a list: what its devices tell each other
// travels as what contacts do.
//
//  1. The first device adds others (adddevice.go) and removes them. Each time it signs a list that follows every list that it ever signed,
//     and notes that before the list leaves: there are no two of one epoch, which the server could show to different people. A list of which
//     it is not told that the server has taken it is asked for, and voided by a later one if the server does not own up to it (settledList).
//  2. It tells accepted contacts and its other devices, each until that is on its way to them (tellDevices). Whoever is not told learns it
//     from the epoch in the next content.
//  3. The delivery token is the account's. The first device alone replaces it, tells the server, and then its other devices. Another device
//     that wants a new one draws it and proposes it to the first: so there is one order in which tokens follow each other.

// A Device is one of this account's.
type Device struct {
	ID   int  // 1 is the first, which alone adds and removes others
	This bool // it is this one
}

// Devices lists this account's.
func (c *Client) Devices() (devices []Device) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.ownContact().devices() {
		devices = append(devices, Device{ID: int(d.id), This: d.id == c.account.Device})
	}
	return devices
}

// RemoveDevice takes a device off the account: the server erases what it keeps for it, and nobody takes its messages any more. What it holds
// already it keeps.
func (c *Client) RemoveDevice(ctx context.Context, id int) error {
	if err := c.mayChangeDevices(); err != nil {
		return err
	}
	if id == firstDevice {
		return errors.New("the account is its first device, which cannot be removed")
	}
	if !c.changing.TryLock() {
		return errors.New("a device is being added or removed: wait until that is over")
	}
	defer c.endChange()
	own, err := c.settledList(ctx)
	if err != nil {
		return err
	}
	list := c.nextList(own)
	list.Devices = slices.DeleteFunc(list.Devices, func(d *wire.DeviceList_Device) bool { return int(d.Id) == id })
	if len(list.Devices) == len(own.devices()) {
		return fmt.Errorf("this account has no device %d", id)
	}
	c.mu.Lock()
	signed, err := c.signList(list)
	c.mu.Unlock()
	if err != nil {
		return err
	}
	return c.putList(ctx, signed)
}

// endChange lets what a change has left be settled and told. Who does that looks whether another is
// under way: so it is woken once this one is over.
func (c *Client) endChange() {
	c.changing.Unlock()
	c.lists.wake()
}

// putList gives the server a list without a device, or one that only voids others, and takes it.
func (c *Client) putList(ctx context.Context, signed *wire.SignedDeviceList) error {
	_, err := c.request(ctx, &wire.ClientFrame{Body: &wire.ClientFrame_RemoveDevice{
		RemoveDevice: &wire.RemoveDevice{DeviceList: signed},
	}})
	if refused(err, wire.Error_CONFLICT) {
		return errors.New("the devices have changed meanwhile: look at them, then try again")
	}
	if err != nil {
		return err
	}
	return c.adoptList(signed)
}

var errNotFirst = errors.New("only the account's first device can add and remove devices: do it there")

func (c *Client) mayChangeDevices() error {
	if c.account.Device != firstDevice {
		return errNotFirst
	}
	return nil
}

// ownContact is the record of this account, not stored while it has no list. c.mu is held.
func (c *Client) ownContact() *contact {
	if own := c.contacts[c.account.Account]; own != nil {
		return own
	}
	return &contact{
		Username: c.account.Username, Account: c.account.Account, Identity: c.identity.Public().Bytes(), Accepted: true, Added: time.Now(),
	}
}

// ownList is the record as it is after the server was asked: a change whose answer was lost may have happened.
func (c *Client) ownList(ctx context.Context) (*contact, error) {
	id := c.account.Account
	reply, err := c.request(ctx, &wire.ClientFrame{Body: &wire.ClientFrame_FetchDeviceList{
		FetchDeviceList: &wire.FetchDeviceList{Account: id[:]},
	}})
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.learnList(c.ownContact(), reply.GetDeviceList())
}

// nextList is a list that may follow all that were ever signed, with the same devices as the account has now.
func (c *Client) nextList(own *contact) *wire.DeviceList {
	list := &wire.DeviceList{
		Account: own.Account[:], Epoch: max(own.Epoch, c.account.SignedEpoch) + 1,
		LastId: max(own.listed.GetLastId(), c.account.SignedLastID, firstDevice),
	}
	for _, d := range own.devices() {
		list.Devices = append(list.Devices, &wire.DeviceList_Device{Id: uint32(d.id), IdentityKey: d.identity})
	}
	return list
}

// signList signs a list, and notes what must not be signed again. c.mu is held.
func (c *Client) signList(list *wire.DeviceList) (*wire.SignedDeviceList, error) {
	private := [32]byte(c.account.Identity)
	defer clear(private[:])
	signed, err := linking.SignList(c.account.Server, &private, list)
	if err != nil {
		return nil, err
	}
	c.account.SignedEpoch, c.account.SignedLastID = list.Epoch, list.LastId
	return signed, c.store.update(c.account.write)
}

// unsettled says that the server may hold a list which this device has signed and not taken. c.mu is held.
func (c *Client) unsettled() bool {
	own := c.contacts[c.account.Account]
	return c.account.SignedEpoch > 0 && (own == nil || own.Epoch < c.account.SignedEpoch)
}

// adoptList takes a list that the server has taken from this device.
func (c *Client) adoptList(signed *wire.SignedDeviceList) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.learnList(c.ownContact(), signed)
	return err
}

// settleChange is what a crash in the middle of a change, or an error, leaves to be done.
func (c *Client) settleChange(ctx context.Context) error {
	c.mu.Lock()
	unsettled := c.unsettled()
	c.mu.Unlock()
	if !unsettled || !c.changing.TryLock() { // it is under way
		return nil
	}
	defer c.changing.Unlock()
	_, err := c.settledList(ctx)
	return err
}

// settledList returns the record of this account once the server holds what it says. A list that the server was given, and does not show, could
// be shown to contacts at any time: the next one voids it. c.changing is held.
func (c *Client) settledList(ctx context.Context) (*contact, error) {
	own, err := c.ownList(ctx)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	if !c.unsettled() {
		c.mu.Unlock()
		return own, nil
	}
	signed, err := c.signList(c.nextList(own))
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if err := c.putList(ctx, signed); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ownContact(), nil
}

// tellDevices is step 2, and what step 3 leaves to be told.
func (c *Client) tellDevices(ctx context.Context) error {
	if err := c.settleChange(ctx); err != nil {
		return err
	}
	if err := c.tellOwnToken(ctx); err != nil {
		return err
	}
	if c.account.Device != firstDevice {
		return nil
	}
	c.mu.Lock()
	own := c.contacts[c.account.Account]
	var untold []*contact
	for _, p := range c.contacts {
		if own != nil && p.Accepted && p.Appeared == nil && p.Told < own.Epoch {
			untold = append(untold, p)
		}
	}
	c.mu.Unlock()
	var failed error
	for _, p := range untold {
		content := c.newContent()
		content.Body = &wire.Content_DeviceList{DeviceList: &wire.SignedDeviceList{List: own.List, Signature: own.Signature}}
		if err := c.tell(ctx, p, content, func(p *contact) { p.Told = own.Epoch }); err != nil {
			failed = err // and the others are told
		}
	}
	return failed
}

// tell sends content that is no message to a contact's devices, and notes that.
func (c *Client) tell(ctx context.Context, to *contact, content *wire.Content, note func(*contact)) error {
	if err := c.ensureSessions(ctx, to.Account, ""); err != nil {
		return err
	}
	if err := c.post(to, content, outgoing{}); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.contacts[to.Account]
	if p == nil {
		return nil
	}
	_, err := c.changeContact(p, note, nil)
	c.outbox.notify()
	return err
}

// WaitTold returns once the server has all that tells contacts, and this account's other devices, which devices there are now. What it does
// not have when ctx ends goes there after the next Start.
func (c *Client) WaitTold(ctx context.Context) error {
	for {
		c.mu.Lock()
		told, changed := c.told(), c.outbox.changed
		c.mu.Unlock()
		if told {
			return nil
		}
		if err := c.waitFor(ctx, changed); err != nil {
			return err
		}
	}
}

// told says whether nothing is left of tellDevices. c.mu is held.
func (c *Client) told() bool {
	own, s := c.contacts[c.account.Account], &c.sealing
	if own == nil || c.account.Device != firstDevice {
		return own == nil || s.Proposed == nil
	}
	for _, p := range c.contacts {
		if p.Accepted && p.Appeared == nil && p.Told < own.Epoch {
			return false
		}
	}
	waiting := func(entry *outgoing) bool { return entry.Message == MessageID{} && entry.Expires.IsZero() }
	return s.Told && !s.Untold && !slices.ContainsFunc(c.outbox.entries, waiting)
}

// replaceToken draws a new delivery token.
func (s *sealing) replaceToken() { s.Token, s.Told, s.Untold = newToken(), false, true }

// replaced is a copy with a new delivery token.
func (s sealing) replaced() *sealing {
	s.replaceToken()
	return &s
}

// proposeToken draws one for the first device to take up.
func (s *sealing) proposeToken() { s.Proposed = newToken() }

// withNewToken is c.sealing with another token, so that nobody who holds the one there is can go on
// without being told. c.mu is held.
func (c *Client) withNewToken() sealing {
	s := c.sealing
	if c.account.Device == firstDevice {
		s.replaceToken()
	} else {
		s.proposeToken()
	}
	return s
}

// tokenReplaced lets the server, and this account's other devices, be told. c.mu is held.
func (c *Client) tokenReplaced() {
	select {
	case c.tokenNew <- struct{}{}:
	default:
	}
	c.lists.wake()
}

// adopted is what becomes of the delivery token by what another device of this account says of it, nil if nothing. c.mu is held.
func (c *Client) adopted(from uint8, token []byte) *sealing {
	if len(token) != wire.DeliveryTokenSize || bytes.Equal(token, c.sealing.Token) {
		return nil
	}
	changed := c.sealing
	switch {
	case c.account.Device == firstDevice:
		changed.Token, changed.Told, changed.Untold = token, false, true
	case from == firstDevice:
		changed.Token, changed.Told = token, true
	default:
		return nil
	}
	return &changed
}

// tellOwnToken sends the token to this account's other devices, or the one that is proposed to the first.
func (c *Client) tellOwnToken(ctx context.Context) error {
	c.mu.Lock()
	own, before := c.contacts[c.account.Account], c.sealing
	c.mu.Unlock()
	if own == nil || !before.Untold && before.Proposed == nil {
		return nil
	}
	if err := c.tell(ctx, own, c.newContent(), func(*contact) {}); err != nil { // the token is in it: tokenFor
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.outbox.notify()
	return c.changeSealing(func(s *sealing) {
		if bytes.Equal(s.Token, before.Token) {
			s.Untold = false
		}
		if bytes.Equal(s.Proposed, before.Proposed) {
			s.Proposed = nil
		}
	})
}

// linkedContacts are those whom a new device begins with, as many as a reply holds: those whose safety number was compared first.
func (c *Client) linkedContacts() (contacts []*wire.LinkedContact) {
	for _, p := range c.contacts {
		if p.Accepted && p.Account != c.account.Account {
			name := p.Username
			if p.Claims != "" {
				name = "" // the new device asks whose the other one is
			}
			contacts = append(contacts, &wire.LinkedContact{
				Account: p.Account[:], Username: name, IdentityKey: p.Identity, Verified: p.Verified,
				DeliveryToken: p.Token, DeviceListEpoch: p.Epoch,
			})
		}
	}
	slices.SortFunc(contacts, func(a, b *wire.LinkedContact) int {
		if a.Verified != b.Verified && a.Verified {
			return -1
		}
		if a.Verified != b.Verified {
			return 1
		}
		return bytes.Compare(a.Account, b.Account)
	})
	const room = wire.MaxLinkReply - 8<<10
	size := 0
	for i, p := range contacts {
		if size += proto.Size(p) + 4; size > room {
			return contacts[:i]
		}
	}
	return contacts
}
