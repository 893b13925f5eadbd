package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"sotto/media/netchange"
	"sotto/wire"
)

// Reconnecting: after a link that broke, a pause that doubles up to maxPause and of which a random part is waited, so that a server that
// comes back is not met by all its devices at once. A link that lasted starts over at the shortest. When this device's way into the
// network changes, the link, which leads over the old way, is given up for a new one at once.
const (
	minPause     = 500 * time.Millisecond
	maxPause     = 30 * time.Second
	lastedEnough = 30 * time.Second
)

// linkState is what others wait for: a link that is up, or the reason why there will be none.
type linkState struct {
	mu      sync.Mutex
	up      *link
	local   bool                    // the newest link leads to a private or local address
	lose    context.CancelCauseFunc // ends that, or the attempt at one
	final   error
	last    error         // why there is none
	changed chan struct{} // closed and replaced at every change
}

func (s *linkState) set(up *link, final error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.up, s.final = up, final
	if up != nil {
		s.local = up.local
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// lost is set for a link that is tried again.
func (s *linkState) lost(reason error) {
	s.mu.Lock()
	s.last = reason
	s.mu.Unlock()
	s.set(nil, nil)
}

// begin notes how the attempt that begins, and the link that comes of it, can be ended.
func (s *linkState) begin(lose context.CancelCauseFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lose = lose
}

// wait returns the link once there is one.
func (s *linkState) wait(ctx context.Context) (*link, error) {
	for {
		s.mu.Lock()
		up, final, last, changed := s.up, s.final, s.last, s.changed
		s.mu.Unlock()
		if up != nil || final != nil {
			return up, final
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if last != nil {
				return nil, fmt.Errorf("the server is not connected: %w (%w)", last, ctx.Err())
			}
			return nil, fmt.Errorf("the server is not connected: %w", ctx.Err())
		}
	}
}

// WaitConnected returns once the server is connected, or with the reason why it never will be.
func (c *Client) WaitConnected(ctx context.Context) error {
	_, err := c.link.wait(ctx)
	return err
}

// request asks the server, over the link there is or will be.
func (c *Client) request(ctx context.Context, frame *wire.ClientFrame) (*wire.ServerFrame, error) {
	l, err := c.link.wait(ctx)
	if err != nil {
		return nil, err
	}
	return l.request(ctx, frame)
}

// keepLinked holds a link open until ctx ends or a reason comes that no retry cures.
func (c *Client) keepLinked(ctx context.Context) {
	pause := minPause
	for {
		started := time.Now()
		err := c.serveLink(ctx)
		if ctx.Err() != nil {
			c.link.set(nil, ErrClosed)
			return
		}
		if errors.Is(err, ErrReplaced) || errors.Is(err, ErrUnauthenticated) {
			c.link.set(nil, err)
			c.log.Info("the link to the server ended for good", "reason", err) // the event tells it
			c.calls.cutOff(err)
			c.events.offer(LinkDown{Err: err, Final: true})
			return
		}
		c.link.lost(err)
		if time.Since(started) > lastedEnough {
			pause = minPause
		}
		wait := pause/2 + rand.N(pause/2)
		if errors.Is(err, errNetworkChanged) {
			wait = 0
		}
		var refusal *ServerError
		if errors.As(err, &refusal) && refusal.RetryAfter > wait {
			wait = min(refusal.RetryAfter, maxPause)
		}
		c.events.offer(LinkDown{Err: err, Retry: wait})
		c.log.Info("no link to the server", "retry", wait)
		select {
		case <-time.After(wait):
		case <-c.networkNew:
			pause = minPause
		case <-ctx.Done():
			c.link.set(nil, ErrClosed)
			return
		}
		pause = min(2*pause, maxPause)
	}
}

// errNetworkChanged ends a link, or an attempt at one, that leads over a way into the network that may be dead.
var errNetworkChanged = errors.New("this device's network has changed")

// watchNetwork lets the link and the calls follow this device's way into the network.
func (c *Client) watchNetwork(ctx context.Context) {
	changes, err := netchange.Watch(ctx, c.log)
	if err != nil {
		c.log.Warn("changes of the network are not noticed at once", "error", err)
		return
	}
	for range changes {
		c.networkChanged()
	}
}

func (c *Client) networkChanged() {
	c.calls.networkChanged()
	c.link.mu.Lock()
	lose := c.link.lose
	c.link.mu.Unlock()
	if lose != nil {
		lose(errNetworkChanged)
	}
	select {
	case c.networkNew <- struct{}{}:
	default:
	}
}

// serveLink is one link and the goroutines that live as long as it: the reader, what it delivers, the outbox, the anonymous link beside
// it, the pre-keys, what sealed sender needs.
func (c *Client) serveLink(ctx context.Context) error {
	ctx, lose := context.WithCancelCause(ctx)
	c.link.begin(lose)
	select {
	case <-c.networkNew: // was before: it must not end the pause after this link
	default:
	}
	var serving sync.WaitGroup
	defer serving.Wait()
	defer lose(nil)
	l, err := c.dial(ctx)
	if err != nil {
		return cmp.Or(context.Cause(ctx), err)
	}
	defer l.end(errLinkDown)

	doubt := c.clock.follow(fromTimestamp(l.welcome.ServerTime), time.Now())
	if doubt != 0 {
		c.log.Warn("the clocks of server and device disagree: one of them must be set", "ahead", doubt)
	}
	if err := c.checkCopies(l); err != nil {
		return err
	}
	c.linkedAt.Store(timestamp(c.now()))
	c.newServer()
	serving.Go(func() { c.keepTold(ctx, l) })
	serving.Go(func() { c.keepCertified(ctx, l) })
	serving.Go(func() { c.deliver(ctx, l) })
	serving.Go(func() {
		c.awaitTold(ctx, l)
		c.sendOutbox(ctx, l)
	})
	serving.Go(func() { c.keepAnonymous(ctx) })
	serving.Go(func() { c.keepReplenished(ctx, l) })
	c.link.set(l, nil)
	c.events.offer(LinkUp{ClockDoubt: doubt})
	return l.receive(ctx)
}
