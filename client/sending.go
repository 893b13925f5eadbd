package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"sotto/e2ee/ratchet"
	"sotto/e2ee/sealed"
	"sotto/sealedwire"
	"sotto/wire"
)

// What waits in the outbox leaves by one of two ways, each with a loop of its own, so that neither holds up the other:
//
//   - sealed, over the anonymous link: to contacts who gave us their delivery token. The server does not learn who sends.
//   - identified, over the ordinary link: to everybody else, and when the other way is shut.
//
// What one contact gets takes one way, until something about that contact or the anonymous link changes. Nothing leaves one way while
// something to the same contact that came before it is under way on the other, so that it does not overtake.
//
// What goes to one device leaves one after the other: the next when the server has taken, or
// refused for good, the one before. With several under way, one that is refused for its rate would
// arrive behind those that came after it. Steps of a call do not wait: they are worth nothing
// later, and a call bears another order. Nor do requests to send something anew, which need a
// certificate.

const (
	sendWindow = 16              // envelopes under way on a link
	minRetry   = 5 * time.Second // after a refusal that passes

	// For so long after the first of such refusals what goes to the contact leaves under this
	// account's name, once the patience is over. Then it is tried sealed again.
	refusedFor = 10 * time.Minute
)

// way is how an entry leaves.
type way uint8

const (
	wayWaits      way = iota // for a certificate
	waySealed                // over the anonymous link, with the contact's delivery token
	wayIdentified            // over the ordinary link: the server writes the sender on it
)

// wayOf says how an entry to a contact leaves at present. If it is not to be identified now but will be, unless something changes, until
// is when. c.mu is held.
func (c *Client) wayOf(entry *outgoing, to *contact, now time.Time) (_ way, until time.Time) {
	certified := c.sealing.certified(c.now())
	switch {
	case entry.mustSeal() && !certified:
		return wayWaits, until
	case to == nil || to.Token == nil || entry.identified || c.anonymous.absent:
		return wayIdentified, until
	}
	// A message is worth more than that the server does not learn who sent it; but not at once.
	patience, trouble := c.timing.sealText, c.anonymous.trouble
	if !entry.Expires.IsZero() {
		patience = c.timing.sealCall
	}
	if !certified {
		if c.sealing.lacking.IsZero() {
			c.sealing.lacking = now
		}
		trouble = c.sealing.lacking
	}
	refusing := c.anonymous.refusing[entry.recipient()]
	if now.Sub(refusing) > refusedFor {
		delete(c.anonymous.refusing, entry.recipient()) // it is tried sealed again
	} else if trouble.IsZero() || refusing.Before(trouble) {
		trouble = refusing
	}
	if !trouble.IsZero() {
		if until = trouble.Add(patience); !now.Before(until) {
			return wayIdentified, time.Time{}
		}
	}
	if !certified {
		return wayWaits, until
	}
	return waySealed, until
}

// departure is an entry that is to leave, and what it leaves with.
type departure struct {
	entry       *outgoing // nil if the contact's list is to be asked for first
	to          *contact  // nil if they are none any more
	certificate *sealedwire.SenderCertificate
	way         way
}

// sendOutbox sends what goes over a link, for the time of that.
func (c *Client) sendOutbox(ctx context.Context, l *link) {
	window := make(chan struct{}, sendWindow)
	var replies sync.WaitGroup
	defer replies.Wait()
	for {
		next, nothing, err := c.nextOutgoing(l, time.Now())
		if err != nil {
			l.end(err)
			return
		}
		if next == nil {
			if !nothing.wait(ctx) {
				return
			}
			continue
		}
		select {
		case window <- struct{}{}:
		case <-ctx.Done():
			return
		}
		if next.entry == nil {
			replies.Go(func() {
				c.checkList(ctx, l, next)
				<-window
			})
			continue
		}
		frame, err := c.frame(next)
		if err != nil {
			c.settle(next.entry, err)
			<-window
			continue
		}
		reply, err := l.start(frame)
		if err != nil {
			return
		}
		replies.Go(func() {
			again := c.awaitSent(l, next, reply)
			<-window // what has to wait holds up nothing else
			if again > 0 {
				c.sendAgain(ctx, next.entry, again)
			}
		})
	}
}

// lull is the time in which nothing is to leave: up to a change or, unless that is zero, a point in time.
type lull struct {
	changed <-chan struct{}
	until   time.Time
}

// wait returns false if ctx ends before the lull does.
func (l lull) wait(ctx context.Context) bool {
	var timeout <-chan time.Time
	if !l.until.IsZero() {
		timer := time.NewTimer(time.Until(l.until))
		defer timer.Stop()
		timeout = timer.C
	}
	select {
	case <-l.changed:
	case <-timeout:
	case <-ctx.Done():
		return false
	}
	return true
}

// nextOutgoing returns the oldest entry that is to leave over a link now, or nil and how long to wait. What has expired is erased: it
// served a call that is over.
func (c *Client) nextOutgoing(l *link, now time.Time) (*departure, lull, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.dropExpired(now); err != nil {
		return nil, lull{}, err
	}
	nothing := lull{changed: c.outbox.changed}
	elsewhere := map[uuid.UUID]bool{}    // who has something under way on the other link
	before := map[ratchet.Address]bool{} // devices that something older waits for
	for _, entry := range c.outbox.entries {
		if entry.inOrder() {
			if before[entry.address()] {
				continue
			}
			before[entry.address()] = true
		}
		if entry.underway != nil && !entry.underway.ended() {
			if entry.underway != l {
				elsewhere[entry.recipient()] = true
			}
			continue
		}
		to := c.contacts[entry.recipient()]
		way, until := c.wayOf(entry, to, now)
		if (way == waySealed) == l.anonymous && elsewhere[entry.recipient()] {
			continue
		}
		if (way == waySealed) == l.anonymous && way != wayWaits {
			ask, asked := c.unchecked(entry)
			if asked {
				continue
			}
			if ask {
				c.lists.checked[entry.recipient()] = listCheck{l}
				return &departure{to: to, way: way}, lull{}, nil
			}
			entry.underway = l
			if way == wayIdentified && to != nil && to.Token != nil {
				c.senderShown(to)
			}
			return &departure{entry, to, c.sealing.certificate, way}, lull{}, nil
		}
		if way == waySealed {
			c.anonymous.want()
		}
		if !until.IsZero() && (nothing.until.IsZero() || until.Before(nothing.until)) {
			nothing.until = until
		}
	}
	return nil, nothing, nil
}

// dropExpired erases entries that are not worth sending any more. c.mu is held.
func (c *Client) dropExpired(now time.Time) error {
	var kept, expired []*outgoing
	for _, entry := range c.outbox.entries {
		if !entry.Expires.IsZero() && now.After(entry.Expires) {
			expired = append(expired, entry)
		} else {
			kept = append(kept, entry)
		}
	}
	if expired == nil {
		return nil
	}
	err := c.store.update(func(t *tx) error {
		for _, entry := range expired {
			t.delete(entry.record)
		}
		return nil
	})
	if err == nil {
		c.outbox.entries = kept
	}
	return err
}

// frame is what an entry leaves in.
func (c *Client) frame(d *departure) (*wire.ClientFrame, error) {
	envelope := proto.CloneOf(d.entry.envelope)
	if d.way == waySealed || d.entry.mustSeal() {
		if err := c.seal(envelope, d); err != nil {
			return nil, err
		}
	}
	if d.way == waySealed {
		return &wire.ClientFrame{Body: &wire.ClientFrame_SendSealed{
			SendSealed: &wire.SendSealed{Envelope: envelope, DeliveryToken: d.to.Token},
		}}, nil
	}
	return &wire.ClientFrame{Body: &wire.ClientFrame_Send{Send: envelope}}, nil
}

// awaitSent settles what the server answers to. It returns after which time to try again over this link, 0 if not.
func (c *Client) awaitSent(l *link, d *departure, reply <-chan *wire.ServerFrame) time.Duration {
	timeout := time.NewTimer(requestTimeout)
	defer timeout.Stop()
	var frame *wire.ServerFrame
	select {
	case frame = <-reply:
	case <-l.over:
		return 0 // the next link sends it again
	case <-timeout.C:
		l.end(errors.New("the server does not answer"))
		return 0
	}
	if frame.GetSent() != nil {
		if d.way == waySealed {
			c.senderHidden(d.to)
		}
		c.settle(d.entry, nil)
		return 0
	}
	if frame.GetError() == nil {
		l.end(errProtocol)
		return 0
	}
	err := refusalOf(frame.GetError())
	switch {
	case passing(err):
		if d.way == waySealed { // also if the part of the mailbox for envelopes without a sender is full
			c.refusedSealed(d.entry)
		}
		if refused(err, wire.Error_MAILBOX_FULL) {
			c.mailboxFull(d.entry)
		}
		return max(retryAfter(err), minRetry)
	case d.way == waySealed && !refused(err, wire.Error_NOT_FOUND): // that says that the token was right
		c.sealedRefused(d, err)
	default:
		c.settle(d.entry, err)
	}
	return 0
}

func (c *Client) sendAgain(ctx context.Context, entry *outgoing, after time.Duration) {
	select {
	case <-time.After(after):
	case <-ctx.Done():
		return
	}
	c.release(entry)
}

// release lets an entry leave anew.
func (c *Client) release(entry *outgoing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	entry.underway = nil
	c.outbox.notify()
}

// refusedSealed notes since when what is sealed to a contact has been refused for the time being.
func (c *Client) refusedSealed(entry *outgoing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, noted := c.anonymous.refusing[entry.recipient()]; !noted {
		c.anonymous.refusing[entry.recipient()] = time.Now()
	}
}

// mailboxFull tells the program that a text waits.
func (c *Client) mailboxFull(entry *outgoing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if entry.Message == (MessageID{}) || c.outbox.full[entry.address()] {
		return
	}
	c.outbox.full[entry.address()] = true
	c.events.offer(MailboxFull{entry.Message, entry.To})
}

// tellFull tells the program that a new text has to wait behind others. c.mu is held.
func (c *Client) tellFull(entries []*outgoing) {
	for _, entry := range entries {
		if entry.Message != (MessageID{}) && c.outbox.full[entry.address()] {
			c.events.offer(MailboxFull{entry.Message, entry.To})
			return
		}
	}
}

// sealedRefused lets an entry that the server does not take sealed leave the ordinary way, or with a newer token if one has come.
func (c *Client) sealedRefused(d *departure, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !refused(err, wire.Error_FORBIDDEN) {
		d.entry.identified = true
	} else if err := c.forgetToken(d.to); err != nil {
		c.log.Error("a delivery token cannot be forgotten", "error", err)
		d.entry.identified = true
	}
	d.entry.underway = nil
	c.outbox.notify()
}

// passing tells a refusal that will not last from one that will.
func passing(err error) bool {
	return refused(err, wire.Error_RATE_LIMITED) || refused(err, wire.Error_UNAVAILABLE) || refused(err, wire.Error_MAILBOX_FULL)
}

// settle takes an entry out of the outbox: sent, or refused for good.
func (c *Client) settle(entry *outgoing, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if gone := c.store.update(func(t *tx) error { t.delete(entry.record); return nil }); gone != nil {
		c.log.Error("the outbox cannot be written", "error", gone) // it is sent once more after a restart, and the server drops it
	}
	c.takeOut(entry, err)
}

// takeOut takes an entry whose record is gone out of memory, and tells. A text is sent when it is to all devices of the recipient's, but for
// those that there are no more. c.mu is held.
func (c *Client) takeOut(entry *outgoing, err error) {
	for i, e := range c.outbox.entries {
		if e == entry {
			c.outbox.entries = append(c.outbox.entries[:i:i], c.outbox.entries[i+1:]...)
			break
		}
	}
	isText, again := entry.Message != MessageID{}, false
	if refused(err, wire.Error_NOT_FOUND) && entry.refused == nil && entry.address().Device != firstDevice {
		c.lists.want(entry.recipient(), true)
		err = nil
	}
	if refused(err, wire.Error_NOT_FOUND) && isText {
		err = fmt.Errorf("%w: %s", ErrNoSuchUser, entry.To)
	}
	for _, other := range c.outbox.entries {
		again = again || isText && other.Message == entry.Message
	}
	_, failed := c.outbox.failed[entry.Message]
	if err != nil && isText {
		for old := range c.outbox.failed {
			if len(c.outbox.failed) >= failuresKept {
				delete(c.outbox.failed, old)
			}
		}
		c.outbox.failed[entry.Message] = err
	}
	if err == nil {
		delete(c.outbox.full, entry.address())
	}
	c.outbox.notify()
	switch {
	case err != nil && entry.refused != nil:
		entry.refused(err)
	case !isText, failed, err == nil && again:
	case err != nil:
		c.events.offer(MessageFailed{entry.Message, entry.To, err})
	default:
		c.events.offer(MessageSent{entry.Message, entry.To})
	}
}

// inOrder tells whether an entry must not overtake another to the same device, nor be overtaken.
func (o *outgoing) inOrder() bool { return o.Expires.IsZero() && !o.mustSeal() }

// mustSeal tells whether an entry is worth nothing outside sealed sender, whose certificate alone says who it is from.
func (o *outgoing) mustSeal() bool { return o.envelope.GetType() == sealed.TypePlaintext }

// hint says what the recipient's client is to do should it not be able to decrypt the entry.
func (o *outgoing) hint() sealed.Hint {
	switch {
	case o.Message != MessageID{}:
		return sealed.HintResendable
	case !o.Expires.IsZero():
		return sealed.HintDefault
	}
	return sealed.HintImplicit
}
