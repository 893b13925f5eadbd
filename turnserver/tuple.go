package turnserver

import (
	"net"
	"net/netip"
)

// A tuple is the 5-tuple of RFC 8656 section 3.2 as far as a listener does not know it anyway: the
// client, and the address of ours that it speaks to where the listener is bound to all of them.
type tuple struct {
	client netip.AddrPort
	local  netip.Addr // not valid: the listener's own
}

// addr is a tuple in pion's form, which carries the local address as a zone: of no client is one
// kept (plain).
func (t tuple) addr() *net.UDPAddr {
	a := net.UDPAddrFromAddrPort(t.client)
	if t.local.IsValid() {
		a.Zone = t.local.String()
	}
	return a
}

func tupleOf(a net.Addr) tuple {
	u, ok := a.(*net.UDPAddr)
	if !ok {
		return tuple{}
	}
	if u.Zone == "" {
		return tuple{client: addrPort(a)}
	}
	local, _ := netip.ParseAddr(u.Zone)
	return tuple{addrPort(&net.UDPAddr{IP: u.IP, Port: u.Port}), local}
}

// at is the address of ours that a tuple names.
func (f *frontend) at(t tuple) netip.AddrPort {
	if t.local.IsValid() {
		return netip.AddrPortFrom(t.local, f.local.Port())
	}
	return f.local
}
