package callflow

// While a call is accepted: what each end sends, holding, and what the media session reports.

// open begins a call's media, once.
func (s *step) open(c *call, l *leg) {
	if c.opened {
		return
	}
	c.opened = true
	s.do(Open{c.with(l), flow(c.local, l.peer)}, Tell{c.id, NoticeAccepted})
	s.sendMedia(c, l)
	if l.peerSequence != 0 {
		s.do(PeerMedia{c.id, l.peer})
	}
	switch {
	case l.connected:
		s.do(Tell{c.id, NoticeConnected})
	case l.broken:
		s.onInterrupted(c, l)
	default: // the first one is still looked for
		l.lostBy, l.retryBy = s.now+s.timing.Lost, s.now+s.timing.Retry
	}
	switch {
	case l.deciphers:
		s.do(Tell{c.id, NoticeFirstMedia})
	case l.garbled:
		l.decipherBy = s.now + s.timing.Lost // longer than Decipher: it may have been a forgery, and the first media are still to come
		s.do(Tell{c.id, NoticeUndecryptable})
	}
	l.broken, l.garbled = false, false
}

func (s *step) sendMedia(c *call, l *leg) {
	c.sequence++
	s.send(c, l, MediaState{c.sequence, c.local})
}

// change is one change of what this end sends. Before the call is open it takes effect with Open.
func (s *step) change(id CallID, set func(*call, *Media) error) {
	c := s.find(id)
	if c == nil {
		s.do(Refused{id, errNoSuchCall})
		return
	}
	before := c.local
	if err := set(c, &c.local); err != nil {
		s.do(Refused{id, err})
		return
	}
	if !c.opened || c.local == before {
		return
	}
	l := &c.legs[c.chosenLeg()]
	s.do(SetFlow{c.with(l), flow(c.local, l.peer)})
	s.sendMedia(c, l)
}

func pictures(c *call, what *bool, on bool) error {
	if on && !c.video {
		return errNoVideo
	}
	*what = on
	return nil
}

// onHold holds a call, or resumes it. Whoever resumes one call puts the other one on hold, so that one microphone serves one call.
func (s *step) onHold(ev Hold) {
	c := s.find(ev.Call)
	switch {
	case c == nil:
		s.do(Refused{ev.Call, errNoSuchCall})
		return
	case c.phase != active:
		s.do(Refused{ev.Call, errNotActive})
		return
	}
	if !ev.On && c.local.Held {
		if s.where(func(c *call) bool { return c.caller && c.pending() }) != nil {
			s.do(Refused{ev.Call, ErrBusy}) // the other call would open beside it
			return
		}
		if other := s.where((*call).foreground); other != nil {
			s.hold(other, true)
		}
	}
	if ev.On && !c.local.Held && s.where((*call).onHold) != nil {
		s.do(Refused{ev.Call, errTwoHeld})
		return
	}
	s.hold(c, ev.On)
}

func (s *step) hold(c *call, on bool) {
	if c.local.Held == on {
		return
	}
	s.change(c.id, func(_ *call, m *Media) error { m.Held = on; return nil })
	notice := NoticeResumed
	if on {
		notice = NoticeHeld
	}
	s.do(Tell{c.id, notice})
}

// onMediaState takes the newest: the message may be lost, or overtaken, and is repeated with every new path.
func (s *step) onMediaState(c *call, l *leg, m MediaState) {
	if m.Sequence <= l.peerSequence {
		return
	}
	before := flow(c.local, l.peer)
	l.peerSequence, l.peer = m.Sequence, m.Media
	if !c.opened {
		return
	}
	if now := flow(c.local, l.peer); now != before {
		s.do(SetFlow{c.with(l), now})
	}
	s.do(PeerMedia{c.id, m.Media})
}

// onLeg finds what a media session reports about.
func (s *step) onLeg(at Leg, on func(*call, *leg)) {
	c := s.find(at.Call)
	if c == nil {
		return
	}
	if l := c.leg(at.Device); l != nil {
		on(c, l)
	}
}

// onFirstMedia also confirms the callee's accept: a caller sends on no other leg.
func (s *step) onFirstMedia(c *call, l *leg) {
	l.deciphers, l.garbled, l.decipherBy = true, false, 0
	if c.opened {
		s.do(Tell{c.id, NoticeFirstMedia})
		s.onConfirm(c, l)
	}
}

// onUndecryptable ends nothing that was heard: one packet may be anybody's. Nor does it end what is not open: there is nothing to be heard
// yet that could show the packet to be a forgery.
func (s *step) onUndecryptable(c *call, l *leg) {
	if !c.opened {
		l.garbled = !l.deciphers
		return
	}
	if !l.deciphers && l.decipherBy == 0 {
		l.decipherBy = s.now + s.timing.Decipher
	}
	s.do(Tell{c.id, NoticeUndecryptable})
}

// onKeyChanged gives a call that was heard as long as one whose path is lost: whoever can replace packets can drop them as well.
func (s *step) onKeyChanged(c *call, l *leg) {
	l.deciphers = false
	if !c.opened {
		l.garbled = true
		return
	}
	l.decipherBy = s.now + s.timing.Lost
	s.do(Tell{c.id, NoticeDeaf})
}
