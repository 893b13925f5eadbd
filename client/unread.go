package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"sotto/wire"
)

// Texts that have arrived wait here until the program says that it is done with them, also across a restart.
//
// A program that does not deal with texts must not fill the disk. Beyond maxStrangersUnread the texts of those who are not accepted are
// dropped; beyond maxUnread nothing at all is taken, nor acknowledged, until the program has dealt with some: the server keeps it, and
// its limits apply.

const recordInbox = "inbox/" // and a number

const (
	maxUnread          = 4096
	maxStrangersUnread = 1024
)

// incoming is the record of a text nobody has dealt with yet.
type incoming struct {
	From     uuid.UUID
	ID       MessageID
	Text     string
	SentAt   time.Time
	Received time.Time

	record string
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

// keepText stores the text that content brings, if it does and it was not there before. c.mu is held.
func (c *Client) keepText(t *tx, s *session, from *contact, content *wire.Content) (*incoming, error) {
	text := content.GetText()
	if text == nil || from.Account == c.account.Account || s.seenText(content.Id) { // sent anew although it had arrived
		return nil, nil
	}
	if !from.Accepted && c.inbox.unread >= maxStrangersUnread {
		c.log.Warn("a stranger's message was dropped: too many were not dealt with by Message.Done")
		return nil, nil
	}
	s.seeText(content.Id)
	entry := &incoming{
		From: from.Account, ID: MessageID(content.Id), Text: text.GetBody(),
		SentAt: fromTimestamp(content.Timestamp), Received: time.Now(),
		record: fmt.Sprintf("%s%020d", recordInbox, c.inbox.next+1),
	}
	return entry, putJSON(t, entry.record, entry)
}

// add takes up what keepText has stored.
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
			c.log.Warn("nothing more is received: too many messages were not dealt with by Message.Done")
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// showInbox brings texts to the program as fast as it takes them.
func (c *Client) showInbox(ctx context.Context) {
	for {
		c.mu.Lock()
		changed := c.inbox.changed
		var entry *incoming
		var from Contact
		if len(c.inbox.unshown) > 0 {
			entry = c.inbox.unshown[0]
			c.inbox.unshown = c.inbox.unshown[1:]
			if p := c.contacts[entry.From]; p != nil {
				from = p.public()
			}
		}
		c.mu.Unlock()
		if entry == nil {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return
			}
		}
		message := &Message{
			ID: entry.ID, From: from, Text: entry.Text, SentAt: entry.SentAt, Received: entry.Received,
			done: func() error { return c.dealtWith(entry.record) },
		}
		select {
		case c.events.ch <- message:
		case <-ctx.Done():
			return
		}
	}
}

// dealtWith erases a text from the inbox, once.
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
