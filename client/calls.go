package client

import (
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"sotto/client/callflow"
	"sotto/wire"
)

// How calls are run:
//
//  1. What happens to a call comes to one goroutine, loop: what its user wants, what other devices send (onCallContent), what media
//     sessions report (callleg.go), what came of something that takes long, and time.
//  2. client/callflow, which is pure, decides (step).
//  3. The loop carries out what it decided (calleffects.go). What takes long is done beside it: preparing sessions and finding paths
//     (callleg.go, callpath.go), opening and closing devices (calldevices.go).

// timing is how long things wait.
type timing struct {
	callflow.Timing

	interrupted time.Duration // media.Config.InterruptedAfter
	pathless    time.Duration // after which an accepted call without a path is told of
	relays      time.Duration // between attempts to get relay credentials, at least
	keys        time.Duration // from a pre-key's use to a look at what the server has left
	nameless    time.Duration // between look-ups of one who is known without a name

	sealCall, sealText time.Duration // for the anonymous link, before a call or anything else leaves the ordinary way
	unused             time.Duration // for something to go over the anonymous link
}

var realTiming = timing{
	Timing: callflow.StandardTiming, interrupted: 5 * time.Second, pathless: 2 * time.Second, relays: 10 * time.Second, keys: 30 * time.Second,
	nameless: 10 * time.Minute,
	sealCall: 10 * time.Second, sealText: 30 * time.Second, unused: 5 * time.Minute,
}

// An offer from before the link came up has waited at the server, and so may the hangup behind it have. It is looked at so much later: a
// call that is over does not ring for a moment then.
const waitedOffer = 500 * time.Millisecond

var errFlooded = errors.New("the other end sent more messages than a call has")

// calls are all calls of this device.
type calls struct {
	c       *Client
	handle  func(*contact, uint8, *wire.Content) // what comes in; tests listen in here
	box     *callBox
	start   time.Time
	over    chan struct{}  // closed when loop has returned; nil before it runs
	running sync.WaitGroup // what loop has begun and is to be waited for

	// The loop owns these.
	flow      callflow.Endpoint
	offer     *ongoing        // of which it is being decided whether it rings
	releasing []chan struct{} // each closed when a call that has ended has let go of its devices
	closed    bool

	mu    sync.Mutex                   // held to write table
	table map[callflow.CallID]*ongoing // the calls there are
}

func newCalls(c *Client) *calls {
	s := &calls{c: c, box: newCallBox(), start: time.Now(), flow: callflow.New(c.timing.Timing), table: map[callflow.CallID]*ongoing{}}
	s.handle = s.onCallContent
	return s
}

// Call calls somebody. It returns when the offers are on their way; Call.Events and Call.Done tell what becomes of it. The microphone and
// camera are opened when the callee accepts. If the callee is calling this account at the same time, both ends are in that one call.
func (c *Client) Call(ctx context.Context, to string, o CallOptions) (*Call, error) {
	if _, err := c.link.wait(ctx); err != nil {
		return nil, err
	}
	p, err := c.meet(ctx, to)
	if err != nil {
		return nil, err
	}
	c.expectSealed(p)
	call := c.calls.newCall(p)
	rand.Read(call.id[:])
	call.video, call.media = o.Video, o.MediaOptions
	if err := c.calls.do(func() error { return c.calls.place(call, o) }); err != nil {
		return nil, err
	}
	select {
	case <-call.offered:
		return call, nil
	case <-call.done:
		return nil, call.ended()
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), call.Hangup())
	}
}

func (s *calls) newCall(p *contact) *Call {
	call := &Call{
		calls: s, peer: p, events: make(chan CallEvent, callEventBuffer), done: make(chan struct{}),
		offered: make(chan struct{}, 1), opened: make(chan error, 1),
	}
	call.ctx, call.cancel = context.WithCancel(context.Background())
	return call
}

// place begins the local user's call.
func (s *calls) place(call *Call, options CallOptions) error {
	o := &ongoing{id: callflow.CallID(call.id), call: call, peer: call.peer, caller: true, video: call.video, allowed: true}
	o.relayOnly = options.RelayOnly || s.c.options.RelayOnly
	o.variable = options.VariableRate || s.c.options.VariableRate
	if s.table[o.id] != nil {
		return ErrBusy
	}
	s.put(o)
	err := s.step(callflow.PlaceCall{Call: o.id, Peer: callflow.Account(call.peer.Account), Video: call.video})
	if err != nil {
		s.remove(o)
		return err
	}
	if call.video && call.media.Camera == nil {
		return s.step(callflow.ShowVideo{Call: o.id})
	}
	return nil
}

// do lets the loop do something and waits for it.
func (s *calls) do(act func() error) error {
	done := make(chan error, 1)
	if !s.box.post(func() { done <- act() }) {
		return ErrClosed
	}
	return <-done
}

// run starts the loop.
func (s *calls) run() {
	s.over = make(chan struct{})
	go s.loop()
}

func (s *calls) loop() {
	defer close(s.over)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for !s.closed {
		if next := s.flow.Next(); next == 0 {
			timer.Stop()
		} else {
			timer.Reset(next - s.now())
		}
		select {
		case <-s.box.wake:
			for _, f := range s.box.take() {
				f()
			}
		case <-timer.C:
			s.step(callflow.Tick{})
		}
	}
	for _, f := range s.box.close() {
		f()
	}
}

func (s *calls) now() time.Duration { return time.Since(s.start) }

// close hangs up, waits for what it began, and reports whether there was a call.
func (s *calls) close() (some bool) {
	if s.over == nil {
		s.box.close()
		return false
	}
	s.box.post(func() {
		some = len(s.table) > 0
		for id := range s.table {
			s.step(callflow.BusyHere{Call: id}) // what rings may be taken by another device
		}
		s.closed = true
	})
	<-s.over
	s.running.Wait()
	return some
}

// step is steps 2 and 3, and those for what comes of them. What it returns is why the local user's wish is refused.
func (s *calls) step(event callflow.Event) (refused error) {
	if s.closed {
		return ErrClosed
	}
	for events := []callflow.Event{event}; len(events) > 0; events = events[1:] {
		var effects []callflow.Effect
		s.flow, effects = s.flow.Step(events[0], s.now())
		s.take(effects)
		more, err := s.perform(effects)
		events = append(events, more...)
		if refused == nil {
			refused = err
		}
	}
	return refused
}

// onCallContent hands what another device sent about a call to the loop. It must not wait: everything that arrives for this device
// passes here.
func (s *calls) onCallContent(from *contact, device uint8, content *wire.Content) {
	if content.GetMissedCall() != nil { // the inbox, which is bounded, has it
		s.box.post(func() { s.receiveMissed(from, device, content) })
		return
	}
	_, spare := content.GetCall().GetBody().(*wire.CallMessage_Candidates)
	take := func() {
		s.box.fromPeer(from.Account, spare, func() { s.receive(from, device, content) }, func() {
			id := callNamed(content)
			if o := s.table[id]; o != nil && o.peer.Account == from.Account {
				s.step(callflow.Fault{Call: id, Err: errFlooded})
			}
		})
	}
	if content.GetCall().GetOffer() != nil && content.GetTimestamp() < s.c.linkedAt.Load() {
		time.AfterFunc(waitedOffer, take)
		return
	}
	take()
}

// receive lets the flow decide about what another device sent.
func (s *calls) receive(from *contact, device uint8, content *wire.Content) {
	if !slices.ContainsFunc(from.devices(), func(d peerDevice) bool { return d.id == device }) {
		return
	}
	event := received(from, device, content)
	if body, ok := content.GetCall().GetBody().(*wire.CallMessage_Offer); ok {
		s.onOffer(from, event, body.Offer)
		return
	}
	event.Message = fromCallMessage(content.GetCall())
	if path, ok := event.Message.(callflow.Path); ok {
		if l := s.legOf(event.Call, device); l == nil || l.o.peer.Account != from.Account || !s.mayPass(l, path.Generation, event) {
			return
		}
	}
	if event.Message != nil {
		s.step(event)
	}
}

// receiveMissed lets the flow decide whether the user is told of a call that its caller says was missed (missed.go).
func (s *calls) receiveMissed(from *contact, device uint8, content *wire.Content) {
	m := content.GetMissedCall()
	event := received(from, device, content)
	event.Message = callflow.MissedCall{Video: m.Video, At: m.Timestamp}
	if s.step(event) == ErrClosed {
		return // it is shown after the next start
	}
	if err := s.c.eraseKnown(from.Account, CallID(event.Call)); err != nil {
		s.c.log.Error("a missed call was not erased", "error", err)
	}
}

func received(from *contact, device uint8, content *wire.Content) callflow.Received {
	return callflow.Received{
		From: callflow.Address{Account: callflow.Account(from.Account), Device: device},
		Call: callNamed(content), Sent: content.GetTimestamp(),
	}
}

// callNamed is the call that content is about.
func callNamed(content *wire.Content) (id callflow.CallID) {
	copy(id[:], content.GetCall().GetCallId())
	copy(id[:], content.GetMissedCall().GetCallId())
	return id
}

// onOffer reads an offer. It is kept if it rings, or takes the place of the local user's own.
func (s *calls) onOffer(from *contact, event callflow.Received, offer []byte) {
	o, message := s.readOffer(from, event, offer)
	if message.Stranger = s.c.isStranger(from.Account); message.Stranger {
		message.Quiet = !s.c.mayRing(from.Account)
	}
	event.Message = message
	s.offer = o
	s.step(event)
	s.offer = nil
	if o != nil && s.table[o.id] != o {
		o.release(s)
	}
}

// take begins the call that an offer asks for, if it is going to ring.
func (s *calls) take(effects []callflow.Effect) {
	for _, e := range effects {
		if ring, ok := e.(callflow.Incoming); ok && s.offer != nil && ring.Call == s.offer.id {
			o := s.offer
			o.call = s.newCall(o.peer)
			o.call.id, o.call.incoming, o.call.video = CallID(o.id), true, o.video
			s.put(o)
			s.c.expectSealed(o.peer)
			if s.c.isStranger(o.peer.Account) {
				if err := s.c.rang(o.peer.Account); err != nil {
					s.c.log.Error("that a stranger rang was not stored", "error", err)
				}
			}
		}
	}
}

func (s *calls) put(o *ongoing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.table[o.id] = o
}

func (s *calls) remove(o *ongoing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.table, o.id)
}

// with tells whether there is a call with an account.
func (s *calls) with(peer uuid.UUID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range s.table {
		if o.peer.Account == peer {
			return true
		}
	}
	return false
}

// networkChanged lets calls look for another path at once.
func (s *calls) networkChanged() { s.box.post(func() { s.step(callflow.NetworkChanged{}) }) }

// devicesRemoved ends what there is with devices that are no longer their account's.
func (s *calls) devicesRemoved(gone []callflow.Address) {
	for _, a := range gone {
		s.box.post(func() { s.step(callflow.DeviceRemoved{Address: a}) })
	}
}

// cutOff ends all calls when the server will have nothing more to do with this device: it was removed from its account, or another process
// has taken its place.
func (s *calls) cutOff(reason error) {
	s.box.post(func() {
		for id := range s.table {
			s.step(callflow.Fault{Call: id, Err: reason})
		}
	})
}
