package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"sotto/e2ee/ratchet"
	"sotto/wire"
)

// The third step of retry.go.

// keepMending carries out what onRetryRequest has left to be done.
func (c *Client) keepMending(ctx context.Context) {
	var again <-chan time.Time
	for {
		select {
		case <-c.retries.some:
		case <-again:
		case <-ctx.Done():
			return
		}
		again = nil
		var wait time.Duration
		c.mu.Lock()
		var ids []uuid.UUID
		for id := range c.retries.mending {
			ids = append(ids, id)
		}
		c.mu.Unlock()
		for _, id := range ids {
			if err := c.mend(ctx, id); err != nil && ctx.Err() == nil {
				c.log.Warn("a session is not mended yet", "error", err)
				wait = max(wait, mendAgain, retryAfter(err))
			}
		}
		if wait > 0 {
			again = time.After(wait)
		}
	}
}

// mend is step 3 for one contact.
func (c *Client) mend(ctx context.Context, id uuid.UUID) error {
	needed, err := c.needsBundle(id)
	if err != nil {
		return err
	}
	var bundle *ratchet.Bundle
	if needed {
		bundle, err = c.fetchBundle(ctx, id)
		if err != nil && !errors.Is(err, ErrNoSuchUser) {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.retries.mending[id]
	if m == nil {
		return nil
	}
	to, addressed := c.addressee(id)
	switch {
	case addressed != nil:
		return c.giveUp(id, m, addressed)
	case err != nil:
		return c.giveUp(id, m, err)
	case m.Reset && bundle == nil: // asked for meanwhile
		c.retries.wake()
		return nil
	case bundle != nil && !bytes.Equal(bundle.Identity.Bytes(), to.Identity):
		if err := c.identityAppeared(to, bundle.Identity); err != nil {
			return err
		}
		return c.giveUp(id, m, &IdentityChangedError{to.public().String()})
	}
	return c.resend(to, m, bundle)
}

// needsBundle tells whether a new session has to be begun before anything can be sent anew.
func (c *Client) needsBundle(id uuid.UUID) (needed bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	to, m := c.contacts[id], c.retries.mending[id]
	if to == nil || m == nil {
		return false, nil
	}
	remote, err := to.remote()
	if err != nil {
		return false, err
	}
	err = c.store.update(func(t *tx) error {
		s, err := readSession(t, id)
		needed = err == nil && (m.Reset || !s.ratchet.CanEncrypt(remote, time.Now()))
		return err
	})
	return needed, err
}

// resend begins a session if there is a bundle, with the first content, and sends all that is left of what is to be sent anew. c.mu is
// held.
func (c *Client) resend(to *contact, m *mending, bundle *ratchet.Bundle) error {
	contents, lost := c.contentsOf(to, m)
	if err := c.lose(to.Account, lost, errNotAnew, func(*tx) error { return nil }); err != nil {
		return err
	}
	resent := len(contents)
	if resent == 0 && bundle != nil {
		contents = append(contents, &anew{content: c.newContent()})
	}
	for i, a := range contents {
		rest := &mending{}
		for _, later := range contents[i+1:] {
			rest.add(later.kept)
		}
		err := c.postAfter(to, a.content, a.entry, func(t *tx, s *session) error {
			if bundle != nil && i == 0 {
				remote, err := to.remote()
				if err != nil {
					return err
				}
				if err := s.ratchet.Initiate(c.local(), remote, bundle, time.Now()); err != nil {
					return fmt.Errorf("the server gave keys that cannot be used: %w", err)
				}
			}
			return rest.write(t, to.Account)
		})
		if err != nil {
			return err
		}
		if a.kept != nil && a.kept.record == "" {
			c.sent.remove([]*sentContent{a.kept}) // the entry's has taken its place
		}
		c.retries.set(to.Account, rest)
	}
	if len(contents) == 0 { // all of it has arrived meanwhile, or is of no use any more
		if err := c.store.update(func(t *tx) error { return new(mending).write(t, to.Account) }); err != nil {
			return err
		}
		c.retries.set(to.Account, new(mending))
	}
	if bundle != nil {
		c.events.offer(SessionReset{to.public(), resent})
	}
	return nil
}

func (r *retries) set(id uuid.UUID, m *mending) {
	if m.empty() {
		delete(r.mending, id)
	} else {
		r.mending[id] = m
	}
}

// anew is a content that is to be sent anew, and the entry of the outbox it becomes.
type anew struct {
	kept    *sentContent
	content *wire.Content
	entry   outgoing
}

// contentsOf is what is still to be sent anew, and the texts that cannot be. c.mu is held.
func (c *Client) contentsOf(to *contact, m *mending) (contents []*anew, lost []*sentContent) {
	for _, kept := range c.sent.to(to.Account) {
		if !slices.Contains(m.Resend, kept.record) && !slices.Contains(m.steps, kept) || kept.Resent {
			continue
		}
		stored := kept
		if kept.record != "" {
			value, err := c.store.get(kept.record)
			stored = new(sentContent)
			if err != nil || json.Unmarshal(value, stored) != nil {
				continue
			}
		} else if time.Now().After(kept.expires) {
			continue
		}
		content, err := parseContent(stored.Content)
		if err != nil || !bytes.Equal(kept.Identity, to.Identity) {
			if kept.record != "" {
				lost = append(lost, kept)
			}
			continue
		}
		after := *kept
		after.Content, after.Resent, after.At = nil, true, time.Now()
		contents = append(contents, &anew{kept, content, outgoing{
			Message: kept.Message, Expires: kept.expires, refused: kept.refused, kept: &after,
		}})
	}
	return contents, lost
}

// giveUp forgets what a contact has asked for, and says what will not be sent any more. c.mu is held.
func (c *Client) giveUp(id uuid.UUID, m *mending, reason error) error {
	var lost []*sentContent
	for _, kept := range c.sent.to(id) {
		if kept.record != "" && slices.Contains(m.Resend, kept.record) {
			lost = append(lost, kept)
		}
	}
	err := c.lose(id, lost, reason, func(t *tx) error { return new(mending).write(t, id) })
	if err == nil {
		delete(c.retries.mending, id)
	}
	return err
}

// lose erases texts that will not be sent anew, and tells. c.mu is held.
func (c *Client) lose(id uuid.UUID, lost []*sentContent, reason error, also func(*tx) error) error {
	err := c.store.update(func(t *tx) error {
		for _, kept := range lost {
			t.delete(kept.record)
		}
		return also(t)
	})
	if err != nil {
		return err
	}
	c.sent.remove(lost)
	for _, kept := range lost {
		name := id.String()
		if to := c.contacts[id]; to != nil {
			name = to.public().String()
		}
		c.events.offer(MessageFailed{kept.Message, name, reason})
	}
	return nil
}
