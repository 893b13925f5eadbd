package client

import (
	"bytes"
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"sotto/e2ee/ratchet"
	"sotto/e2ee/sealed"
	"sotto/wire"
)

// An envelope on its way in:
//
//  1. Open it if it is sealed (sealed.go). Check who it is from: the first device of an account, with the identity key that is pinned, or
//     one that this key has listed. Under another key than the pinned one it is held back, still encrypted. For a device that is not
//     listed the list is fetched; if it is not on that either, it is dropped. So is a new sender's if there are too many of those.
//  2. Decrypt. If the sender is new, or known without a name, ask the server whether the user name
//     claimed inside is theirs, and begin again at 1. If they are known by another, see names.go.
//  3. In one transaction: the session moves on, used pre-keys are erased, a digest and the sender's delivery token are remembered, a text
//     goes into the inbox, and what a receipt names is not kept any more.
//  4. Acknowledge. The server erases the envelope. What could not be used is acknowledged too: it would not get better. If it is a
//     contact's and could not be decrypted, they are asked to send it anew (retry.go).
//  5. Show texts, in order, until the program says it is done with them; hand call messages to their call.
//
// A crash before 3 leaves everything to be delivered again; after 3 the envelope may come again, and the session knows it.

const maxStrangers = 1024 // contacts who are not accepted

// deliver handles a link's envelopes one after the other.
func (c *Client) deliver(ctx context.Context, l *link) {
	for c.awaitRoom(ctx) {
		select {
		case next := <-l.deliveries:
			if next.reached != nil {
				close(next.reached)
				continue
			}
			e := next.envelope
			if e.GetType() == typeSealed {
				select {
				case <-l.certified: // with what certificates go back to
				case <-ctx.Done():
					return
				}
			}
			err := c.take(ctx, e)
			if errors.Is(err, ErrServerKeyChanged) {
				continue // it waits at the server for the local user's decision
			}
			if err == nil {
				err = l.ack(e)
			}
			if err != nil {
				l.end(err) // the next link brings it again
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// caughtUp waits, for a moment at most, until what has been delivered so far was looked at.
func (c *Client) caughtUp(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, catchUp)
	defer cancel()
	l, err := c.link.wait(ctx)
	if err != nil {
		return
	}
	mark := delivery{reached: make(chan struct{})}
	select {
	case l.deliveries <- mark:
	case <-l.over:
		return
	case <-ctx.Done():
		return
	}
	select {
	case <-mark.reached:
	case <-l.over:
	case <-ctx.Done():
	}
}

const catchUp = time.Second

// take is steps 1 to 3 and 5. Without an error the envelope can be acknowledged.
func (c *Client) take(ctx context.Context, e *wire.Envelope) error {
	if len(e.GetId()) != 16 || !bytes.Equal(e.GetRecipient(), c.account.Account[:]) || e.GetRecipientDevice() != uint32(c.account.Device) ||
		len(e.GetCiphertext()) > maxCiphertext {
		c.log.Warn("an envelope with a wrong address was dropped")
		return nil
	}
	var certified ratchet.PublicKey // zero if it is not sealed
	if e.GetType() == typeSealed {
		var err error
		e, certified, err = c.unseal(e)
		if err == errSealed {
			c.log.Warn("a sealed envelope could not be opened")
			return nil
		}
		if err != nil {
			return err
		}
	}
	sender, err := senderOf(e)
	if err != nil || sender == c.local().Address {
		c.log.Warn("an envelope of a wrong sender was dropped")
		return nil
	}
	if c.blocked(sender.Account) {
		return nil
	}
	retry := e.GetType() == sealed.TypePlaintext && !certified.IsZero()
	if !retry && e.GetType() != ratchet.TypeMessage && e.GetType() != ratchet.TypePreKeyMessage {
		c.log.Warn("an envelope of an unknown type was dropped")
		return nil
	}
	if retry {
		return c.onRetryRequest(sender, certified, e)
	}
	var who newcomer
	o, err := c.openEnvelope(sender, e, certified, who)
	if err == errUnlisted && !c.removed(sender) {
		if who.listed, err = c.fetchList(ctx, sender.Account); err != nil {
			return c.unlisted(who.listed, err)
		}
		o, err = c.openEnvelope(sender, e, certified, who)
	}
	if errors.Is(err, errStranger) {
		claimed := ""
		if claimed, err = c.confirmName(ctx, sender.Account, o.content.GetUsername()); err != nil {
			return err
		}
		who.name = &claimed
		o, err = c.openEnvelope(sender, e, certified, who)
	}
	switch {
	case err == errSeen:
		return nil
	case err == errUnlisted:
		return c.unlisted(nil, err)
	case err == errCertified:
		c.log.Warn("a sealed envelope has another identity key than its certificate")
		return nil
	case errors.Is(err, ratchet.ErrUndecryptable) || errors.Is(err, ratchet.ErrIdentityChanged) || errors.Is(err, ratchet.ErrDuplicate):
		c.log.Warn("an envelope could not be decrypted")
		return c.undecryptable(o.from, sender.Device, e)
	case err != nil:
		return err
	}
	c.show(o)
	return nil
}

func senderOf(e *wire.Envelope) (sender ratchet.Address, err error) {
	if len(e.GetSender()) != 16 || e.GetSenderDevice() < 1 || e.GetSenderDevice() > wire.MaxDeviceID {
		return sender, errProtocol
	}
	return ratchet.Address{Account: [16]byte(e.Sender), Device: uint8(e.SenderDevice)}, nil
}

// removed says that a device was on the list of its account, and is not any more.
func (c *Client) removed(a ratchet.Address) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.contacts[a.Account]
	return p != nil && p.lost(a.Device)
}

// unlisted drops an envelope of a device that is not listed, unless it is perhaps an accepted contact's and the server can be asked again.
func (c *Client) unlisted(from *contact, err error) error {
	var refusal *ServerError
	answered := errors.As(err, &refusal) && !passing(err) || errors.Is(err, ErrNoSuchUser) ||
		err == errUnlisted || err == errTooOften || err == errListRefused || err == errListOlder
	if !answered && from != nil && from.Accepted {
		return err
	}
	c.log.Warn("an envelope of a device that its account has not listed was dropped", "reason", err)
	return nil
}

// undecryptable asks a contact for what could not be decrypted, and tells. A message that the session takes for one it decrypted before
// is among that: it is no repetition, which would have been seen, but the sender, whose session went back to an older state.
func (c *Client) undecryptable(from *contact, device uint8, e *wire.Envelope) error {
	if from == nil {
		return nil
	}
	asked, err := c.ask(from, device, e)
	if err != nil {
		return err
	}
	c.events.offer(Undecryptable{from.public(), asked})
	return nil
}

// opened is a decrypted envelope.
type opened struct {
	from    *contact
	device  uint8
	content *wire.Content      // nil if its form is wrong or it is held back
	told    map[MessageID]bool // of a receipt: whether the program has heard of it from another device
}

// newcomer is what is known of a sender who is not stored yet.
type newcomer struct {
	name   *string  // confirmed; nil before it was asked for
	listed *contact // by the list, if it is not their first device
}

var (
	// errStranger says that the sender is new, or known without a name, and that the name they give is
	// not confirmed yet. Nothing was stored.
	errStranger = errors.New("the sender has no name here")
	// errSeen says that the envelope was dealt with before, or is held back.
	errSeen = errors.New("the envelope is known")
	// errCertified says that the message was sealed by another key than the one of its session.
	errCertified = errors.New("the certificate is for another identity key")
)

// openEnvelope is steps 1 to 3, under the lock. certified is the identity key that sealed the envelope, zero if none did.
func (c *Client) openEnvelope(
	sender ratchet.Address, e *wire.Envelope, certified ratchet.PublicKey, who newcomer,
) (o opened, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	o.from, o.device = c.contacts[sender.Account], sender.Device
	if sender.Account == c.account.Account {
		o.from = c.ownContact() // whose key the server cannot choose
	}
	known := o.from
	if known == nil && c.strangers() >= maxStrangers {
		c.log.Warn("too many strangers have written: a new one was ignored")
		return o, ratchet.ErrUndecryptable
	}
	if known == nil {
		known = who.listed
	}
	remote := ratchet.Remote{Address: sender}
	switch {
	case known != nil && known.outdated() && sender.Device != firstDevice:
		return o, errUnlisted // as far as is known
	case known != nil:
		if remote, err = known.remote(sender.Device); err != nil {
			return o, err
		}
	case sender.Device != firstDevice:
		return o, errUnlisted
	}
	key := remote.Identity // that the message claims to be of
	if e.GetType() == ratchet.TypePreKeyMessage {
		if key, err = ratchet.PreKeyIdentity(e.GetCiphertext()); err != nil {
			return o, err
		}
	}
	if !certified.IsZero() && !certified.Equal(key) {
		return o, errCertified
	}
	if known != nil && !key.Equal(remote.Identity) {
		if sender.Device != firstDevice || o.from == nil {
			return o, errUnlisted // perhaps the number is another device's by now
		}
		remote.Identity = key
		if err := c.proves(remote, e); err != nil {
			return o, err
		}
		return o, c.hold(o.from, key, e)
	}
	var entry *incoming
	var arrived []*sentContent
	var token *sealing // changed by another device of this account
	used, reset, disputed := false, false, false
	err = c.store.update(func(t *tx) error {
		s, err := readSession(t, sender)
		if err != nil {
			return err
		}
		if s.seen(e) {
			return errSeen
		}
		var keys *preKeys
		if e.GetType() == ratchet.TypePreKeyMessage {
			if keys, err = readPreKeys(t); err != nil {
				return err
			}
		}
		plaintext, err := s.ratchet.Decrypt(c.local(), remote, e.GetType(), e.GetCiphertext(), lookup{keys}, time.Now())
		if err != nil {
			return err
		}
		defer clear(plaintext.Bytes)
		if plaintext.Used != nil {
			used = true
			reset, s.Asked = s.Asked, false // it is the session they were asked for
			keys.spend(plaintext.Used, time.Now())
			if err := keys.write(t); err != nil {
				return err
			}
		}
		if o.content, err = parseContent(plaintext.Bytes); err != nil {
			c.log.Warn("a message of a malformed kind was dropped")
		}
		if o.from == nil {
			if who.name == nil {
				return errStranger
			}
			o.from = who.contact(sender.Account, plaintext.Identity)
			if c.named(*who.name) == nil { // it was taken meanwhile otherwise
				o.from.Username = *who.name
			}
			if err := o.from.write(t); err != nil {
				return err
			}
		} else if who.name == nil && c.nameless(o.from, o.content) {
			return errStranger
		} else if o.from.Username == "" && who.name != nil && *who.name != "" && c.named(*who.name) == nil {
			changed := *o.from
			changed.Username = *who.name
			o.from = &changed
			if err := o.from.write(t); err != nil {
				return err
			}
		}
		if name := o.from.disputes(o.content); name != "" && name != o.from.Claims {
			changed := *o.from
			changed.Claims, disputed = name, true
			o.from = &changed
			if err := o.from.write(t); err != nil {
				return err
			}
		}
		if sender.Account == c.account.Account {
			if token = c.adopted(sender.Device, o.content.GetDeliveryToken()); token != nil {
				if err := putJSON(t, recordSealing, token); err != nil {
					return err
				}
			}
		} else if o.from.tokenChanged(o.content) {
			changed := *o.from
			changed.Token = o.content.DeliveryToken
			o.from = &changed
			if err := o.from.write(t); err != nil {
				return err
			}
		}
		if epoch := o.content.GetDeviceListEpoch(); sender.Device == firstDevice && epoch > max(o.from.Epoch, o.from.Heard) {
			changed := *o.from
			changed.Heard = epoch
			o.from = &changed
			if err := o.from.write(t); err != nil {
				return err
			}
		}
		if entry, err = c.keepUnread(t, s, o.from, o.content); err != nil {
			return err
		}
		if entry != nil && entry.Missed != nil && !o.from.Accepted {
			changed := *o.from
			changed.hasRung(entry.Received)
			o.from = &changed
			if err := o.from.write(t); err != nil {
				return err
			}
		}
		if arrived, o.told, err = c.sent.arrived(t, sender, o.content.GetReceipt()); err != nil {
			return err
		}
		s.see(e)
		return s.write(t, sender)
	})
	if err != nil {
		return o, err
	}
	c.sent.remove(arrived)
	if used {
		select {
		case c.keyUsed <- struct{}{}:
		default:
		}
	}
	c.contacts[sender.Account] = o.from
	if token != nil {
		c.sealing = *token
		c.tokenReplaced()
	}
	if o.content.GetDeviceListEpoch() > o.from.Epoch && o.content.GetDeviceList() == nil {
		c.lists.want(sender.Account, true)
	}
	if disputed {
		c.nameDisputed(o.from)
	}
	if reset {
		c.events.offer(SessionReset{Contact: o.from.public()})
	}
	if entry != nil {
		c.inbox.add(entry)
	}
	return o, nil
}

// contact is the record of a new sender.
func (n *newcomer) contact(id uuid.UUID, identity ratchet.PublicKey) *contact {
	if n.listed == nil {
		return &contact{Account: id, Identity: identity.Bytes(), Added: time.Now()}
	}
	p := *n.listed
	p.Added = time.Now()
	return &p
}

// strangers counts contacts who are not accepted. c.mu is held.
func (c *Client) strangers() (n int) {
	for _, p := range c.contacts {
		if !p.Accepted {
			n++
		}
	}
	return n
}

// confirmName returns the name that a new sender claims, if the server says it is theirs and no contact goes by it. A server that refuses
// to say is not asked again: strangers must not use up this account's look-ups and stop everything else.
func (c *Client) confirmName(ctx context.Context, sender uuid.UUID, claimed string) (string, error) {
	if !validUsername(claimed) || claimed == c.account.Username {
		return "", nil
	}
	c.mu.Lock()
	taken := c.named(claimed) != nil
	c.mu.Unlock()
	if taken {
		return "", nil
	}
	id, err := c.lookUp(ctx, claimed)
	var refusal *ServerError
	switch {
	case errors.As(err, &refusal):
		c.log.Warn("a sender's user name was not confirmed", "code", refusal.Code)
		return "", nil
	case errors.Is(err, ErrNoSuchUser) || errors.Is(err, errProtocol) || err == nil && id != sender:
		c.log.Warn("a sender claims a user name that is not theirs")
		return "", nil
	case err != nil:
		return "", err
	}
	return claimed, nil
}

// show is step 5 but for texts, which showInbox brings.
func (c *Client) show(o opened) {
	if list := o.content.GetDeviceList(); list != nil {
		c.onDeviceList(o.from.Account, list)
		return
	}
	if o.from.Account == c.account.Account {
		return
	}
	if _, call := o.content.GetBody().(*wire.Content_Call); call && o.from.Claims != "" {
		return
	}
	switch body := o.content.GetBody().(type) {
	case *wire.Content_Text:
		if o.from.Accepted && o.from.Claims == "" {
			c.receipts.add(ratchet.Address{Account: o.from.Account, Device: o.device}, o.content.Id)
		}
	case *wire.Content_Receipt:
		if body.Receipt.GetKind() != wire.Receipt_DELIVERED || !o.from.Accepted { // nothing was sent to them
			return
		}
		for _, id := range body.Receipt.GetMessageIds() {
			if !o.told[MessageID(id)] {
				c.events.offer(MessageDelivered{MessageID(id), o.from.public().String()})
			}
		}
	case *wire.Content_Call, *wire.Content_MissedCall:
		c.calls.handle(o.from, o.device, o.content)
	}
}

// onDeviceList takes a list that an account's device has sent.
func (c *Client) onDeviceList(id uuid.UUID, list *wire.SignedDeviceList) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.contacts[id]
	if p == nil {
		return
	}
	if _, err := c.learnList(p, list); err != nil {
		c.log.Warn("a list of devices that came in a message was not taken", "error", err)
		return
	}
	if p.Accepted {
		c.lists.want(id, false)
	}
}
