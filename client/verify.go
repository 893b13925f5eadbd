package client

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"strings"

	"sotto/e2ee/safety"
)

// Verifying a contact:
//
//  1. Over another channel, side by side or by a known voice, the user gets the 60 digits or the code that the contact's device shows.
//  2. They are compared with what this device shows, of the key that appeared last if there is a new one.
//  3. If they match, that key is pinned, the contact is marked as verified, and what came under the key is delivered.
//     If it is the key that was pinned before which matches, that is the contact's, and what appeared instead somebody else's: a server can
//     make one appear, and must not leave users with the choice between it and none.
//  4. When another key appears, or one is accepted without this comparison, the mark is gone.

// SafetyCode is SafetyNumber for cameras: the content of a QR code that the contact's device compares with VerifyCode.
func (c *Client) SafetyCode(username string) ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.named(username)
	if p == nil {
		return nil, tell(ErrNoContact, "%s is not a contact: add them first", username)
	}
	code, err := c.safetyCode(p)
	if err != nil {
		return nil, err
	}
	return code.Bytes(), nil
}

// VerifyNumber marks a contact as verified if the digits that they see, with or without spaces, are the safety number: that of the key
// that appeared last, which is accepted then, or that of the one pinned before, which lets the other be forgotten. Otherwise the error is
// safety.ErrMismatch, or safety.ErrOthers if it is the number shared with another contact.
func (c *Client) VerifyNumber(ctx context.Context, username, digits string) error {
	digits = strings.Join(strings.Fields(digits), "")
	return c.verify(ctx, username, func(p *contact) error {
		number, err := c.safetyNumber(p)
		if err == nil && subtle.ConstantTimeCompare([]byte(digits), []byte(number)) == 0 {
			err = safety.ErrMismatch
		}
		return err
	})
}

// VerifyCode is VerifyNumber for the content of the QR code that their device shows for this account. The error is one of the safety
// package's.
func (c *Client) VerifyCode(ctx context.Context, username string, scanned []byte) error {
	return c.verify(ctx, username, func(p *contact) error {
		code, err := c.safetyCode(p)
		if err != nil {
			return err
		}
		return code.Compare(scanned)
	})
}

func (c *Client) verify(ctx context.Context, username string, compare func(*contact) error) error {
	if err := c.markVerified(username, compare); err != nil {
		if !errors.Is(err, safety.ErrMismatch) {
			return err
		}
		if other := c.matching(compare); other != "" {
			return fmt.Errorf("%w: it is what %s sees for you", safety.ErrOthers, other)
		}
		return err
	}
	return c.releaseHeld(ctx)
}

// markVerified compares and stores under one lock, so that no other key appears in between.
func (c *Client) markVerified(username string, compare func(*contact) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.named(username)
	if p == nil {
		return tell(ErrNoContact, "%s is not a contact: add them first", username)
	}
	err := compare(p)
	if err == nil && p.Appeared != nil {
		return c.pinAppeared(p, true)
	}
	if errors.Is(err, safety.ErrMismatch) && p.Appeared != nil {
		pinned := *p
		pinned.Appeared = nil
		err = compare(&pinned)
	}
	if err != nil {
		return err
	}
	_, err = c.changeContact(p, func(p *contact) { p.Appeared, p.Verified = nil, true }, nil)
	return err
}

// matching names the accepted contact that the comparison is right for, if there is one: the user has scanned the wrong person's.
func (c *Client) matching(compare func(*contact) error) string {
	for _, other := range c.Contacts() {
		c.mu.Lock()
		p := c.contacts[other.Account]
		found := p != nil && p.Accepted && compare(p) == nil
		c.mu.Unlock()
		if found {
			return other.String()
		}
	}
	return ""
}

// safetyCode is what this device shows to the contact's. c.mu is held.
func (c *Client) safetyCode(p *contact) (safety.Code, error) {
	ours, theirs, err := c.comparedKeys(p)
	if err != nil {
		return safety.Code{}, err
	}
	return safety.NewCode(ours, theirs, c.account.Account[:], p.Account[:]), nil
}
