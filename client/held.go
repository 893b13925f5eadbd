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
	maxHeld    = 256     // envelopes in all; what comes after that is lost
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
	if len(c.inbox.held) >= maxHeld {
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
	c.inbox.held = append(c.inbox.held, record)
	return ratchet.ErrDuplicate
}

// releaseHeld takes what was held back from an account.
func (c *Client) releaseHeld(ctx context.Context, from uuid.UUID) error {
	c.mu.Lock()
	held := c.inbox.held
	c.inbox.held = nil
	c.mu.Unlock()
	for i, record := range held {
		value, err := c.store.get(record)
		if err != nil {
			return err
		}
		e := new(wire.Envelope)
		if err := proto.Unmarshal(value, e); err != nil {
			return err
		}
		keep := !bytes.Equal(e.GetSender(), from[:])
		if !keep {
			err = c.take(ctx, e)
		}
		c.mu.Lock()
		switch {
		case err != nil:
			c.inbox.held = append(c.inbox.held, held[i:]...)
		case keep:
			c.inbox.held = append(c.inbox.held, record)
		default:
			err = c.store.update(func(t *tx) error { t.delete(record); return nil })
		}
		c.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}
