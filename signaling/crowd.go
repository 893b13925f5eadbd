package signaling

import (
	"net"
	"net/netip"
	"sync"
)

// A source is where something comes from, as limits see it: an IPv4 address, or an IPv6 /64, of which anyone has plenty, and the /48
// around it. One subscriber gets up to a /48, so that together may have only wideFactor times what one /64 may.
type source struct {
	near netip.Prefix
	wide netip.Prefix // invalid for IPv4
}

const wideFactor = 10

// sourceOf reads an address with its port. What it cannot read is one source.
func sourceOf(address string) source {
	host, _, _ := net.SplitHostPort(address)
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return source{}
	}
	ip = ip.Unmap().WithZone("")
	if ip.Is4() {
		return source{near: netip.PrefixFrom(ip, 32)}
	}
	near, _ := ip.Prefix(64)
	wide, _ := ip.Prefix(48)
	return source{near, wide}
}

// A crowd counts those who are there now: by source, and in all.
type crowd struct {
	perSource, most int

	mu    sync.Mutex
	count map[netip.Prefix]int
	total int
}

func newCrowd(perSource, most int) *crowd {
	return &crowd{perSource: perSource, most: most, count: make(map[netip.Prefix]int)}
}

// enter counts one more, unless there are too many.
func (c *crowd) enter(from source) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if near, wide := c.crowded(from); c.total >= c.most || near || wide {
		return false
	}
	c.add(from, 1)
	return true
}

// crowded reports whether a source, or the /48 around it, has as many as it may have; c.mu is held.
func (c *crowd) crowded(from source) (near, wide bool) {
	near = c.count[from.near] >= c.perSource
	wide = from.wide.IsValid() && c.count[from.wide] >= wideFactor*c.perSource
	return near, wide
}

// full is crowded for who does not hold c.mu.
func (c *crowd) full(from source) (near, wide bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.crowded(from)
}

// size is how many there are.
func (c *crowd) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.total
}

// leave undoes one enter.
func (c *crowd) leave(from source) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.add(from, -1)
}

func (c *crowd) add(from source, n int) {
	c.total += n
	for _, p := range []netip.Prefix{from.near, from.wide} {
		if c.count[p] += n; c.count[p] == 0 {
			delete(c.count, p)
		}
	}
}
