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
	maxSentTo  = 256  // texts to one device
	maxSent    = 4096 // to all
	maxSteps   = 128  // of calls
)

// sentContent is the record of one text that was sent, or a step of a call.
type sentContent struct {
	To       uuid.UUID
	Device   uint8     `json:",omitempty"` // none: the first, from before there were others
	Identity []byte    // the key it was encrypted to: it is not sent anew to another
	Ratchet  []byte    // the ratchet key it was sent under
	Envelope []byte    // the id of the envelope
	Message  MessageID // zero for a step
	Content  []byte    `json:",omitempty"` // padded; not kept in memory, but for a step
	Resent   bool      `json:",omitempty"`
	Arrived  bool      `json:",omitempty"` // at another device: the program was told
	At       time.Time

	record  string // empty for a step
	expires time.Time
	refused func(error)
}

func (s *sentContent) address() ratchet.Address {
	return ratchet.Address{Account: s.To, Device: s.Device}
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
		s.Device = max(s.Device, firstDevice)
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
func newSent(to ratchet.Remote, entry *outgoing, plaintext []byte) *sentContent {
	isText := entry.Message != MessageID{}
	if !isText && entry.Expires.IsZero() {
		return nil
	}
	return &sentContent{
		To: to.Address.Account, Device: to.Address.Device, Identity: to.Identity.Bytes(),
		Message: entry.Message, Content: slices.Clone(plaintext), At: time.Now(),
		expires: entry.Expires, refused: entry.refused,
	}
}

// write stores a text, in place of what is too many, which it returns, or of itself. It does nothing for a step. before is how many were
// stored in this transaction.
func (s *sent) write(t *tx, before int, kept *sentContent, envelope []byte, message ratchet.Message) (surplus []*sentContent, err error) {
	key, err := ratchet.RatchetKey(message.Type, message.Bytes)
	if err != nil {
		return nil, err
	}
	kept.Envelope, kept.Ratchet = envelope, key.Bytes()
	if kept.Message == (MessageID{}) {
		return nil, nil
	}
	if kept.record == "" {
		surplus = s.surplus(kept.address(), time.Now())
		for _, old := range surplus {
			t.delete(old.record)
		}
		kept.record = fmt.Sprintf("%s%020d", recordSent, s.next+uint64(before)+1)
	}
	return surplus, putJSON(t, kept.record, kept)
}

// surplus is what has to go before another text to a device is kept.
func (s *sent) surplus(to ratchet.Address, now time.Time) (surplus []*sentContent) {
	all, theirs := len(s.texts)+1, 1
	for _, old := range s.texts {
		if old.address() == to {
			theirs++
		}
	}
	for _, old := range s.texts {
		if now.Sub(old.At) > sentKept || all > maxSent || old.address() == to && theirs > maxSentTo {
			surplus = append(surplus, old)
			all--
			if old.address() == to {
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

// to is what was sent to a device.
func (s *sent) to(device ratchet.Address) (found []*sentContent) {
	for _, kept := range slices.Concat(s.texts, s.steps) {
		if kept.address() == device {
			found = append(found, kept)
		}
	}
	return found
}

// arrived erases the texts that a device's receipt names, and notes them for the account's other devices. It returns them, to be removed
// when the transaction is done, and those of which the program has heard.
func (s *sent) arrived(t *tx, from ratchet.Address, receipt *wire.Receipt) (gone []*sentContent, told map[MessageID]bool, err error) {
	if receipt.GetKind() != wire.Receipt_DELIVERED {
		return nil, nil, nil
	}
	told = map[MessageID]bool{}
	for _, kept := range s.texts {
		for _, id := range receipt.GetMessageIds() {
			if kept.To != from.Account || !bytes.Equal(kept.Message[:], id) {
				continue
			}
			if kept.Device == from.Device {
				t.delete(kept.record)
				gone = append(gone, kept)
				told[kept.Message] = kept.Arrived
			} else if err := kept.noteArrival(t); err != nil {
				return nil, nil, err
			}
			break
		}
	}
	return gone, told, nil
}

// noteArrival says in the record that the text has arrived at another device.
func (s *sentContent) noteArrival(t *tx) error {
	value, err := t.get(s.record)
	if err != nil {
		return err
	}
	stored := new(sentContent)
	if err := json.Unmarshal(value, stored); err != nil {
		return err
	}
	s.Arrived, stored.Arrived = true, true // one that is lost with the transaction comes with the receipt again
	return putJSON(t, s.record, stored)
}

// envelopeName is what requests to send something anew call it by: 48 bits of the envelope's id, which both ends know.
func envelopeName(id []byte) uint64 {
	return binary.BigEndian.Uint64(id) >> 16
}
