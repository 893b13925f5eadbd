package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"sotto/wire"
)

// Texts that have arrived, and calls that were missed (missed.go), wait here until the program says that it is done with them, also across
// a restart.
//
// A program that does not deal with them must not fill the disk. Beyond maxStrangersUnread those of people who are not accepted are
// dropped; beyond maxUnread nothing at all is taken, nor acknowledged, until the program has dealt with some: the server keeps it, and
// its limits apply.

const recordInbox = "inbox/" // and a number

const (
	maxUnread          = 4096
	maxStrangersUnread = 1024
)

// incoming is the record of a text, or a missed call, that nobody has dealt with yet.
type incoming struct {
	From     uuid.UUID
	ID       MessageID
	Text     string
	Missed   *missedCall `json:",omitempty"` // instead of a text
	SentAt   time.Time
	Received time.Time

	record    string
	undecided bool // a missed call of which the user perhaps knows: it is not shown yet, nor what came after it
}

// inbox is what was not shown yet, oldest first. Client.mu guards it.
type inbox struct {
	unshown []*incoming
	unread  int // records: those shown count until the program is done with them
	next    uint64
	changed chan struct{}
}

func (c *Client) loadInbox() error {
	c.inbox = inbox{changed: make(chan struct{})}
	for _, name := range c.store.list(recordInbox) {
		value, err := c.store.get(name)
		if err != nil {
			return err
		}
		entry := &incoming{record: name}
		if err := json.Unmarshal(value, entry); err != nil {
			return err
		}
		c.inbox.unshown = append(c.inbox.unshown, entry)
		if c.inbox.next, err = recordNumber(name); err != nil {
			return err
		}
	}
	c.inbox.unread = len(c.inbox.unshown)
	for _, name := range c.store.list(recordHeld) {
		n, err := recordNumber(name)
		if err != nil {
			return err
		}
		c.inbox.next = max(c.inbox.next, n)
	}
	return nil
}

// keepUnread stores the text or the missed call that content brings, if it does and it was not there before. c.mu is held.
func (c *Client) keepUnread(t *tx, s *session, from *contact, content *wire.Content) (*incoming, error) {
	if from.Account == c.account.Account {
		return nil, nil
	}
	if missed := content.GetMissedCall(); missed != nil {
		return c.keepMissed(t, from, missed)
	}
	text := content.GetText()
	if text == nil || s.seenText(content.Id) || !c.hasRoom(from) { // seen: sent anew although it had arrived
		return nil, nil
	}
	s.seeText(content.Id)
	entry := c.inbox.entry(from)
	entry.ID, entry.Text, entry.SentAt = MessageID(content.Id), text.GetBody(), claimed(from, content.Timestamp, entry.Received)
	return entry, putJSON(t, entry.record, entry)
}

// claimed is when a sender says that something was sent. A stranger's word is not taken: it is when
// it came.
func claimed(from *contact, timestamp uint64, received time.Time) time.Time {
	if !from.Accepted {
		return received
	}
	return fromTimestamp(timestamp)
}

// hasRoom tells whether something of somebody's may be stored. c.mu is held.
func (c *Client) hasRoom(from *contact) bool {
	if from.Accepted && from.Claims == "" || c.inbox.unread < maxStrangersUnread {
		return true
	}
	c.log.Warn("a message of a stranger, or of a contact whose name is disputed, was dropped: too many wait to be read")
	return false
}

// entry is what comes next, of somebody's.
func (i *inbox) entry(from *contact) *incoming {
	return &incoming{From: from.Account, Received: time.Now(), record: fmt.Sprintf("%s%020d", recordInbox, i.next+1)}
}

// add takes up what was stored.
func (i *inbox) add(entry *incoming) {
	i.next++
	i.unread++
	i.unshown = append(i.unshown, entry)
	i.notify()
}

func (i *inbox) notify() {
	close(i.changed)
	i.changed = make(chan struct{})
}

// awaitRoom returns true once a text has room in the inbox, and false if ctx ends before.
func (c *Client) awaitRoom(ctx context.Context) bool {
	for warned := false; ; warned = true {
		c.mu.Lock()
		full, changed := c.inbox.unread >= maxUnread, c.inbox.changed
		c.mu.Unlock()
		if !full {
			return true
		}
		if !warned {
			c.log.Warn("nothing more is received: too many messages wait to be read")
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// showInbox brings texts and missed calls to the program as fast as it takes them.
func (c *Client) showInbox(ctx context.Context) {
	for {
		c.mu.Lock()
		event, changed := c.nextUnshown(), c.inbox.changed
		c.mu.Unlock()
		if event == nil {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return
			}
		}
		select {
		case c.events.ch <- event:
		case <-ctx.Done():
			return
		}
	}
}

// nextUnshown takes the oldest that was not shown, if there is one and it may be. c.mu is held.
func (c *Client) nextUnshown() Event {
	var from Contact
	next := slices.IndexFunc(c.inbox.unshown, func(entry *incoming) bool {
		if from = (Contact{}); c.contacts[entry.From] != nil {
			from = c.contacts[entry.From].public()
		}
		return from.Claims == "" // of one whose name is disputed nothing is shown
	})
	if next < 0 || c.inbox.unshown[next].undecided {
		return nil
	}
	entry := c.inbox.unshown[next]
	c.inbox.unshown = slices.Delete(c.inbox.unshown, next, next+1)
	done := func() error { return c.dealtWith(entry.record) }
	if m := entry.Missed; m != nil {
		return MissedCall{ID: m.ID, From: from, Video: m.Video, At: entry.SentAt, done: done}
	}
	return Message{ID: entry.ID, From: from, Text: entry.Text, SentAt: entry.SentAt, Received: entry.Received, done: done}
}

// dealtWith erases a text or missed call from the inbox, once.
func (c *Client) dealtWith(record string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.store.update(func(t *tx) error {
		_, err := t.get(record)
		t.delete(record)
		return err
	})
	if errors.Is(err, errNoRecord) {
		return nil
	}
	if err != nil {
		return err
	}
	c.inbox.unread--
	c.inbox.notify()
	return nil
}
