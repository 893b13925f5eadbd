package xdp

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Mode is where on an interface the program runs.
type Mode string

const (
	// Best is native where that is sure to work, and otherwise generic.
	Best Mode = ""
	// Native: in the driver, before the system spends anything on a packet.
	Native Mode = "native"
	// Generic: any driver, at the door of the system. It costs the system's own packet structure.
	Generic Mode = "generic"
)

type attachment struct {
	link  link.Link // the program stays as long as this is referred to
	name  string
	mode  Mode
	veth  bool
	takes bool // what leaves by redirection: takesPackets
}

// Holders are the interfaces, loopback left out, that have one of these addresses.
func Holders(of map[netip.Addr]bool) (indexes []int, err error) {
	addresses, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("xdp: %w", err)
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("xdp: %w", err)
	}
	for _, i := range interfaces {
		holds := func(a netlink.Addr) bool {
			ip, _ := netip.AddrFromSlice(a.IP)
			return a.LinkIndex == i.Index && of[ip.Unmap()]
		}
		if i.Flags&net.FlagLoopback == 0 && slices.ContainsFunc(addresses, holds) {
			indexes = append(indexes, i.Index)
		}
	}
	return indexes, nil
}

// Attach puts the program on an interface, until Close or until the interface or this process goes. Another program that is there already stays, and
// is an error.
func (o *Offload) Attach(index int, want Mode) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.attached[index] != nil {
		return nil
	}
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		return fmt.Errorf("xdp: %w", err)
	}
	name := l.Attrs().Name
	if len(l.Attrs().HardwareAddr) != 6 || l.Attrs().EncapType != "ether" {
		return fmt.Errorf("xdp: %s is not an Ethernet interface", name)
	}
	veth, takes := l.Type() == "veth", takesPackets(index)
	modes := []Mode{Native, Generic}
	switch {
	case want != Best:
		modes = []Mode{want}
	case veth && !takes:
		modes = []Mode{Generic} // sent in the driver, packets would be lost
	}
	for _, mode := range modes {
		flags := link.XDPDriverMode
		if mode == Generic {
			flags = link.XDPGenericMode
		}
		var attached link.Link
		attached, err = link.AttachXDP(link.XDPOptions{Program: o.program, Interface: index, Flags: flags})
		if err == nil {
			o.attached[index] = &attachment{attached, name, mode, veth, takes}
			o.changes++
			return nil
		}
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("xdp: %s carries another XDP program already", name)
		}
	}
	return explain(err)
}

func (o *Offload) detach(index int) {
	_ = o.attached[index].link.Close()
	delete(o.attached, index)
	o.changes++
}

// Changes counts interfaces that came and went. After a change routes are others.
func (o *Offload) Changes() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.changes
}

// Keep takes the program off all interfaces but these.
func (o *Offload) Keep(indexes []int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for index := range o.attached {
		if !slices.Contains(indexes, index) {
			o.detach(index)
		}
	}
}

// Attached names the interfaces that carry the program, each with its mode.
func (o *Offload) Attached() (names []string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, a := range o.attached {
		names = append(names, fmt.Sprintf("%s (%s)", a.name, a.mode))
	}
	slices.Sort(names)
	return names
}

// Route is the way of a packet out of this machine.
type Route struct {
	next     netip.Addr
	out, mtu int
	leave    leave
}

// knownRoute is what the system said of a route, for a moment: many flows may be put at once.
type knownRoute struct {
	Route
	there   bool
	asked   time.Time
	changes int
}

const (
	routeLasts = time.Second
	maxRoutes  = 1024
)

// Route is the way from an address of ours. There is none that the program could take to this machine itself, through a tunnel, or over an
// interface without the program.
//
// The program does not ask for itself (bpf_fib_lookup) since the kernel answers only where forwarding is switched on, which makes the machine
// a router for everybody.
func (o *Offload) Route(from, to netip.Addr) (Route, bool) {
	ends, changes := [2]netip.Addr{from, to}, o.Changes()
	o.routing.Lock()
	r, known := o.routes[ends]
	o.routing.Unlock()
	if known && r.changes == changes && time.Since(r.asked) < routeLasts {
		return r.Route, r.there
	}
	r = knownRoute{asked: time.Now(), changes: changes}
	r.Route, r.there = o.askRoute(from, to)
	o.routing.Lock()
	defer o.routing.Unlock()
	if len(o.routes) >= maxRoutes {
		clear(o.routes)
	}
	o.routes[ends] = r
	return r.Route, r.there
}

func (o *Offload) askRoute(from, to netip.Addr) (Route, bool) {
	routes, err := netlink.RouteGetWithOptions(to.AsSlice(), &netlink.RouteGetOptions{SrcAddr: from.AsSlice()})
	if err != nil || len(routes) != 1 {
		return Route{}, false
	}
	r := routes[0]
	if r.Type != unix.RTN_UNICAST || r.Encap != nil || r.Via != nil || len(r.MultiPath) > 0 {
		return Route{}, false
	}
	how, attached := o.leaves(r.LinkIndex)
	if !attached {
		return Route{}, false
	}
	way := Route{next: to, out: r.LinkIndex, mtu: r.MTU, leave: how}
	if gateway, ok := netip.AddrFromSlice(r.Gw); ok {
		way.next = gateway.Unmap()
	}
	if way.mtu == 0 {
		l, err := netlink.LinkByIndex(r.LinkIndex)
		if err != nil {
			return Route{}, false
		}
		way.mtu = l.Attrs().MTU
	}
	return way, true
}

// leave is how packets leave by an interface; struct flow of relay.bpf.c has the same numbers.
type leave uint32

const (
	sentBack   leave = iota // XDP_TX: only those that came by it
	sentAcross              // others too, which are redirected
	redirected              // all are redirected
)

// leaves says how packets leave by an interface, and whether it carries the program at all.
//
// In native mode not every driver takes packets of other interfaces, and one that does not loses them silently. On a veth, what is sent back waits until
// something else wakes the other end, unless that has a program; for what is redirected it is woken.
func (o *Offload) leaves(index int) (how leave, attached bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	a := o.attached[index]
	if a == nil {
		return 0, false
	}
	if a.veth && a.mode == Native && a.takes {
		return redirected, true
	}
	for _, other := range o.attached {
		if other.mode != Generic && !a.takes {
			return sentBack, true
		}
	}
	return sentAcross, true
}

// reachable are the states in which the kernel itself sends to a neighbour without asking first.
const reachable = unix.NUD_PERMANENT | unix.NUD_NOARP | unix.NUD_REACHABLE | unix.NUD_STALE | unix.NUD_DELAY | unix.NUD_PROBE

// Refresh copies the kernel's neighbour table for the interfaces that carry the program. It is to be called again and again. Until a neighbour is in it,
// the system carries its packets. The kernel doubts a neighbour that it has not heard of for a while, but asks only when it sends to it
// itself; since the program sends instead, Refresh has it ask (NTF_USE).
func (o *Offload) Refresh() error {
	o.refreshing.Lock()
	defer o.refreshing.Unlock()
	o.mu.Lock()
	attached, used := maps.Clone(o.attached), maps.Clone(o.used)
	o.looked = time.Now()
	o.mu.Unlock()

	now := make(map[neighbour]hardware)
	var gone []int
	for index, a := range attached {
		l, err := netlink.LinkByIndex(index)
		switch {
		case errors.As(err, new(netlink.LinkNotFoundError)):
			gone = append(gone, index)
			continue
		case err != nil:
			return err
		case a.veth && a.takes != takesPackets(index): // the other end changed, and with it the best mode
			gone = append(gone, index)
			continue
		}
		all, err := netlink.NeighList(index, netlink.FAMILY_ALL)
		if err != nil {
			return err
		}
		for _, n := range all {
			ip, ok := netip.AddrFromSlice(n.IP)
			if ok && n.State&reachable != 0 && len(n.HardwareAddr) == 6 && len(l.Attrs().HardwareAddr) == 6 {
				k := neighbour{ip.As16(), uint32(index)}
				if n.State == unix.NUD_STALE && time.Since(used[k]) < time.Minute {
					_ = netlink.NeighSet(&netlink.Neigh{LinkIndex: index, IP: n.IP, Flags: unix.NTF_USE})
				}
				now[k] = hardware{[6]byte(n.HardwareAddr), [6]byte(l.Attrs().HardwareAddr)}
			}
		}
	}

	o.mu.Lock()
	defer o.mu.Unlock()
	for _, index := range gone {
		if o.attached[index] == attached[index] {
			o.detach(index)
		}
	}
	o.replace(now)
	return nil
}

// replace tells the program of the neighbours that there are.
func (o *Offload) replace(now map[neighbour]hardware) {
	maps.DeleteFunc(o.used, func(_ neighbour, last time.Time) bool { return time.Since(last) > time.Minute })
	for n, h := range now {
		if o.known[n] != h {
			if err := o.near.Put(&n, &h); err != nil {
				delete(now, n) // there is no room: its packets go the system's way
			}
		}
	}
	for n := range o.known {
		if _, there := now[n]; !there {
			_ = o.near.Delete(&n)
		}
	}
	o.known = now
}

// needs notes that a flow uses a neighbour. A new one is looked for at once: packets that change from the sockets to the driver half a second later
// could overtake each other. But not at once each time: it may be one that does not exist.
func (o *Offload) needs(n neighbour) {
	o.mu.Lock()
	o.used[n] = time.Now()
	_, there := o.known[n]
	look := !there && time.Since(o.looked) > lookAgain
	o.mu.Unlock()
	if look {
		_ = o.Refresh() // the next one tries again
	}
}

const lookAgain = 100 * time.Millisecond
