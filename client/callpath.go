package client

import (
	"context"
	"errors"
	"slices"
	"time"

	"sotto/client/callflow"
	"sotto/media"
	"sotto/wire"
)

const (
	maxRelays     = 8
	maxUnusable   = 2 * maxRelays    // of which it is kept why
	relayPatience = 5 * time.Second  // how long a call waits for relay credentials before it does without
	relayMargin   = 30 * time.Second // credentials that last no longer are not begun with

	linkPause = 100 * time.Millisecond // until the next look whether there is a link

	// A path that the peer begins costs sockets and allocations at relays. Of more than some at once, and then one in a second, the newest waits.
	restartEvery = time.Second
	restartBurst = 4
)

// relays are where a call's media may go through.
type relays struct {
	list  []media.Relay
	until time.Time // that is how long the credentials last
	renew time.Time // others are to be asked for then; zero: the server has no relay
}

// fetchRelays asks for credentials, which last for the setting up of one call.
func (c *Client) fetchRelays(ctx context.Context) (r relays) {
	reply, err := c.askForRelays(ctx)
	switch {
	case refused(err, wire.Error_NOT_FOUND):
		return r
	case err != nil:
		c.log.Info("there are no relay credentials for this call yet")
		r.renew = c.now().Add(max(c.timing.relays, retryAfter(err)))
		return r
	}
	credentials := reply.GetRelayCredentials()
	if credentials.GetExpiresAt() <= maxTimestamp {
		r.until = fromTimestamp(credentials.GetExpiresAt())
	}
	for _, u := range credentials.GetUrls() {
		if len(r.list) < maxRelays {
			r.list = append(r.list, media.Relay{URL: u, Username: credentials.GetUsername(), Password: credentials.GetPassword()})
		}
	}
	r.renew = c.now().Add(max(c.timing.relays, r.until.Sub(c.now())/2))
	return r
}

// serverIsLocal says whether the server was last reached at a private or local address: then its relays
// may be there, too. One that the whole internet reaches has no business in this device's own
// network.
func (c *Client) serverIsLocal() bool {
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	return c.options.Loopback || c.link.local
}

// askForRelays asks again over the next link if the one there is breaks: it often does just when a path has to be found.
func (c *Client) askForRelays(ctx context.Context) (*wire.ServerFrame, error) {
	ctx, cancel := context.WithTimeout(ctx, relayPatience)
	defer cancel()
	for {
		reply, err := c.request(ctx, &wire.ClientFrame{Body: &wire.ClientFrame_GetRelay{GetRelay: &wire.GetRelayCredentials{}}})
		if err != errLinkDown {
			return reply, err
		}
		select {
		case <-time.After(linkPause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

// keepRelays replaces the credentials of a call when half their time is over, and fetches some if there were none yet, as long as the call
// lasts: a path that breaks later is replaced with those that are there.
func (s *calls) keepRelays(l *leg) {
	renew, ctx := l.relays.renew, l.o.call.ctx
	s.running.Go(func() {
		for !renew.IsZero() {
			select {
			case <-time.After(renew.Sub(s.c.now())):
			case <-ctx.Done():
				return
			}
			fresh := s.c.fetchRelays(ctx)
			renew = fresh.renew
			s.box.post(func() { l.takeRelays(fresh) })
		}
	})
}

func (l *leg) takeRelays(fresh relays) {
	if len(fresh.list) > 0 && fresh.until.After(l.relays.until) {
		l.relays = fresh
	}
}

// A RelayFailure is a relay that a call could not use.
type RelayFailure struct {
	URL string
	Err error // why, in a sentence about "it"
}

// relayFailed notes why a relay is of no use. One that refuses its credentials may have been
// started anew with another secret: others are fetched, and another path is begun with them.
func (s *calls) relayFailed(l *leg, url string, why error) {
	if errors.Is(why, media.ErrRelayCredentials) && !l.refused {
		l.refused = true
		s.replaceRelays(l)
	}
	for i := range l.unusable {
		if l.unusable[i].URL == url {
			l.unusable[i].Err = why
			return
		}
	}
	if len(l.unusable) == maxUnusable { // the server renews them for as long as the call lasts
		l.unusable = slices.Delete(l.unusable, 0, 1)
	}
	l.unusable = append(l.unusable, RelayFailure{url, why})
}

func (s *calls) replaceRelays(l *leg) {
	ctx, pause := l.o.call.ctx, s.c.timing.relays
	s.running.Go(func() {
		fresh := s.c.fetchRelays(ctx)
		s.box.post(func() {
			if s.legOf(l.at.Call, l.at.Device) != l || len(fresh.list) == 0 {
				return
			}
			l.relays = fresh
			s.step(callflow.Stalled(l.at))
		})
		select { // what is refused as well is not asked about again at once
		case <-time.After(pause):
			s.box.post(func() { l.refused = false })
		case <-ctx.Done():
		}
	})
}

// awaitPath tells the program if an accepted call has no path for a while.
func (s *calls) awaitPath(o *ongoing) {
	l, after := o.chosen, s.c.timing.pathless
	s.running.Go(func() {
		select {
		case <-time.After(after):
		case <-o.call.ctx.Done(): // whose media session must not be kept in memory for this
			return
		}
		s.box.post(func() {
			if s.legOf(l.at.Call, l.at.Device) == l && !o.connected {
				o.call.emit(NoPath{Relays: slices.Clone(l.unusable)})
			}
		})
	})
}

// restartPath begins another path beside the one there is. It does not wait for the server if it need not: the link to that has probably
// broken as well.
func (s *calls) restartPath(l *leg, generation uint32) {
	l.begun = generation
	known, ctx := l.relays, l.o.call.ctx
	stale := len(known.list) > 0 && s.c.now().Add(relayMargin).After(known.until)
	s.running.Go(func() {
		if stale {
			if fresh := s.c.fetchRelays(ctx); len(fresh.list) > 0 {
				known = fresh
			}
		}
		ufrag, password, err := l.session.OpenPath(generation, known.list)
		s.box.post(func() {
			switch {
			case s.legOf(l.at.Call, l.at.Device) != l:
			case err != nil: // the network may be away; the flow tries again
				s.c.log.Info("another path cannot be begun yet")
			default:
				s.pathReady(l, known, callflow.Path{Generation: generation, Ufrag: ufrag, Password: password})
			}
		})
	})
}

// goDirect looks for a direct path as soon as a stranger's call is accepted, which this device's
// user had to do before its address may show. It does not wait for media: the relay may be out of
// reach, and the caller may send nothing.
func (s *calls) goDirect(l *leg) {
	o := l.o
	if !l.relayOnly || o.relayOnly || !o.allowed {
		return
	}
	l.mu.Lock()
	l.relayOnly = false
	l.mu.Unlock()
	l.session.AllowDirect()
	s.box.post(func() {
		if s.legOf(l.at.Call, l.at.Device) == l {
			s.step(callflow.DirectAllowed(l.at))
		}
	})
}

// pathReady sends this end's half of a path, and joins it to the peer's if that came before.
func (s *calls) pathReady(l *leg, used relays, ours callflow.Path) {
	l.takeRelays(used)
	s.step(callflow.PathReady{Call: l.at.Call, Device: l.at.Device, Path: ours})
	if s.legOf(l.at.Call, l.at.Device) != l {
		return
	}
	l.retryEarly()
	if theirs, ok := l.halves[ours.Generation]; ok {
		l.connectPath(theirs)
	}
	for generation := range l.halves {
		if generation <= ours.Generation {
			delete(l.halves, generation)
		}
	}
}

// connectPath joins the peer's half of a path to this end's, or keeps it until there is one. A half that cannot be used is the peer's
// to replace.
func (l *leg) connectPath(theirs callflow.Path) {
	if theirs.Generation > l.session.Generation() {
		l.halves[theirs.Generation] = theirs
		return
	}
	_ = l.session.ConnectPath(theirs.Generation, theirs.Ufrag, theirs.Password)
}

// mayPass reports whether a peer's half of a path may be looked at now. It may if it begins nothing: it is late, or this end has begun the
// same path. Of others that come too fast the newest is looked at later.
func (s *calls) mayPass(l *leg, generation uint32, half callflow.Received) bool {
	if generation <= l.begun {
		return true
	}
	now := s.now()
	at := max(l.restarts, now-restartBurst*restartEvery) + restartEvery
	if at <= now {
		l.restarts = at
		return true
	}
	waiting, ok := l.later.Message.(callflow.Path)
	if !ok {
		time.AfterFunc(at-now, func() { s.box.post(func() { s.passLater(l) }) })
	}
	if !ok || generation > waiting.Generation {
		l.later = half
	}
	return false
}

func (s *calls) passLater(l *leg) {
	half := l.later
	l.later = callflow.Received{}
	if s.legOf(l.at.Call, l.at.Device) == l && s.mayPass(l, half.Message.(callflow.Path).Generation, half) {
		s.step(half)
	}
}
