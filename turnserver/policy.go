package turnserver

import (
	"encoding/binary"
	"net"
	"net/netip"
	"sync/atomic"

	"sotto/internal/routable"
)

// policy says which addresses the relay may exchange packets with. Left to itself a TURN server is a tunnel into every network that it can reach;
// so only globally routable unicast addresses are peers, and the operator's own ranges where they were opened.
//
//  1. An IPv4-mapped address is its IPv4 address.
//  2. Unspecified, multicast, broadcast: never.
//  3. Not globally routable (RFC 6890 and the IANA special-purpose registries): only inside AllowPeers.
//  4. An IPv4 address embedded for NAT64, 6to4 or Teredo must itself be allowed.
//  5. This machine's own addresses, all of loopback among them: only as the relayed address of a live allocation, whatever AllowPeers says. See table.route.
//
// The rules apply to each CreatePermission and ChannelBind, to each packet on its way to a peer, by Send or by channel, and
// to the source of each packet that comes from one.
type policy struct {
	allow   atomic.Pointer[[]netip.Prefix] // Config.AllowPeers
	foreign []netip.Prefix                 // tuning.foreign
	local   atomic.Pointer[localAddrs]
}

// localAddrs are this machine's addresses as the interfaces have them now, and the broadcast addresses of their networks.
type localAddrs struct {
	own, broadcast map[netip.Addr]bool
	present        map[netip.Addr]bool // of own, those on an interface
	ownNetworks    []netip.Prefix      // of the loopback interfaces
}

var (
	nat64      = netip.MustParsePrefix("64:ff9b::/96")   // RFC 6052
	localNAT64 = netip.MustParsePrefix("64:ff9b:1::/48") // RFC 8215; the IPv4 address is taken to be in the last 32 bits
	sixToFour  = netip.MustParsePrefix("2002::/16")      // RFC 3056
	teredo     = netip.MustParsePrefix("2001::/32")      // RFC 4380
	compatible = netip.MustParsePrefix("::/96")          // RFC 4291 section 2.5.5.1
)

// allows applies rules 1 to 4.
func (p *policy) allows(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) || p.local.Load().broadcast[a] {
		return false
	}
	if !routable.Global(a) && !contains(*p.allow.Load(), a) {
		return false
	}
	if inner, ok := embedded(a); ok {
		return p.allows(inner) && !p.isOwn(inner)
	}
	return true
}

// isOwn says whether a is an address of this machine (rule 5). The interfaces name only some: the whole network of a loopback interface
// leads here, so a service that is bound to all addresses, or to 127.0.0.53, answers where no interface has an address.
func (p *policy) isOwn(a netip.Addr) bool {
	l := p.local.Load()
	return (l.own[a] || a.IsLoopback() || contains(l.ownNetworks, a)) && !contains(p.foreign, a)
}

// open replaces the ranges that were opened. What is remembered of a peer goes by p.local, so that becomes another.
func (p *policy) open(allow []netip.Prefix) {
	p.allow.Store(&allow)
	known := p.local.Load()
	same := *known
	p.local.CompareAndSwap(known, &same) // if refresh was faster, what it read is newer than allow
}

// refresh reads the interfaces again; extra are addresses that are ours without being on one.
func (p *policy) refresh(extra []netip.Addr) {
	l := newLocalAddrs()
	for _, a := range extra {
		l.own[a] = true
	}
	if err := l.read(); err != nil && p.local.Load() != nil {
		return // keep what was known
	}
	p.local.Store(l)
}

func newLocalAddrs() *localAddrs {
	return &localAddrs{
		own: make(map[netip.Addr]bool), present: make(map[netip.Addr]bool),
		broadcast: make(map[netip.Addr]bool),
	}
}

func (l *localAddrs) read() error {
	interfaces, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, i := range interfaces {
		addrs, err := i.Addrs()
		if err != nil {
			return err
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok {
				l.add(n, i.Flags&net.FlagLoopback != 0)
			}
		}
	}
	return nil
}

func (l *localAddrs) add(n *net.IPNet, loopback bool) {
	a, ok := netip.AddrFromSlice(n.IP)
	if !ok {
		return
	}
	a = a.Unmap()
	l.own[a], l.present[a] = true, true
	ones, bits := n.Mask.Size()
	if loopback && bits == a.BitLen() {
		l.ownNetworks = append(l.ownNetworks, netip.PrefixFrom(a, ones).Masked())
	}
	if a.Is4() && bits == 32 && ones < 31 {
		v4 := a.As4()
		host := uint32(1)<<(32-ones) - 1
		network := binary.BigEndian.Uint32(v4[:]) &^ host
		for _, b := range []uint32{network, network | host} {
			l.broadcast[netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, b)))] = true
		}
	}
}

// embedded decodes the IPv4 address that a translator or tunnel would send to.
func embedded(a netip.Addr) (netip.Addr, bool) {
	if !a.Is6() {
		return netip.Addr{}, false
	}
	b := a.As16()
	switch {
	case nat64.Contains(a), localNAT64.Contains(a), compatible.Contains(a) && !a.IsLoopback():
		return netip.AddrFrom4([4]byte(b[12:])), true
	case sixToFour.Contains(a):
		return netip.AddrFrom4([4]byte(b[2:6])), true
	case teredo.Contains(a): // RFC 4380 section 4: the client's address with every bit flipped
		return netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}), true
	}
	return netip.Addr{}, false
}

func contains(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
