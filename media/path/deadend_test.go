package path

import (
	"net/netip"
	"slices"
	"testing"
)

func prefixesOf(all ...string) (parsed []netip.Prefix) {
	for _, s := range all {
		parsed = append(parsed, netip.MustParsePrefix(s))
	}
	return parsed
}

// at are the addresses of the interfaces 1, 2 and so on: one string for each interface's.
func at(interfaces ...[]string) (all []attachment) {
	for i, addresses := range interfaces {
		for _, p := range prefixesOf(addresses...) {
			all = append(all, attachment{i + 1, p})
		}
	}
	return all
}

// connected are the routes that the kernel makes of addresses.
func connected(attached []attachment, more ...route) []route {
	for _, a := range attached {
		more = append(more, route{a.index, a.network.Masked()})
	}
	return more
}

func to(index int, network string) route { return route{index, netip.MustParsePrefix(network)} }

func TestDeadEnds(t *testing.T) {
	uplink, bridge := []string{"2001:db8::2/64"}, []string{"172.17.0.1/16"}
	tests := []struct {
		name     string
		attached []attachment
		routes   []route
		relays   []netip.Addr
		dead     []string
	}{
		{"a bridge beside an uplink of IPv6", at(uplink, bridge), []route{to(1, "::/0")}, nil, bridge},
		{"a bridge beside one of both families", at([]string{"2001:db8::2/64", "192.168.1.5/24"}, bridge),
			[]route{to(1, "::/0"), to(1, "0.0.0.0/0")}, nil, bridge},
		{"two uplinks, the second for when the first goes", at([]string{"192.168.1.5/24"}, []string{"10.0.0.2/30"}),
			[]route{to(1, "0.0.0.0/0"), to(2, "0.0.0.0/0")}, nil, nil},
		{"a VPN to a few networks", at([]string{"192.168.1.5/24"}, []string{"10.8.0.2/24"}),
			[]route{to(1, "0.0.0.0/0"), to(2, "10.9.0.0/16")}, nil, nil},
		{"a network without a router", at([]string{"192.168.1.5/24"}, bridge), nil, nil, nil},
		{"a relay on the link", at(uplink, []string{"192.168.1.5/24"}, bridge), []route{to(1, "::/0")},
			[]netip.Addr{netip.MustParseAddr("192.168.1.1")}, bridge},
		{"a bridge with both, IPv6 routed on", at(uplink, []string{"172.17.0.1/16", "fd00::1/64"}),
			[]route{to(1, "::/0"), to(2, "fd01::/64")}, nil, bridge},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dead := deadEnds(test.attached, connected(test.attached, test.routes...), test.relays)
			if !slices.Equal(dead, prefixesOf(test.dead...)) {
				t.Errorf("dead ends are %v, want %v", dead, test.dead)
			}
		})
	}
}

// Addresses at dead ends are announced late, and only if nothing else has led to the peer.
func TestDeadEndsAreAnnouncedLate(t *testing.T) {
	w := newWatched(t, Config{})
	w.announce("of an uplink", false)
	w.announce("of a bridge", true)
	if c := await(t, "candidate", w.candidates); c != "of an uplink" || len(w.candidates) != 0 {
		t.Errorf("announced %q and %d more", c, len(w.candidates))
	}
	if err := w.Connect("peer", "a password of the peer's"); err != nil {
		t.Fatal(err)
	}
	if c := await(t, "candidate", w.candidates); c != "of a bridge" {
		t.Errorf("announced %q", c)
	}
	w.announce("of another bridge", true)
	if c := await(t, "candidate", w.candidates); c != "of another bridge" {
		t.Errorf("announced %q", c)
	}
}

// The peer's bridges have the addresses of ours.
func TestOwnDeadEndsAreNotChecked(t *testing.T) {
	p := &Path{dead: prefixesOf("172.17.0.1/16"), cfg: Config{LocalRelays: true},
		relays: &relayDialer{relays: make([]Relay, 1)}}
	for address, may := range map[string]bool{"172.17.0.1": false, "172.17.0.2": true, "192.168.1.5": true} {
		if p.mayCheck(netip.MustParseAddr(address).AsSlice()) != may {
			t.Errorf("%s: checked %v, want %v", address, !may, may)
		}
	}
}
