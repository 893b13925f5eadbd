package client

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
)

const labelListDigest = "Sotto call v1 device list\x00"

var errListsDiffer = errors.New("the two ends know different lists of one account's devices: somebody may be keeping a newer list back; " +
	"try again, and compare safety numbers if it goes on")

// listDigest names the device list that this device holds of an account. Offer and answer carry that of their sender's, so that keys and
// verification code bind both lists (docs/protocol.md, "Call keys"): a device that is listed for one end only ends the call.
func (p *contact) listDigest() []byte {
	h := sha256.New()
	h.Write([]byte(labelListDigest))
	h.Write(p.List)
	return h.Sum(nil)
}

func (c *Client) ownListDigest() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ownContact().listDigest()
}

// known is a contact as they are known now.
func (c *Client) known(p *contact) *contact {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.contacts[p.Account]; now != nil {
		return now
	}
	return p
}

// sameList compares the list that the other end says its account has with the one known here when the call began, and, if that is another,
// with the newest that the server gives.
func (c *Client) sameList(ctx context.Context, p *contact, digest []byte) error {
	same := func(p *contact) bool { return p != nil && subtle.ConstantTimeCompare(p.listDigest(), digest) == 1 }
	if same(p) {
		return nil
	}
	if same(c.known(p)) {
		return nil
	}
	if now, err := c.fetchList(ctx, p.Account); err != nil || !same(now) {
		return errListsDiffer
	}
	return nil
}
