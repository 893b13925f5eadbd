package client

import (
	"bytes"
	"errors"
	"time"

	"github.com/google/uuid"

	"sotto/e2ee/ratchet"
	"sotto/e2ee/sealed"
	"sotto/wire"
)

// Sealed sender (docs/protocol.md, "Sealed sender") around the messages of sessions:
//
//  1. On its way out the session's message is sealed, with our certificate, to the identity key of the contact's device, each time it is sent.
//     The envelope keeps its id, and names no sender.
//  2. On its way in it is opened. From there on the certificate's account is the sender, and the session must have the certificate's
//     identity key: the server signs certificates, and could name anybody in one.

// typeSealed is the envelope type of a sealed message.
const typeSealed = 6

// maxAccepted is for how long the server may say that it accepted an envelope: it keeps none for longer than 30 days.
const maxAccepted = 31 * 24 * time.Hour

// seal is step 1.
func (c *Client) seal(e *wire.Envelope, d *departure) error {
	if d.to == nil {
		return errNoContact
	}
	remote, err := d.to.remote(d.entry.address().Device)
	if err != nil {
		return err
	}
	message, err := sealed.Seal(c.identity, remote.Identity, &sealed.Content{
		Type: e.Type, Sender: d.certificate, Message: e.Ciphertext, Hint: d.entry.hint(),
	})
	if err != nil {
		return err
	}
	if len(message) > maxCiphertext {
		return errors.New("too long to send")
	}
	e.Type, e.Ciphertext = typeSealed, message
	return nil
}

var (
	errNoRoot = errors.New("the server has not said yet what certificates of senders go back to")
	errSealed = errors.New("the envelope cannot be opened")
)

// unseal is step 2: it returns the envelope that was sealed, and the identity key that the sender is certified to have. errSealed says
// that nothing will ever come of the envelope.
func (c *Client) unseal(e *wire.Envelope) (*wire.Envelope, ratchet.PublicKey, error) {
	var none ratchet.PublicKey
	c.mu.Lock()
	root, ok := c.sealing.root()
	other := c.sealing.other
	c.mu.Unlock()
	if !ok {
		return nil, none, errNoRoot
	}
	content, err := sealed.Open(c.identity, root, e.GetCiphertext(), c.sentAt(e))
	if err != nil && other {
		return nil, none, ErrServerKeyChanged
	}
	if err != nil {
		return nil, none, errSealed
	}
	sender := uuid.UUID(content.Sender.Account)
	named := len(e.GetSender()) != 0 || e.GetSenderDevice() != 0
	device := content.Sender.Device
	if named && (!bytes.Equal(e.GetSender(), sender[:]) || e.GetSenderDevice() != uint32(device)) {
		return nil, none, errSealed
	}
	key, err := ratchet.ParsePublicKey(content.Sender.Identity[:])
	if err != nil {
		return nil, none, errSealed
	}
	return &wire.Envelope{
		Id: e.Id, Sender: sender[:], SenderDevice: uint32(device), Recipient: e.Recipient, RecipientDevice: e.RecipientDevice,
		Type: content.Type, Ciphertext: content.Message, AcceptedAt: e.AcceptedAt,
	}, key, nil
}

// sentAt is the time at which a certificate must have been valid: when the server accepted the envelope, which may have waited there for
// longer than a certificate lasts. The server could make new ones anyway.
func (c *Client) sentAt(e *wire.Envelope) time.Time {
	now := c.now()
	if e.GetAcceptedAt() > maxTimestamp {
		return now
	}
	if at := fromTimestamp(e.GetAcceptedAt()); at.Before(now) && now.Sub(at) < maxAccepted {
		return at
	}
	return now
}
