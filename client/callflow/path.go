package callflow

// A path is replaced without an offer: each end makes its half of the next generation, sends it once, and joins the two when it has
// both. Whoever hears of a higher generation than its own goes along. Ends that begin the same generation at once have, by that, each
// sent its half. What is lost is made good by the next attempt, one generation later. The old path goes on until the new one works.

func (s *step) restart(c *call, l *leg) {
	if l.generation >= maxGeneration {
		return
	}
	l.generation++
	s.do(RestartPath{c.with(l), l.generation})
}

func (s *step) onPathReady(ev PathReady) {
	s.onLeg(Leg{ev.Call, ev.Device}, func(c *call, l *leg) {
		if ev.Path.Generation == l.generation {
			s.send(c, l, ev.Path)
		}
	})
}

func (s *step) onPath(c *call, l *leg, m Path) {
	if !c.opened || m.Generation > maxGeneration || m.Generation < l.generation || m.Generation <= l.peerGeneration {
		return
	}
	if m.Generation > l.generation {
		l.generation = m.Generation
		s.do(RestartPath{c.with(l), l.generation})
	}
	l.peerGeneration = m.Generation
	s.do(ConnectPath{c.with(l), m})
}

func (s *step) onLocalCandidates(ev LocalCandidates) {
	s.onLeg(Leg{ev.Call, ev.Device}, func(c *call, l *leg) {
		if ev.Candidates.Generation == l.generation {
			s.send(c, l, ev.Candidates)
		}
	})
}

// onConnected also repeats what this end sends, in case it was lost with the path before.
func (s *step) onConnected(c *call, l *leg) {
	l.connected, l.stood, l.broken, l.lostBy, l.retryBy = true, true, false, 0, 0
	if c.opened {
		s.do(Tell{c.id, NoticeConnected})
		if l.generation > 0 {
			s.send(c, l, MediaState{c.sequence, c.local})
		}
	}
}

// onStalled looks for another path before it is worth telling: that costs little, and may be done before anybody notices.
func (s *step) onStalled(c *call, l *leg) {
	if c.opened && l.connected {
		s.restart(c, l)
	}
}

// onInterrupted begins the search for another path. While it rings there is none: open begins it, if the path is still missing.
func (s *step) onInterrupted(c *call, l *leg) {
	l.connected = false
	if !c.opened {
		l.broken = true
		return
	}
	if l.lostBy != 0 {
		return
	}
	l.lostBy, l.retryBy = s.now+s.timing.Lost, s.now+s.timing.Retry
	s.do(Tell{c.id, NoticeReconnecting})
	s.restart(c, l)
}

// onNetworkChanged does not wait until the old path is found to be dead.
func (s *step) onNetworkChanged() {
	for i := range s.calls {
		if c := &s.calls[i]; c.opened {
			s.restart(c, &c.legs[c.chosenLeg()])
		}
	}
}

// onDirectAllowed looks for a path that is shorter than the relay's.
func (s *step) onDirectAllowed(c *call, l *leg) {
	if c.opened {
		s.restart(c, l)
	}
}
