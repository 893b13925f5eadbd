package path

import (
	"net/netip"
	"slices"

	"github.com/pion/transport/v4"

	"sotto/internal/routable"
)

// Interfaces that lead nowhere: a machine with containers or virtual machines has a dozen bridges,
// each with an address that the peer cannot reach, and often the peer has bridges of the same
// addresses. Announced, they would make a hundred and more pairs, each checked every 20 ms, and the
// one pair that works would drown in them for seconds.
//
//  1. An interface is a dead end if the system routes nothing over it but the networks it is in,
//     while others lead further. What is on the same link as a relay is none.
//  2. Dead ends are not announced. Sockets on them are opened all the same, so that a peer on the
//     link, a container for instance, is reached at the address it announces, and learns ours.
//  3. If no pair has answered after lateAfter they are announced: two machines may share a cable
//     and nothing else.
//  4. A candidate of the peer's is not paired if it is the address of a dead end of our own, or
//     private and there is no route to it.

// An attachment is an address of an interface, with the network that it is in.
type attachment struct {
	index   int // of the interface
	network netip.Prefix
}

// A route says that the system sends what is for a network over an interface.
type route struct {
	index int
	to    netip.Prefix
}

// deadEnds is step 1: the networks that only their own link is reached in.
func deadEnds(attached []attachment, routes []route, relays []netip.Addr) (dead []netip.Prefix) {
	type side struct {
		index int
		four  bool
	}
	leads := map[side]bool{}
	for _, r := range routes {
		own := func(a attachment) bool { return a.index == r.index && a.network.Masked() == r.to }
		if !slices.ContainsFunc(attached, own) {
			leads[side{r.index, r.to.Addr().Is4()}] = true
		}
	}
	if len(leads) == 0 {
		return nil // a network without a router: there is nothing better
	}
	for _, a := range attached {
		switch {
		case leads[side{a.index, a.network.Addr().Is4()}]:
		case slices.ContainsFunc(relays, a.network.Contains):
		default:
			dead = append(dead, a.network)
		}
	}
	return dead
}

// attachments are the addresses of interfaces beyond this machine.
func attachments(interfaces []*transport.Interface) (all []attachment) {
	for _, i := range interfaces {
		addresses, err := i.Addrs()
		if err != nil {
			continue
		}
		for _, address := range addresses {
			network, err := netip.ParsePrefix(address.String())
			if a := network.Addr(); err == nil && !a.IsLoopback() && !a.IsLinkLocalUnicast() {
				all = append(all, attachment{i.Index, network})
			}
		}
	}
	return all
}

// findDeadEnds asks the system. Where it does not tell, there are none.
func findDeadEnds(machine transport.Net, relays *relayDialer) []netip.Prefix {
	interfaces, err := machine.Interfaces()
	if err != nil {
		return nil
	}
	var at []netip.Addr
	for _, uri := range relays.uris {
		if a, err := netip.ParseAddr(uri.Host); err == nil {
			at = append(at, a.Unmap())
		}
	}
	return deadEnds(attachments(interfaces), systemRoutes(), at)
}

// atDeadEnd reports whether an address is this device's own at a dead end.
func (p *Path) atDeadEnd(a netip.Addr) bool {
	return slices.ContainsFunc(p.dead, func(n netip.Prefix) bool { return n.Addr() == a })
}

// announce hands a candidate of this end's out, or keeps it for step 3.
func (p *Path) announce(candidate string, dead bool) {
	p.mu.Lock()
	wait := dead && !p.late
	if wait {
		p.held = append(p.held, candidate)
	}
	p.mu.Unlock()
	if !wait {
		p.cfg.OnCandidate(candidate)
	}
}

// announceHeld is step 3.
func (p *Path) announceHeld() {
	p.mu.Lock()
	held := p.held
	p.held, p.late = nil, true
	p.mu.Unlock()
	for _, candidate := range held {
		p.cfg.OnCandidate(candidate)
	}
}

// leadsNowhere is step 4. It asks the routing table only: nothing is sent. What is globally routable
// may be reached by a relay of the other family, if not from here.
func (p *Path) leadsNowhere(a netip.Addr) bool {
	if p.atDeadEnd(a) {
		return true
	}
	if p.dead == nil || routable.Global(a) || p.cfg.LocalRelays && len(p.relays.relays) > 0 {
		return false
	}
	conn, err := p.relays.net.Dial("udp", netip.AddrPortFrom(a, discardPort).String())
	if err == nil {
		_ = conn.Close() // nothing was sent
	}
	return err != nil && passes(err)
}

const discardPort = 9 // RFC 863
