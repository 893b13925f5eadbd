// Package netchange tells when this device's way into the network has changed: an address came or went, or the route to the world
// leads elsewhere.
//
//  1. The system says that something happened (Linux: netlink, see rtnetlink(7)), or a second has passed (elsewhere).
//  2. After a moment, for changes come in bunches, a picture of the network is taken: the addresses that others can reach us from, and
//     the one that the system would use now.
//  3. If it differs from the last picture, that is a change. A renewed lease or a neighbour that appeared is none.
//
// Nothing is sent. A device without any address is a change as well: the channel tells that, not whether there is a network.
package netchange

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"
)

// settle is how long a bunch of changes may take; it is part of every gap in a call.
const settle = 20 * time.Millisecond

// Watch reports changes until the context ends, when the channel is closed. Who reads late hears of several at once.
func Watch(ctx context.Context, log *slog.Logger) (<-chan struct{}, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	hints, err := watchSystem(ctx)
	if err != nil {
		return nil, fmt.Errorf("watching the network: %w", err)
	}
	changes := make(chan struct{}, 1)
	before := take()
	go func() {
		defer close(changes)
		timer := time.NewTimer(settle)
		defer timer.Stop()
		settling := true // what happened between the picture and the first hint is seen, too
		for {
			select {
			case _, ok := <-hints:
				if !ok {
					return
				}
				if !settling {
					timer.Reset(settle)
					settling = true
				}
				continue
			case <-timer.C:
				settling = false
			}
			after := take()
			if after.equal(before) {
				continue
			}
			before = after
			log.Debug("the network has changed", "addresses", len(after.addresses))
			select {
			case changes <- struct{}{}:
			default: // one is waiting to be read
			}
		}
	}()
	return changes, nil
}

// A picture is what counts of the network.
type picture struct {
	addresses []netip.Addr // sorted
	preferred [2]netip.Addr
}

func (p picture) equal(q picture) bool {
	return slices.Equal(p.addresses, q.addresses) && p.preferred == q.preferred
}

func take() (p picture) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return p
	}
	for _, a := range addresses {
		prefix, err := netip.ParsePrefix(a.String())
		if err != nil {
			continue
		}
		if address := prefix.Addr(); address.IsGlobalUnicast() { // neither loopback nor link-local
			p.addresses = append(p.addresses, address)
		}
	}
	slices.SortFunc(p.addresses, netip.Addr.Compare)
	p.preferred = Preferred()
	return p
}

// Preferred are the addresses from which the system would send to the world now, by IPv4 and IPv6; invalid where there is no route.
func Preferred() (addresses [2]netip.Addr) {
	// To connect a UDP socket asks the routing table and sends nothing. These are addresses for documentation (RFC 5737, RFC 3849), which
	// only a default route leads to.
	for i, world := range []string{"192.0.2.1:9", "[2001:db8::1]:9"} {
		if conn, err := net.Dial("udp", world); err == nil {
			addresses[i] = conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr()
			conn.Close()
		}
	}
	return addresses
}
