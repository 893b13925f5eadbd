package client

import (
	"sync/atomic"
	"time"
)

// How far the server's clock is believed. Devices whose own clocks are some minutes off can call
// each other because all follow their server's. But a server that is believed without a bound could
// set the time back, and an offer would ring that it had withheld for hours; or set it ahead, and
// none would.
//
//  1. It is followed by as much as KDCs and their clients allow each other (RFC 4120 section 8.2),
//     and wholly by a device that has no time of its own.
//  2. It never goes back: what it says must not lie before what it said, and the time since.
//  3. An offer is fresh if it is by either clock, this device's or the corrected one.
//  4. A difference that a person would want to know of is told, once.
//
// So a server that lies can make an offer ring that it has withheld for six minutes. It can withhold
// one for good without lying.
const (
	maxClockCorrection = 5 * time.Minute
	clockTolerance     = time.Minute
)

// noClock is later than the time that devices without a battery wake up with, and earlier than any true one.
var noClock = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

type clock struct {
	correction atomic.Int64 // the time by which content is dated, minus this device's

	// serveLink's alone:
	said, heard time.Time     // what the server said last that was believed, and when
	told        time.Duration // the difference that the program was told of
}

// follow takes what the server says its time is. It returns how far that is ahead of this device's
// if the program is to be told.
func (k *clock) follow(server, local time.Time) (doubt time.Duration) {
	difference := server.Sub(local)
	back := !k.heard.IsZero() && server.Before(k.said.Add(local.Sub(k.heard)-clockTolerance))
	none := local.Before(noClock)
	switch {
	case back && none: // nothing is better than the line it has left
		return 0
	case back, !none && difference.Abs() > maxClockCorrection:
		k.correction.Store(0)
	default:
		k.correction.Store(int64(difference))
		k.said, k.heard = server, local
	}
	if none || difference.Abs() <= clockTolerance {
		k.told = 0
		return 0
	}
	if (difference - k.told).Abs() <= clockTolerance {
		return 0
	}
	k.told = difference
	return difference
}

// now is the time by which senders and receivers of content agree.
func (c *Client) now() time.Time { return time.Now().Add(time.Duration(c.clock.correction.Load())) }

// age is how long ago something was sent, by the clock that makes it younger.
func (k *clock) age(sent, local time.Time) time.Duration {
	own := local.Sub(sent)
	if corrected := own + time.Duration(k.correction.Load()); corrected.Abs() < own.Abs() {
		return corrected
	}
	return own
}
