package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"sotto/e2ee/ratchet"
	"sotto/wire"
)

// A message on its way out:
//
//  1. Encrypt for each of the recipient's devices, and store the sessions and the envelopes in one transaction, together with the text for
//     as long as it may have to be encrypted anew (sent.go). From here on a crash loses nothing, and no message key can be used for
//     something else.
//  2. Send envelopes in their order, several under way at once: sealed to who gave us their delivery token, over a link that does not
//     say whose it is, and otherwise over the ordinary one (sending.go).
//  3. Sent: erase the envelope from the outbox. No answer, since the link broke: send the same bytes again over the next link. The
//     server knows the envelope's id and keeps it once.

const (
	recordOutbox  = "outbox/" // and a number
	failuresKept  = 256
	callLifetime  = 60 * time.Second // of an envelope that serves a call
	maxCiphertext = 64 << 10
)

// outgoing is the record of one envelope: a message to somebody with several devices has as many.
type outgoing struct {
	Envelope []byte    // as it goes to the server, unless it is sealed on its way out
	To       string    // for events
	Message  MessageID // zero unless it is a text
	Expires  time.Time `json:",omitzero"`  // not worth sending after that
	LastID   uint8     `json:",omitempty"` // the highest id of the recipient's devices when it was posted

	record     string
	envelope   *wire.Envelope
	underway   *link // it was sent over this link and not answered yet
	identified bool  // the server does not take it sealed
	refused    func(error)
	ofCall     bool         // a missed call, left in this run: Client.Close waits for it too
	kept       *sentContent // what is to be kept of it, nil if nothing
}

// parse reads the envelope.
func (o *outgoing) parse() error {
	o.envelope = new(wire.Envelope)
	if err := proto.Unmarshal(o.Envelope, o.envelope); err != nil {
		return err
	}
	if d := o.envelope.GetRecipientDevice(); len(o.envelope.GetRecipient()) != 16 || d < 1 || d > wire.MaxDeviceID {
		return errDamaged
	}
	return nil
}

func (o *outgoing) recipient() uuid.UUID { return uuid.UUID(o.envelope.GetRecipient()) }

func (o *outgoing) address() ratchet.Address {
	return ratchet.Address{Account: o.recipient(), Device: uint8(o.envelope.GetRecipientDevice())}
}

// outbox is what waits, oldest first. Client.mu guards it.
type outbox struct {
	entries []*outgoing
	next    uint64
	changed chan struct{} // closed and replaced when there is something new to do or to see
	failed  map[MessageID]error
	full    map[ratchet.Address]bool // whose mailbox takes nothing, as was told
}

func (o *outbox) notify() {
	close(o.changed)
	o.changed = make(chan struct{})
}

func (c *Client) loadOutbox() error {
	c.outbox = outbox{
		changed: make(chan struct{}), failed: map[MessageID]error{},
		full: map[ratchet.Address]bool{},
	}
	for _, name := range c.store.list(recordOutbox) {
		value, err := c.store.get(name)
		if err != nil {
			return err
		}
		entry := &outgoing{record: name}
		if err := json.Unmarshal(value, entry); err != nil {
			return err
		}
		if err := entry.parse(); err != nil {
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
// reached, now or after a restart. Only the first message to somebody, or
// after they have got another device, needs the server at once.
func (c *Client) Send(ctx context.Context, to, text string) (MessageID, error) {
	if text == "" || len(text) > MaxText {
		return MessageID{}, fmt.Errorf("a message has 1 to %d bytes", MaxText)
	}
	if checkText(text) != nil {
		return MessageID{}, errors.New("a message must be valid UTF-8")
	}
	content := c.newContent()
	content.Body = &wire.Content_Text{Text: &wire.Text{Body: text}}
	id := MessageID(content.Id)
	for {
		p, err := c.meet(ctx, to)
		if err != nil {
			return MessageID{}, err
		}
		if err = c.post(p, content, outgoing{Message: id}); err != errNoSession { // else they have another device since
			return id, err
		}
	}
}

// newContent is content with everything but a body.
func (c *Client) newContent() *wire.Content {
	return &wire.Content{
		Id: randomBytes(16), Timestamp: timestamp(c.now()), Username: c.account.Username, DeviceListEpoch: c.epoch.Load(),
	}
}

// post is step 1, for all of the contact's devices. Each needs a session.
func (c *Client) post(to *contact, content *wire.Content, entry outgoing) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	to, err := c.addressee(to.Account)
	if err == nil && to.Claims != "" {
		err = errNameDisputed(to)
	}
	if err != nil {
		return err
	}
	remotes, err := c.remotes(to)
	if err != nil {
		return err
	}
	return c.postAfter(to, remotes, content, entry, func(*tx, *session) error { return nil })
}

// postOne is step 1 for one device of a contact's. c.mu is held.
func (c *Client) postOne(to *contact, remote ratchet.Remote, content *wire.Content, entry outgoing) error {
	return c.postAfter(to, []ratchet.Remote{remote}, content, entry, func(*tx, *session) error { return nil })
}

// sendTo is step 1, for one device.
func (c *Client) sendTo(account uuid.UUID, device uint8, content *wire.Content, entry outgoing) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	to, err := c.addressee(account)
	if err != nil {
		return err
	}
	remote, err := to.remote(device)
	if err != nil {
		return err
	}
	return c.postOne(to, remote, content, entry)
}

// postAfter does something to each session before it encrypts, in the same transaction. c.mu is held.
func (c *Client) postAfter(
	to *contact, remotes []ratchet.Remote, content *wire.Content, entry outgoing, before func(*tx, *session) error,
) error {
	content.DeliveryToken = c.tokenFor(to)
	plaintext, err := sealable(content)
	if err != nil {
		return err
	}
	defer clear(plaintext)
	entries := make([]*outgoing, len(remotes))
	for i, remote := range remotes {
		copied := entry
		copied.LastID = to.lastID()
		if copied.kept == nil {
			copied.kept = newSent(remote, &copied, plaintext)
		}
		entries[i] = &copied
	}
	return c.enqueue(to, remotes, entries, func(t *tx, remote ratchet.Remote) (ratchet.Message, error) {
		s, err := readSession(t, remote.Address)
		if err != nil {
			return ratchet.Message{}, err
		}
		if err := before(t, s); err != nil {
			return ratchet.Message{}, err
		}
		if !s.ratchet.CanEncrypt(remote, time.Now()) {
			return ratchet.Message{}, errNoSession
		}
		message, err := s.ratchet.Encrypt(c.local(), remote, plaintext, time.Now())
		if err != nil {
			return ratchet.Message{}, err
		}
		return message, s.write(t, remote.Address)
	})
}

// errNoSession says that a device is new, or its session too old.
var errNoSession = errors.New("there is no session with one of their devices: try again")

// addressee is the contact with an account, as it is now, if something may be sent to them. c.mu is held.
func (c *Client) addressee(id uuid.UUID) (*contact, error) {
	to := c.contacts[id]
	if to == nil {
		return nil, errNoContact
	}
	if to.Appeared != nil {
		return nil, &IdentityChangedError{to.public().String()}
	}
	return to, nil
}

// enqueue stores an entry for each device in one transaction with what makes their messages. c.mu is held.
func (c *Client) enqueue(
	to *contact, remotes []ratchet.Remote, entries []*outgoing, encrypt func(*tx, ratchet.Remote) (ratchet.Message, error),
) error {
	var surplus []*sentContent
	err := c.store.update(func(t *tx) error {
		for i, entry := range entries {
			entry.To, entry.record = to.public().String(), fmt.Sprintf("%s%020d", recordOutbox, c.outbox.next+uint64(i)+1)
			message, err := encrypt(t, remotes[i])
			if err != nil {
				return err
			}
			id := randomBytes(16)
			if entry.Envelope, err = envelope(remotes[i].Address, id, message, entry.Expires); err != nil {
				return err
			}
			if entry.kept != nil {
				more, err := c.sent.write(t, i, entry.kept, id, message)
				if err != nil {
					return err
				}
				surplus = append(surplus, more...)
			}
			if err := putJSON(t, entry.record, entry); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := entry.parse(); err != nil {
			return err
		}
		if entry.kept != nil {
			c.sent.add(entry.kept, surplus)
			entry.kept = nil
		}
		c.outbox.next++
		c.outbox.entries = append(c.outbox.entries, entry)
	}
	c.tellFull(entries)
	c.outbox.notify()
	return nil
}

func envelope(to ratchet.Address, id []byte, message ratchet.Message, expires time.Time) ([]byte, error) {
	if len(message.Bytes) > maxCiphertext {
		return nil, errors.New("too long to send")
	}
	e := &wire.Envelope{
		Id: id, Recipient: to.Account[:], RecipientDevice: uint32(to.Device), Type: message.Type, Ciphertext: message.Bytes,
	}
	if !expires.IsZero() {
		e.Ttl = uint32(callLifetime / time.Second)
	}
	return proto.Marshal(e)
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
			waiting = waiting || entry.ofCall || !entry.Expires.IsZero()
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
