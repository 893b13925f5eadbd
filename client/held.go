package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"sotto/e2ee/ratchet"
	"sotto/wire"
)

// What comes under an identity key other than the pinned one is held back, encrypted as it came, until the user accepts that key.

const (
	recordHeld = "held/" // and a number
	maxHeld    = 256     // envelopes in all; what comes after that is lost, and an Undecryptable tells so
)

// proves tells whether a message was made with the identity key it claims. Otherwise anyone on the way could make a contact appear
// changed. Nothing is stored. c.mu is held.
func (c *Client) proves(claimed ratchet.Remote, e *wire.Envelope) error {
	errProved := errors.New("proved")
	err := c.store.update(func(t *tx) error {
		keys, err := readPreKeys(t)
		if err != nil {
			return err
		}
		_, err = new(ratchet.Record).Decrypt(c.local(), claimed, e.GetType(), e.GetCiphertext(), lookup{keys}, time.Now())
		if err == nil {
			err = errProved
		}
		return err
	})
	if err == errProved {
		return nil
	}
	return err
}

// hold keeps an envelope that came under a new identity key until the user accepts that. It answers as if there was nothing in it, since
// there is nothing to show yet; or, if too many are held, as if it could not be read. c.mu is held.
func (c *Client) hold(p *contact, key ratchet.PublicKey, e *wire.Envelope) error {
	if err := c.identityAppeared(p, key); err != nil {
		return err
	}
	if len(c.store.list(recordHeld)) >= maxHeld {
		return ratchet.ErrUndecryptable
	}
	b, err := proto.Marshal(e)
	if err != nil {
		return err
	}
	record := fmt.Sprintf("%s%020d", recordHeld, c.inbox.next+1)
	if err := c.store.update(func(t *tx) error { t.put(record, b); return nil }); err != nil {
		return err
	}
	c.inbox.next++
	return errSeen
}

// releaseHeld takes what was held back and is under the key that is pinned by now. What is under a key the user passed over, accepting
// another, is lost. Whatever interrupts it, the rest stays on disk for the next time: Client.Start and AcceptIdentity.
func (c *Client) releaseHeld(ctx context.Context) error {
	for _, record := range c.store.list(recordHeld) {
		value, err := c.store.get(record)
		if errors.Is(err, errNoRecord) {
			continue // released meanwhile
		}
		if err != nil {
			return err
		}
		e := new(wire.Envelope)
		if err := proto.Unmarshal(value, e); err != nil {
			return err
		}
		key, err := ratchet.PreKeyIdentity(e.GetCiphertext())
		if err != nil {
			return err
		}
		c.mu.Lock()
		p := c.contacts[uuid.UUID(e.GetSender())] // proved to be a contact's when it was held
		c.mu.Unlock()
		switch {
		case p == nil:
			c.log.Warn("an envelope of somebody whose record is gone was dropped")
		case bytes.Equal(key.Bytes(), p.Identity):
			// A crash between this and the erasure below brings it again, and the session knows it.
			if err := c.take(ctx, e); err != nil {
				return err
			}
		case p.Appeared != nil:
			continue
		default:
			c.log.Warn("an envelope under an identity key that was not accepted was dropped")
			c.events.offer(Undecryptable{From: p.public()})
		}
		if err := c.store.update(func(t *tx) error { t.delete(record); return nil }); err != nil {
			return err
		}
	}
	return nil
}
