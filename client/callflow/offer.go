package callflow

import (
	"bytes"

	"sotto/wire"
)

// What an offer does:
//
//  1. Known already, too old, or malformed: it does not ring.
//  2. From a device this one has a call with: that device has lost that call, or gave it up. The old call ends here too; unless the offer
//     is older than the call, and only late.
//  3. From an account that this device is calling: both want to talk, and the call with the higher id is the one.
//  4. A stranger never has the line. Their call rings where there is no other, and ends when a contact calls or this user does.
//     What does not ring of theirs gets no answer, as from a device that is away: they learn nothing of this one.
//  5. Beside another call that is not accepted: busy.
//  6. Otherwise it rings, beside an accepted call as one that waits.

func (s *step) onOffer(ev Received, offer Offer) {
	from, id := ev.From, ev.Call
	if s.recall(from.Account, id) != 0 {
		return
	}
	s.remember(from.Account, id, seen)
	if offer.Age > MaxOfferAge || offer.Age < -MaxOfferAge {
		return // its caller leaves a missed call
	}
	if offer.Stranger && (offer.Malformed || offer.Quiet) {
		return
	}
	if offer.Malformed {
		s.refuse(from, id, wire.Hangup_FAILED)
		return
	}
	if old := s.where(func(c *call) bool { return c.peer == from.Account && c.chosen == from.Device }); old != nil {
		if ev.Sent <= old.legs[old.chosenLeg()].since {
			return
		}
		s.replace(old)
	}
	if own := s.where(func(c *call) bool { return c.caller && c.pending() && c.peer == from.Account }); own != nil {
		// An own call that is still being prepared is not known to the other end: it gives way whatever its id.
		if own.phase == placing || bytes.Compare(id[:], own.id[:]) > 0 {
			s.adopt(own, ev, offer)
			return
		}
		// Its caller takes ours instead. Unless it has declined ours already, or is in it by another device: then it hears why it does not ring.
		s.refuse(from, id, wire.Hangup_BUSY)
		return
	}
	if offer.Stranger && s.where(func(*call) bool { return true }) != nil {
		return
	}
	s.yield()
	if s.where((*call).pending) != nil {
		s.refuse(from, id, wire.Hangup_BUSY)
		return
	}
	waiting := s.where((*call).foreground) != nil
	c := s.begin(incoming(ev, offer))
	c.phase, c.ringBy = alerting, s.now+s.timing.Ring
	s.send(c, &c.legs[0], Ringing{})
	s.do(Prepare{id}, Incoming{id, from, offer.Video, waiting})
}

// yield ends the call of a stranger that rings, for one that matters more. The user is told of it
// as missed; the stranger is told nothing.
func (s *step) yield() {
	if c := s.where(func(c *call) bool { return c.stranger && c.phase == alerting }); c != nil {
		s.end(c, Cancelled, nil)
	}
}

// incoming is a call of somebody's, with the one leg it has at this end.
func incoming(ev Received, offer Offer) call {
	c := call{id: ev.Call, peer: ev.From.Account, video: offer.Video, chosen: ev.From.Device, stranger: offer.Stranger}
	c.legs[0] = leg{device: ev.From.Device, since: ev.Sent}
	return c
}

// chosenLeg is the index of the leg of a call that has one.
func (c *call) chosenLeg() int {
	for i, l := range c.legs {
		if l.device == c.chosen {
			return i
		}
	}
	return 0
}

// replace ends a call that the other end has no more: it calls again.
func (s *step) replace(old *call) {
	if old.pending() {
		s.end(old, Cancelled, nil)
		return
	}
	s.hangUp(old, wire.Hangup_FAILED, Failed, errAnew)
}

// adopt gives up the local user's call for the other end's, which wins. It needs no accept: the local user has asked for a call with this
// account, and the other end, which knows the same two ids, expects no other outcome. The callee's devices that rang for the call given
// up are told that it was accepted, which it was.
func (s *step) adopt(own *call, ev Received, offer Offer) {
	for i := range own.legs {
		if l := own.leg(own.legs[i].device); l != nil && own.phase != placing {
			s.send(own, l, Hangup{wire.Hangup_ACCEPTED_ELSEWHERE})
		}
	}
	s.do(Adopt{own.id, ev.Call})
	local := own.local
	*own = incoming(ev, offer)
	own.local = local
	own.local.Video = local.Video && offer.Video
	own.local.Screen = local.Screen && offer.Video
	s.send(own, &own.legs[0], Ringing{})
	s.do(Prepare{own.id})
	s.consent(own)
}

func (s *step) refuse(to Address, id CallID, reason wire.Hangup_Reason) {
	s.do(Send{to, id, Hangup{reason}})
}

// onMissedCall shows a call that did not ring here, or whose ringing nobody heard, once.
func (s *step) onMissedCall(ev Received, m MissedCall) {
	if s.recall(ev.From.Account, ev.Call) >= settled {
		return
	}
	s.remember(ev.From.Account, ev.Call, missed)
	s.do(Missed{ev.Call, ev.From.Account, m.Video, m.At})
}
