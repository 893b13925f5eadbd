package callflow

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"sotto/wire"
)

// A move is one thing that can happen in a world. Its name is made only for a counterexample.
type move struct {
	what   string
	device int
	event  Event
	beside bool // others of the same sender are under way: whichever was sent first, it is overtaken or overtakes
}

func (m move) String() string {
	name := fmt.Sprintf("%T", m.event)
	if r, ok := m.event.(Received); ok {
		name = fmt.Sprintf("%T of call %d from %v", r.Message, r.Call[0], r.From)
		if h, ok := r.Message.(Hangup); ok {
			name += " (" + wire.Hangup_Reason_name[int32(h.Reason)] + ")"
		}
	}
	return strings.ReplaceAll(fmt.Sprintf("device %d: %s %s", m.device, m.what, name), "callflow.", "")
}

// moves calls do with everything that can happen. What comes of it is worked out when do asks.
func (x *explorer) moves(w world, do func(m move, result func() world)) {
	happens := func(w world, device int, event Event, what string) {
		do(move{what: what, device: device, event: event}, func() world { return x.happen(w, device, event) })
	}
	for at := 0; at < len(w.items); at += 2 {
		if at > 0 && w.items[at:at+2] == w.items[at-2:at] {
			continue
		}
		it := x.at(w, at)
		do(move{"gets", it.device, it.event, x.beside(w, at)}, func() world { return x.happen(w.without(at), it.device, it.event) })
		if it.network && w.left.twice > 0 {
			again := w
			again.left.twice--
			happens(again, it.device, it.event, "gets for the first time")
		}
		if it.network && w.left.lost > 0 {
			lost := w.without(at)
			lost.left.lost--
			lost.lossy = true
			do(move{what: "does not get", device: it.device, event: it.event}, func() world { return lost })
		}
	}
	for i, p := range x.calls {
		place := PlaceCall{Call: id(p.id), Peer: p.peer, Video: true}
		if w.users&(1<<i) == 0 && w.gone&(1<<p.device) == 0 && !slices.ContainsFunc(x.step(w.ends[p.device], place).effects, refused) {
			placed := w
			placed.users |= 1 << i
			happens(placed, p.device, place, "user:")
		}
	}
	for i, u := range x.inCall {
		bit := uint32(1) << (len(x.calls) + i)
		if w.users&bit == 0 && len(x.open(w, u.device)) > 0 {
			done := w
			done.users |= bit
			happens(done, u.device, u.event, "user:")
		}
	}
	for device := range x.devices {
		e := &x.endpoints[w.ends[device]]
		for i := range e.calls {
			c := &e.calls[i]
			if c.phase == alerting && !c.caller && slices.Contains(x.answers, device) {
				happens(w, device, AcceptCall{Call: c.id, Camera: true}, "user:")
				if x.instead && (&step{Endpoint: e}).where((*call).foreground) != nil {
					happens(w, device, AcceptCall{Call: c.id, EndOther: true}, "user:")
				}
			}
			if c.phase != free && slices.Contains(x.hangups, device) {
				happens(w, device, HangUp{c.id}, "user:")
				if c.phase == alerting && !c.caller {
					happens(w, device, BusyHere{c.id}, "user:")
				}
			}
			if l := &c.legs[c.chosenLeg()]; c.opened && l.connected && w.left.cuts > 0 {
				cut := w
				cut.left.cuts--
				happens(cut, device, Interrupted{c.id, l.device}, "has")
			}
		}
		if w.left.reports > 0 && *e != x.endpoints[0] {
			reported := w
			reported.left.reports--
			for _, event := range x.reports(w, device) {
				happens(reported, device, event, "has")
			}
			if w.gone&(1<<device) == 0 {
				do(move{what: "is gone:", device: device, event: DeviceRemoved{x.devices[device]}}, func() world { return x.leave(reported, device) })
			}
		}
		if w.left.ticks > 0 {
			late := w
			late.left.ticks--
			for n, t := range times(e) {
				if *t != 0 {
					happens(late, device, fire{n}, "time passes:")
				}
			}
		}
		if w.left.crashes > 0 && *e != x.endpoints[0] {
			down := w
			down.left.crashes--
			for at := 0; at < len(down.items); {
				if it := x.at(down, at); it.device == device && !it.network {
					down = down.without(at)
				} else {
					at += 2
				}
			}
			happens(down, device, crash{}, "")
		}
	}
}

var errFault = errors.New("an effect failed")

// reports is what else may happen at a device.
func (x *explorer) reports(w world, device int) (all []Event) {
	e := &x.endpoints[w.ends[device]]
	if len(x.open(w, device)) > 0 {
		all = append(all, NetworkChanged{})
	}
	for i := range e.calls {
		c := &e.calls[i]
		if c.phase == free {
			continue
		}
		all = append(all, Fault{Call: c.id, Err: errFault})
		for j := range c.legs {
			l := c.leg(c.legs[j].device)
			if l == nil {
				continue
			}
			at := c.with(l)
			all = append(all, Fault{c.id, l.device, errFault})
			if !l.keyed {
				continue
			}
			all = append(all, Stalled(at), Undecryptable(at), DirectAllowed(at))
			if l.connected && !c.opened {
				all = append(all, Interrupted(at))
			}
			if l.deciphers {
				all = append(all, KeyChanged(at))
			} else if x.sends(w, Address{c.peer, l.device}, c.id, x.devices[device]) {
				all = append(all, FirstMedia(at))
			}
		}
	}
	return all
}

// sends reports whether a device has opened a call with another one.
func (x *explorer) sends(w world, from Address, id CallID, to Address) bool {
	i := slices.Index(x.devices, from)
	if i < 0 {
		return false
	}
	e := x.endpoints[w.ends[i]]
	c := (&step{Endpoint: &e}).find(id)
	return c != nil && c.opened && c.peer == to.Account && c.chosen == to.Device
}

// leave takes a device from its account's list: its calls fail, all others are told, and nothing of it or for it is under way any more.
func (x *explorer) leave(w world, device int) world {
	w.gone |= 1 << device
	w.lossy = true
	for at := 0; at < len(w.items); {
		it := x.at(w, at)
		if r, ok := it.event.(Received); it.device == device || ok && r.From == x.devices[device] {
			w = w.without(at)
		} else {
			at += 2
		}
	}
	e := x.endpoints[w.ends[device]]
	for _, c := range e.calls {
		if c.phase != free {
			w = x.happen(w, device, Fault{Call: c.id, Err: errFault})
		}
	}
	for other := range x.devices {
		if other != device {
			w = x.happen(w, other, DeviceRemoved{x.devices[device]})
		}
	}
	return w
}

// beside reports whether another message between the same two devices is under way.
func (x *explorer) beside(w world, at int) bool {
	message, ok := x.at(w, at).event.(Received)
	for other := 0; other < len(w.items) && ok; other += 2 {
		r, also := x.at(w, other).event.(Received)
		if other != at && also && r.From == message.From && x.at(w, other).device == x.at(w, at).device {
			return true
		}
	}
	return false
}

// open is the calls of a device with an open microphone.
func (x *explorer) open(w world, device int) (open []*call) {
	e := &x.endpoints[w.ends[device]]
	for i := range e.calls {
		if e.calls[i].opened {
			open = append(open, &e.calls[i])
		}
	}
	return open
}
