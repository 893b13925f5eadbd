package client

import (
	"encoding/json"
	"errors"
)

// A copy of an account's directory that is used beside it, or a backup that was put in its place,
// takes messages that the other then never gets, and uses session states twice. So each attempt at
// a link has a number, which is counted here and kept by the server:
//
//  1. The number is on disk before it is sent.
//  2. The server says which was the highest before. If that is not below this one, another copy has
//     been connected meanwhile: the program is told.
//  3. Counting goes on above it, so that the other copy is told as well.

const recordLinks = "links"

type linksRecord struct{ Number uint64 }

// countLink is step 1. atLeast is 0, or what the server said.
func (c *Client) countLink(atLeast uint64) (number uint64, err error) {
	const bound = 1 << 62 // a server that lies must not make it end
	c.mu.Lock()
	defer c.mu.Unlock()
	err = c.store.update(func(t *tx) error {
		var r linksRecord
		value, err := t.get(recordLinks)
		if err == nil {
			err = json.Unmarshal(value, &r)
		}
		if err != nil && !errors.Is(err, errNoRecord) {
			return err
		}
		r.Number = min(max(r.Number, atLeast), bound) + 1
		number = r.Number
		return putJSON(t, recordLinks, r)
	})
	return number, err
}

// checkCopies is steps 2 and 3.
func (c *Client) checkCopies(l *link) error {
	highest := l.welcome.GetLinkNumber()
	if l.number == 0 || highest < l.number {
		return nil
	}
	c.events.offer(DirectoryCopied{})
	_, err := c.countLink(highest)
	return err
}
