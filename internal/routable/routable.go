// Package routable tells addresses that the whole internet can reach from those of private, local
// and special networks. The relay uses it to choose peers, and clients to choose relays: neither
// may become a way into somebody's own network.
package routable

import "net/netip"

// Global reports whether an address is globally routable unicast (RFC 6890 and the IANA
// special-purpose registries). An IPv4-mapped address counts as its IPv4 address; addresses with an
// IPv4 address inside (NAT64, 6to4, Teredo) are not global.
func Global(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	switch {
	case !a.IsValid():
		return false
	case a.Is4():
		return !contains(special4, a)
	}
	return global6.Contains(a) && !contains(special6, a)
}

// special4 are the IPv4 blocks that are not globally routable unicast.
var special4 = prefixes(
	"0.0.0.0/8",          // this network, the unspecified address
	"10.0.0.0/8",         // private, RFC 1918
	"100.64.0.0/10",      // carrier-grade NAT, RFC 6598; a cloud's metadata at 100.100.100.200
	"127.0.0.0/8",        // loopback
	"168.63.129.16/32",   // a cloud's host agent, global in form only
	"169.254.0.0/16",     // link-local; metadata at 169.254.169.254
	"172.16.0.0/12",      // private
	"192.0.0.0/24",       // IETF protocol assignments; metadata at 192.0.0.192
	"192.0.2.0/24",       // documentation, RFC 5737
	"192.88.99.0/24",     // 6to4 relays, RFC 7526
	"192.168.0.0/16",     // private
	"198.18.0.0/15",      // benchmarking, RFC 2544
	"198.51.100.0/24",    // documentation
	"203.0.113.0/24",     // documentation
	"224.0.0.0/4",        // multicast
	"240.0.0.0/4",        // reserved
	"255.255.255.255/32", // broadcast
)

// Of IPv6 only 2000::/3 is global unicast (RFC 4291 section 2.4); that leaves out ::, ::1,
// IPv4-compatible, NAT64 64:ff9b::/96 and 64:ff9b:1::/48, discard-only 100::/64, unique local
// fc00::/7, link-local fe80::/10, site-local fec0::/10 and multicast ff00::/8. special6 are the
// blocks inside it that are not for everybody.
var (
	global6  = netip.MustParsePrefix("2000::/3")
	special6 = prefixes(
		"2001::/23",     // IETF protocol assignments: Teredo 2001::/32, benchmarking, ORCHID
		"2001:db8::/32", // documentation, RFC 3849
		"2002::/16",     // 6to4
		"3fff::/20",     // documentation, RFC 9637
	)
)

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, len(list))
	for i, s := range list {
		out[i] = netip.MustParsePrefix(s)
	}
	return out
}

func contains(list []netip.Prefix, a netip.Addr) bool {
	for _, p := range list {
		if p.Contains(a) {
			return true
		}
	}
	return false
}
