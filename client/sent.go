package client

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"sotto/e2ee/ratchet"
	"sotto/wire"
)

// What was sent is kept until it has arrived, so that it can be sent anew if the recipient cannot decrypt it (retry.go):
//
//  1. A text is stored together with its envelope. Steps of a call are kept in memory for as long as they are worth anything, and
//     receipts not at all.
//  2. The recipient's receipt erases it. Who has not accepted us sends none: then it is 30 days, for which the server keeps envelopes,
//     or until it is one of too many.
//  3. Once it was sent anew only its name is kept, so that nothing is sent a third time.

const (
	recordSent = "sent/" // and a number
	sentKept   = 30 * 24 * time.Hour
	maxSentTo  = 256  // texts to one contact
	maxSent    = 4096 // to all
	maxSteps   = 128  // of calls
)

// sentContent is the record of one text that was sent, or a step of a call.
type sentContent struct {
	To       uuid.UUID
	Identity []byte    // the key it was encrypted to: it is not sent anew to another
	Ratchet  []byte    // the ratchet key it was sent under
	Envelope []byte    // the id of the envelope
	Message  MessageID // zero for a step
	Content  []byte    `json:",omitempty"` // padded; not kept in memory, but for a step
	Resent   bool      `json:",omitempty"`
	At       time.Time

	record  string // empty for a step
	expires time.Time
	refused func(error)
}

// sent is what is kept, oldest first. Client.mu guards it.
type sent struct {
	texts []*sentContent
	steps []*sentContent
	next  uint64
}

func (c *Client) loadSent() error {
	var expired []string
	for _, name := range c.store.list(recordSent) {
		value, err := c.store.get(name)
		if err != nil {
			return err
		}
		s := &sentContent{record: name}
		if err := json.Unmarshal(value, s); err != nil {
			return err
		}
		if c.sent.next, err = recordNumber(name); err != nil {
			return err
		}
		if time.Since(s.At) > sentKept {
			expired = append(expired, name)
			continue
		}
		clear(s.Content)
		s.Content = nil
		c.sent.texts = append(c.sent.texts, s)
	}
	return c.store.update(func(t *tx) error {
		for _, name := range expired {
			t.delete(name)
		}
		return nil
	})
}

// newSent is what is to be kept of an entry of the outbox, nil if nothing is. plaintext is its content as the session encrypts it.
func newSent(to *contact, entry *outgoing, plaintext []byte) *sentContent {
	isText := entry.Message != MessageID{}
	if !isText && entry.Expires.IsZero() {
		return nil
	}
	return &sentContent{
		To: to.Account, Identity: to.Identity, Message: entry.Message, Content: slices.Clone(plaintext), At: time.Now(),
		expires: entry.Expires, refused: entry.refused,
	}
}

// write stores a text, in place of what is too many, which it returns, or of itself. It does nothing for a step.
func (s *sent) write(t *tx, kept *sentContent, envelope []byte, message ratchet.Message) (surplus []*sentContent, err error) {
	key, err := ratchet.RatchetKey(message.Type, message.Bytes)
	if err != nil {
		return nil, err
	}
	kept.Envelope, kept.Ratchet = envelope, key.Bytes()
	if kept.Message == (MessageID{}) {
		return nil, nil
	}
	if kept.record == "" {
		surplus = s.surplus(kept.To, time.Now())
		for _, old := range surplus {
			t.delete(old.record)
		}
		kept.record = fmt.Sprintf("%s%020d", recordSent, s.next+1)
	}
	return surplus, putJSON(t, kept.record, kept)
}

// surplus is what has to go before another text to a contact is kept.
func (s *sent) surplus(to uuid.UUID, now time.Time) (surplus []*sentContent) {
	all, theirs := len(s.texts)+1, 1
	for _, old := range s.texts {
		if old.To == to {
			theirs++
		}
	}
	for _, old := range s.texts {
		if now.Sub(old.At) > sentKept || all > maxSent || old.To == to && theirs > maxSentTo {
			surplus = append(surplus, old)
			all--
			if old.To == to {
				theirs--
			}
		}
	}
	return surplus
}

// add takes up what write has stored.
func (s *sent) add(kept *sentContent, surplus []*sentContent) {
	s.remove(surplus)
	if kept.Message == (MessageID{}) {
		s.steps = slices.DeleteFunc(s.steps, func(old *sentContent) bool { return time.Now().After(old.expires) })
		if len(s.steps) >= maxSteps {
			s.steps = slices.Delete(s.steps, 0, 1)
		}
		s.steps = append(s.steps, kept)
		return
	}
	clear(kept.Content)
	kept.Content = nil
	for i, old := range s.texts {
		if old.record == kept.record {
			s.texts[i] = kept
			return
		}
	}
	s.next++
	s.texts = append(s.texts, kept)
}

func (s *sent) remove(gone []*sentContent) {
	if len(gone) == 0 {
		return
	}
	is := func(kept *sentContent) bool { return slices.Contains(gone, kept) }
	s.texts, s.steps = slices.DeleteFunc(s.texts, is), slices.DeleteFunc(s.steps, is)
}

// to is what was sent to a contact.
func (s *sent) to(id uuid.UUID) (found []*sentContent) {
	for _, kept := range slices.Concat(s.texts, s.steps) {
		if kept.To == id {
			found = append(found, kept)
		}
	}
	return found
}

// arrived erases the texts that a receipt names. It returns them, to be removed when the transaction is done.
func (s *sent) arrived(t *tx, from uuid.UUID, receipt *wire.Receipt) (gone []*sentContent) {
	if receipt.GetKind() != wire.Receipt_DELIVERED {
		return nil
	}
	for _, kept := range s.texts {
		for _, id := range receipt.GetMessageIds() {
			if kept.To == from && bytes.Equal(kept.Message[:], id) {
				t.delete(kept.record)
				gone = append(gone, kept)
				break
			}
		}
	}
	return gone
}

// forget erases all texts to a contact. It returns them likewise.
func (s *sent) forget(t *tx, id uuid.UUID) []*sentContent {
	gone := s.to(id)
	for _, kept := range gone {
		if kept.record != "" {
			t.delete(kept.record)
		}
	}
	return gone
}

// envelopeName is what requests to send something anew call it by: 48 bits of the envelope's id, which both ends know.
func envelopeName(id []byte) uint64 {
	return binary.BigEndian.Uint64(id) >> 16
}
