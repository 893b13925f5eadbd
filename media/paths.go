package media

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"sotto/media/netchange"
	"sotto/media/path"
)

// How media changes its path and goes on.
//
//  1. OpenPath makes a second ICE agent beside the first, under a generation higher than any before, and gathers. Its credentials and
//     candidates are brought to the peer, which does the same under the same generation.
//  2. ConnectPath takes the peer's credentials and starts the checks. If both ends opened the same generation at once, each takes what
//     the other sent for the answer to its own.
//  3. From the first pair that answered a check, what this end sends takes the new path. Datagrams are taken from every path.
//  4. When the new path is connected the older ones are closed, after a moment for what is under way on them.
//
// The cipher, its sequence numbers and replay windows know nothing of it. A path that fails while another one stands is dropped
// quietly; the session fails when the last path that was connected has had no consent for FailAfter.

const (
	pathGrace = 5 * time.Second // an older path stays so long, and until the newer one stands
	maxPaths  = 4               // of which one is in use, and others are being closed or made
)

var (
	errGeneration = errors.New("there is no path of this generation")
	errOld        = errors.New("a path's generation must be higher than those before")
	errNotYet     = errors.New("a further path can be opened between Connect and Close")
)

// route is one path of a session. Its state is guarded by Session.mu.
type route struct {
	generation uint32
	path       *path.Path
	preferred  [2]netip.Addr // by the system, when the path was begun
	stood      bool          // was connected
	stands     bool          // is
	failed     bool
}

func (r *route) ready() bool {
	select {
	case <-r.path.Ready():
		return true
	default:
		return false
	}
}

func (s *Session) newRoute(generation uint32, relays []Relay, onCandidate func(string)) (*route, error) {
	cfg := s.cfg
	r := &route{generation: generation}
	if cfg.Net == nil {
		r.preferred = netchange.Preferred()
	}
	var err error
	relayOnly := cfg.RelayOnly && !s.direct.Load()
	r.path, err = path.New(path.Config{
		Controlling: cfg.Controlling, Relays: relays, RelayOnly: relayOnly, Loopback: cfg.Loopback && !relayOnly, Avoid: s.left(r.preferred),
		RelayRoots: cfg.RelayRoots, LocalRelays: cfg.LocalRelays, OnRelayFailed: cfg.OnRelayFailed,
		InterruptedAfter: cfg.InterruptedAfter, ConsentTimeout: cfg.FailAfter,
		OnCandidate: onCandidate, OnState: func(state path.State, reason error) { s.pathState(r, state, reason) },
		Handle: s.handle, Log: cfg.Log, Net: cfg.Net,
	})
	return r, err
}

// left are the addresses that the system preferred when an earlier path was begun, and prefers no longer: they may still work, and a new
// path from there would not survive what is about to happen to them.
func (s *Session) left(preferred [2]netip.Addr) (left []netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.routes {
		for i, address := range r.preferred {
			if address.IsValid() && preferred[i].IsValid() && address != preferred[i] {
				left = append(left, address)
			}
		}
	}
	return left
}

// OpenPath begins to look for another path, beside the one in use, and returns this end's credentials for it. Its candidates are handed
// to Config.OnPathCandidate. Relays replace those of Config, whose credentials may have run out; nil keeps them. A path of an earlier
// generation that never came to stand is given up.
func (s *Session) OpenPath(generation uint32, relays []Relay) (ufrag, password string, err error) {
	if relays == nil {
		relays = s.cfg.Relays
	}
	s.opening.Lock()
	defer s.opening.Unlock()
	s.mu.Lock()
	open, newest := s.state == connecting || s.state == sending, s.routes[len(s.routes)-1].generation
	s.mu.Unlock()
	switch {
	case !open:
		return "", "", errNotYet
	case generation <= newest:
		return "", "", errOld
	}
	r, err := s.newRoute(generation, relays, func(candidate string) {
		if s.cfg.OnPathCandidate != nil {
			s.cfg.OnPathCandidate(generation, candidate)
		}
	})
	if err != nil {
		return "", "", err
	}
	s.mu.Lock()
	if s.state == closed {
		s.mu.Unlock()
		return "", "", errors.Join(errNotYet, r.path.Close())
	}
	for _, older := range s.routes {
		if !older.stood && older.generation > 0 || older.failed {
			s.drop(older)
		}
	}
	if len(s.routes) == maxPaths {
		s.drop(s.routes[0])
	}
	s.routes = append(s.routes, r)
	s.watchReady(r)
	accepted := s.accepted
	s.mu.Unlock()
	if accepted {
		r.path.Accepted()
	}
	ufrag, password = r.path.Credentials()
	return ufrag, password, r.path.Gather()
}

// AllowDirect ends Config.RelayOnly for the paths that are opened from now on.
func (s *Session) AllowDirect() { s.direct.Store(true) }

// ConnectPath takes the peer's credentials for a path that OpenPath began.
func (s *Session) ConnectPath(generation uint32, ufrag, password string) error {
	if !(Description{Ufrag: ufrag, Password: password}).validICE() {
		return errCredentials
	}
	r := s.route(generation)
	if r == nil || generation == 0 {
		return errGeneration
	}
	return r.path.Connect(ufrag, password)
}

// AddPathCandidate takes a candidate of the peer's for the path of that generation, once OpenPath began it.
func (s *Session) AddPathCandidate(generation uint32, candidate string) error {
	r := s.route(generation)
	if r == nil {
		return errGeneration
	}
	return r.path.AddRemoteCandidate(candidate)
}

// Generation is the highest that was opened.
func (s *Session) Generation() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.routes[len(s.routes)-1].generation
}

func (s *Session) route(generation uint32) *route {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.routes {
		if r.generation == generation {
			return r
		}
	}
	return nil
}

// watchReady takes the path from the moment that it can be written to. Session.mu is held.
func (s *Session) watchReady(r *route) {
	s.done.Add(1)
	go func() {
		defer s.done.Done()
		select {
		case <-s.ctx.Done():
			return
		case <-r.path.Ready():
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if !slices.Contains(s.routes, r) {
			return
		}
		s.choose()
		s.readyOnce.Do(func() { close(s.ready) })
	}()
}

// choose picks the path to write to: the newest that can be written to and is not silent, else the newest that is. Session.mu is held.
func (s *Session) choose() {
	best, rank := s.routes[len(s.routes)-1], -1
	for _, r := range s.routes { // oldest first
		of := 0
		switch {
		case r.failed || !r.ready():
			continue
		case r.stands || !r.stood:
			of = 1
		}
		if of >= rank {
			best, rank = r, of
		}
	}
	s.current.Store(best)
}

// drop closes a path beside the caller, for a close waits for callbacks. Session.mu is held.
func (s *Session) drop(r *route) {
	kept := s.routes[:0:0]
	for _, other := range s.routes {
		if other != r {
			kept = append(kept, other)
		}
	}
	if len(kept) == len(s.routes) || len(kept) == 0 || s.state == closed {
		return
	}
	s.routes = kept
	s.choose()
	s.done.Add(1)
	go func() {
		defer s.done.Done()
		_ = r.path.Close() // nothing is left of it to be told
	}()
}

// pathState turns what became of one path into what became of the connection.
func (s *Session) pathState(r *route, state path.State, reason error) {
	s.events.Lock() // events leave in the order of the states
	defer s.events.Unlock()
	var event Event
	s.mu.Lock()
	if !slices.Contains(s.routes, r) { // given up: it is being closed, and says nothing of the connection
		s.mu.Unlock()
		return
	}
	stood := s.stands()
	switch state {
	case path.Connected:
		first := !r.stood
		r.stands, r.stood = true, true
		s.choose()
		if s.counts.connectedAfter == 0 {
			s.counts.connectedAfter = time.Since(s.started)
			close(s.connected)
		}
		if first && s.state != closed {
			s.done.Add(1)
			go s.retireOlder(r)
		}
		if !stood {
			event = EventConnected
		} else if first {
			event = EventPathChanged
		}
	case path.Interrupted:
		r.stands = false
		s.choose()
		if stood && !s.stands() {
			event = EventInterrupted
		}
	case path.Failed:
		r.stands, r.failed = false, true
		s.choose()
		switch {
		case s.hopeBeside(r):
			s.drop(r)
			if stood && !s.stands() {
				event = EventInterrupted
			}
		case !s.failedOnce:
			s.failedOnce = true
			s.failed <- reason
			close(s.failed)
			event = EventFailed
		}
	}
	s.mu.Unlock()
	if event != 0 {
		s.report(event)
	}
}

// stands reports whether any path does. Session.mu is held.
func (s *Session) stands() bool {
	for _, r := range s.routes {
		if r.stands {
			return true
		}
	}
	return false
}

// hopeBeside reports whether the session goes on without path r: on another that was connected, or that may yet be, if r never was.
// Session.mu is held.
func (s *Session) hopeBeside(r *route) bool {
	for _, other := range s.routes {
		if other != r && !other.failed && (other.stood || !r.stood) {
			return true
		}
	}
	return false
}

// retireOlder closes the paths before r when r has stood for a while.
func (s *Session) retireOlder(r *route) {
	defer s.done.Done()
	ticker := time.NewTicker(pathGrace)
	defer ticker.Stop()
	for {
		select {
		case <-s.ctx.Done():
			return
		case <-ticker.C:
		}
		s.mu.Lock()
		there := slices.Contains(s.routes, r)
		if there && r.stands {
			for _, older := range s.routes {
				if older.generation < r.generation {
					s.drop(older)
				}
			}
		}
		over := !there || r.stands || r.failed
		s.mu.Unlock()
		if over {
			return
		}
	}
}
