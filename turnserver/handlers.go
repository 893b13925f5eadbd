package turnserver

import (
	"net"
	"net/netip"

	"github.com/pion/turn/v5"
)

// What pion asks and tells a frontend in the middle of an exchange. All of it runs on pion's read goroutine, except permissionDeleted and channelDeleted, which run
// on the goroutine that closes the allocation, under pion's locks.

// start puts a pion server behind the frontend.
func (f *frontend) start() error {
	tune := f.s.cfg.tune
	_, err := turn.NewServer(turn.ServerConfig{
		Realm:              f.s.cfg.Realm,
		LoggerFactory:      silence{}, // pion logs addresses and names
		AuthHandler:        f.key,
		QuotaHandler:       f.reserve,
		AllocationLifetime: tune.lifetime,
		PermissionTimeout:  pionsPermission,
		ChannelBindTimeout: tune.channel,
		EventHandler: turn.EventHandler{
			OnAllocationCreated: f.created,
			OnPermissionCreated: f.permissionCreated,
			OnPermissionDeleted: f.permissionDeleted,
			OnChannelCreated:    f.channelCreated,
			OnChannelDeleted:    f.channelDeleted,
		},
		PacketConnConfigs: []turn.PacketConnConfig{{PacketConn: f, RelayAddressGenerator: f, PermissionHandler: f.grant}},
	})
	return err
}

// created makes the new relay the client's.
func (f *frontend) created(_, _ net.Addr, _, _, _ string, relayAddr net.Addr, _ int) {
	r := f.s.table.byPublic(addrPort(relayAddr))
	if r == nil { // expired before it was announced; settle gives the quota back
		return
	}
	f.s.cfg.tune.onCreated()
	r.live.Lock()
	defer r.live.Unlock()
	if r.closed {
		return
	}
	r.frontend, r.tuple, r.credential, r.born = f, f.exchange.tuple, f.exchange.credential, f.s.now()
	r.clientAddr = r.tuple.addr()
	f.exchange.relay, f.exchange.reserved = r, false
	f.s.accounts.open(r)
	f.s.offload.open(r)
	f.mu.Lock()
	f.relays[r.tuple] = r
	f.mu.Unlock()
	if !f.s.stillHas(r.credential) { // SetUsers was faster
		f.end(r)
	}
	f.s.metrics.allocations.Inc()
	f.s.metrics.created.Inc()
}

// release undoes created.
func (f *frontend) release(r *relay) {
	f.mu.Lock()
	if f.relays[r.tuple] == r {
		delete(f.relays, r.tuple)
	}
	f.mu.Unlock()
	f.s.offload.release(r)
	f.s.accounts.release(r)
	f.s.users.give(r.credential.id)
	f.s.addresses.give(r.tuple.client.Addr())
	f.s.metrics.allocations.Dec()
	f.socket.idle()
}

// grant is asked for each peer of a CreatePermission or ChannelBind; verify has decided on all of
// them before.
func (f *frontend) grant(_ net.Addr, peerIP net.IP) bool {
	f.settlePermission()
	asked, ok := netip.AddrFromSlice(peerIP)
	if !ok || f.exchange.relay == nil || !f.s.policy.allows(asked) {
		f.s.metrics.refusedPeer.Inc()
		f.exchange.forbidden = true
		return false
	}
	return true
}

func (f *frontend) permissionCreated(_, _ net.Addr, _, _, _ string, _ net.Addr, peer net.IP) {
	if r := f.exchange.relay; r != nil {
		f.exchange.published = r.publish(fromIP(peer))
		f.s.cfg.tune.onPermission()
	}
}

func (f *frontend) permissionDeleted(client, _ net.Addr, _, _, _ string, relayAddr net.Addr, peer net.IP) {
	if r := f.relayAt(client, relayAddr); r != nil {
		r.forget(fromIP(peer))
	}
}

func (f *frontend) channelCreated(_, _ net.Addr, _, _, _ string, _, peer net.Addr, number uint16) {
	f.settlePermission()
	if r := f.exchange.relay; r != nil {
		r.bind(number, addrPort(peer))
	}
}

func (f *frontend) channelDeleted(client, _ net.Addr, _, _, _ string, relayAddr, _ net.Addr, number uint16) {
	if r := f.relayAt(client, relayAddr); r != nil {
		r.unbind(number)
	}
}

// relayAt is a client's relay. A timer of pion's may tell of an allocation that is no more, whose port is somebody else's by now.
func (f *frontend) relayAt(client, relayAddr net.Addr) *relay {
	r := f.s.table.byPublic(addrPort(relayAddr))
	if r == nil {
		return nil
	}
	r.live.RLock()
	defer r.live.RUnlock()
	if r.frontend != f || r.tuple != tupleOf(client) {
		return nil
	}
	return r
}

func fromIP(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// AllocatePacketConn implements turn.RelayAddressGenerator.
func (f *frontend) AllocatePacketConn(c turn.AllocateListenerConfig) (net.PacketConn, net.Addr, error) {
	if f.s.draining.Load() {
		f.s.metrics.refusedDraining.Inc()
		return nil, nil, errClosing // which pion answers with 508
	}
	at, ok := f.s.relayAddrFor(f.at(f.exchange.tuple).Addr(), c.Network == "udp6")
	if !ok {
		return nil, nil, errNoFamily
	}
	r, err := f.s.table.open(f.s, at, f.exchange.even, f.socket.open)
	if err != nil {
		f.s.metrics.refusedPorts.Inc()
		f.s.log.Warn("no relayed port could be opened", "error", err)
		return nil, nil, err
	}
	return r, net.UDPAddrFromAddrPort(r.public), nil
}

// AllocateListener and AllocateConn would serve RFC 6062, TCP towards peers, which is off.
func (f *frontend) AllocateListener(turn.AllocateListenerConfig) (net.Listener, net.Addr, error) {
	return nil, nil, errNoFamily
}

// AllocateConn implements turn.RelayAddressGenerator.
func (f *frontend) AllocateConn(turn.AllocateConnConfig) (net.Conn, error) { return nil, errNoFamily }

// Validate implements turn.RelayAddressGenerator.
func (f *frontend) Validate() error { return nil }
