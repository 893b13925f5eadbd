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
		var devices []ratchet.Address
		for of := range c.retries.mending {
			devices = append(devices, of)
		}
		c.mu.Unlock()
		for _, of := range devices {
			if err := c.mend(ctx, of); err != nil && ctx.Err() == nil {
				c.log.Warn("a session is not mended yet", "error", err)
				wait = max(wait, mendAgain, retryAfter(err))
			}
		}
		if wait > 0 {
			again = time.After(wait)
		}
	}
}

// mend is step 3 for one device.
func (c *Client) mend(ctx context.Context, of ratchet.Address) error {
	needed, err := c.needsBundle(of)
	if err != nil {
		return err
	}
	var bundle *ratchet.Bundle
	if needed {
		bundle, err = c.fetchBundle(ctx, of)
		if err != nil && !errors.Is(err, ErrNoSuchUser) {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	m := c.retries.mending[of]
	if m == nil {
		return nil
	}
	to, addressed := c.addressee(of.Account)
	var remote ratchet.Remote
	if addressed == nil {
		remote, addressed = to.remote(of.Device)
	}
	switch {
	case addressed != nil:
		return c.giveUp(of, m, addressed)
	case err != nil:
		return c.giveUp(of, m, err)
	case m.Reset && bundle == nil: // asked for meanwhile
		c.retries.wake()
		return nil
	case bundle != nil && !bundle.Identity.Equal(remote.Identity) && of.Device != firstDevice:
		return c.giveUp(of, m, errUnlisted)
	case bundle != nil && !bundle.Identity.Equal(remote.Identity):
		if err := c.identityAppeared(to, bundle.Identity); err != nil {
			return err
		}
		return c.giveUp(of, m, &IdentityChangedError{to.public().String()})
	}
	return c.resend(to, remote, m, bundle)
}

// needsBundle tells whether a new session has to be begun before anything can be sent anew.
func (c *Client) needsBundle(of ratchet.Address) (needed bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	to, m := c.contacts[of.Account], c.retries.mending[of]
	if to == nil || m == nil {
		return false, nil
	}
	remote, err := to.remote(of.Device)
	if err != nil {
		return false, nil // mend gives up
	}
	err = c.store.update(func(t *tx) error {
		s, err := readSession(t, of)
		needed = err == nil && (m.Reset || !s.ratchet.CanEncrypt(remote, time.Now()))
		return err
	})
	return needed, err
}

// resend begins a session if there is a bundle, with the first content, and sends all that is left of what is to be sent anew. c.mu is
// held.
func (c *Client) resend(to *contact, remote ratchet.Remote, m *mending, bundle *ratchet.Bundle) error {
	contents, lost := c.contentsOf(remote, m)
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
		err := c.postAfter(to, []ratchet.Remote{remote}, a.content, a.entry, func(t *tx, s *session) error {
			if bundle != nil && i == 0 {
				if err := s.ratchet.Initiate(c.local(), remote, bundle, time.Now()); err != nil {
					return fmt.Errorf("the server gave keys that cannot be used: %w", err)
				}
			}
			return rest.write(t, remote.Address)
		})
		if err != nil {
			return err
		}
		if a.kept != nil && a.kept.record == "" {
			c.sent.remove([]*sentContent{a.kept}) // the entry's has taken its place
		}
		c.retries.set(remote.Address, rest)
	}
	if len(contents) == 0 { // all of it has arrived meanwhile, or is of no use any more
		if err := c.store.update(func(t *tx) error { return new(mending).write(t, remote.Address) }); err != nil {
			return err
		}
		c.retries.set(remote.Address, new(mending))
	}
	if bundle != nil {
		c.events.offer(SessionReset{to.public(), resent})
	}
	return nil
}

func (r *retries) set(of ratchet.Address, m *mending) {
	if m.empty() {
		delete(r.mending, of)
	} else {
		r.mending[of] = m
	}
}

// anew is a content that is to be sent anew, and the entry of the outbox it becomes.
type anew struct {
	kept    *sentContent
	content *wire.Content
	entry   outgoing
}

// contentsOf is what is still to be sent anew, and the texts that cannot be. c.mu is held.
func (c *Client) contentsOf(to ratchet.Remote, m *mending) (contents []*anew, lost []*sentContent) {
	for _, kept := range c.sent.to(to.Address) {
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
		if err != nil || !bytes.Equal(kept.Identity, to.Identity.Bytes()) {
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

// giveUp forgets what a device has asked for, and says what will not be sent any more. c.mu is held.
func (c *Client) giveUp(of ratchet.Address, m *mending, reason error) error {
	var lost []*sentContent
	for _, kept := range c.sent.to(of) {
		if kept.record != "" && slices.Contains(m.Resend, kept.record) {
			lost = append(lost, kept)
		}
	}
	err := c.lose(of.Account, lost, reason, func(t *tx) error { return new(mending).write(t, of) })
	if err == nil {
		delete(c.retries.mending, of)
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
