package callflow

import "time"

// Timing is how long things wait.
type Timing struct {
	Reach    time.Duration // for any of the callee's devices to say anything
	Ring     time.Duration // for the callee's user to accept
	Agree    time.Duration // for answer, reveal and confirm, after the accept
	Decipher time.Duration // for something to be decryptable, after something was not
	Lost     time.Duration // for a path, while there is none
	Retry    time.Duration // between attempts to find another path
}

// StandardTiming is that of docs/protocol.md.
var StandardTiming = Timing{
	Reach: 15 * time.Second, Ring: 60 * time.Second, Agree: 15 * time.Second,
	Decipher: 5 * time.Second, Lost: 30 * time.Second, Retry: 5 * time.Second,
}

const (
	// MaxLegs is how many of the callee's devices ring.
	MaxLegs = 4
	// MaxOfferAge is how old an offer may be that rings, and how far of the future.
	MaxOfferAge = 60 * time.Second

	maxCalls      = 3    // one in the foreground, one on hold, one that is not accepted
	maxPast       = 32   // calls that are remembered after their end
	maxGeneration = 4096 // of paths in one call
)

// An Endpoint is all the calls of one device. Its zero value has no times; New sets them.
type Endpoint struct {
	timing Timing
	calls  [maxCalls]call
	past   [maxPast]past // the newest first
}

// New is an Endpoint without calls.
func New(t Timing) Endpoint { return Endpoint{timing: t} }

type phase uint8

const (
	free     phase = iota // no call
	placing               // caller: being prepared, nothing was sent
	dialing               // caller: nothing was heard of the callee
	alerting              // a device of the callee's rings
	active                // accepted
)

// A call is one end of one call.
type call struct {
	id       CallID
	peer     Account
	phase    phase
	caller   bool
	video    bool
	stranger bool  // callee: of somebody who was no accepted contact
	opened   bool  // Open was an effect
	chosen   uint8 // the device at the other end: of the accept that won; at the callee's end the caller's
	legs     [MaxLegs]leg
	local    Media
	sequence uint32 // of the MediaState sent last

	reachBy, ringBy time.Duration // 0: not awaited; so in leg
}

// A leg is a call between this device and one device of the other end.
type leg struct {
	device uint8 // 0: no leg
	over   bool  // caller: it does not take part any more
	busy   bool  // over, because that device is in another call
	missed bool  // over, because nobody accepted there in time

	heardOf   bool   // caller: the device has said something
	prepared  bool   // callee: there is a media session, and the answer was sent
	awaiting  bool   // callee: preparation waits for the local accept
	keyed     bool   // keys are agreed, the media session connects
	verified  bool   // the verification code is known
	confirmed bool   // callee: the caller has taken this device's accept
	connected bool   // there is a path
	stood     bool   // there was one
	broken    bool   // there was one, or none was found, before the call was open
	deciphers bool   // media of the peer's was decrypted
	garbled   bool   // something could not be, before the call was open
	part      string // caller: the callee's part of the code, if its accept overtook its answer
	since     uint64 // when the peer sent what made the leg: offer or accept

	generation, peerGeneration uint32 // of the newest path: begun here, known of the peer
	peer                       Media
	peerSequence               uint32

	agreeBy, decipherBy, lostBy, retryBy time.Duration
}

// A past call is remembered: its offer may come late or again, or a message that it was missed.
type past struct {
	peer    Account
	id      CallID
	outcome outcome
}

type outcome uint8

const (
	seen    outcome = iota + 1 // it did not ring here
	settled                    // the user dealt with it, here or on another device
	missed                     // the user was told
)

// step is one run of Step.
type step struct {
	*Endpoint
	now     time.Duration
	effects []Effect
}

// Step is the whole flow. Now is counted from any moment, by a clock that only goes forward.
func (e Endpoint) Step(event Event, now time.Duration) (Endpoint, []Effect) {
	s := step{Endpoint: &e, now: now}
	s.on(event)
	return e, s.effects
}

// Next is when Tick is due; 0: never.
func (e Endpoint) Next() time.Duration {
	next := time.Duration(0)
	earlier := func(times ...time.Duration) {
		for _, t := range times {
			if t != 0 && (next == 0 || t < next) {
				next = t
			}
		}
	}
	for _, c := range e.calls {
		earlier(c.reachBy, c.ringBy)
		for _, l := range c.legs {
			earlier(l.agreeBy, l.decipherBy, l.lostBy, l.retryBy)
		}
	}
	return next
}

func (s *step) on(event Event) {
	switch ev := event.(type) {
	case Received:
		s.onReceived(ev)

	case PlaceCall:
		s.onPlaceCall(ev)
	case AcceptCall:
		s.onAcceptCall(ev)
	case HangUp:
		s.onHangUp(ev.Call)
	case BusyHere:
		s.onBusyHere(ev.Call)
	case Mute:
		s.change(ev.Call, func(_ *call, m *Media) error { m.Muted = ev.On; return nil })
	case ShowVideo:
		s.change(ev.Call, func(c *call, m *Media) error { return pictures(c, &m.Video, ev.On) })
	case ShareScreen:
		s.change(ev.Call, func(c *call, m *Media) error { return pictures(c, &m.Screen, ev.On) })
	case Hold:
		s.onHold(ev)

	case Prepared:
		s.onPrepared(ev)
	case NoRelay:
		s.onNoRelay(ev.Call)
	case PathReady:
		s.onPathReady(ev)
	case Fault:
		s.onFault(ev)

	case LocalCandidates:
		s.onLocalCandidates(ev)
	case Connected:
		s.onLeg(Leg(ev), s.onConnected)
	case Stalled:
		s.onLeg(Leg(ev), s.onStalled)
	case Interrupted:
		s.onLeg(Leg(ev), s.onInterrupted)
	case FirstMedia:
		s.onLeg(Leg(ev), s.onFirstMedia)
	case Undecryptable:
		s.onLeg(Leg(ev), s.onUndecryptable)
	case KeyChanged:
		s.onLeg(Leg(ev), s.onKeyChanged)

	case NetworkChanged:
		s.onNetworkChanged()
	case DirectAllowed:
		s.onLeg(Leg(ev), s.onDirectAllowed)
	case DeviceRemoved:
		s.onDeviceRemoved(ev.Address)
	case Tick:
		s.onTick()
	}
}

// onReceived sorts what other devices send. What does not fit is ignored: it is late, or a forgery.
func (s *step) onReceived(ev Received) {
	c := s.find(ev.Call)
	if c == nil {
		switch m := ev.Message.(type) {
		case Offer:
			s.onOffer(ev, m)
		case Hangup:
			s.remember(ev.From.Account, ev.Call, seen) // it may have overtaken its offer, which must not ring then
		case MissedCall:
			s.onMissedCall(ev, m)
		}
		return
	}
	l := c.leg(ev.From.Device)
	if c.peer != ev.From.Account || l == nil {
		return
	}
	switch m := ev.Message.(type) {
	case Ringing:
		s.onRinging(c, l)
	case Answer:
		s.onAnswer(c, l, m.Body)
	case Accept:
		s.onAccept(c, l, m.Verification, ev.Sent)
	case Reveal:
		s.onReveal(c, l, m.Verification)
	case Confirm:
		s.onConfirm(c, l)
	case Candidates:
		if m.Generation >= l.generation {
			s.do(AddCandidates{c.with(l), m})
		}
	case MediaState:
		s.onMediaState(c, l, m)
	case Path:
		s.onPath(c, l, m)
	case Hangup:
		s.onHangup(c, l, m.Reason)
	case MissedCall: // it overtook the hangup
		if !c.caller && c.phase == alerting {
			s.end(c, Cancelled, nil)
		}
	}
}

func (s *step) do(effects ...Effect) { s.effects = append(s.effects, effects...) }

func (s *step) send(c *call, l *leg, m Message) {
	s.do(Send{Address{c.peer, l.device}, c.id, m})
}

func (s *step) find(id CallID) *call {
	for i := range s.calls {
		if c := &s.calls[i]; c.phase != free && c.id == id {
			return c
		}
	}
	return nil
}

// where is the first call that is so, or nil.
func (s *step) where(is func(*call) bool) *call {
	for i := range s.calls {
		if c := &s.calls[i]; c.phase != free && is(c) {
			return c
		}
	}
	return nil
}

// begin takes a free place; maxCalls leaves one whenever every call is accepted.
func (s *step) begin(new call) *call {
	for i := range s.calls {
		if s.calls[i].phase == free {
			s.calls[i] = new
			return &s.calls[i]
		}
	}
	return nil
}

func (c *call) pending() bool    { return c.phase < active }
func (c *call) foreground() bool { return c.phase == active && !c.local.Held }
func (c *call) onHold() bool     { return c.phase == active && c.local.Held }

func (c *call) with(l *leg) Leg { return Leg{c.id, l.device} }

// leg is the one with a device that takes part, or nil.
func (c *call) leg(device uint8) *leg {
	for i := range c.legs {
		if l := &c.legs[i]; l.device != 0 && l.device == device && !l.over {
			return l
		}
	}
	return nil
}

// remember notes what became of a call of somebody's, in place of the oldest note.
func (s *step) remember(peer Account, id CallID, o outcome) {
	at := maxPast - 1
	for i, p := range s.past {
		if p.peer == peer && p.id == id {
			at = i
			o = max(o, p.outcome)
			break
		}
	}
	copy(s.past[1:at+1], s.past[:at])
	s.past[0] = past{peer, id, o}
}

func (s *step) recall(peer Account, id CallID) outcome {
	for _, p := range s.past {
		if p.peer == peer && p.id == id {
			return p.outcome
		}
	}
	return 0
}
