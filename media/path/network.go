package path

import (
	"net"
	"net/netip"

	"github.com/pion/transport/v4"
)

// network is what the agent sees of the machine's network: the interfaces without addresses that
// are not to be used, and names of relays only where a relay may be.
type network struct {
	transport.Net
	use      func(netip.Addr) bool // an address of this device
	mayReach func(netip.Addr) bool // a server by which the reflexive address is learnt
}

func (n *network) Interfaces() ([]*transport.Interface, error) {
	all, err := n.Net.Interfaces()
	if err != nil {
		return nil, err
	}
	var kept []*transport.Interface
	for _, i := range all {
		addresses, err := i.Addrs()
		if err != nil {
			continue
		}
		useful := transport.NewInterface(i.Interface)
		some := false
		for _, address := range addresses {
			if a, ok := addressOf(address); ok && n.use(a) {
				useful.AddAddress(address)
				some = true
			}
		}
		if some {
			kept = append(kept, useful)
		}
	}
	return kept, nil
}

func addressOf(a net.Addr) (netip.Addr, bool) {
	var ip net.IP
	switch a := a.(type) {
	case *net.IPNet:
		ip = a.IP
	case *net.IPAddr:
		ip = a.IP
	}
	address, ok := netip.AddrFromSlice(ip)
	return address.Unmap(), ok
}

func (n *network) ResolveUDPAddr(family, address string) (*net.UDPAddr, error) {
	found, err := n.Net.ResolveUDPAddr(family, address)
	if err != nil {
		return nil, err
	}
	if host, _, _ := net.SplitHostPort(address); host != readyForTURN && !n.mayReach(found.AddrPort().Addr().Unmap()) {
		return nil, errRelayLocal
	}
	return found, nil
}
