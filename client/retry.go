package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"sotto/e2ee/ratchet"
	"sotto/e2ee/sealed"
	"sotto/wire"
)

// When something of a contact's cannot be decrypted:
//
//  1. The recipient asks the sender to send it anew (ask). The request is not encrypted by the session, which may be what is broken, but
//     sealed like any message: that hides it, and proves who asks. It is stored together with the id of what failed, so each envelope
//     is asked for once.
//  2. The sender checks the request, and stores what is to be done about it (onRetryRequest). If what failed was sent under the ratchet
//     key that is in use now, the session is archived, and all that went out under that key is to be sent anew. If not, the session was
//     replaced meanwhile, and only what is named is to be sent anew.
//  3. Once a bundle was fetched, the sender begins a session and sends what it still has in it (mend), in as many transactions as there
//     are contents. If it has none it sends an empty content, so that the recipient gets the new session.
//  4. The recipient takes the new session up, and shows what it has not shown before.
//
// There is no way round in a circle: a request is no message that could be asked for; nothing is sent anew twice; and requests per contact
// and hour are limited at both ends. Only accepted contacts are asked, and answered: a stranger learns nothing of this device.

const (
	recordMending = "mending/" // and the account's UUID

	maxRetries = 4 // requests to a contact, and sessions archived at their request, in an hour
	mendAgain  = 10 * time.Second
)

// mending is the record of what a contact has asked for and not got yet.
type mending struct {
	Reset  bool     // the session was archived for it
	Resend []string // records of texts

	steps []*sentContent // of calls: in memory only
}

// retries is the state of all that. Client.mu guards it.
type retries struct {
	asked, reset hourly
	mending      map[uuid.UUID]*mending
	some         chan struct{} // has room for one
}

func (c *Client) loadRetries() error {
	c.retries = retries{asked: hourly{}, reset: hourly{}, mending: map[uuid.UUID]*mending{}, some: make(chan struct{}, 1)}
	for _, name := range c.store.list(recordMending) {
		id, err := uuid.Parse(name[len(recordMending):])
		if err != nil {
			return err
		}
		value, err := c.store.get(name)
		if err != nil {
			return err
		}
		m := new(mending)
		if err := json.Unmarshal(value, m); err != nil {
			return err
		}
		c.retries.mending[id] = m
		c.retries.wake()
	}
	return nil
}

func (r *retries) wake() {
	select {
	case r.some <- struct{}{}:
	default:
	}
}

// hourly counts what was done for an account within the last hour.
type hourly map[uuid.UUID][]time.Time

// spend reports whether it may be done once more, and counts it.
func (h hourly) spend(id uuid.UUID, now time.Time) bool {
	h[id] = slices.DeleteFunc(h[id], func(t time.Time) bool { return now.Sub(t) >= time.Hour })
	if len(h[id]) >= maxRetries {
		return false
	}
	h[id] = append(h[id], now)
	return true
}

// ask is step 1. It reports whether the contact was asked.
func (c *Client) ask(from *contact, e *wire.Envelope) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key, err := ratchet.RatchetKey(e.GetType(), e.GetCiphertext())
	if err != nil {
		return false, nil // no session can have made it
	}
	if e.GetType() == ratchet.TypePreKeyMessage {
		if identity, err := ratchet.PreKeyIdentity(e.GetCiphertext()); err != nil || !bytes.Equal(identity.Bytes(), from.Identity) {
			return false, nil // not theirs, and not proved to be anybody's
		}
	}
	to, err := c.addressee(from.Account)
	if err != nil || !to.Accepted || !c.sealing.certified(c.now()) {
		return false, nil
	}
	if !c.retries.asked.spend(to.Account, time.Now()) {
		c.log.Warn("a contact was not asked to send a message anew: it happens too often")
		return false, nil
	}
	request := &ratchet.DecryptionError{RatchetKey: key, Timestamp: envelopeName(e.GetId()), Device: device}
	err = c.enqueue(to, outgoing{}, func(t *tx) (ratchet.Message, error) {
		s, err := readSession(t, to.Account)
		if err != nil {
			return ratchet.Message{}, err
		}
		s.see(e.GetId())
		s.Asked = true
		return ratchet.Message{Type: sealed.TypePlaintext, Bytes: request.PlaintextContent()}, s.write(t, to.Account)
	})
	return err == nil, err
}

// errNoRetry says that nothing comes of a request.
var errNoRetry = errors.New("nothing is sent anew")

// onRetryRequest is step 2. certified is the identity key that sealed the request.
func (c *Client) onRetryRequest(sender uuid.UUID, certified ratchet.PublicKey, e *wire.Envelope) error {
	request, err := ratchet.ParseDecryptionError(e.GetCiphertext())
	c.mu.Lock()
	defer c.mu.Unlock()
	from := c.contacts[sender]
	if err != nil || from == nil || !from.Accepted || from.Appeared != nil || request.Device != uint32(c.account.Device) ||
		certified.IsZero() || !bytes.Equal(certified.Bytes(), from.Identity) {
		c.log.Warn("a request to send a message anew was dropped")
		return nil
	}
	// The envelope's id can be another one each time the server brings it: what is in it cannot.
	digest := sha256.Sum256(e.GetCiphertext())
	var lost, resend []*sentContent
	m := new(mending)
	if before := c.retries.mending[sender]; before != nil {
		*m = *before
	}
	err = c.store.update(func(t *tx) error {
		s, err := readSession(t, sender)
		if err != nil {
			return err
		}
		if s.seen(digest[:16]) {
			return errNoRetry
		}
		reset := s.ratchet.Current(request.RatchetKey)
		for _, kept := range c.sent.to(sender) {
			named := envelopeName(kept.Envelope) == request.Timestamp
			switch {
			case named && kept.Resent:
				lost = append(lost, kept)
			case !kept.Resent && (named || reset && bytes.Equal(kept.Ratchet, request.RatchetKey.Bytes())):
				resend = append(resend, kept)
			}
		}
		if !reset && len(lost)+len(resend) == 0 || reset && !c.retries.reset.spend(sender, time.Now()) {
			return errNoRetry
		}
		if reset {
			s.ratchet.Archive()
			m.Reset = true
		}
		for _, kept := range resend {
			m.add(kept)
		}
		for _, kept := range lost {
			if kept.record != "" {
				t.delete(kept.record)
			}
		}
		s.see(digest[:16])
		if err := s.write(t, sender); err != nil {
			return err
		}
		return m.write(t, sender)
	})
	if errors.Is(err, errNoRetry) {
		c.log.Warn("a request to send a message anew was ignored")
		return nil
	}
	if err != nil {
		return err
	}
	c.sent.remove(lost)
	for _, kept := range lost {
		if kept.record != "" {
			c.events.offer(MessageFailed{kept.Message, from.public().String(), errUnreadable})
		}
	}
	if m.empty() {
		return nil
	}
	c.retries.mending[sender] = m
	c.retries.wake()
	return nil
}

var errUnreadable = errors.New("the recipient's device could not decrypt it, sent anew neither: write it once more")

func (m *mending) empty() bool { return !m.Reset && len(m.Resend)+len(m.steps) == 0 }

func (m *mending) add(kept *sentContent) {
	switch {
	case kept.record == "" && !slices.Contains(m.steps, kept):
		m.steps = append(slices.Clip(m.steps), kept)
	case kept.record != "" && !slices.Contains(m.Resend, kept.record):
		m.Resend = append(slices.Clip(m.Resend), kept.record)
	}
}

func (m *mending) write(t *tx, id uuid.UUID) error {
	if m.empty() {
		t.delete(recordMending + id.String())
		return nil
	}
	return putJSON(t, recordMending+id.String(), m)
}

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
	contents := c.contentsOf(to, m)
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

// contentsOf is what is still to be sent anew. c.mu is held.
func (c *Client) contentsOf(to *contact, m *mending) (contents []*anew) {
	for _, kept := range c.sent.to(to.Account) {
		if !slices.Contains(m.Resend, kept.record) && !slices.Contains(m.steps, kept) || kept.Resent {
			continue
		}
		padded := kept.Content
		if kept.record != "" {
			value, err := c.store.get(kept.record)
			stored := new(sentContent)
			if err != nil || json.Unmarshal(value, stored) != nil {
				continue
			}
			padded = stored.Content
		} else if time.Now().After(kept.expires) {
			continue
		}
		content, err := parseContent(padded)
		if err != nil || !bytes.Equal(kept.Identity, to.Identity) {
			continue
		}
		after := *kept
		after.Content, after.Resent, after.At = nil, true, time.Now()
		contents = append(contents, &anew{kept, content, outgoing{
			Message: kept.Message, Expires: kept.expires, refused: kept.refused, kept: &after,
		}})
	}
	return contents
}

// giveUp forgets what a contact has asked for, and says what will not be sent any more. c.mu is held.
func (c *Client) giveUp(id uuid.UUID, m *mending, reason error) error {
	var lost []*sentContent
	for _, kept := range c.sent.texts {
		if slices.Contains(m.Resend, kept.record) {
			lost = append(lost, kept)
		}
	}
	err := c.store.update(func(t *tx) error {
		for _, kept := range lost {
			t.delete(kept.record)
		}
		return new(mending).write(t, id)
	})
	if err != nil {
		return err
	}
	delete(c.retries.mending, id)
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
