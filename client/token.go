package client

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"time"

	"sotto/wire"
)

// A delivery token is what keeps envelopes without a sender's name from being abused: the server takes them only from who shows the
// recipient's token.
//
//  1. Each account draws one, and tells the server its hash at every link-up.
//  2. It goes inside every content to those whom the account's user has accepted, and to nobody else.
//  3. Who gets one keeps it in the contact's record, and from then on seals what they send to that contact (sealed.go).
//  4. RemoveContact and RemoveDevice draw a new one (owndevices.go says how an account's devices agree on it). The old one is void as
//     soon as the server knows; whoever shows it is refused, and sends the ordinary way until the new one reaches them with the next
//     content.

// newToken draws a delivery token.
func newToken() []byte {
	token := make([]byte, wire.DeliveryTokenSize)
	rand.Read(token)
	return token
}

// keepTold tells the server our token's hash, for the time of a link.
func (c *Client) keepTold(ctx context.Context, l *link) {
	if c.account.Device != firstDevice {
		closeOnce(l.tokenTold) // the first device does
		return
	}
	for {
		err := c.tellToken(ctx, l)
		closeOnce(l.tokenTold)
		var again <-chan time.Time
		switch {
		case ctx.Err() != nil:
			return
		case lasting(err):
			c.log.Warn("the server takes no delivery tokens: it learns who sends to this account")
		case err != nil:
			c.log.Warn("the server did not take the delivery token", "error", err)
			again = time.After(max(certifyAgain, retryAfter(err)))
		}
		select {
		case <-again:
		case <-c.tokenNew:
		case <-ctx.Done():
			return
		}
	}
}

func (c *Client) tellToken(ctx context.Context, l *link) error {
	c.mu.Lock()
	token := c.sealing.Token
	c.mu.Unlock()
	hash := wire.DeliveryTokenHash(token)
	_, err := l.request(ctx, &wire.ClientFrame{Body: &wire.ClientFrame_SetDeliveryToken{
		SetDeliveryToken: &wire.SetDeliveryToken{Hash: hash[:]},
	}})
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.sealing.Told || !bytes.Equal(c.sealing.Token, token) { // replaced meanwhile
		return nil
	}
	defer c.outbox.notify()
	return c.changeSealing(func(s *sealing) { s.Told = true })
}

// awaitTold waits until the server was told of a token that it never heard of: the answer to content that holds it would be refused.
func (c *Client) awaitTold(ctx context.Context, l *link) {
	c.mu.Lock()
	told := c.sealing.Told
	c.mu.Unlock()
	if told {
		return
	}
	select {
	case <-l.tokenTold:
	case <-ctx.Done():
	}
}

// tokenFor is what a contact learns of our token. c.mu is held.
func (c *Client) tokenFor(to *contact) []byte {
	switch {
	case !to.Accepted:
		return nil
	case to.Account == c.account.Account && c.account.Device != firstDevice:
		return slices.Clone(c.sealing.Proposed)
	}
	return slices.Clone(c.sealing.Token)
}

// tokenChanged tells whether content brings another token of a contact's than the one that is known. Who does not send one leaves it.
func (p *contact) tokenChanged(content *wire.Content) bool {
	token := content.GetDeliveryToken()
	return len(token) == wire.DeliveryTokenSize && !bytes.Equal(token, p.Token)
}

// forgetToken forgets a contact's token that the server did not take, unless there is another by now. used is the contact as it was when
// the token was shown. c.mu is held.
func (c *Client) forgetToken(used *contact) error {
	p := c.contacts[used.Account]
	if p == nil || !bytes.Equal(p.Token, used.Token) {
		return nil
	}
	p, err := c.changeContact(p, func(p *contact) { p.Token = nil }, nil)
	if err != nil {
		return err
	}
	c.senderShown(p)
	return nil
}

// senderShown tells the program, once until the next envelope goes out sealed, that the server learns who writes to a contact. c.mu is
// held.
func (c *Client) senderShown(p *contact) {
	if _, told := c.anonymous.shown[p.Account]; told {
		return
	}
	c.anonymous.shown[p.Account] = struct{}{}
	c.log.Warn("the server does not take sealed messages to a contact: they are sent under this account's name")
	c.events.offer(SenderShown{p.public()})
}

// senderHidden notes that an envelope to a contact went out sealed.
func (c *Client) senderHidden(p *contact) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.anonymous.shown, p.Account)
	delete(c.anonymous.refusing, p.Account)
}

var errNoContact = errors.New("this is no contact any more")
