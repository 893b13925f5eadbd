package turnserver

import (
	"net/netip"
	"slices"
	"time"
)

// A relay that listens on all addresses relays at that which packets to the internet leave from,
// and follows it when it changes (DHCP, a new prefix, another uplink):
//
//  1. Every few seconds look compares the addresses of the interfaces, and the sources of the
//     default routes, with what they were.
//  2. New allocations are made at the new address. Moved says that URLs has changed.
//  3. Allocations at an address that two looks have not found on any interface end. Those at one
//     that is merely not the default any more go on.
//
// While there is no address at all everything stays as it was: the link may come back.
type moves struct {
	told chan struct{}       // Moved
	gone map[netip.Addr]bool // of allocations, at the last look
}

// Moved gets a value when the relay's own addresses have changed, and so its URLs. It is closed
// when the relay ends.
func (s *Server) Moved() <-chan struct{} { return s.moves.told }

// watchAddresses also follows which addresses are this machine's, which no client may reach.
func (s *Server) watchAddresses() {
	defer s.tasks.Done()
	defer close(s.moves.told)
	tick := time.NewTicker(s.cfg.tune.look)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.look()
		case <-s.stop:
			return
		}
	}
}

func (s *Server) look() {
	s.policy.refresh(s.ours())
	relays, err := s.relayAddrs(s.addrs.all())
	if err != nil {
		return
	}
	if !slices.Equal(relays, *s.relays.Load()) {
		s.relays.Store(&relays)
		s.policy.refresh(s.ours())
		s.log.Info("the relay's own address has changed", "addresses", len(relays))
		select {
		case s.moves.told <- struct{}{}:
		default: // who is told looks at what is now
		}
	}
	s.endGone(relays)
}

func (s *Server) endGone(relays []relayAddr) {
	present, gone, ended := s.policy.local.Load().present, make(map[netip.Addr]bool), 0
	for _, r := range s.table.all() {
		at := r.local.Addr()
		if present[at] || slices.ContainsFunc(relays, func(a relayAddr) bool { return a.local == at }) {
			continue
		}
		gone[at] = true
		if s.moves.gone[at] && s.endOne(r) {
			ended++
		}
	}
	s.moves.gone = gone
	if ended > 0 {
		s.log.Warn("allocations end with the address that they were at", "allocations", ended)
	}
}

func (s *Server) endOne(r *relay) bool {
	r.live.RLock()
	f := r.frontend
	r.live.RUnlock()
	if f != nil { // else it is about to be made, and the next look finds it
		f.end(r)
	}
	return f != nil
}

// ours are addresses of this machine that may be on no interface: what we listen on and what the
// internet knows us by.
func (s *Server) ours() (ours []netip.Addr) {
	for _, a := range s.addrs.all() {
		if !a.Addr().IsUnspecified() {
			ours = append(ours, a.Addr())
		}
	}
	for _, r := range *s.relays.Load() {
		ours = append(ours, r.public)
	}
	return ours
}
