package client

import (
	"bytes"
	"encoding/json"
	"errors"
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
//     sealed like any message: that hides it, and proves who asks. It is stored together with a digest of what failed, so each message
//     is asked for once.
//  2. The sender checks the request, and stores what is to be done about it (onRetryRequest). If what failed was sent under the ratchet
//     key that is in use now, the session is archived, and all that went out under that key is to be sent anew. If not, the session was
//     replaced meanwhile, and only what is named is to be sent anew.
//  3. Once a bundle was fetched, the sender begins a session and sends what it still has in it (mend), in as many transactions as there
//     are contents. If it has none it sends an empty content, so that the recipient gets the new session.
//  4. The recipient takes the new session up, and shows what it has not shown before.
//
// There is no way round in a circle: a request is no message that could be asked for; nothing is sent anew twice; and requests per device
// and hour are limited at both ends. Only accepted contacts are asked, and answered: a stranger learns nothing of this device.

const (
	recordMending = "mending/" // the account's UUID, "/" and the device, as of sessions

	maxRetries = 4 // requests to a device, and sessions archived at their request, in an hour
	mendAgain  = 10 * time.Second
)

// mending is the record of what a contact's device has asked for and not got yet.
type mending struct {
	Reset  bool     // the session was archived for it
	Resend []string // records of texts

	steps []*sentContent // of calls: in memory only
}

// retries is the state of all that. Client.mu guards it.
type retries struct {
	asked, reset hourly
	mending      map[ratchet.Address]*mending
	some         chan struct{} // has room for one
}

func (c *Client) loadRetries() error {
	c.retries = retries{asked: hourly{}, reset: hourly{}, mending: map[ratchet.Address]*mending{}, some: make(chan struct{}, 1)}
	for _, name := range c.store.list(recordMending) {
		of, err := recordAddress(name, recordMending)
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
		c.retries.mending[of] = m
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

// hourly counts what was done for a device, or an account, within the last hour.
type hourly map[ratchet.Address][]time.Time

// spend reports whether it may be done once more, and counts it.
func (h hourly) spend(id ratchet.Address, now time.Time) bool {
	h[id] = slices.DeleteFunc(h[id], func(t time.Time) bool { return now.Sub(t) >= time.Hour })
	if len(h[id]) >= maxRetries {
		return false
	}
	h[id] = append(h[id], now)
	return true
}

// ask is step 1. It reports whether the contact was asked.
func (c *Client) ask(from *contact, device uint8, e *wire.Envelope) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key, err := ratchet.RatchetKey(e.GetType(), e.GetCiphertext())
	if err != nil {
		return false, nil // no session can have made it
	}
	to, err := c.addressee(from.Account)
	if err != nil || !to.Accepted || !c.sealing.certified(c.now()) {
		return false, nil
	}
	remote, err := to.remote(device)
	if err != nil {
		return false, nil
	}
	if e.GetType() == ratchet.TypePreKeyMessage {
		if identity, err := ratchet.PreKeyIdentity(e.GetCiphertext()); err != nil || !identity.Equal(remote.Identity) {
			return false, nil // not theirs, and not proved to be anybody's
		}
	}
	if !c.retries.asked.spend(remote.Address, time.Now()) {
		c.log.Warn("a contact was not asked to send a message anew: it happens too often")
		return false, nil
	}
	request := &ratchet.DecryptionError{RatchetKey: key, Timestamp: envelopeName(e.GetId()), Device: uint32(device)}
	err = c.enqueue(to, []ratchet.Remote{remote}, []*outgoing{{}}, func(t *tx, _ ratchet.Remote) (ratchet.Message, error) {
		s, err := readSession(t, remote.Address)
		if err != nil {
			return ratchet.Message{}, err
		}
		s.see(e)
		s.Asked = true
		return ratchet.Message{Type: sealed.TypePlaintext, Bytes: request.PlaintextContent()}, s.write(t, remote.Address)
	})
	return err == nil, err
}

// errNoRetry says that nothing comes of a request.
var errNoRetry = errors.New("nothing is sent anew")

// onRetryRequest is step 2. certified is the identity key that sealed the request.
func (c *Client) onRetryRequest(sender ratchet.Address, certified ratchet.PublicKey, e *wire.Envelope) error {
	request, err := ratchet.ParseDecryptionError(e.GetCiphertext())
	c.mu.Lock()
	defer c.mu.Unlock()
	from := c.contacts[sender.Account]
	if err != nil || from == nil || !from.Accepted || from.Appeared != nil || request.Device != uint32(c.account.Device) ||
		certified.IsZero() || !from.has(sender.Device, certified) {
		c.log.Warn("a request to send a message anew was dropped")
		return nil
	}
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
		if s.seen(e) {
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
		s.see(e)
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

var (
	errUnreadable = errors.New("the recipient's device could not decrypt it, sent anew neither: write it once more")
	errNotAnew    = errors.New("the recipient's device could not decrypt it, and it was for another identity key than they have now: write it once more")
)

func (m *mending) empty() bool { return !m.Reset && len(m.Resend)+len(m.steps) == 0 }

func (m *mending) add(kept *sentContent) {
	switch {
	case kept.record == "" && !slices.Contains(m.steps, kept):
		m.steps = append(slices.Clip(m.steps), kept)
	case kept.record != "" && !slices.Contains(m.Resend, kept.record):
		m.Resend = append(slices.Clip(m.Resend), kept.record)
	}
}

func (m *mending) write(t *tx, of ratchet.Address) error {
	if of.Device == firstDevice {
		t.delete(recordMending + uuid.UUID(of.Account).String()) // of an earlier version
	}
	if m.empty() {
		t.delete(addressRecord(recordMending, of))
		return nil
	}
	return putJSON(t, addressRecord(recordMending, of), m)
}
