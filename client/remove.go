package client

import (
	"encoding/json"
	"errors"
	"slices"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"sotto/e2ee/ratchet"
	"sotto/wire"
)

// RemoveContact forgets somebody: their record, the sessions, what they wrote that was not dealt with, and what was to be sent to them,
// now or if they ask for it again. A new delivery token makes theirs void, so that they cannot write unnamed any more. They can still
// write, as any stranger can; their identity key is pinned anew then, and its safety number to be compared again.
func (c *Client) RemoveContact(username string) error {
	c.mu.Lock()
	p := c.named(username)
	c.mu.Unlock()
	if p == nil {
		return tell(ErrNoContact, "%s is not a contact", username)
	}
	if c.calls.with(p.Account) {
		return errors.New("you are in a call with them: hang up first")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	unread, held, err := c.recordsOf(p.Account)
	if err != nil {
		return err
	}
	sealing := c.withNewToken()
	past := c.dealingsWith(func(a ratchet.Address) bool { return a.Account == p.Account })
	err = c.store.update(func(t *tx) error {
		t.delete(recordContact + p.Account.String())
		past.erase(t)
		for _, record := range slices.Concat(unread, held) {
			t.delete(record)
		}
		return putJSON(t, recordSealing, sealing)
	})
	if err != nil {
		return err
	}
	c.sealing = sealing
	delete(c.contacts, p.Account)
	delete(c.anonymous.shown, p.Account)
	c.inbox.unshown = slices.DeleteFunc(c.inbox.unshown, func(entry *incoming) bool { return entry.From == p.Account })
	c.inbox.unread -= len(unread)
	c.inbox.notify()
	c.forget(past, errNoContact)
	c.tokenReplaced()
	return nil
}

// recordsOf lists the records of what came from an account: texts that nobody has dealt with, and what is held back. c.mu is held.
func (c *Client) recordsOf(id uuid.UUID) (unread, held []string, err error) {
	for _, record := range c.store.list(recordInbox) {
		value, err := c.store.get(record)
		if err != nil {
			return nil, nil, err
		}
		entry := new(incoming)
		if err := json.Unmarshal(value, entry); err != nil {
			return nil, nil, err
		}
		if entry.From == id {
			unread = append(unread, record)
		}
	}
	for _, record := range c.store.list(recordHeld) {
		value, err := c.store.get(record)
		if err != nil {
			return nil, nil, err
		}
		e := new(wire.Envelope)
		if err := proto.Unmarshal(value, e); err != nil {
			return nil, nil, err
		}
		if uuid.UUID(e.GetSender()) == id {
			held = append(held, record)
		}
	}
	return unread, held, nil
}
