package callflow

// The callee's end: prepare while it rings, accept, open.

func (s *step) onPrepared(ev Prepared) {
	c := s.find(ev.Call)
	switch {
	case c == nil:
	case c.caller && c.phase == placing:
		s.offerToAll(c, ev.Devices)
	case !c.caller && !c.legs[0].prepared:
		l := &c.legs[0]
		l.prepared, l.keyed, l.awaiting = true, true, false
		s.send(c, l, Answer{})
		s.do(Connect{Leg: c.with(l)}, Gather(c.with(l)))
		if c.phase == active {
			s.join(c, l)
		}
	}
}

// onNoRelay lets the preparation wait for the local accept, which allows this device's addresses to be seen.
func (s *step) onNoRelay(id CallID) {
	c := s.find(id)
	switch {
	case c == nil || c.caller || c.legs[0].prepared:
	case c.phase == active:
		s.do(Prepare{id}) // the accept came meanwhile
	default:
		c.legs[0].awaiting = true
	}
}

// onAcceptCall is the local user's accept. The call there is goes on hold, or ends, as the user says.
func (s *step) onAcceptCall(ev AcceptCall) {
	c := s.find(ev.Call)
	switch {
	case c == nil:
		s.do(Refused{ev.Call, errNoSuchCall})
		return
	case c.caller || c.phase != alerting:
		s.do(Refused{ev.Call, errNotIncoming})
		return
	}
	if other := s.where((*call).foreground); other != nil {
		switch {
		case ev.EndOther:
			s.endByUser(other)
		case s.where((*call).onHold) != nil:
			s.do(Refused{ev.Call, errTwoHeld})
			return
		default:
			s.hold(other, true)
		}
	}
	c.local.Video = ev.Camera && c.video
	s.consent(c)
}

// consent is the one way to open a callee's microphone: by onAcceptCall, and by adopt.
func (s *step) consent(c *call) {
	l := &c.legs[0]
	c.phase, c.ringBy = active, 0
	l.agreeBy = s.now + s.timing.Agree
	s.remember(c.peer, c.id, settled)
	s.do(AllowAddresses{c.id})
	switch {
	case l.prepared:
		s.join(c, l)
	case l.awaiting:
		l.awaiting = false
		s.do(Prepare{c.id})
	}
}

func (s *step) join(c *call, l *leg) {
	s.send(c, l, Accept{})
	s.open(c, l)
}

func (s *step) onReveal(c *call, l *leg, verification string) {
	if c.caller || !l.keyed || l.verified {
		return
	}
	l.verified = true
	s.do(Verify{c.with(l), verification})
	l.settle()
}

func (s *step) onConfirm(c *call, l *leg) {
	if c.caller || !c.opened || l.confirmed {
		return
	}
	l.confirmed = true
	l.settle()
	s.do(GoDirect(c.with(l)))
}

// settle ends the wait that began with the callee's accept.
func (l *leg) settle() {
	if l.verified && l.confirmed {
		l.agreeBy = 0
	}
}
