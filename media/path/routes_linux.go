package path

import (
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// systemRoutes are the system's unicast routes, of all its tables: a VPN has one of its own.
func systemRoutes() (all []route) {
	found, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil
	}
	for _, r := range found {
		to, ok := destination(r)
		if r.Type != unix.RTN_UNICAST || !ok || to.Addr().IsMulticast() || to.Addr().IsLinkLocalUnicast() {
			continue
		}
		all = append(all, route{r.LinkIndex, to})
		for _, hop := range r.MultiPath {
			all = append(all, route{hop.LinkIndex, to})
		}
	}
	return all
}

func destination(r netlink.Route) (netip.Prefix, bool) {
	if r.Dst == nil {
		if r.Family == netlink.FAMILY_V4 {
			return netip.PrefixFrom(netip.IPv4Unspecified(), 0), true
		}
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0), true
	}
	a, ok := netip.AddrFromSlice(r.Dst.IP)
	bits, _ := r.Dst.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), bits), ok
}
