package callflow

import (
	"fmt"
	"slices"
)

// drain lets a world come to rest: everything under way arrives, media flows where both ends have a path, and then every time passes.
// What must hold then is agreement. drained has the worlds from which that was shown already.
func (x *explorer) drain(w world, drained map[world]bool) {
	var path []world
	checked := false
	for range 1000 {
		if drained[w] || x.problem != "" {
			break
		}
		path = append(path, w)
		switch next, ok := x.arrive(w); {
		case ok:
			w = next
			continue
		case !checked:
			// Before any time has passed nobody rings for a call that is over, unless a message that says so was lost.
			checked = true
			x.checkRinging(w)
		}
		if next, ok := x.media(w); ok {
			w = next
			continue
		}
		if next, ok := x.timePasses(w); ok {
			w = next
			continue
		}
		x.checkAgreement(w)
		for _, p := range path {
			drained[p] = true
		}
		return
	}
	if !drained[w] && x.problem == "" {
		x.problem = "it never comes to rest"
	}
	for _, p := range path {
		drained[p] = true
	}
}

func (x *explorer) arrive(w world) (world, bool) {
	if w.items == "" {
		return w, false
	}
	it := x.at(w, 0)
	return x.happen(w.without(0), it.device, it.event), true
}

// media is what the media sessions of both ends notice of each other.
func (x *explorer) media(w world) (world, bool) {
	for device := range x.devices {
		for _, c := range x.open(w, device) {
			l := &c.legs[c.chosenLeg()]
			_, theirs := x.other(w, device, c)
			switch both := theirs != nil && theirs.opened && theirs.chosen == x.devices[device].Device; {
			case !both && l.lostBy == 0 && l.agreeBy == 0:
				return x.happen(w, device, Interrupted{c.id, l.device}), true
			case both && !l.connected:
				return x.happen(w, device, Connected{c.id, l.device}), true
			case both && !l.deciphers:
				return x.happen(w, device, FirstMedia{c.id, l.device}), true
			}
		}
	}
	return w, false
}

func (x *explorer) other(w world, device int, c *call) (int, *call) {
	i := slices.Index(x.devices, Address{c.peer, c.chosen})
	if i < 0 {
		return i, nil
	}
	e := x.endpoints[w.ends[i]]
	return i, (&step{Endpoint: &e}).find(c.id)
}

// timePasses fires what ends waits; a path that is not there can be tried for ever, and both ends' media is, by now, where it can be.
func (x *explorer) timePasses(w world) (world, bool) {
	for device := range x.devices {
		e := &x.endpoints[w.ends[device]]
		n := 0
		for i := range e.calls {
			c := &e.calls[i]
			all := []bool{c.reachBy != 0, c.ringBy != 0}
			for _, l := range c.legs {
				all = append(all, l.agreeBy != 0, l.decipherBy != 0, l.lostBy != 0, false)
			}
			for j, waits := range all {
				if waits {
					return x.happen(w, device, fire{n + j}), true
				}
			}
			n += len(all)
		}
	}
	return w, false
}

func (x *explorer) checkRinging(w world) {
	for device := range x.devices {
		e := x.endpoints[w.ends[device]]
		for i := range e.calls {
			c := &e.calls[i]
			if w.lossy || w.forgot || c.caller || c.phase != alerting {
				continue
			}
			_, theirs := x.other(w, device, c)
			x.require(theirs != nil && theirs.pending() && theirs.leg(x.devices[device].Device) != nil, device,
				"rings for call %d, which is over", c.id[0])
		}
	}
}

func (x *explorer) checkAgreement(w world) {
	for device := range x.devices {
		e := x.endpoints[w.ends[device]]
		for i := range e.calls {
			c := &e.calls[i]
			if c.phase == free {
				continue
			}
			_, theirs := x.other(w, device, c)
			agreed := c.opened && theirs != nil && theirs.opened && theirs.caller != c.caller && theirs.peer == x.devices[device].Account &&
				theirs.chosen == x.devices[device].Device
			x.require(agreed, device, "is in call %d and the other end is not", c.id[0])
			if agreed && !w.lossy && !w.forgot {
				x.require(c.legs[c.chosenLeg()].peer == theirs.local, device, "does not know what the other end sends in call %d", c.id[0])
			}
		}
	}
	x.checkReasons(w)
}

// checkReasons holds what a device shows as the end of a call to what the others know.
func (x *explorer) checkReasons(w world) {
	for _, p := range x.calls {
		caller := w.ghosts[p.device]
		var told []Reason
		for i, d := range x.devices {
			if d.Account == p.peer {
				told = append(told, w.ghosts[i].reasons[p.id])
			}
		}
		x.require(caller.reasons[p.id] != Unreachable || w.lossy || w.left.ticks < x.budget.ticks, p.device,
			"cannot reach anybody with call %d", p.id)
		if w.forgot {
			continue
		}
		for i, d := range x.devices {
			if d.Account != p.peer {
				continue
			}
			switch mine := w.ghosts[i].reasons[p.id]; mine {
			case Elsewhere:
				taken := caller.opened&(1<<p.id) != 0 || slices.Contains([]Reason{adopted, Normal, Failed, Lost}, caller.reasons[p.id])
				x.require(taken, i, "shows call %d as accepted elsewhere; it was not", p.id)
			case DeclinedElsewhere:
				x.require(caller.reasons[p.id] == Declined, i, "shows call %d as declined elsewhere; it was not", p.id)
			}
		}
		switch caller.reasons[p.id] {
		case Declined:
			x.require(slices.Contains(told, Declined) || slices.Contains(told, Normal), p.device, "shows call %d as declined; nobody did: %s", p.id, fmt.Sprint(told))
		case Elsewhere, DeclinedElsewhere:
			x.require(false, p.device, "shows its own call %d as dealt with elsewhere", p.id)
		case Cancelled, Timeout, Busy, Unreachable:
			for i, d := range x.devices {
				bit := uint8(1) << p.id
				if d.Account == p.peer && !w.lossy && caller.offered&bit != 0 && w.left.twice == x.budget.twice {
					dealt := (w.ghosts[i].missed|w.ghosts[i].consent)&bit != 0 || w.ghosts[i].reasons[p.id] == Declined
					x.require(dealt, i, "does not show call %d as missed", p.id)
				}
			}
		}
	}
}
