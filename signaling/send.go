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

// send accepts an envelope, in order with the others of this link, and answers it when it is durable or acknowledged.
func (l *link) send(request uint64, e *wire.Envelope) {
	s := l.server
	start := time.Now()
	envelope, err := l.envelope(e)
	if err == nil {
		if wait := s.sends.take(l.device.Address, s.now()); wait > 0 {
			err = rateLimited(wait)
		}
	}
	if err != nil {
		l.fail(request, s.asFailure(err))
		return
	}
	l.slots <- struct{}{} // given back within timing.straight and a sync
	wait, err := s.route(envelope)
	if err != nil {
		<-l.slots
		l.fail(request, s.asFailure(err))
		return
	}
	l.answers.Add(1) // handle holds one, so this is no new work
	s.running.Go(func() {
		defer l.answers.Done()
		defer func() { <-l.slots }()
		path, err := wait()
		if err != nil {
			l.fail(request, s.asFailure(err))
			return
		}
		s.metrics.sent(path, start)
		l.reply(request, &wire.ServerFrame{Body: &wire.ServerFrame_Sent{Sent: &wire.Sent{}}})
	})
}

// envelope checks what the device sends and writes the fields that are the server's.
func (l *link) envelope(e *wire.Envelope) (store.Envelope, error) {
	switch {
	case len(e.GetId()) != 16 || len(e.GetRecipient()) != 16 || e.GetRecipientDevice() < 1 || e.GetRecipientDevice() > 127:
		return store.Envelope{}, badRequest("The envelope's id or recipient is malformed.")
	case e.GetType() != typeSignalMessage && e.GetType() != typePreKeySignalMessage:
		return store.Envelope{}, badRequest("The envelope's type is unknown.")
	case len(e.GetCiphertext()) == 0:
		return store.Envelope{}, badRequest("The envelope is empty.")
	case len(e.GetCiphertext()) > maxCiphertext:
		return store.Envelope{}, errTooLarge
	case time.Duration(e.GetTtl())*time.Second > maxTTL:
		return store.Envelope{}, badRequest("An envelope waits for 30 days at most.")
	}
	ttl := time.Duration(e.GetTtl()) * time.Second
	if ttl == 0 {
		ttl = maxTTL
	}
	now := l.server.now()
	from := l.device.Address
	return store.Envelope{
		To:       store.Address{Account: store.UUID(e.Recipient), Device: uint8(e.RecipientDevice)},
		From:     from.Account,
		ID:       [16]byte(e.Id),
		Accepted: now,
		Expires:  now.Add(ttl),
		Body: known(&wire.Envelope{
			Id:              e.Id,
			Sender:          from.Account[:],
			SenderDevice:    uint32(from.Device),
			Recipient:       e.Recipient,
			RecipientDevice: e.RecipientDevice,
			Type:            e.Type,
			Ciphertext:      e.Ciphertext,
			Ttl:             uint32(ttl / time.Second),
			AcceptedAt:      uint64(now.UnixMilli()),
		}),
	}, nil
}

// The types of ciphertext, as the session layer numbers them.
const (
	typeSignalMessage       = 2
	typePreKeySignalMessage = 3
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
	durable, err := s.store.Put(e, s.mailboxLimits())
	if err != nil {
		return nil, err
	}
	if to := s.hub.get(e.To); to != nil {
		to.wake()
	}
	return func() (string, error) { return pathStored, durable() }, nil
}

func (s *Server) mailboxLimits() store.Limits {
	l := s.cfg.Limits
	return store.Limits{Count: l.Mailbox, Bytes: l.MailboxBytes}
}
