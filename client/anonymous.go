package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"

	"sotto/wire"
)

// The anonymous link goes to the same server as the ordinary one, and says nothing of whose it is: no signature, no TLS session that was
// begun on the other. Over it go sealed envelopes, and requests for the keys of contacts. (The server still sees a network address.)
//
//  1. It is opened when something is to go over it, or soon will: an entry of the outbox, a call.
//  2. It is kept while it is used, and at most as long as the ordinary link it was opened beside.
//  3. If it cannot be opened, or breaks without having been of use, the next attempt comes after a pause. Meanwhile the trouble lasts,
//     and what waits for too long leaves the ordinary way (sending.go).

// anonymous is the state of that link. Client.mu guards what is below it.
type anonymous struct {
	link   linkState
	wanted chan struct{} // has room for one

	absent  bool      // the server has no such links, or no certificates
	trouble time.Time // since when it has been wanted in vain; zero if it is not, or if there is one
	shown   map[uuid.UUID]struct{}

	refusing map[uuid.UUID]time.Time // since when sealed envelopes to a contact are refused for now
}

func (a *anonymous) init() {
	a.link.changed = make(chan struct{})
	a.wanted = make(chan struct{}, 1)
	a.shown = map[uuid.UUID]struct{}{}
	a.refusing = map[uuid.UUID]time.Time{}
}

// want lets the link be opened, if it is not.
func (a *anonymous) want() {
	select {
	case a.wanted <- struct{}{}:
	default:
	}
}

// expectSealed opens the anonymous link for what will soon be sent to a contact.
func (c *Client) expectSealed(to *contact) {
	if to.Token != nil {
		c.anonymous.want()
	}
}

// keepAnonymous opens the anonymous link whenever it is wanted, for the time of an ordinary one.
func (c *Client) keepAnonymous(ctx context.Context) {
	defer c.anonymous.link.set(nil, nil)
	pause := minPause
	for began := (time.Time{}); ; {
		select {
		case <-c.anonymous.wanted:
		case <-ctx.Done():
			return
		}
		if began.IsZero() {
			began = time.Now()
		}
		c.setTrouble(began)
		useful, err := c.serveAnonymous(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errNotFound):
			c.log.Warn("the server has no anonymous links: it learns who sends")
			c.noSealing()
			return
		case useful:
			began, pause = time.Time{}, minPause
			c.setTrouble(began)
		}
		if errors.Is(err, errUnused) {
			continue
		}
		wait := pause/2 + rand.N(pause/2)
		c.log.Info("no anonymous link to the server", "retry", wait)
		pause = min(2*pause, maxPause)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
		c.setTrouble(began) // whoever wants the link still says so again
		c.anonymous.link.set(nil, nil)
	}
}

// serveAnonymous is one anonymous link. It tells whether it was of use: the server answered, or nobody asked anything.
func (c *Client) serveAnonymous(ctx context.Context) (useful bool, err error) {
	l, err := c.dialAnonymous(ctx)
	if err != nil {
		return false, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var serving sync.WaitGroup
	defer serving.Wait()
	defer cancel()
	defer l.end(errLinkDown)

	c.setTrouble(time.Time{})
	serving.Go(func() { c.sendOutbox(ctx, l) })
	serving.Go(func() { c.endUnused(ctx, l) })
	c.anonymous.link.set(l, nil)
	defer c.anonymous.link.set(nil, nil)
	err = l.receive(ctx)
	return l.wasAnswered() || l.requests() == 0, err
}

// requestAnonymously asks the server over the anonymous link, if that can be opened soon and an ordinary one is up.
func (c *Client) requestAnonymously(ctx context.Context, frame *wire.ClientFrame) (*wire.ServerFrame, error) {
	c.mu.Lock()
	patience := c.timing.sealCall
	c.mu.Unlock()
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		c.mu.Lock()
		absent := c.anonymous.absent
		c.mu.Unlock()
		if absent {
			return nil, errNotFound
		}
		c.anonymous.want()
		c.anonymous.link.mu.Lock()
		up, changed := c.anonymous.link.up, c.anonymous.link.changed
		c.anonymous.link.mu.Unlock()
		if up != nil {
			return up.request(ctx, frame)
		}
		select {
		case <-changed:
		case <-waiting.Done():
			return nil, waiting.Err()
		}
	}
}

var errUnused = errors.New("the anonymous link is not used any more")

// endUnused ends a link over which nothing was asked for some time.
func (c *Client) endUnused(ctx context.Context, l *link) {
	c.mu.Lock()
	idle := c.timing.unused
	c.mu.Unlock()
	for before := l.requests(); ; {
		select {
		case <-time.After(idle):
		case <-ctx.Done():
			return
		}
		now := l.requests()
		if now == before {
			l.end(errUnused)
			return
		}
		before = now
	}
}

// setTrouble says since when the link has been wanted in vain, and lets whoever waits look again.
func (c *Client) setTrouble(since time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.anonymous.trouble = since
	c.outbox.notify()
}
