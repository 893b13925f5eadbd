package callflow

import (
	"fmt"
	"slices"
	"time"
)

// A model is some devices, the network between them and their users, explored in every order of what can happen:
//
//   - a message or a local event under way arrives, whichever it is: so messages overtake each other;
//   - a message arrives and stays under way, to arrive again; or is lost. (One that arrives after everything else is as good as lost
//     too: these have budgets only because they multiply the states.)
//   - any time that an endpoint waits for passes, before any other;
//   - a user does what the endpoint offers: accept, hang up, mute, hold, show pictures;
//   - a path breaks, a media session reports something, an effect fails, a device leaves its account or forgets everything, as often as
//     the model says.
type model struct {
	name    string
	devices []Address
	calls   []placed     // the users' calls
	answers []int        // devices whose users may accept
	hangups []int        // devices whose users may hang up or decline
	instead bool         // users may also end the call there is to accept another one
	inCall  []userEvent  // what else users do, each once
	budget  budget       // of what goes wrong
	machine machine      // Step, or one with a mistake in it
	slow    bool         // what Prepare asks for takes time
	noRelay map[int]bool // devices that prepare only after the accept
}

type machine func(Endpoint, Event, time.Duration) (Endpoint, []Effect)

// placed is a call that a device's user may place. The ids decide crossing calls.
type placed struct {
	device int
	id     byte
	peer   Account
}

type userEvent struct {
	device int
	event  Event
}

type budget struct{ lost, twice, ticks, cuts, reports, crashes uint8 }

const (
	maxDevices = 3
	maxIDs     = 7 // ids in a model are 1 to maxIDs; a ghost has a bit for each
)

// A world is a state of a model; comparable.
type world struct {
	ends   [maxDevices]uint32 // interned endpoints
	items  string             // under way, sorted: two bytes each
	left   budget
	users  uint32 // calls placed and in-call events that happened
	ghosts [maxDevices]ghost
	gone   uint8 // devices that are no longer on their account's list, a bit each
	lossy  bool  // something was lost
	forgot bool  // a device started anew
}

// A ghost remembers about a device what its endpoint may have forgotten.
type ghost struct {
	consent, opened, rung, hungUp, missed, offered uint8 // bits by call id
	wants                                          uint8 // id of the call that its user has asked for, until it ends or is accepted
	muted, held, shows, shares                     uint8
	clock                                          uint8
	reasons                                        [maxIDs + 1]Reason
}

const adopted Reason = 100 // of a call given up for the other end's

// An item is something under way: a message, or a local event.
type item struct {
	device  int
	network bool
	event   Event
}

func id(n byte) CallID { return CallID{0: n} }

// explorer interns what worlds are made of, and remembers every step of the machine.
type explorer struct {
	model
	endpoints []Endpoint
	endpointN map[Endpoint]uint32
	items     []item
	itemN     map[item]uint16
	steps     map[stepKey]stepped
	problem   string // the first invariant that did not hold
}

type stepKey struct {
	end   uint32
	event Event
}

type stepped struct {
	end     uint32
	effects []Effect
}

// fire is Tick when the n-th of an endpoint's times has passed.
type fire struct{ n int }

// crash is a device that starts anew.
type crash struct{}

func newExplorer(m model) *explorer {
	if m.machine == nil {
		m.machine = Endpoint.Step
	}
	return &explorer{model: m, endpointN: map[Endpoint]uint32{}, itemN: map[item]uint16{}, steps: map[stepKey]stepped{}}
}

func (x *explorer) start() world {
	w := world{left: x.budget}
	for i := range w.ends {
		w.ends[i] = x.endpoint(New(StandardTiming))
	}
	return w
}

func (x *explorer) endpoint(e Endpoint) uint32 {
	n, ok := x.endpointN[e]
	if !ok {
		n = uint32(len(x.endpoints))
		x.endpoints = append(x.endpoints, e)
		x.endpointN[e] = n
	}
	return n
}

func (x *explorer) item(it item) uint16 {
	n, ok := x.itemN[it]
	if !ok {
		n = uint16(len(x.items))
		x.items = append(x.items, it)
		x.itemN[it] = n
	}
	return n
}

func (w world) add(n uint16) world {
	at := 0
	for ; at < len(w.items); at += 2 {
		if uint16(w.items[at])<<8|uint16(w.items[at+1]) >= n {
			break
		}
	}
	w.items = w.items[:at] + string([]byte{byte(n >> 8), byte(n)}) + w.items[at:]
	return w
}

func (w world) without(at int) world {
	w.items = w.items[:at] + w.items[at+2:]
	return w
}

func (x *explorer) at(w world, at int) item {
	return x.items[uint16(w.items[at])<<8|uint16(w.items[at+1])]
}

// times are all that an endpoint waits for.
func times(e *Endpoint) (all []*time.Duration) {
	for i := range e.calls {
		c := &e.calls[i]
		all = append(all, &c.reachBy, &c.ringBy)
		for j := range c.legs {
			l := &c.legs[j]
			all = append(all, &l.agreeBy, &l.decipherBy, &l.lostBy, &l.retryBy)
		}
	}
	return all
}

// step runs the machine. It is always the same moment: fire makes one time due, so times pass in every order.
func (x *explorer) step(end uint32, event Event) stepped {
	key := stepKey{end, event}
	if done, ok := x.steps[key]; ok {
		return done
	}
	e := x.endpoints[end]
	var effects []Effect
	switch ev := event.(type) {
	case crash:
		e = New(StandardTiming)
	case fire:
		*times(&e)[ev.n] = -1
		e, effects = x.machine(e, Tick{}, 0)
	default:
		e, effects = x.machine(e, event, 0)
	}
	done := stepped{x.endpoint(e), effects}
	x.steps[key] = done
	return done
}

// happen is one event at one device, with its effects carried out.
func (x *explorer) happen(w world, device int, event Event) world {
	done := x.step(w.ends[device], event)
	g := &w.ghosts[device]
	if slices.ContainsFunc(done.effects, refused) {
		event = nil // it changed nothing, and its user knows
	}
	switch ev := event.(type) {
	case Received:
		if _, ok := ev.Message.(Hangup); ok {
			g.hungUp |= 1 << ev.Call[0]
		}
	case PlaceCall:
		g.clock++
		g.consent, g.wants = g.consent|1<<ev.Call[0], ev.Call[0]
		g.shows = set(g.shows, ev.Call[0], ev.Video)
	case AcceptCall:
		g.clock++
		g.consent |= 1 << ev.Call[0]
		g.shows = set(g.shows, ev.Call[0], ev.Camera)
	case ShowVideo:
		g.shows = set(g.shows, ev.Call[0], ev.On)
	case ShareScreen:
		g.shares = set(g.shares, ev.Call[0], ev.On)
	case HangUp:
		if g.wants == ev.Call[0] {
			g.wants = 0
		}
	case Mute:
		g.muted = set(g.muted, ev.Call[0], ev.On)
	case Hold:
		g.held = set(g.held, ev.Call[0], ev.On)
	case crash:
		*g = ghost{clock: g.clock}
		w.forgot = true
	}
	w.ends[device] = done.end
	for _, effect := range done.effects {
		w = x.carryOut(w, device, effect)
	}
	x.checkEndpoint(device, &x.endpoints[done.end])
	return w
}

func refused(e Effect) bool {
	_, is := e.(Refused)
	return is
}

func set(bits, n byte, on bool) byte {
	if on {
		return bits | 1<<n
	}
	return bits &^ (1 << n)
}

func (x *explorer) carryOut(w world, device int, effect Effect) world {
	g := &w.ghosts[device]
	e := &x.endpoints[w.ends[device]]
	here := x.devices[device]
	switch ef := effect.(type) {
	case Send:
		switch ef.Message.(type) {
		case Offer:
			g.offered |= 1 << ef.Call[0]
		case Accept:
			x.require(g.consent&(1<<ef.Call[0]) != 0, device, "accepts call %d without its user", ef.Call[0])
		}
		w = x.post(w, ef.To, Received{here, ef.Call, uint64(g.clock), ef.Message})
	case LeaveMissed:
		for _, to := range x.devices {
			if to.Account == ef.Peer {
				w = x.post(w, to, Received{here, ef.Call, uint64(g.clock), MissedCall{ef.Video, uint64(g.clock)}})
			}
		}
	case Prepare:
		c := (&step{Endpoint: e}).find(ef.Call)
		prepared := Prepared{Call: ef.Call}
		switch {
		case c == nil:
			return w
		case c.caller:
			n := 0
			for i, d := range x.devices {
				if d.Account == c.peer && w.gone&(1<<i) == 0 {
					prepared.Devices[n] = d.Device
					n++
				}
			}
		case x.noRelay[device] && c.pending():
			return w.add(x.item(item{device: device, event: NoRelay(ef)}))
		}
		if !x.slow {
			return x.happen(w, device, prepared)
		}
		w = w.add(x.item(item{device: device, event: prepared}))
	case Connect:
		w = x.happen(w, device, Connected(ef.Leg))
	case RestartPath:
		w = w.add(x.item(item{device: device, event: PathReady{ef.Call, ef.Device, Path{Generation: ef.Generation}}}))

	case Incoming:
		bit := uint8(1) << ef.Call[0]
		x.require(g.rung&bit == 0, device, "rings twice for call %d", ef.Call[0])
		x.require(g.hungUp&bit == 0, device, "rings for call %d after its hangup", ef.Call[0])
		g.rung |= bit
	case Adopt:
		x.require(g.wants == ef.Old[0], device, "takes call %d in place of %d, which its user does not want", ef.New[0], ef.Old[0])
		g.wants, g.reasons[ef.Old[0]] = ef.New[0], adopted
		g.consent |= 1 << ef.New[0]
		g.shows, g.shares = moved(g.shows, ef), moved(g.shares, ef)
	case Open:
		n := ef.Call[0]
		c := (&step{Endpoint: e}).find(ef.Call)
		x.require(g.consent&(1<<n) != 0, device, "opens its microphone for call %d without its user", n)
		x.require(g.opened&(1<<n) == 0, device, "opens its microphone twice for call %d", n)
		x.require(g.reasons[n] == NotEnded, device, "opens its microphone for call %d, which has ended", n)
		if c != nil && c.caller {
			for i, d := range x.devices {
				if d == (Address{c.peer, ef.Device}) {
					x.require(w.forgot || w.ghosts[i].consent&(1<<n) != 0, device, "opens its microphone for call %d, which nobody accepted", n)
				}
			}
			for _, l := range c.legs {
				x.require(l.device == 0 || l.device == ef.Device || l.over, device, "has two legs of call %d", n)
			}
		}
		g.opened |= 1 << n
		x.checkFlow(g, device, n, ef.Flow)
	case SetFlow:
		x.require(g.opened&(1<<ef.Call[0]) != 0, device, "sends in call %d before it is open", ef.Call[0])
		x.checkFlow(g, device, ef.Call[0], ef.Flow)
	case Missed:
		bit := uint8(1) << ef.Call[0]
		x.require(g.missed&bit == 0, device, "shows call %d as missed twice", ef.Call[0])
		x.require(g.consent&bit == 0, device, "shows call %d as missed, which its user accepted", ef.Call[0])
		g.missed |= bit
	case End:
		n := ef.Call[0]
		x.require(g.reasons[n] == NotEnded, device, "ends call %d twice", n)
		g.reasons[n] = ef.Reason
		if g.wants == n {
			g.wants = 0
		}
	}
	return w
}

// moved lets what was said of a call be said of the one that took its place.
func moved(bits byte, by Adopt) byte { return set(bits, by.New[0], bits&(1<<by.Old[0]) != 0) }

func (x *explorer) post(w world, to Address, r Received) world {
	if i := slices.Index(x.devices, to); i >= 0 && w.gone&(1<<i|1<<slices.Index(x.devices, r.From)) == 0 {
		return w.add(x.item(item{i, true, r}))
	}
	return w
}

func (x *explorer) checkFlow(g *ghost, device int, n byte, f Flow) {
	x.require(!f.Microphone || (g.muted|g.held)&(1<<n) == 0, device, "its microphone is open in call %d against its user's will", n)
	x.require(!f.Camera || g.shows&(1<<n) != 0, device, "its camera is on in call %d against its user's will", n)
	x.require(!f.Screen || g.shares&^g.held&(1<<n) != 0, device, "it shares its screen in call %d against its user's will", n)
}

func (x *explorer) checkEndpoint(device int, e *Endpoint) {
	open, unaccepted := 0, 0
	for i := range e.calls {
		c := &e.calls[i]
		if c.phase == free {
			continue
		}
		if c.foreground() {
			open++
		}
		if c.pending() {
			unaccepted++
		}
		waits := c.reachBy != 0 || c.ringBy != 0
		for _, l := range c.legs {
			x.require(c.opened || l.decipherBy+l.lostBy+l.retryBy == 0, device, "waits for media in call %d, which is not open", c.id[0])
			waits = waits || l.agreeBy != 0 || l.lostBy != 0
		}
		x.require(waits || c.opened && c.legs[c.chosenLeg()].connected, device, "waits for nothing in call %d", c.id[0])
	}
	x.require(open <= 1 && unaccepted <= 1, device, "has %d open and %d unaccepted calls", open, unaccepted)
}

func (x *explorer) require(holds bool, device int, format string, args ...any) {
	if !holds && x.problem == "" {
		x.problem = x.devices[device].String() + " " + fmt.Sprintf(format, args...)
	}
}

func (a Address) String() string { return fmt.Sprintf("%c%d", a.Account[0], a.Device) }
