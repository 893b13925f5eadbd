package turnserver

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"
	"unsafe"

	"sotto/turnserver/internal/xdp"
)

// offload has the network driver carry what needs no thought (package xdp), beside either data plane:
//
//  1. start puts the program on the interfaces of the listening and relayed addresses.
//  2. open notes a new allocation whose packets it may carry. What they cost is paid from the same accounts (account.go).
//  3. put: a permission was granted, and with it a channel is open until then. Policy is asked here, before the driver learns of it.
//  4. drop: the channel is over. release: the allocation is.
//  5. watch brings what changes by itself: time, neighbours, interfaces, routes, policy.
//
// The driver hands everything else to the sockets, where it meets channel.go as always.
type offload struct {
	s *Server
	x *xdp.Offload

	mu      sync.Mutex // held while x is used
	over    bool       // x is closed
	flows   map[*channel][2]xdp.Key
	relays  map[*relay]struct{}
	counted [2]xdp.Tally
	full    bool
}

const (
	offloadTick  = 500 * time.Millisecond // how long the driver may go on by an old clock or an old neighbour
	offloadRound = 30 * time.Second       // how long by an old route or policy, as watchAddresses
)

// startOffload returns nil with the reason if the driver is not to be had.
func (s *Server) startOffload() (*offload, error) {
	accounts := max(1, s.accounts.bounded()*s.cfg.MaxAllocations)
	cfg := xdp.Config{Accounts: accounts, Flows: 8 * s.cfg.MaxAllocations, LongestDatagram: maxDatagram}
	for i, r := range s.accounts.rates {
		cfg.Rates[i] = xdp.Rate{
			Byte: each(r.bytes), ByteBurst: time.Duration(r.bytes) * each(r.bytes),
			Packet: each(r.packets), PacketBurst: time.Duration(r.packets) * each(r.packets),
		}
	}
	x, err := xdp.Load(cfg)
	if err != nil {
		return nil, err
	}
	o := &offload{s: s, x: x, flows: make(map[*channel][2]xdp.Key), relays: make(map[*relay]struct{})}
	err = o.attach()
	if len(x.Attached()) == 0 {
		x.Close()
		return nil, err
	}
	if err != nil {
		s.log.Warn("offload: not on every interface", "error", err)
	}
	s.accounts.share(func(n uint32) *tokens { return (*tokens)(unsafe.Pointer(x.Account(n))) }, accounts) // a bucket is its word
	o.tick()
	s.tasks.Add(1)
	go o.watch()
	return o, nil
}

// attach puts the program on the interfaces that have our addresses now.
func (o *offload) attach() error {
	ours := make(map[netip.Addr]bool)
	for _, r := range o.s.relays {
		ours[r.local] = true
	}
	for _, a := range o.s.addrs.UDP {
		ours[a.Addr()] = true
	}
	interfaces, err := net.Interfaces()
	if err != nil {
		return err
	}
	var errs []error
	var keep []int
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		if err != nil || i.Flags&net.FlagLoopback != 0 {
			continue
		}
		for _, a := range addrs {
			n, ok := a.(*net.IPNet)
			if !ok || !ours[fromIP(n.IP)] {
				continue
			}
			keep = append(keep, i.Index)
			if err := o.x.Attach(i.Index, xdp.Mode(o.s.cfg.tune.offloadMode)); err != nil {
				errs = append(errs, err)
			}
			break
		}
	}
	o.x.Keep(keep)
	if len(keep) == 0 {
		return errors.New("no interface but loopback has an address of the relay")
	}
	return errors.Join(errs...)
}

func (o *offload) watch() {
	defer o.s.tasks.Done()
	tick, round := time.NewTicker(offloadTick), time.NewTicker(offloadRound)
	defer tick.Stop()
	defer round.Stop()
	changes := o.x.Changes()
	for {
		select {
		case <-tick.C:
			o.tick()
		case <-round.C:
			o.again()
		case <-o.s.stop:
			o.close()
			return
		}
		if now := o.x.Changes(); now != changes {
			o.s.log.Info("offload: interfaces changed: " + o.describe())
			changes = now
			o.again()
		}
	}
}

// tick tells the driver what may have changed and asks what it did.
func (o *offload) tick() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over {
		return
	}
	if err := errors.Join(o.x.SetClock(o.s.now()), o.attach(), o.x.Refresh()); err != nil {
		o.s.log.Debug("offload", "error", err)
	}
	o.counts()
}

// close ends the offload. Allocations may end later.
func (o *offload) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.counts()
	o.x.Close()
	o.over = true
}

// count adds what the driver carried to the metrics.
func (o *offload) count() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.over {
		o.counts()
	}
}

func (o *offload) counts() {
	now, m := o.x.Carried(), o.s.metrics
	m.toPeer.Add(float64(now[toPeer].Packets - o.counted[toPeer].Packets))
	m.toPeerBytes.Add(float64(now[toPeer].Bytes - o.counted[toPeer].Bytes))
	m.fromPeer.Add(float64(now[fromPeer].Packets - o.counted[fromPeer].Packets))
	m.fromPeerBytes.Add(float64(now[fromPeer].Bytes - o.counted[fromPeer].Bytes))
	o.counted = now
}

// again puts every channel once more, by the routes and the policy of now.
func (o *offload) again() {
	o.mu.Lock()
	relays := make([]*relay, 0, len(o.relays))
	for r := range o.relays {
		relays = append(relays, r)
	}
	o.full = false
	o.mu.Unlock()
	for _, r := range relays {
		r.mu.Lock()
		for _, ch := range r.byNumber {
			o.put(r, ch)
		}
		r.mu.Unlock()
	}
}

// open notes a relay. Only of those are packets ever offloaded whose clients come by plain UDP: the driver knows neither TCP nor TLS nor DTLS, and
// would send in the clear what belongs inside.
func (o *offload) open(r *relay) {
	if o == nil || !offloadable(r) {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.relays[r] = struct{}{}
}

func offloadable(r *relay) bool {
	_, plainUDP := r.frontend.socket.(udpListener)
	return plainUDP
}

// put opens a channel in the driver for as long as its permission lasts; r.mu is held for writing.
func (o *offload) put(r *relay, ch *channel) {
	if o == nil {
		return
	}
	until := time.Unix(0, ch.permission.until.Load())
	j := r.s.policy.judge(ch.peer.Addr())
	listener := r.frontend.local
	if listener.Addr().IsUnspecified() { // the address that the system would answer from
		listener = netip.AddrPortFrom(defaultSource("udp", r.client.String()), listener.Port())
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	numbers, ok := r.numbers()
	if _, known := o.relays[r]; !known || !ok || o.over {
		return
	}
	toClient, near := o.x.Route(listener.Addr(), r.client.Addr())
	if !until.After(o.s.now()) || !j.allowed || !near || r.client.Addr().Is4() != r.local.Addr().Is4() {
		o.delete(ch)
		return
	}
	up := xdp.Flow{From: r.local, To: ch.peer, Until: until, Payers: numbers}
	down := xdp.Flow{From: listener, To: r.client, Channel: ch.number, Until: until, Payers: numbers, Route: toClient}
	keys := [2]xdp.Key{{Remote: r.client, Local: listener, Channel: ch.number}, {Remote: ch.peer, Local: r.local}}
	if j.own {
		up.From, up.Hairpin = r.public, true
		keys[fromPeer] = xdp.Key{Remote: ch.peer, Local: r.public, Inside: true}
	} else if up.Route, ok = o.x.Route(r.local.Addr(), ch.peer.Addr()); !ok {
		o.delete(ch)
		return
	}
	if o.flows[ch] != keys {
		o.delete(ch)
	}
	o.flows[ch] = keys
	if err := errors.Join(o.x.Put(keys[toPeer], up), o.x.Put(keys[fromPeer], down)); err != nil && !o.full {
		o.full = true
		o.s.log.Warn("offload: no room for more flows; the sockets carry the others", "error", err)
	}
}

// drop closes a channel in the driver.
func (o *offload) drop(ch *channel) {
	if o == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.delete(ch)
}

func (o *offload) delete(ch *channel) {
	if keys, ok := o.flows[ch]; ok && !o.over {
		delete(o.flows, ch)
		o.x.Delete(keys[toPeer])
		o.x.Delete(keys[fromPeer])
	}
}

func (o *offload) release(r *relay) {
	if o == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.relays, r)
}

func (o *offload) describe() string {
	if names := o.x.Attached(); len(names) > 0 {
		return fmt.Sprintf("XDP on %s", strings.Join(names, ", "))
	}
	return "no interface"
}
