package client

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/google/uuid"

	"sotto/wire"
)

// A contact may have linked a device while this one was away. The list that tells so is in the
// mailbox, perhaps behind much else, and a text would leave before it is read. So over each link:
//
//  1. Before the first text leaves for a contact, or a call is prepared, the server is asked for
//     the contact's list, the same way as the text leaves.
//  2. Sessions with the devices that are new are begun, and the texts that still wait for the
//     contact's other devices go to these too (spread).
//
// A server that does not answer, or refuses, holds up nothing for longer than one request may take.

// listCheck is step 1 for one contact. Client.mu guards it.
type listCheck struct {
	over *link // that it is asked over; nil once it is done
}

// unchecked tells whether an entry's contact must be asked for, and by whom it is being done. It is
// not needed for a call, which does so when it is prepared, nor among this account's own devices.
// c.mu is held.
func (c *Client) unchecked(entry *outgoing) (ask, underway bool) {
	id := entry.recipient()
	if p := c.contacts[id]; entry.Message == (MessageID{}) || id == c.account.Account || p == nil {
		return false, false
	}
	check, known := c.lists.checked[id]
	switch {
	case !known || check.over != nil && check.over.ended():
		return true, false
	default:
		return false, check.over != nil
	}
}

// checkList is step 1 over the link that a text is to leave by, and step 2.
func (c *Client) checkList(ctx context.Context, l *link, d *departure) {
	id := d.to.Account
	ask := &wire.FetchDeviceList{Account: id[:]}
	if d.way == waySealed {
		ask.DeliveryToken = d.to.Token
	}
	reply, err := l.request(ctx, &wire.ClientFrame{
		Body: &wire.ClientFrame_FetchDeviceList{FetchDeviceList: ask},
	})
	if err == nil {
		err = c.renewListed(ctx, id, reply.GetDeviceList())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.outbox.notify()
	switch {
	case ctx.Err() != nil || l.ended():
		delete(c.lists.checked, id)
		return
	case d.way == waySealed && refused(err, wire.Error_FORBIDDEN):
		delete(c.lists.checked, id) // it is asked the ordinary way next
		if err := c.forgetToken(d.to); err == nil {
			return
		}
	case err != nil && !refused(err, wire.Error_NOT_FOUND): // nobody, which the message hears itself
		c.log.Warn("a contact's devices could not be asked for before a message left", "error", err)
	}
	c.lists.checked[id] = listCheck{}
}

// renewListed takes the list that the server shows, and begins sessions with the devices on it.
func (c *Client) renewListed(
	ctx context.Context, id uuid.UUID, signed *wire.SignedDeviceList,
) error {
	c.mu.Lock()
	p := c.contacts[id]
	if p == nil {
		c.mu.Unlock()
		return errNoContact
	}
	p, err := c.learnList(p, signed)
	c.mu.Unlock()
	if err != nil {
		return err
	}
	if !p.Accepted || p.Appeared != nil {
		return nil
	}
	if err := c.ensureSessions(ctx, id, ""); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.spread(id)
}

// newest is a contact with the devices that they have now, as far as the server says so.
func (c *Client) newest(ctx context.Context, p *contact) *contact {
	c.mu.Lock()
	check, checked := c.lists.checked[p.Account]
	c.mu.Unlock()
	if checked && check.over == nil {
		c.caughtUp(ctx) // a list that came since over this link
		return c.known(p)
	}
	asking, cancel := context.WithTimeout(ctx, listPatience)
	defer cancel()
	reply, err := c.askForList(asking, p.Account)
	if err == nil {
		err = c.renewListed(asking, p.Account, reply)
	}
	if err != nil {
		if !errors.Is(err, ErrNoSuchUser) { // which the call hears itself
			c.log.Warn("a contact's devices could not be asked for before a call", "error", err)
		}
		c.caughtUp(ctx)
		return c.known(p)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lists.checked[p.Account] = listCheck{}
	if now := c.contacts[p.Account]; now != nil {
		return now
	}
	return p
}

const listPatience = 5 * time.Second // of a call, for the answer

// spread has the texts that wait for an account's devices go to those too that were linked since
// they were written. c.mu is held.
func (c *Client) spread(id uuid.UUID) error {
	to, err := c.addressee(id)
	if err != nil || to.outdated() {
		return err
	}
	last := to.lastID()
	latest := map[MessageID]uint8{} // the highest id of a device that the text goes to, or went
	var texts []MessageID
	for _, entry := range c.outbox.entries {
		if entry.recipient() != id || entry.Message == (MessageID{}) || entry.LastID == 0 {
			continue
		}
		if _, known := latest[entry.Message]; !known {
			texts = append(texts, entry.Message)
		}
		latest[entry.Message] = max(latest[entry.Message], entry.LastID)
	}
	for _, text := range texts {
		if latest[text] < last {
			if err := c.spreadText(to, text, latest[text]); err != nil {
				return err
			}
		}
	}
	return nil
}

// spreadText sends a text to the devices with ids above after. c.mu is held.
func (c *Client) spreadText(to *contact, text MessageID, after uint8) error {
	remotes, err := c.remotes(to)
	if err != nil {
		return err
	}
	content := c.sentText(to.Account, text)
	for _, remote := range remotes {
		if remote.Address.Device <= after || content == nil {
			continue
		}
		err := c.postOne(to, remote, content, outgoing{Message: text})
		if errors.Is(err, errNoSession) {
			return nil // once there is one
		}
		if err != nil {
			return err
		}
	}
	return c.noteSpread(to, text)
}

// noteSpread notes that a text goes to all devices there are. c.mu is held.
func (c *Client) noteSpread(to *contact, text MessageID) error {
	return c.store.update(func(t *tx) error {
		for _, entry := range c.outbox.entries {
			if entry.recipient() != to.Account || entry.Message != text {
				continue
			}
			entry.LastID = to.lastID()
			if err := putJSON(t, entry.record, entry); err != nil {
				return err
			}
		}
		return nil
	})
}

// sentText is a text's content as it is kept, nil if it is not. c.mu is held.
func (c *Client) sentText(to uuid.UUID, text MessageID) *wire.Content {
	for _, kept := range c.sent.texts {
		if kept.To != to || kept.Message != text || kept.Resent {
			continue
		}
		value, err := c.store.get(kept.record)
		stored := new(sentContent)
		if err != nil || json.Unmarshal(value, stored) != nil {
			continue
		}
		if content, err := parseContent(stored.Content); err == nil {
			return content
		}
	}
	return nil
}

// lastID is the highest id that a device of the contact's had.
func (p *contact) lastID() uint8 { return uint8(max(p.listed.GetLastId(), firstDevice)) }
