package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"sotto/e2ee/ratchet"
)

// Strangers are people whom this account's user has neither added, written to, called nor answered.
// Their calls ring, but never in the way of anybody else's (client/callflow), and less and less:
//
//  1. After a call that rang and was not taken the same account rings again only after a pause, which grows with each.
//  2. All strangers together ring a few times an hour without being answered, so that many accounts are no way around that.
//  3. A call that may not ring gets no answer, as from a device that is away. It is not told of as missed either.
//
// Who is blocked goes further: nothing of theirs is looked at.

// ringPauses are how long a stranger's calls do not ring, after the first, second … that rang.
var ringPauses = []time.Duration{5 * time.Minute, time.Hour, 24 * time.Hour, 7 * 24 * time.Hour}

const (
	strangersRings = 4 // of all strangers, within
	strangersTime  = time.Hour

	recordStrangers = "strangers"
)

// strangersRecord is which strangers rang lately and were not answered, oldest first.
type strangersRecord struct{ Rang []strangersRing }

type strangersRing struct {
	From uuid.UUID
	At   time.Time
}

func (c *Client) isStranger(id uuid.UUID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.contacts[id]
	return p == nil || !p.Accepted
}

// mayRing tells whether a stranger's call rings now.
func (c *Client) mayRing(id uuid.UUID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if p := c.contacts[id]; p != nil && within(p.Quiet.Sub(now), ringPauses[len(ringPauses)-1]) {
		return false
	}
	record, err := c.readStrangers()
	if err != nil {
		c.log.Error("when strangers rang cannot be read", "error", err)
	}
	return len(record.lately(now)) < strangersRings
}

// within reports whether a time lies ahead, and no further than it can: a clock that was set back
// silences nobody for ever.
func within(ahead, most time.Duration) bool { return ahead > 0 && ahead <= most }

func (r strangersRecord) lately(now time.Time) []strangersRing {
	return slices.DeleteFunc(slices.Clone(r.Rang), func(r strangersRing) bool { return !within(r.At.Add(strangersTime).Sub(now), strangersTime) })
}

// readStrangers reads the record. c.mu is held.
func (c *Client) readStrangers() (r strangersRecord, err error) {
	value, err := c.store.get(recordStrangers)
	if errors.Is(err, errNoRecord) {
		return r, nil
	}
	if err != nil {
		return r, err
	}
	return r, json.Unmarshal(value, &r)
}

// rang notes that a stranger's call rings.
func (c *Client) rang(id uuid.UUID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.contacts[id]
	if p == nil {
		return errNoContact
	}
	record, err := c.readStrangers()
	if err != nil {
		return err
	}
	now := time.Now()
	record.Rang = append(record.lately(now), strangersRing{id, now})
	_, err = c.changeContact(p, func(p *contact) { p.hasRung(now) }, func(t *tx) error { return putJSON(t, recordStrangers, record) })
	return err
}

// answered takes back what rang noted: the user has taken the call.
func (c *Client) answered(id uuid.UUID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.contacts[id]
	if p == nil || p.Rang == 0 {
		return nil
	}
	record, err := c.readStrangers()
	if err != nil {
		return err
	}
	record.Rang = slices.DeleteFunc(record.Rang, func(r strangersRing) bool { return r.From == id })
	_, err = c.changeContact(p, func(p *contact) { p.Rang, p.Quiet = 0, time.Time{} },
		func(t *tx) error { return putJSON(t, recordStrangers, record) })
	return err
}

// hasRung begins the next pause. A missed call that a stranger leaves counts as well: it may be
// made up.
func (p *contact) hasRung(now time.Time) {
	p.Quiet = now.Add(ringPauses[min(p.Rang, len(ringPauses)-1)])
	p.Rang++
}

// Block keeps somebody out: what they send from now on is dropped unread, without a sign to them;
// they do not ring; nothing is sent to them. Whoever has this account's delivery token from it is
// given another, and they are not. They stay in the list of contacts, as blocked, until Unblock.
func (c *Client) Block(username string) error {
	c.mu.Lock()
	p := c.named(username)
	c.mu.Unlock()
	if p == nil {
		return tell(ErrNoContact, "%s is not a contact: only somebody who has written or called, or was added, can be blocked", username)
	}
	if c.calls.with(p.Account) {
		return errors.New("you are in a call with them: hang up first")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p = c.contacts[p.Account]; p == nil || p.Blocked {
		return nil
	}
	sealing := c.withNewToken()
	past := c.dealingsWith(func(a ratchet.Address) bool { return a.Account == p.Account })
	past.records = slices.DeleteFunc(past.records, func(record string) bool { return strings.HasPrefix(record, recordSession) })
	_, err := c.changeContact(p, func(p *contact) { p.Blocked, p.Accepted, p.Token = true, false, nil }, func(t *tx) error {
		past.erase(t)
		return putJSON(t, recordSealing, sealing)
	})
	if err != nil {
		return err
	}
	c.sealing = sealing
	c.forget(past, ErrBlocked)
	c.tokenReplaced()
	return nil
}

// Unblock lets somebody in again, as a stranger.
func (c *Client) Unblock(username string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.named(username)
	if p == nil || !p.Blocked {
		return fmt.Errorf("%s is not blocked", username)
	}
	_, err := c.changeContact(p, func(p *contact) { p.Blocked = false }, nil)
	return err
}

// blocked tells whether what an account sends is dropped.
func (c *Client) blocked(id uuid.UUID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.contacts[id]
	return p != nil && p.Blocked
}
