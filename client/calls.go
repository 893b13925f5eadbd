package client

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"time"

	"github.com/google/uuid"

	"sotto/e2ee/callkey"
	"sotto/media"
	"sotto/wire"
)

// relayPatience is how long a call waits for relay credentials before it does without.
const relayPatience = 5 * time.Second

// callTable is the call there is, one at most, and the ids of those there were as long as an offer of theirs might be fresh.
type callTable struct {
	handle func(*contact, *wire.CallMessage) // what comes in; tests listen in here

	mu      sync.Mutex
	current *Call
	calling bool // Client.Call is preparing one
	closed  bool
	seen    map[CallID]time.Time
	running sync.WaitGroup
}

// Call calls somebody. It returns when the offer is on its way; Call.Events and Call.Done tell what becomes of it. The microphone and
// camera are opened when the callee accepts.
func (c *Client) Call(ctx context.Context, to string, o CallOptions) (*Call, error) {
	if err := c.calls.reserve(); err != nil {
		return nil, err
	}
	defer c.calls.unreserve()
	if _, err := c.link.wait(ctx); err != nil {
		return nil, err
	}
	p, err := c.meet(ctx, to)
	if err != nil {
		return nil, err
	}
	c.expectSealed(p)
	call := c.newCall(p)
	rand.Read(call.id[:])
	call.video, call.media = o.Video, &o.MediaOptions
	r := call.run
	r.relayOnly = o.RelayOnly || c.options.RelayOnly
	if err := r.makeSession(c.fetchRelays(ctx), true); err != nil {
		return nil, err
	}
	if err := r.makeOffer(); err != nil {
		return nil, errors.Join(err, r.session.Close())
	}
	if !c.calls.begin(call) {
		return nil, errors.Join(ErrClosed, r.session.Close())
	}
	state, effects := newOutgoing(c.timing, time.Now())
	go c.calls.run(func() { r.loop(state, effects) })
	return call, nil
}

func (c *Client) newCall(p *contact) *Call {
	call := &Call{peer: p, events: make(chan CallEvent, callEventBuffer), done: make(chan struct{})}
	var ctx context.Context
	ctx, call.cancel = context.WithCancel(context.Background())
	call.run = newCallRun(c, call, ctx)
	return call
}

// onCallMessage hands one step to its call. Everything that does not fit the call there is, is ignored: it is late, or a forgery.
func (c *Client) onCallMessage(from *contact, m *wire.CallMessage) {
	id := CallID(m.GetCallId())
	c.calls.mu.Lock()
	call := c.calls.current
	c.calls.mu.Unlock()
	if call != nil && call.id == id {
		if call.peer.Account == from.Account {
			call.run.remote(m)
		}
		return
	}
	switch body := m.GetBody().(type) {
	case *wire.CallMessage_Offer:
		c.onOffer(from, id, body.Offer)
	case *wire.CallMessage_Hangup:
		c.calls.see(id) // it may have overtaken its offer, which must not ring then
	}
}

// onOffer rings, once for each call id, if the offer is fresh and there is no other call.
func (c *Client) onOffer(from *contact, id CallID, offer []byte) {
	if !c.calls.see(id) {
		c.log.Warn("an offer came twice and was ignored")
		return
	}
	remote, err := parseOffer(offer, c.now())
	if errors.Is(err, errStale) {
		c.log.Info("an offer was too old to ring")
		return
	}
	if err == nil && c.calls.busy() {
		c.refuseCall(from, id, wire.Hangup_BUSY)
		return
	}
	var callee *callkey.Callee
	if err == nil {
		callee, err = callkey.NewCallee(offer)
	}
	if err != nil {
		c.log.Warn("an offer was malformed")
		c.refuseCall(from, id, wire.Hangup_FAILED)
		return
	}
	c.expectSealed(from)
	call := c.newCall(from)
	call.id, call.incoming, call.video = id, true, hasVideo(remote.Streams)
	r := call.run
	r.relayOnly, r.callee, r.offer, r.remoteDescription = c.options.RelayOnly, callee, offer, remote
	if !c.calls.begin(call) {
		callee.Erase()
		c.refuseCall(from, id, wire.Hangup_BUSY)
		return
	}
	state, effects := newIncoming(c.timing, time.Now())
	go c.calls.run(func() { r.loop(state, effects) })
	if !c.events.offer(IncomingCall{call}) {
		r.post(inLocalHangup{})
	}
}

func (c *Client) refuseCall(to *contact, id CallID, reason wire.Hangup_Reason) {
	body := &wire.CallMessage{CallId: id[:], Body: &wire.CallMessage_Hangup{Hangup: &wire.Hangup{Reason: reason}}}
	if err := c.sendCall(to, body, nil); err != nil {
		c.log.Warn("a call was not refused", "error", err)
	}
}

// sendCall queues one step of a call for the peer's device. refused hears if the server will not carry it.
func (c *Client) sendCall(to *contact, m *wire.CallMessage, refused func(error)) error {
	content := c.newContent()
	content.Body = &wire.Content_Call{Call: m}
	return c.post(to, content, outgoing{Expires: time.Now().Add(callLifetime), refused: refused})
}

// fetchRelays asks for credentials that last for the setting up of one call. A server without a relay has none.
func (c *Client) fetchRelays(ctx context.Context) []media.Relay {
	ctx, cancel := context.WithTimeout(ctx, relayPatience)
	defer cancel()
	reply, err := c.request(ctx, &wire.ClientFrame{Body: &wire.ClientFrame_GetRelay{GetRelay: &wire.GetRelayCredentials{}}})
	if err != nil {
		c.log.Info("there are no relay credentials for this call")
		return nil
	}
	credentials := reply.GetRelayCredentials()
	var relays []media.Relay
	for _, u := range credentials.GetUrls() {
		if len(relays) < maxRelays {
			relays = append(relays, media.Relay{URL: u, Username: credentials.GetUsername(), Password: credentials.GetPassword()})
		}
	}
	return relays
}

const (
	maxRelays = 8
	maxSeen   = 4096
)

// reserve keeps two calls of Client.Call from being set up at once.
func (t *callTable) reserve() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed:
		return ErrClosed
	case t.calling || t.current != nil:
		return ErrBusy
	}
	t.calling = true
	return nil
}

func (t *callTable) busy() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closed || t.calling || t.current != nil
}

// with tells whether there is a call with an account.
func (t *callTable) with(peer uuid.UUID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.current != nil && t.current.peer.Account == peer
}

func (t *callTable) unreserve() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.calling = false
}

// begin takes the one place there is, if it is free. The caller then runs the call's loop: close waits for it from here on.
func (t *callTable) begin(call *Call) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || t.current != nil || t.calling && call.incoming {
		return false
	}
	t.current = call
	t.seen[call.id] = time.Now()
	t.running.Add(1)
	return true
}

func (t *callTable) run(loop func()) {
	defer t.running.Done()
	loop()
}

func (t *callTable) end(call *Call) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.current == call {
		t.current = nil
	}
}

// see reports whether an id is new, and remembers it for longer than an offer with it would be fresh. Of a flood none is new.
func (t *callTable) see(id CallID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	for old, at := range t.seen {
		if now.Sub(at) > 3*maxOfferAge {
			delete(t.seen, old)
		}
	}
	if _, known := t.seen[id]; known || len(t.seen) >= maxSeen {
		return false
	}
	t.seen[id] = now
	return true
}

// close hangs up, and reports whether there was anything to hang up.
func (t *callTable) close() bool {
	t.mu.Lock()
	t.closed = true
	call := t.current
	t.mu.Unlock()
	if call != nil {
		call.Hangup()
	}
	t.running.Wait()
	return call != nil
}
