package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"sotto/sealedwire"
	"sotto/wire"
)

// In a sender certificate the server confirms whose our identity key is, so that no envelope needs to. With it comes the key that the
// certificates of others go back to. Both are fetched at the beginning of each link, and a certificate again some hours before its end.
// The last ones are kept: a server that does not answer holds up nothing for as long as a certificate lasts.

const (
	recordSealing = "sealing"

	renewBefore    = 6 * time.Hour   // its end a certificate is renewed
	certifyAgain   = time.Minute     // after a failure
	certificateEnd = 5 * time.Minute // before its end a certificate is used no more: what is sent may be on its way for a while
)

// sealing is the record of what sealed sender needs. Client.mu guards it.
type sealing struct {
	Token       []byte // [16] our delivery token
	Told        bool   // the server is known to have its hash
	Untold      bool   `json:",omitempty"` // this account's other devices may not know Token
	Proposed    []byte `json:",omitempty"` // what another device than the first wants it to be
	Certificate []byte `json:",omitempty"` // our sender certificate
	Root        []byte `json:",omitempty"` // [33] what others' go back to, since the first link

	certificate *sealedwire.SenderCertificate
	lacking     time.Time // since when something waits for a certificate
	other       bool      // the server has shown another key than Root
}

// AcceptServerKey lets the server have another key for sender certificates: the next one it shows
// is pinned. It is for after ErrServerKeyChanged, when the server's operator has said why.
func (c *Client) AcceptServerKey() error {
	c.mu.Lock()
	err := c.changeSealing(func(s *sealing) {
		s.Root, s.Certificate, s.certificate, s.other = nil, nil, nil, false
	})
	c.mu.Unlock()
	if err == nil {
		c.networkChanged() // a new link, which begins with a certificate
	}
	return err
}

// loadSealing reads the record. An account from before there was one gets it here.
func (c *Client) loadSealing() error {
	value, err := c.store.get(recordSealing)
	if errors.Is(err, errNoRecord) {
		return c.changeSealing(func(s *sealing) { s.Token = newToken() })
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(value, &c.sealing); err != nil {
		return err
	}
	if c.sealing.Certificate == nil {
		return nil
	}
	certificate, err := sealedwire.ParseSenderCertificate(c.sealing.Certificate)
	if err == nil && certificate.Uniform() { // an earlier version took others
		c.sealing.certificate = certificate
	}
	return err
}

// changeSealing stores a changed copy and then takes it up. c.mu is held, or nobody else has the client yet.
func (c *Client) changeSealing(change func(*sealing)) error {
	changed := c.sealing
	change(&changed)
	if err := c.store.update(func(t *tx) error { return putJSON(t, recordSealing, changed) }); err != nil {
		return err
	}
	c.sealing = changed
	return nil
}

// certified tells whether there is a certificate to seal with.
func (s *sealing) certified(now time.Time) bool {
	return s.certificate != nil && now.Before(s.certificate.Expires.Add(-certificateEnd))
}

// root is the key that certificates must go back to.
func (s *sealing) root() (sealedwire.PublicKey, bool) {
	if len(s.Root) != len(sealedwire.PublicKey{}) {
		return sealedwire.PublicKey{}, false
	}
	return sealedwire.PublicKey(s.Root), true
}

// keepCertified fetches certificates, for the time of a link.
func (c *Client) keepCertified(ctx context.Context, l *link) {
	for {
		err := c.certify(ctx, l)
		closeOnce(l.certified)
		again := certifyAgain
		switch {
		case err == nil:
			again = c.untilRenewal()
		case ctx.Err() != nil:
			return
		case errors.Is(err, ErrServerKeyChanged):
			c.log.Warn("the server has another key for sender certificates: nothing is sealed")
			c.noSealing()
			c.events.offer(ServerKeyChanged{})
			return
		case lasting(err):
			c.log.Warn("the server gives no sender certificates: it learns who sends")
			c.noSealing()
			return
		default:
			c.log.Warn("there is no new sender certificate yet", "error", err)
			again = max(again, retryAfter(err))
		}
		select {
		case <-time.After(again):
		case <-ctx.Done():
			return
		}
	}
}

// certify fetches one.
func (c *Client) certify(ctx context.Context, l *link) error {
	reply, err := l.request(ctx, &wire.ClientFrame{Body: &wire.ClientFrame_GetSenderCertificate{
		GetSenderCertificate: &wire.GetSenderCertificate{},
	}})
	if err != nil {
		return err
	}
	got := reply.GetSenderCertificate()
	if len(got.GetTrustRoot()) != len(sealedwire.PublicKey{}) {
		return errProtocol
	}
	certificate, err := sealedwire.ParseSenderCertificate(got.GetCertificate())
	if err != nil {
		return errProtocol
	}
	// What is not good here is refused by every recipient.
	if err := certificate.Validate(sealedwire.PublicKey(got.GetTrustRoot()), c.now()); err != nil {
		return fmt.Errorf("the server gave a sender certificate that is not good: %w", err)
	}
	if certificate.Account != c.account.Account || certificate.Device != c.account.Device ||
		!bytes.Equal(certificate.Identity[:], c.identity.Public().Bytes()) {
		return errors.New("the server gave somebody else's sender certificate")
	}
	if !certificate.Uniform() {
		return errors.New("the server gave a sender certificate of a length of its own, " +
			"by which it could tell this device's sealed messages: do not trust it")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if pinned, known := c.sealing.root(); known && !bytes.Equal(pinned[:], got.GetTrustRoot()) {
		c.sealing.other = true
		return ErrServerKeyChanged
	}
	c.sealing.other = false
	err = c.changeSealing(func(s *sealing) {
		s.Certificate, s.Root, s.certificate = got.GetCertificate(), got.GetTrustRoot(), certificate
		s.lacking = time.Time{}
	})
	c.outbox.notify()
	return err
}

// newServer forgets what was true of the server at the link before: it may have learnt something since.
func (c *Client) newServer() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.anonymous.absent, c.anonymous.trouble, c.sealing.lacking = false, time.Time{}, time.Time{}
	clear(c.lists.checked)
	clear(c.anonymous.refusing)
	for _, entry := range c.outbox.entries {
		entry.identified = false
	}
}

// noSealing lets everything leave the ordinary way, for the time of a link.
func (c *Client) noSealing() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.anonymous.absent = true
	c.outbox.notify()
	c.anonymous.link.set(nil, nil)
}

func (c *Client) untilRenewal() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(certifyAgain, c.sealing.certificate.Expires.Add(-renewBefore).Sub(c.now()))
}

// lasting tells a refusal that will not pass.
func lasting(err error) bool {
	var refusal *ServerError
	return errors.As(err, &refusal) && !passing(err)
}

// retryAfter is how long the server asks to wait.
func retryAfter(err error) time.Duration {
	var refusal *ServerError
	if !errors.As(err, &refusal) {
		return 0
	}
	return refusal.RetryAfter
}

func closeOnce(ch chan struct{}) {
	select {
	case <-ch:
	default:
		close(ch)
	}
}
