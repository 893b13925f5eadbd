package callflow

import "sotto/wire"

// The caller's end: place, prepare, offer to every device, take the first accept.

func (s *step) onPlaceCall(ev PlaceCall) {
	if s.where(func(c *call) bool { return c.peer == ev.Peer }) == nil {
		s.yield()
	}
	one := s.where(func(c *call) bool { return c.pending() || c.foreground() || c.peer == ev.Peer || c.id == ev.Call })
	if one != nil || s.recall(ev.Peer, ev.Call) != 0 {
		s.do(Refused{ev.Call, ErrBusy})
		return
	}
	c := s.begin(call{id: ev.Call, peer: ev.Peer, phase: placing, caller: true, video: ev.Video, local: Media{Video: ev.Video}})
	if c == nil {
		s.do(Refused{ev.Call, ErrBusy})
		return
	}
	c.ringBy = s.now + s.timing.Ring
	s.do(Prepare{c.id})
}

func (s *step) offerToAll(c *call, devices [MaxLegs]uint8) {
	c.phase, c.reachBy, c.ringBy = dialing, s.now+s.timing.Reach, s.now+s.timing.Ring
	n := 0
	for _, device := range devices {
		if device == 0 || c.leg(device) != nil {
			continue
		}
		l := &c.legs[n]
		*l = leg{device: device}
		s.send(c, l, Offer{Video: c.video})
		n++
	}
	if n == 0 {
		s.end(c, Unreachable, errUnreachable)
	}
}

// hearOf is the first sign of a device. Only now does the leg gather candidates: devices that are away cost no relay allocation.
func (s *step) hearOf(c *call, l *leg) {
	if l.heardOf {
		return
	}
	l.heardOf, c.reachBy = true, 0
	s.do(Gather(c.with(l)))
	if c.phase == dialing {
		c.phase = alerting
		s.do(Tell{c.id, NoticeAlerting})
	}
}

func (s *step) onRinging(c *call, l *leg) {
	if c.caller {
		s.hearOf(c, l)
	}
}

// onAnswer takes the first answer of a leg only: the offer's secrets serve once.
func (s *step) onAnswer(c *call, l *leg, body string) {
	if !c.caller || l.keyed {
		return
	}
	s.hearOf(c, l)
	l.keyed = true
	s.do(Connect{c.with(l), body})
	s.send(c, l, Reveal{})
	if c.chosen == l.device {
		s.start(c, l)
	}
}

// onAccept counts at the caller's end only, and once in a call.
func (s *step) onAccept(c *call, l *leg, verification string, sent uint64) {
	if !c.caller || c.phase == active {
		return
	}
	s.hearOf(c, l)
	c.phase, c.chosen, c.ringBy = active, l.device, 0
	l.since, l.part = sent, verification
	s.dismiss(c, l, wire.Hangup_ACCEPTED_ELSEWHERE)
	if l.keyed {
		s.start(c, l)
	} else {
		l.agreeBy = s.now + s.timing.Agree
	}
}

// start begins the caller's media: the callee's part of the verification code is checked before anything opens.
func (s *step) start(c *call, l *leg) {
	s.do(Verify{c.with(l), l.part})
	l.verified, l.part, l.agreeBy = true, "", 0
	s.send(c, l, Confirm{})
	s.open(c, l)
}

// dismiss ends every leg but one.
func (s *step) dismiss(c *call, but *leg, reason wire.Hangup_Reason) {
	for i := range c.legs {
		if l := c.leg(c.legs[i].device); l != nil && l != but {
			s.send(c, l, Hangup{reason})
			s.close(c, l)
		}
	}
}

func (s *step) close(c *call, l *leg) {
	*l = leg{device: l.device, over: true}
	s.do(CloseLeg(c.with(l)))
}

// drop ends a leg of a call that is not accepted; with the last one the call ends.
func (s *step) drop(c *call, l *leg, cause error) {
	s.close(c, l)
	if c.legsLeft() == 0 {
		reason, cause := c.outcome(cause)
		s.end(c, reason, cause)
	}
}

func (c *call) legsLeft() (n int) {
	for _, l := range c.legs {
		if l.device != 0 && !l.over {
			n++
		}
	}
	return n
}

// outcome is how a call ends of which no leg is left: a device that is in use says more of its user than one that failed.
func (c *call) outcome(otherwise error) (Reason, error) {
	reason := Failed
	for _, l := range c.legs {
		switch {
		case l.busy:
			return Busy, nil
		case l.missed:
			reason, otherwise = Timeout, nil
		}
	}
	return reason, otherwise
}
