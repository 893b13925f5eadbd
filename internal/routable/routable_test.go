package routable

import (
	"net/netip"
	"testing"
)

func TestGlobal(t *testing.T) {
	for address, want := range map[string]bool{
		"1.1.1.1": true, "9.255.255.255": true, "172.32.0.1": true, "2606:4700::1": true, "::ffff:1.1.1.1": true,

		"0.0.0.0": false, "10.1.2.3": false, "100.64.0.1": false, "127.0.0.53": false, "168.63.129.16": false,
		"169.254.169.254": false, "172.16.0.1": false, "192.0.0.192": false, "192.0.2.1": false, "192.168.1.1": false,
		"198.18.0.1": false, "203.0.113.9": false, "224.0.0.1": false, "255.255.255.255": false,
		"::": false, "::1": false, "::ffff:127.0.0.1": false, "::127.0.0.1": false, "64:ff9b::101:101": false,
		"fc00::1": false, "fe80::1%eth0": false, "ff02::1": false, "2001::1": false, "2001:db8::1": false, "2002:101:101::": false,
	} {
		if got := Global(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
	if Global(netip.Addr{}) {
		t.Error("no address at all")
	}
}
