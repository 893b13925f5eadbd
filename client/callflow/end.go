package callflow

import (
	"time"

	"sotto/wire"
)

// How calls end: by the local user, by the other end, by time, by a fault.

func (s *step) onHangUp(id CallID) {
	if c := s.find(id); c != nil {
		s.endByUser(c)
	}
}

func (s *step) onBusyHere(id CallID) {
	c := s.find(id)
	switch {
	case c == nil:
	case !c.caller && c.phase == alerting:
		s.hangUp(c, wire.Hangup_BUSY, Busy, nil)
	default:
		s.endByUser(c)
	}
}

func (s *step) endByUser(c *call) {
	switch {
	case c.phase == active:
		s.hangUp(c, wire.Hangup_NORMAL, Normal, nil)
	case c.caller:
		s.hangUp(c, wire.Hangup_NORMAL, Cancelled, nil)
	default:
		s.hangUp(c, wire.Hangup_DECLINED, Declined, nil)
	}
}

// onHangup reads the peer's reason by what has happened here.
func (s *step) onHangup(c *call, l *leg, reason wire.Hangup_Reason) {
	switch {
	case c.phase == active && (c.caller || l.confirmed):
		switch reason {
		case wire.Hangup_FAILED:
			s.end(c, Failed, errPeerFailed)
		case wire.Hangup_LOST:
			s.end(c, Lost, l.lost())
		default:
			s.end(c, Normal, nil)
		}
	case c.caller:
		s.onLegHangup(c, l, reason)
	default:
		s.onCallerHangup(c, reason)
	}
}

// onLegHangup is a callee's device that does not take the call: it answers for its user if that user has said no, else for itself.
func (s *step) onLegHangup(c *call, l *leg, reason wire.Hangup_Reason) {
	switch reason {
	case wire.Hangup_BUSY, wire.Hangup_TIMEOUT, wire.Hangup_FAILED, wire.Hangup_LOST:
		s.close(c, l)
		l.busy, l.missed = reason == wire.Hangup_BUSY, reason == wire.Hangup_TIMEOUT
		if c.legsLeft() == 0 {
			reason, cause := c.outcome(errPeerFailed)
			s.end(c, reason, cause)
		}
	default:
		s.close(c, l)
		s.dismiss(c, nil, wire.Hangup_DECLINED_ELSEWHERE)
		s.end(c, Declined, nil)
	}
}

// onCallerHangup ends a call that the caller has not confirmed, accepted here or not.
func (s *step) onCallerHangup(c *call, reason wire.Hangup_Reason) {
	switch reason {
	case wire.Hangup_ACCEPTED_ELSEWHERE:
		s.end(c, Elsewhere, nil)
	case wire.Hangup_DECLINED_ELSEWHERE:
		s.end(c, DeclinedElsewhere, nil)
	case wire.Hangup_TIMEOUT:
		s.end(c, Timeout, nil)
	case wire.Hangup_FAILED, wire.Hangup_LOST:
		s.end(c, Failed, errPeerFailed)
	default:
		s.end(c, Cancelled, nil)
	}
}

func (s *step) onFault(ev Fault) {
	c := s.find(ev.Call)
	if c == nil {
		return
	}
	if ev.Device == 0 {
		s.hangUp(c, wire.Hangup_FAILED, Failed, ev.Err)
		return
	}
	if l := c.leg(ev.Device); l != nil {
		s.fail(c, l, ev.Err)
	}
}

// fail ends a leg, and the call if that was all it had.
func (s *step) fail(c *call, l *leg, cause error) {
	if !c.caller || c.phase == active {
		s.hangUp(c, wire.Hangup_FAILED, Failed, cause)
		return
	}
	s.send(c, l, Hangup{wire.Hangup_FAILED})
	s.drop(c, l, cause)
}

// onDeviceRemoved tells that device nothing: it is no longer the account's.
func (s *step) onDeviceRemoved(gone Address) {
	for i := range s.calls {
		c := &s.calls[i]
		l := c.leg(gone.Device)
		switch {
		case c.phase == free || c.peer != gone.Account || l == nil:
		case c.caller && c.pending():
			s.drop(c, l, errRemoved)
		default:
			s.end(c, Failed, errRemoved)
		}
	}
}

func (s *step) onTick() {
	due := func(t time.Duration) bool { return t != 0 && t <= s.now }
	for i := range s.calls {
		c := &s.calls[i]
		switch {
		case c.phase == free:
		case due(c.reachBy):
			reason, cause := Unreachable, errUnreachable
			if r, _ := c.outcome(nil); r == Busy {
				reason, cause = r, nil
			}
			s.hangUp(c, wire.Hangup_NORMAL, reason, cause)
		case due(c.ringBy) && c.phase == placing:
			s.end(c, Unreachable, errUnreachable)
		case due(c.ringBy):
			s.hangUp(c, wire.Hangup_TIMEOUT, Timeout, nil)
		default:
			for j := range c.legs {
				if c.phase != free && !c.legs[j].over {
					s.onLegTick(c, &c.legs[j], due)
				}
			}
		}
	}
}

func (s *step) onLegTick(c *call, l *leg, due func(time.Duration) bool) {
	switch {
	case due(l.agreeBy):
		s.fail(c, l, errNotAgreed)
	case due(l.decipherBy):
		s.fail(c, l, ErrUndecryptable)
	case due(l.lostBy):
		s.hangUp(c, wire.Hangup_LOST, Lost, l.lost())
	case due(l.retryBy):
		l.retryBy = s.now + s.timing.Retry
		s.restart(c, l)
	}
}

// lost says what became of a leg without a path.
func (l *leg) lost() error {
	if !l.stood {
		return errNoPath
	}
	return errLost
}

// hangUp tells every device that takes part, and ends the call.
func (s *step) hangUp(c *call, tell wire.Hangup_Reason, reason Reason, cause error) {
	if c.phase != placing {
		for i := range c.legs {
			if l := c.leg(c.legs[i].device); l != nil {
				s.send(c, l, Hangup{tell})
			}
		}
	}
	s.end(c, reason, cause)
}

// end forgets the call, but for what is needed to tell the user of a missed one once: at the caller's end by leaving a message, since
// devices that were away did not ring.
func (s *step) end(c *call, reason Reason, cause error) {
	if c.pending() {
		switch {
		case c.caller && c.phase != placing && reason != Declined:
			s.do(LeaveMissed{c.id, c.peer, c.video})
		case !c.caller && (reason == Cancelled || reason == Timeout || reason == Failed):
			s.remember(c.peer, c.id, missed)
			s.do(Missed{c.id, c.peer, c.video, c.legs[0].since})
		case !c.caller && reason != Busy: // of such a call the user knows nothing, and its caller may leave a missed one
			s.remember(c.peer, c.id, settled)
		}
	}
	s.do(End{c.id, reason, cause})
	*c = call{}
}
