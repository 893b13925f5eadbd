package signaling

import (
	"sync"

	"github.com/gorilla/websocket"
	"github.com/prometheus/client_golang/prometheus"

	"sotto/signaling/store"
)

// hub knows the one link of each device.
type hub struct {
	limit int
	gauge prometheus.Gauge

	mu     sync.Mutex
	links  map[store.Address]*link
	closed bool
}

func newHub(limit int, gauge prometheus.Gauge) *hub {
	return &hub{limit: limit, gauge: gauge, links: make(map[store.Address]*link)}
}

// add makes l the link of its device. A link that was there ends first, its unacknowledged envelopes back in the mailbox, so that
// what comes after them does not overtake them.
func (h *hub) add(l *link) error {
	for {
		h.mu.Lock()
		old := h.links[l.device.Address]
		switch {
		case h.closed:
			h.mu.Unlock()
			return errStopping
		case old == nil && len(h.links) >= h.limit:
			h.mu.Unlock()
			return errTooManyLinks
		case old == nil:
			h.links[l.device.Address] = l
			h.gauge.Set(float64(len(h.links)))
			h.mu.Unlock()
			return nil
		}
		h.mu.Unlock()
		old.end(errReplaced, websocket.ClosePolicyViolation)
	}
}

// remove forgets l, unless another took its place.
func (h *hub) remove(l *link) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.links[l.device.Address] == l {
		delete(h.links, l.device.Address)
		h.gauge.Set(float64(len(h.links)))
	}
}

func (h *hub) get(a store.Address) *link {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.links[a]
}

func (h *hub) all() []*link {
	h.mu.Lock()
	defer h.mu.Unlock()
	list := make([]*link, 0, len(h.links))
	for _, l := range h.links {
		list = append(list, l)
	}
	return list
}

// end tells every link that the server stops; there are no new ones.
func (h *hub) end() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	for _, l := range h.all() {
		l.end(errStopping, websocket.CloseGoingAway)
	}
}
