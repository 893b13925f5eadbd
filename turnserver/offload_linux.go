package turnserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
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
//  3. permit: a permission was granted, and with it a channel is open until then. put asks policy, before the driver learns of it.
//  4. drop: the channel is over. release: the allocation is.
//  5. watch brings what changes by itself: time, neighbours, interfaces, routes, policy.
//
// The driver hands everything else to the sockets, where it meets channel.go as always.
type offload struct {
	s *Server
	x *xdp.Offload

	mu      sync.Mutex // held while flows change
	over    bool       // x is closed
	flows   map[*channel]*carried
	relays  map[*relay]struct{}
	left    map[*channel]string // why the driver does not carry a channel
	counted [2]xdp.Tally
	passed  [len(xdp.Reasons)]uint64
	full    bool
}

// carried is a channel in the driver, by direction.
type carried struct {
	keys  [2]xdp.Key
	flows [2]xdp.Flow
}

const (
	offloadTick  = 500 * time.Millisecond // how long the driver may go on by an old clock or an old neighbour
	offloadRound = 30 * time.Second       // how long by an old route or policy, as watchAddresses
	offloadLag   = time.Second            // how much earlier than the permission the driver may stop
	offloadSays  = time.Hour              // how often the log tells what it carried
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
	o := &offload{
		s: s, x: x, flows: make(map[*channel]*carried), relays: make(map[*relay]struct{}),
		left: make(map[*channel]string),
	}
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
	for _, r := range *o.s.relays.Load() {
		ours[r.local] = true
	}
	for _, a := range o.s.addrs.UDP {
		ours[a.Addr()] = true
	}
	keep, err := xdp.Holders(ours)
	if err != nil {
		return err
	}
	var errs []error
	for _, index := range keep {
		if err := o.x.Attach(index, xdp.Mode(o.s.cfg.tune.offloadMode)); err != nil {
			errs = append(errs, err)
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
	says := time.NewTicker(offloadSays)
	defer tick.Stop()
	defer round.Stop()
	defer says.Stop()
	changes := o.x.Changes()
	for {
		select {
		case <-tick.C:
			o.tick()
		case <-round.C:
			o.again()
		case <-says.C:
			o.say()
		case <-o.s.stop:
			o.close()
			return
		}
		if now := o.x.Changes(); now != changes {
			level := slog.LevelInfo
			if len(o.x.Attached()) == 0 {
				level = slog.LevelWarn
			}
			o.s.log.Log(context.Background(), level, "offload: interfaces changed: "+o.describe())
			changes = now
			o.again()
		}
	}
}

// tick tells the driver what may have changed and asks what it did.
func (o *offload) tick() {
	if err := errors.Join(o.x.SetClock(o.s.now()), o.attach(), o.x.Refresh()); err != nil {
		o.s.log.Debug("offload", "error", err)
	}
	o.count()
}

// close ends the offload. Allocations may end later.
func (o *offload) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.counts()
	o.summarize()
	o.x.Close()
	o.over = true
}

func (o *offload) say() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.counts()
	o.summarize()
}

// summarize logs what the driver has carried since the start, and why not the rest.
func (o *offload) summarize() {
	args := []any{"to_peer", o.counted[toPeer].Packets, "from_peer", o.counted[fromPeer].Packets}
	for i, reason := range xdp.Reasons {
		if n := o.passed[i]; n > 0 {
			args = append(args, "left_"+reason, n)
		}
	}
	o.s.log.Info("offload: packets that the driver carried, and left to the sockets", args...)
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
	more := func(d direction) (packets, bytes float64) {
		return float64(now[d].Packets - o.counted[d].Packets), float64(now[d].Bytes - o.counted[d].Bytes)
	}
	packets, bytes := more(toPeer)
	m.toPeer.Add(packets)
	m.toPeerBytes.Add(bytes)
	m.offloaded.WithLabelValues("to_peer").Add(packets)
	packets, bytes = more(fromPeer)
	m.fromPeer.Add(packets)
	m.fromPeerBytes.Add(bytes)
	m.offloaded.WithLabelValues("from_peer").Add(packets)
	o.counted = now

	passed := o.x.Passed()
	for i, reason := range xdp.Reasons {
		m.notOffloaded.WithLabelValues(reason).Add(float64(passed[i] - o.passed[i]))
	}
	o.passed = passed

	channels := map[string]int{"carried": len(o.flows)}
	for _, reason := range reasonsLeft {
		channels[reason] = 0
	}
	for _, reason := range o.left {
		channels[reason]++
	}
	for state, n := range channels {
		m.offloadChannels.WithLabelValues(state).Set(float64(n))
	}
}

// Why a channel is not the driver's.
const (
	leftTransport = "transport" // its client comes by TCP, TLS or DTLS
	leftFamily    = "family"    // client and relayed address are of different families
	leftRoute     = "route"     // the driver cannot send that way
	leftFull      = "full"      // there is no room in its tables
)

var reasonsLeft = []string{leftTransport, leftFamily, leftRoute, leftFull}

// again puts every channel once more, by the routes and the policy of now.
func (o *offload) again() {
	if o == nil {
		return
	}
	o.mu.Lock()
	relays := make([]*relay, 0, len(o.relays))
	for r := range o.relays {
		relays = append(relays, r)
	}
	o.full = false
	o.mu.Unlock()
	for _, r := range relays {
		r.mu.RLock()
		channels := slices.Clone(r.byNumber)
		r.mu.RUnlock()
		for _, ch := range channels {
			w := o.ways(r, ch.peer.Addr())
			r.mu.Lock()
			if slices.Contains(r.byNumber, ch) { // still
				o.put(r, ch, w)
			}
			r.mu.Unlock()
		}
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

// permit lets the driver carry a channel until its permission ends; r.mu is held for writing. It runs for each channel with an address
// whenever the client asks for that, so one that is carried already is not looked at anew.
func (o *offload) permit(r *relay, ch *channel) {
	if o == nil {
		return
	}
	if !o.extend(ch, untilOf(ch)) {
		o.put(r, ch, o.ways(r, ch.peer.Addr()))
	}
}

func untilOf(ch *channel) time.Time { return time.Unix(0, ch.permission.until.Load()) }

func (o *offload) extend(ch *channel, until time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	c := o.flows[ch]
	if c == nil || o.over || !until.After(o.s.now()) {
		return false
	}
	if lag := until.Sub(c.flows[toPeer].Until); lag < 0 || lag > offloadLag {
		c.flows[toPeer].Until, c.flows[fromPeer].Until = until, until
		o.enter(c)
	}
	return true
}

// ways are those of an allocation's packets.
type ways struct {
	listener         netip.AddrPort // that its client speaks to
	toClient, toPeer xdp.Route
	near, far        bool // whether the driver can take them
}

// ways asks the system, and so takes a while: no lock of the offload's is held.
func (o *offload) ways(r *relay, peer netip.Addr) (w ways) {
	w.listener = r.frontend.at(r.tuple)
	w.toClient, w.near = o.x.Route(w.listener.Addr(), r.tuple.client.Addr())
	if !r.s.policy.isOwn(peer) {
		w.toPeer, w.far = o.x.Route(r.local.Addr(), peer)
	}
	return w
}

// put opens a channel in the driver for as long as its permission lasts, or closes it; r.mu is held for writing.
func (o *offload) put(r *relay, ch *channel, w ways) {
	until := untilOf(ch)
	j := r.s.policy.judge(ch.peer.Addr())
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over {
		return
	}
	delete(o.left, ch)
	numbers, ok := r.numbers()
	live := until.After(o.s.now()) && j.allowed
	why := ""
	switch _, known := o.relays[r]; {
	case !known:
		why = leftTransport
	case r.tuple.client.Addr().Is4() != r.local.Addr().Is4():
		why = leftFamily
	case !w.near || !j.own && !w.far:
		why = leftRoute
	case !ok:
		why = leftFull
	}
	if !live || why != "" {
		o.delete(ch)
		if live {
			o.left[ch] = why
		}
		return
	}
	up := xdp.Flow{From: r.local, To: ch.peer, Until: until, Payers: numbers, Route: w.toPeer}
	client := r.tuple.client
	down := xdp.Flow{
		From: w.listener, To: client, Channel: ch.number, Until: until, Payers: numbers, Route: w.toClient,
	}
	keys := [2]xdp.Key{
		{Remote: client, Local: w.listener, Channel: ch.number}, {Remote: ch.peer, Local: r.local},
	}
	if j.own {
		up.From, up.Hairpin = r.public, true
		keys[fromPeer] = xdp.Key{Remote: ch.peer, Local: r.public, Inside: true}
	}
	if c := o.flows[ch]; c != nil && c.keys != keys {
		o.delete(ch)
	}
	c := &carried{keys, [2]xdp.Flow{up, down}}
	o.flows[ch] = c
	if !o.enter(c) {
		o.delete(ch)
		o.left[ch] = leftFull
	}
}

// enter tells the driver, if that has room; o.mu is held.
func (o *offload) enter(c *carried) bool {
	err := errors.Join(o.x.Put(c.keys[toPeer], c.flows[toPeer]), o.x.Put(c.keys[fromPeer], c.flows[fromPeer]))
	if err != nil && !o.full {
		o.full = true
		o.s.log.Warn("offload: no room for more flows; the sockets carry the others", "error", err)
	}
	return err == nil
}

// drop closes a channel in the driver.
func (o *offload) drop(ch *channel) {
	if o == nil {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.delete(ch)
	delete(o.left, ch)
}

func (o *offload) delete(ch *channel) {
	if c := o.flows[ch]; c != nil && !o.over {
		delete(o.flows, ch)
		o.x.Delete(c.keys[toPeer])
		o.x.Delete(c.keys[fromPeer])
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
