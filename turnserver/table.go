package turnserver

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"syscall"
)

var (
	errNoPort   = errors.New("no relayed port is free: widen their range or lower the bound of allocations")
	errNoFamily = errors.New("no relayed address of that family")
	errClosing  = errors.New("shutting down")
)

// relayAddr is an address that relayed ports are opened on, and the one that clients are told.
type relayAddr struct{ local, public netip.Addr }

// table knows every live relay. This machine's own addresses are reachable through the relay only by an entry here: a packet to or from one
// of them passes if its other end is a live allocation's port and is dropped otherwise, so neither our listening ports nor any other
// service of the machine can be spoken to, whatever ranges were opened.
type table struct {
	mu      sync.RWMutex
	local   map[netip.AddrPort]*relay
	public  map[netip.AddrPort]*relay
	count   map[netip.Addr]int // relays at each public address
	closing bool
	empty   chan struct{} // closed when it is closing and the last relay has gone
}

func newTable() *table {
	return &table{
		local:  make(map[netip.AddrPort]*relay),
		public: make(map[netip.AddrPort]*relay),
		count:  make(map[netip.Addr]int),
		empty:  make(chan struct{}),
	}
}

func (t *table) byLocal(a netip.AddrPort) *relay {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.local[a]
}

func (t *table) byPublic(a netip.AddrPort) *relay {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.public[a]
}

func (t *table) all() []*relay {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return slices.Collect(maps.Values(t.public))
}

// hasAnother says whether an address of ours can be a peer at all: whether a second client is relayed there. (A permission names no port.)
func (t *table) hasAnother(public netip.Addr) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.count[public] > 1
}

// open binds a relayed port: an unpredictable free one of the range (RFC 6056), or an even one of
// these. bind gives the relay a port at its local address.
func (t *table) open(s *Server, at relayAddr, even bool, bind func(*relay) error) (*relay, error) {
	ports := s.cfg.RelayPorts
	size := int(ports.Max) - int(ports.Min) + 1
	first := rand.IntN(size)
	for i := range size {
		port := uint16(int(ports.Min) + (first+i)%size)
		if even && port%2 != 0 || t.byPublic(netip.AddrPortFrom(at.public, port)) != nil {
			continue
		}
		r := &relay{s: s, local: netip.AddrPortFrom(at.local, port), public: netip.AddrPortFrom(at.public, port)}
		err := bind(r)
		if portTaken(err) {
			continue
		}
		if err != nil { // no descriptor, no such address: no other port would do better, and clients wait meanwhile
			return nil, cannotOpen(err)
		}
		if err := t.add(r); err != nil {
			r.port.close()
			return nil, err
		}
		return r, nil
	}
	return nil, errNoPort
}

// portTaken says whether another port may do better: this one is in use, or reserved. Winsock has its own numbers for the two.
func portTaken(err error) bool {
	for _, e := range []syscall.Errno{syscall.EADDRINUSE, syscall.EACCES, 10048, 10013} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// cannotOpen keeps the system's word and leaves out the address, since errors of the table are logged.
func cannotOpen(err error) error {
	if e := syscall.Errno(0); errors.As(err, &e) {
		return fmt.Errorf("cannot open a relayed port: %w", e)
	}
	return errors.New("cannot open a relayed port")
}

func (t *table) add(r *relay) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closing {
		return errClosing
	}
	if t.public[r.public] != nil {
		return errNoPort
	}
	t.local[r.local], t.public[r.public] = r, r
	t.count[r.public.Addr()]++
	return nil
}

func (t *table) remove(r *relay) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.local, r.local)
	delete(t.public, r.public)
	if t.count[r.public.Addr()]--; t.count[r.public.Addr()] == 0 {
		delete(t.count, r.public.Addr())
	}
	t.emptied()
}

// close refuses new relays, so that empty comes.
func (t *table) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closing {
		t.closing = true
		t.emptied()
	}
}

func (t *table) emptied() {
	if t.closing && len(t.public) == 0 {
		close(t.empty)
	}
}
