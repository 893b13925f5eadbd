package client

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	"sotto/client/callflow"
	"sotto/wire"
)

// Each content names its sender, in the sender's own words (docs/protocol.md, "Who somebody is").
// That name is compared with the one that is known here:
//
//  1. Somebody who is known without a name gives one: the server is asked whether it is theirs.
//     That happens seldom, so that nobody uses up this account's look-ups.
//  2. A contact gives another name than the one that the user wrote to. The server has answered a
//     look-up with the wrong account, or the contact lies. The name is disputed: nothing is sent,
//     texts and missed calls wait, no call rings, and one that goes on ends.
//  3. The user settles it with AcceptName, which asks the server whether the name is theirs, or
//     with Block or RemoveContact.

// allNameless is how many look-ups of nameless contacts there are in the time that one of them
// waits for the next.
const allNameless = 20

// namelessLookups are when the server was asked about the names of those who are known without one.
// Client.mu guards it.
type namelessLookups struct {
	last time.Time
	by   map[uuid.UUID]time.Time
}

// may tells whether the server may be asked again about somebody, and notes that it is.
func (n *namelessLookups) may(id uuid.UUID, pause time.Duration, now time.Time) bool {
	if now.Sub(n.by[id]) < pause || now.Sub(n.last) < pause/allNameless {
		return false
	}
	if n.by == nil {
		n.by = map[uuid.UUID]time.Time{}
	}
	for other, at := range n.by {
		if now.Sub(at) >= pause {
			delete(n.by, other)
		}
	}
	n.last, n.by[id] = now, now
	return true
}

// nameless tells whether the sender of content is known without a name, and gives one of which the
// server is to be asked now. c.mu is held.
func (c *Client) nameless(p *contact, content *wire.Content) bool {
	return p.Username == "" && p.Account != c.account.Account &&
		validUsername(content.GetUsername()) && c.lookups.may(p.Account, c.timing.nameless, time.Now())
}

// disputes is the name that content gives its sender, if it is another than the one that this
// account's user pinned. A stranger's name comes from the stranger, and there is none to pin.
func (p *contact) disputes(content *wire.Content) string {
	name := content.GetUsername()
	if !p.Accepted || p.Username == "" || name == p.Username {
		return ""
	}
	return name
}

// nameDisputed tells of it, and ends the calls that there are.
func (c *Client) nameDisputed(p *contact) {
	c.events.offer(NameDisputed{p.public()})
	reason := errNameDisputed(p)
	c.calls.box.post(func() {
		for id, o := range c.calls.table {
			if o.peer.Account == p.Account {
				c.calls.step(callflow.Fault{Call: id, Err: reason})
			}
		}
	})
}

func errNameDisputed(p *contact) error {
	return tell(ErrNameDisputed, "%s goes by the name of %s: the server may have given you somebody "+
		"else; take that name for them, or remove them and ask %[1]s in person", p.Username, p.Claims)
}

// AcceptName takes the name that a contact goes by (Contact.Claims) instead of the one that was
// pinned, if the server says that it is theirs. What was held back is delivered then, and the old
// name is looked up anew when it is next used.
func (c *Client) AcceptName(ctx context.Context, username, name string) (Contact, error) {
	c.mu.Lock()
	p := c.named(username)
	c.mu.Unlock()
	switch {
	case p == nil:
		return Contact{}, tell(ErrNoContact, "%s is not a contact: add them first", username)
	case p.Claims == "":
		return Contact{}, fmt.Errorf("%s goes by no other name", username)
	case p.Claims != name || !validUsername(name):
		return Contact{}, fmt.Errorf("%s goes by the name of %s, not %s", username, p.Claims, name)
	}
	id, err := c.lookUp(ctx, name)
	if err != nil {
		return Contact{}, err
	}
	if id != p.Account {
		return Contact{}, fmt.Errorf("the server says that %s is somebody else: do not trust them", name)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if p = c.contacts[id]; p == nil || p.Claims != name {
		return Contact{}, fmt.Errorf("%s has changed meanwhile: look again", username)
	}
	if c.named(name) != nil {
		return Contact{}, fmt.Errorf("another contact is %s already: remove one of them first", name)
	}
	p, err = c.changeContact(p, func(p *contact) { p.Username, p.Claims = name, "" }, nil)
	if err != nil {
		return Contact{}, err
	}
	c.inbox.notify()
	return p.public(), nil
}
