package signaling

import (
	"time"

	"sotto/signaling/store"
	"sotto/wire"
)

const (
	maxCiphertext = 64 << 10
	maxTTL        = 30 * 24 * time.Hour
)

// send accepts an envelope in the device's name.
func (l *link) send(request uint64, e *wire.Envelope) {
	s := l.server
	start := time.Now()
	err := checkEnvelope(e)
	if err == nil {
		if wait := s.sends.take(l.device.Address, s.now()); wait > 0 {
			err = rateLimited(wait)
		}
	}
	if err != nil {
		l.fail(request, s.asFailure(err))
		return
	}
	l.accept(request, s.stamped(e, l.device.Address), start)
}

// checkEnvelope checks the form of what a device sends.
func checkEnvelope(e *wire.Envelope) error {
	switch {
	case len(e.GetId()) != 16 || len(e.GetRecipient()) != 16 || e.GetRecipientDevice() < 1 || e.GetRecipientDevice() > 127:
		return badRequest("The envelope's id or recipient is malformed.")
	case e.GetType() != typeSignalMessage && e.GetType() != typePreKeySignalMessage && e.GetType() != typeSealed:
		return badRequest("The envelope's type is unknown.")
	case len(e.GetCiphertext()) == 0:
		return badRequest("The envelope is empty.")
	case len(e.GetCiphertext()) > maxCiphertext:
		return errTooLarge
	case time.Duration(e.GetTtl())*time.Second > maxTTL:
		return badRequest("An envelope waits for 30 days at most.")
	}
	return nil
}

// nameless is the sender of what came over an anonymous link.
var nameless store.Address

// stamped is an envelope that passed checkEnvelope, with the fields that are the server's.
func (s *Server) stamped(e *wire.Envelope, from store.Address) store.Envelope {
	ttl := time.Duration(e.Ttl) * time.Second
	if ttl == 0 {
		ttl = maxTTL
	}
	now := s.now()
	stamped := &wire.Envelope{
		Id:              e.Id,
		Recipient:       e.Recipient,
		RecipientDevice: e.RecipientDevice,
		Type:            e.Type,
		Ciphertext:      e.Ciphertext,
		Ttl:             uint32(ttl / time.Second),
		AcceptedAt:      uint64(now.UnixMilli()),
	}
	if from != nameless {
		stamped.Sender, stamped.SenderDevice = from.Account[:], uint32(from.Device)
	}
	return store.Envelope{
		To:       store.Address{Account: store.UUID(e.Recipient), Device: uint8(e.RecipientDevice)},
		From:     from.Account,
		ID:       [16]byte(e.Id),
		Accepted: now,
		Expires:  now.Add(ttl),
		Body:     known(stamped),
	}
}

// The types of ciphertext, as Signal numbers them.
const (
	typeSignalMessage       = 2
	typePreKeySignalMessage = 3
	typeSealed              = 6 // names its sender inside
)

// route hands an envelope to the recipient's link, or else stores it. When it returns, the envelope has its place in the order;
// wait returns when the sender can be answered.
func (s *Server) route(e store.Envelope) (wait func() (path string, err error), err error) {
	if _, err := s.store.Device(e.To); err != nil {
		return nil, err
	}
	if to := s.hub.get(e.To); to != nil {
		seen, err := s.store.Seen(e)
		if err != nil {
			return nil, err
		}
		if !seen {
			if h := to.offer(e); h != nil {
				return h.wait, nil
			}
		}
	}
	durable, err := s.put(e)
	if err != nil {
		return nil, err
	}
	if to := s.hub.get(e.To); to != nil {
		to.wake()
	}
	return func() (string, error) { return pathStored, durable() }, nil
}

// put stores an envelope, unless the mailbox is as full as it may be.
func (s *Server) put(e store.Envelope) (wait func() error, err error) {
	c, err := s.store.Conditions(e.To.Account)
	if err != nil {
		return nil, err
	}
	return s.store.Put(e, s.limitsOf(c))
}

// limitsOf are the server's, where the operator has set no others for the account.
func (s *Server) limitsOf(c store.Conditions) store.Limits {
	l := s.cfg.Limits
	return store.Limits{
		Count: or(c.Mailbox.Count, l.Mailbox), Bytes: or(c.Mailbox.Bytes, l.MailboxBytes),
	}
}
