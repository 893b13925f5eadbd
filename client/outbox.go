package client

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"sotto/e2ee/ratchet"
	"sotto/wire"
)

// A message on its way out:
//
//  1. Encrypt, and store the session and the envelope in one transaction. From here on a crash loses nothing, and no message key can be
//     used for something else.
//  2. Send envelopes in their order, several under way at once.
//  3. Sent: erase the envelope from the outbox. No answer, since the link broke: send the same bytes again over the next link. The
//     server knows the envelope's id and keeps it once.

const (
	recordOutbox  = "outbox/"       // and a number
	sendWindow    = 16              // envelopes under way
	minRetry      = 5 * time.Second // after a refusal that passes
	failuresKept  = 256
	callLifetime  = 60 * time.Second // of an envelope that serves a call
	maxCiphertext = 64 << 10
)

// outgoing is the record of one envelope.
type outgoing struct {
	Envelope []byte    // as it goes to the server
	To       string    // for events
	Message  MessageID // zero unless it is a text
	Expires  time.Time `json:",omitzero"` // not worth sending after that

	record   string
	underway *link // it was sent over this link and not answered yet
	refused  func(error)
}

// outbox is what waits, oldest first. Client.mu guards it.
type outbox struct {
	entries []*outgoing
	next    uint64
	changed chan struct{} // closed and replaced when there is something new to do or to see
	failed  map[MessageID]error
}

func (o *outbox) notify() {
	close(o.changed)
	o.changed = make(chan struct{})
}

func (c *Client) loadOutbox() error {
	c.outbox = outbox{changed: make(chan struct{}), failed: map[MessageID]error{}}
	for _, name := range c.store.list(recordOutbox) {
		value, err := c.store.get(name)
		if err != nil {
			return err
		}
		entry := &outgoing{record: name}
		if err := json.Unmarshal(value, entry); err != nil {
			return err
		}
		c.outbox.entries = append(c.outbox.entries, entry)
		if c.outbox.next, err = recordNumber(name); err != nil {
			return err
		}
	}
	return nil
}

// Send queues a text for somebody. When it returns without an error the message is on disk, and goes out as soon as the server can be
// reached, now or after a restart. Only the first message to somebody needs the server at once.
func (c *Client) Send(ctx context.Context, to, text string) (MessageID, error) {
	if text == "" || len(text) > maxText {
		return MessageID{}, fmt.Errorf("a message has 1 to %d bytes", maxText)
	}
	if checkText(text) != nil {
		return MessageID{}, errors.New("a message must be valid UTF-8")
	}
	p, err := c.meet(ctx, to)
	if err != nil {
		return MessageID{}, err
	}
	content := c.newContent()
	content.Body = &wire.Content_Text{Text: &wire.Text{Body: text}}
	id := MessageID(content.Id)
	return id, c.post(p, content, outgoing{Message: id})
}

// newContent is content with everything but a body.
func (c *Client) newContent() *wire.Content {
	return &wire.Content{Id: randomBytes(16), Timestamp: timestamp(c.now()), Username: c.account.Username}
}

// post is step 1. The contact needs a session.
func (c *Client) post(to *contact, content *wire.Content, entry outgoing) error {
	plaintext, err := sealable(content)
	if err != nil {
		return err
	}
	defer clear(plaintext)
	c.mu.Lock()
	defer c.mu.Unlock()
	to = c.contacts[to.Account] // as it is now
	if to.Appeared != nil {
		return &IdentityChangedError{to.public().String()}
	}
	remote, err := to.remote()
	if err != nil {
		return err
	}
	entry.To = to.public().String()
	entry.record = fmt.Sprintf("%s%020d", recordOutbox, c.outbox.next+1)
	err = c.store.update(func(t *tx) error {
		s, err := readSession(t, to.Account)
		if err != nil {
			return err
		}
		message, err := s.ratchet.Encrypt(c.local(), remote, plaintext, time.Now())
		if err != nil {
			return err
		}
		if entry.Envelope, err = c.envelope(to, message, entry.Expires); err != nil {
			return err
		}
		if err := s.write(t, to.Account); err != nil {
			return err
		}
		return putJSON(t, entry.record, entry)
	})
	if err != nil {
		return err
	}
	c.outbox.next++
	c.outbox.entries = append(c.outbox.entries, &entry)
	c.outbox.notify()
	return nil
}

func (c *Client) envelope(to *contact, message ratchet.Message, expires time.Time) ([]byte, error) {
	if len(message.Bytes) > maxCiphertext {
		return nil, errors.New("too long to send")
	}
	id := make([]byte, 16)
	rand.Read(id)
	e := &wire.Envelope{
		Id: id, Recipient: to.Account[:], RecipientDevice: device, Type: message.Type, Ciphertext: message.Bytes,
	}
	if !expires.IsZero() {
		e.Ttl = uint32(callLifetime / time.Second)
	}
	return proto.Marshal(e)
}

// sendOutbox is step 2, for the time of one link.
func (c *Client) sendOutbox(ctx context.Context, l *link) {
	window := make(chan struct{}, sendWindow)
	var replies sync.WaitGroup
	defer replies.Wait()
	for {
		entry, changed, err := c.nextOutgoing(l, time.Now())
		if err != nil {
			l.end(err)
			return
		}
		if entry == nil {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return
			}
		}
		select {
		case window <- struct{}{}:
		case <-ctx.Done():
			return
		}
		envelope := new(wire.Envelope)
		if err := proto.Unmarshal(entry.Envelope, envelope); err != nil {
			c.settle(entry, err)
			continue
		}
		reply, err := l.start(&wire.ClientFrame{Body: &wire.ClientFrame_Send{Send: envelope}})
		if err != nil {
			return
		}
		replies.Go(func() {
			again := c.awaitSent(l, entry, reply)
			<-window // what has to wait holds up nothing else
			if again > 0 {
				c.sendAgain(ctx, entry, again)
			}
		})
	}
}

// nextOutgoing returns the oldest entry that was not sent over this link, or, if there is none, what tells when to look again. What has
// expired is erased: it served a call that is over.
func (c *Client) nextOutgoing(l *link, now time.Time) (*outgoing, <-chan struct{}, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var kept, expired []*outgoing
	for _, entry := range c.outbox.entries {
		if !entry.Expires.IsZero() && now.After(entry.Expires) {
			expired = append(expired, entry)
		} else {
			kept = append(kept, entry)
		}
	}
	if expired != nil {
		err := c.store.update(func(t *tx) error {
			for _, entry := range expired {
				t.delete(entry.record)
			}
			return nil
		})
		if err != nil {
			return nil, nil, err
		}
		c.outbox.entries = kept
	}
	for _, entry := range c.outbox.entries {
		if entry.underway != l {
			entry.underway = l
			return entry, nil, nil
		}
	}
	return nil, c.outbox.changed, nil
}

// awaitSent is step 3. It returns after which time to try again over this link, 0 if not.
func (c *Client) awaitSent(l *link, entry *outgoing, reply <-chan *wire.ServerFrame) time.Duration {
	timeout := time.NewTimer(requestTimeout)
	defer timeout.Stop()
	var frame *wire.ServerFrame
	select {
	case frame = <-reply:
	case <-l.over:
		return 0 // the next link sends it again
	case <-timeout.C:
		l.end(errors.New("the server does not answer"))
		return 0
	}
	if frame.GetSent() != nil {
		c.settle(entry, nil)
		return 0
	}
	if frame.GetError() == nil {
		l.end(errProtocol)
		return 0
	}
	err := refusalOf(frame.GetError())
	if !passing(err) {
		c.settle(entry, err)
		return 0
	}
	var refusal *ServerError
	errors.As(err, &refusal)
	return max(refusal.RetryAfter, minRetry)
}

func (c *Client) sendAgain(ctx context.Context, entry *outgoing, after time.Duration) {
	select {
	case <-time.After(after):
	case <-ctx.Done():
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	entry.underway = nil
	c.outbox.notify()
}

// passing tells a refusal that will not last from one that will.
func passing(err error) bool {
	return refused(err, wire.Error_RATE_LIMITED) || refused(err, wire.Error_UNAVAILABLE) || refused(err, wire.Error_MAILBOX_FULL)
}

// settle takes an entry out of the outbox: sent, or refused for good.
func (c *Client) settle(entry *outgoing, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if gone := c.store.update(func(t *tx) error { t.delete(entry.record); return nil }); gone != nil {
		c.log.Error("the outbox cannot be written", "error", gone) // it is sent once more after a restart, and the server drops it
	}
	for i, e := range c.outbox.entries {
		if e == entry {
			c.outbox.entries = append(c.outbox.entries[:i:i], c.outbox.entries[i+1:]...)
			break
		}
	}
	isText := entry.Message != MessageID{}
	if err != nil && isText {
		for old := range c.outbox.failed {
			if len(c.outbox.failed) >= failuresKept {
				delete(c.outbox.failed, old)
			}
		}
		c.outbox.failed[entry.Message] = err
	}
	c.outbox.notify()
	switch {
	case err != nil && entry.refused != nil:
		entry.refused(err)
	case err != nil && isText:
		c.events.offer(MessageFailed{entry.Message, entry.To, err})
	case isText:
		c.events.offer(MessageSent{entry.Message, entry.To})
	}
}

// WaitSent returns once the server has the message, or with the reason why it will not.
func (c *Client) WaitSent(ctx context.Context, id MessageID) error {
	for {
		c.mu.Lock()
		failed, changed := c.outbox.failed[id], c.outbox.changed
		waiting := false
		for _, entry := range c.outbox.entries {
			waiting = waiting || entry.Message == id
		}
		c.mu.Unlock()
		if !waiting || failed != nil {
			return failed
		}
		if err := c.waitFor(ctx, changed); err != nil {
			return err
		}
	}
}

// waitCallsSent returns once nothing of a call waits, or at the end of ctx.
func (c *Client) waitCallsSent(ctx context.Context) {
	for {
		c.mu.Lock()
		waiting, changed := false, c.outbox.changed
		for _, entry := range c.outbox.entries {
			waiting = waiting || !entry.Expires.IsZero()
		}
		c.mu.Unlock()
		if !waiting || c.waitFor(ctx, changed) != nil {
			return
		}
	}
}

// waitFor also ends when there will be no link any more.
func (c *Client) waitFor(ctx context.Context, changed <-chan struct{}) error {
	c.link.mu.Lock()
	final, link := c.link.final, c.link.changed
	c.link.mu.Unlock()
	if final != nil {
		return final
	}
	select {
	case <-changed:
	case <-link:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// recordNumber is the number behind a record's prefix.
func recordNumber(name string) (n uint64, err error) {
	_, err = fmt.Sscanf(name[strings.LastIndexByte(name, '/')+1:], "%d", &n)
	return n, err
}
