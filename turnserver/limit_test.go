package turnserver

import (
	"net/netip"
	"testing"
)

// TestManyNetworksOfOneSite: 256 /64s, as many as a home has, do not take all that there is, nor does a full site get in the way of another.
func TestManyNetworksOfOneSite(t *testing.T) {
	q := newAddressQuota(10_000, 256)
	site := netip.MustParseAddr("2600:1:2::").As16()
	var taken []netip.Addr
	for n := range 10_000 {
		site[7], site[15] = byte(n), byte(n>>8) // the /64, and an address in it
		if a := netip.AddrFrom16(site); q.take(a) {
			taken = append(taken, a)
		}
	}
	if want := perSite * 256; len(taken) != want {
		t.Errorf("one /48 holds %d of 10,000, want %d", len(taken), want)
	}
	for _, other := range []string{"2600:1:3::1", "198.51.100.1"} {
		if a := netip.MustParseAddr(other); !q.take(a) {
			t.Errorf("%s is turned away", other)
		} else {
			taken = append(taken, a)
		}
	}
	for _, a := range taken {
		q.give(a)
	}
	if held(q) != 0 || len(q.sites.held)+len(q.holders.held) != 0 {
		t.Errorf("%d left behind", held(q))
	}
	// What the /64 refuses must not stay counted for the site.
	one := netip.MustParseAddr("2600:1:2::1")
	for range 3000 {
		q.take(one)
	}
	if q.sites.total != 256 {
		t.Errorf("the site of a full /64 holds %d", q.sites.total)
	}
}
