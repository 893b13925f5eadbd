package client

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"sotto/e2ee/ratchet"
)

// closeTimeout is how long Close waits for a hangup to leave.
const closeTimeout = 2 * time.Second

// A Client is one account on this device. Its methods may be called by any goroutine.
type Client struct {
	options  Options
	account  *account
	identity *ratchet.KeyPair
	store    *store
	log      *slog.Logger
	timing   timing
	clock    clock
	linkedAt atomic.Uint64 // when the link came up last, as Content.timestamp
	epoch    atomic.Uint32 // of this account's device list
	link     linkState
	events   *eventQueue
	calls    *calls
	receipts receipts
	keyUsed  chan struct{} // a pre-key was; has room for one
	tokenNew chan struct{} // the delivery token is; likewise

	networkNew chan struct{} // the network has changed; likewise

	longJumps ratchet.LongJumps // of all sessions: what forged messages may cost

	// mu is held across every transaction that changes what is below, so that memory and disk agree.
	mu        sync.Mutex
	contacts  map[uuid.UUID]*contact
	outbox    outbox
	sent      sent
	retries   retries
	inbox     inbox
	sealing   sealing
	anonymous anonymous
	lists     lists
	lookups   namelessLookups

	changing sync.Mutex // held while this device adds or removes another

	life struct {
		sync.Mutex
		started, closed bool
		stop            context.CancelFunc
		left            sync.Once
		running         sync.WaitGroup
	}
}

// newClient reads what the directory holds.
func newClient(s *store, a *account, o Options) (*Client, error) {
	identity, err := ratchet.UnmarshalKeyPair(a.Identity)
	if err != nil {
		return nil, err
	}
	c := &Client{
		options: o, account: a, identity: identity, store: s, log: o.Logger, timing: realTiming,
		keyUsed: make(chan struct{}, 1), tokenNew: make(chan struct{}, 1), networkNew: make(chan struct{}, 1),
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.events = newEventQueue(c.log)
	c.link.changed = make(chan struct{})
	c.receipts.init()
	c.anonymous.init()
	c.lists.init()
	c.calls = newCalls(c)
	for _, load := range []func() error{c.loadSealing, c.loadContacts, c.loadOutbox, c.loadSent, c.loadRetries, c.loadInbox} {
		if err := load(); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// Start connects to the server, and keeps connecting whenever the link breaks, until Close, or until ctx ends, which hangs up first as Close
// does. It returns at once.
func (c *Client) Start(ctx context.Context) error {
	c.life.Lock()
	defer c.life.Unlock()
	switch {
	case c.life.closed:
		return ErrClosed
	case c.life.started:
		return errors.New("the client was started before")
	}
	given := ctx
	ctx, cancel := context.WithCancel(context.WithoutCancel(given))
	c.life.started = true
	if err := c.releaseHeld(ctx); err != nil { // AcceptIdentity may have been interrupted
		c.log.Error("what was held back cannot be released yet", "error", err)
	}
	c.calls.run()
	c.life.running.Go(func() { c.keepLinked(ctx) })
	if !c.options.Loopback {
		c.life.running.Go(func() { c.watchNetwork(ctx) })
	}
	c.life.running.Go(func() { c.showInbox(ctx) })
	c.life.running.Go(func() { c.sendReceipts(ctx) })
	c.life.running.Go(func() { c.keepMending(ctx) })
	c.life.running.Go(func() { c.keepListed(ctx) })
	forget := context.AfterFunc(given, c.leave)
	c.life.stop = func() { forget(); cancel() }
	return nil
}

// Close hangs up, ends the link and releases the directory. What is in the outbox stays there for the next time.
func (c *Client) Close() error {
	c.life.Lock()
	if c.life.closed {
		c.life.Unlock()
		return nil
	}
	c.life.closed = true
	started := c.life.started
	c.life.Unlock()

	if started {
		c.leave()
		c.life.running.Wait()
	} else {
		c.calls.close()
	}
	c.link.set(nil, ErrClosed)
	c.events.close()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.store.close()
}

// leave hangs up, and ends the link when the other ends have been told, calls that ended a moment ago included.
func (c *Client) leave() {
	c.life.left.Do(func() {
		c.calls.close()
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		c.waitCallsSent(ctx)
		c.life.Lock()
		defer c.life.Unlock()
		c.life.stop()
		go func() { // whoever ranges over Events goes on when all that tells of anything has ended
			c.life.running.Wait()
			c.events.close()
		}()
	})
}

// Username is the account's name.
func (c *Client) Username() string { return c.account.Username }

// Server is the URL of the account's server.
func (c *Client) Server() string { return c.account.Server }

// Account is what the server calls the account.
func (c *Client) Account() uuid.UUID { return c.account.Account }

// Events tell what happens. The channel is closed by Close, and when the context of Start has
// ended. Messages wait on disk until Message.Done; if thousands do, nothing more is received. Other
// events are dropped if nobody takes any for a long while.
func (c *Client) Events() <-chan Event { return c.events.ch }

// local is this device to the session layer.
func (c *Client) local() ratchet.Local {
	return ratchet.Local{
		Identity:       c.identity,
		Address:        ratchet.Address{Account: c.account.Account, Device: c.account.Device},
		RegistrationID: c.account.RegistrationID,
		LongJumps:      &c.longJumps,
	}
}

const eventBuffer = 256

// eventQueue is what Events yields.
type eventQueue struct {
	ch  chan Event
	log *slog.Logger

	mu     sync.RWMutex
	closed bool
}

func newEventQueue(log *slog.Logger) *eventQueue {
	return &eventQueue{ch: make(chan Event, eventBuffer), log: log}
}

// offer drops the event if there is no room: a program that does not listen must not hold up one that talks.
func (q *eventQueue) offer(e Event) bool {
	q.mu.RLock()
	defer q.mu.RUnlock()
	if q.closed {
		return false
	}
	select {
	case q.ch <- e:
		return true
	default:
		q.log.Warn("an event was dropped: nobody reads events")
		return false
	}
}

func (q *eventQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.closed = true
		close(q.ch)
	}
}
