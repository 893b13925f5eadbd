package client

import (
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/google/uuid"

	"sotto/client/callflow"
	"sotto/wire"
)

// A missed call waits among the texts, as durable as they are. One is told of in two ways, and shown once:
//
//  1. Its caller leaves a message. That is stored in the transaction that decrypts it; then the calls' flow says whether the user knows of
//     the call, because they declined it or saw it ring. If so it is erased again. A crash in between leaves it to be shown.
//  2. It stops ringing here. The message that its caller leaves for other devices may come after a restart of this one, when the flow
//     remembers nothing: the ids of the last calls that were missed are stored too.

const (
	recordMissed = "missed"
	missedKept   = 64 // ids
)

// missedCall is what the record of one holds beside what it shares with a text's.
type missedCall struct {
	ID    CallID
	Video bool
}

// missedRecord is the ids of the last calls that were missed, oldest first.
type missedRecord struct {
	IDs [][]byte
}

func readMissed(t *tx) (*missedRecord, error) {
	known := new(missedRecord)
	value, err := t.get(recordMissed)
	if errors.Is(err, errNoRecord) {
		return known, nil
	}
	if err != nil {
		return nil, err
	}
	return known, json.Unmarshal(value, known)
}

// putMissed stores a call that was missed, unless it was told of before. c.mu is held.
func (c *Client) putMissed(t *tx, from *contact, call missedCall, at time.Time) (*incoming, error) {
	known, err := readMissed(t)
	if err != nil {
		return nil, err
	}
	if among(known.IDs, call.ID[:]) || !c.hasRoom(from) {
		return nil, nil
	}
	known.IDs = keepLast(known.IDs, call.ID[:], missedKept)
	if err := putJSON(t, recordMissed, known); err != nil {
		return nil, err
	}
	entry := c.inbox.entry(from)
	entry.Missed, entry.SentAt = &call, at
	if !from.Accepted {
		entry.SentAt = entry.Received
	}
	return entry, putJSON(t, entry.record, entry)
}

// keepMissed stores the missed call that content brings. It waits to be decided about.
func (c *Client) keepMissed(t *tx, from *contact, m *wire.MissedCall) (*incoming, error) {
	if !from.Accepted && within(time.Until(from.Quiet), ringPauses[len(ringPauses)-1]) {
		return nil, nil // it may not ring, so it was not missed either
	}
	entry, err := c.putMissed(t, from, missedCall{CallID(m.CallId), m.Video}, fromTimestamp(m.Timestamp))
	if entry != nil {
		entry.undecided = true
	}
	return entry, err
}

// showMissed shows the call of a message that waits, or stores one that stopped ringing.
func (c *Client) showMissed(e callflow.Missed) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if entry := c.inbox.missed(uuid.UUID(e.From), CallID(e.Call)); entry != nil {
		entry.undecided = false
		c.inbox.notify()
		return nil
	}
	from := c.contacts[uuid.UUID(e.From)]
	if from == nil {
		return nil
	}
	var entry *incoming
	err := c.store.update(func(t *tx) (err error) {
		entry, err = c.putMissed(t, from, missedCall{CallID(e.Call), e.Video}, fromTimestamp(e.At))
		return err
	})
	if err == nil && entry != nil {
		c.inbox.add(entry)
	}
	return err
}

// eraseKnown erases the call of a message that waits: the user knows of it.
func (c *Client) eraseKnown(from uuid.UUID, id CallID) error {
	c.mu.Lock()
	entry := c.inbox.missed(from, id)
	c.inbox.unshown = slices.DeleteFunc(c.inbox.unshown, func(other *incoming) bool { return other == entry })
	c.mu.Unlock()
	if entry == nil {
		return nil
	}
	return c.dealtWith(entry.record)
}

// missed is a call of which it is not decided whether the user knows of it. Client.mu is held.
func (i *inbox) missed(from uuid.UUID, id CallID) *incoming {
	for _, entry := range i.unshown {
		if entry.undecided && entry.From == from && entry.Missed.ID == id {
			return entry
		}
	}
	return nil
}
