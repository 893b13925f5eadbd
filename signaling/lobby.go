package signaling

import (
	"io"
	"net/netip"
	"sync"
	"time"
)

// A lobby is where links wait that have not authenticated. Its places are bounded
// (Limits.Unauthenticated), and idle connections would fill them all. So when there is no room the
// one that has been silent longest makes some: of the source that asks, if that has as many as it
// may have; otherwise of the source that has the most. A device needs a round trip or two to
// authenticate, and keeps its place for the first seconds whatever comes. Who has sent its
// signature is not asked to go.
type lobby struct {
	*crowd
	grace time.Duration

	mu     sync.Mutex
	guests []*waiting // oldest first
}

// waiting is one link in the lobby.
type waiting struct {
	from  source
	since time.Time
	conn  io.Closer
	leave func() // gives the place back, once
	heard bool   // it has sent something, which is being looked at
	gone  bool   // it was asked to go
}

// enter takes a place, if need be that of somebody who was silent for long.
func (l *lobby) enter(from source, now time.Time) bool {
	return l.crowd.enter(from) || l.makeRoom(from, now) && l.crowd.enter(from)
}

// wait notes whose place it is.
func (l *lobby) wait(from source, conn io.Closer, now time.Time) *waiting {
	w := &waiting{from: from, since: now, conn: conn, leave: sync.OnceFunc(func() { l.crowd.leave(from) })}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.guests = append(l.guests, w)
	return w
}

// hear notes that a link is not silent any more. It reports false for one that was asked to go.
func (l *lobby) hear(w *waiting) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	w.heard = true
	return !w.gone
}

// done gives the place of a link back that has authenticated, or ended.
func (l *lobby) done(w *waiting) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.remove(w)
	w.leave()
}

func (l *lobby) remove(w *waiting) {
	for i, other := range l.guests {
		if other == w {
			l.guests = append(l.guests[:i], l.guests[i+1:]...)
			return
		}
	}
}

// makeRoom ends the link of somebody who may be asked to go.
func (l *lobby) makeRoom(from source, now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	count := map[netip.Prefix]int{}
	for _, w := range l.guests {
		count[w.from.near]++
	}
	near, wide := l.crowd.full(from)
	var chosen *waiting
	for _, w := range l.guests {
		if now.Sub(w.since) < l.grace {
			break // and so for all that came later
		}
		switch {
		case w.heard:
		case near && w.from.near != from.near: // another's place would not help
		case wide && w.from.wide != from.wide:
		case chosen == nil || count[w.from.near] > count[chosen.from.near]:
			chosen = w
		}
	}
	if chosen == nil {
		return false
	}
	l.remove(chosen)
	chosen.gone = true
	chosen.leave()
	_ = chosen.conn.Close()
	return true
}
