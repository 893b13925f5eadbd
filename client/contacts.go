package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"sotto/e2ee/ratchet"
	"sotto/e2ee/safety"
	"sotto/wire"
)

// Trust on first use. The first time an account appears, by its name or by a message of its, its UUID and its identity key are pinned.
// The first time a user name is used, or confirmed, it is pinned to an account that has none. From then on the server is not asked again
// who somebody is, and no other key is accepted until the user has compared its safety number.

// A Contact is somebody this account has heard from or written to.
type Contact struct {
	Username string // empty where the server does not confirm the name that somebody claims
	Account  uuid.UUID
	Accepted bool // added, written to or called by this account's user: they learn when a message was delivered, and addresses in a call
	Changed  bool // another identity key appeared: nothing is sent until Client.AcceptIdentity
	// Claims is another name than Username, which they give themselves: nothing is sent, and nothing
	// of theirs shown, until Client.AcceptName.
	Claims   string
	Sealed   bool // they gave us their delivery token: the server does not learn who sends them a message
	Blocked  bool // by Client.Block: nothing of theirs is looked at
	Verified bool // the user has compared the safety number (Client.VerifyNumber, VerifyCode), and no other identity key has appeared since
	Added    time.Time
}

// String is the user name, or the account where there is none.
func (c Contact) String() string {
	if c.Username == "" {
		return c.Account.String()
	}
	return c.Username
}

const recordContact = "contact/" // and the account's UUID

// contact is the record of a Contact.
type contact struct {
	Username string
	Account  uuid.UUID
	Identity []byte // pinned
	Accepted bool
	Appeared []byte `json:",omitempty"` // another identity key, until it is accepted
	Claims   string `json:",omitempty"` // another name than Username, which they give themselves
	Token    []byte `json:",omitempty"` // their delivery token, if they gave us one
	Verified bool   `json:",omitempty"` // of Identity, while no other has appeared
	Added    time.Time

	Blocked bool      `json:",omitempty"`
	Rang    int       `json:",omitempty"` // calls of theirs that rang while they were a stranger
	Quiet   time.Time `json:",omitzero"`  // no other rings until then

	Epoch     uint32 `json:",omitempty"` // the highest of their device list that is known: no lower one is taken
	List      []byte `json:",omitempty"` // their device list, as signed
	Signature []byte `json:",omitempty"` // of List, by Identity
	Told      uint32 `json:",omitempty"` // the epoch of this account's list that they were told
	Heard     uint32 `json:",omitempty"` // the highest epoch of their list that their first device has named

	listed *wire.DeviceList // List, read
}

func (p *contact) public() Contact {
	return Contact{
		Username: p.Username, Account: p.Account, Accepted: p.Accepted, Changed: p.Appeared != nil, Sealed: p.Token != nil,
		Claims: p.Claims, Blocked: p.Blocked, Verified: p.Verified, Added: p.Added,
	}
}

func (p *contact) write(t *tx) error { return putJSON(t, recordContact+p.Account.String(), p) }

func (c *Client) loadContacts() error {
	c.contacts = map[uuid.UUID]*contact{}
	for _, name := range c.store.list(recordContact) {
		value, err := c.store.get(name)
		if err != nil {
			return err
		}
		p := new(contact)
		if err := json.Unmarshal(value, p); err != nil {
			return err
		}
		if err := p.readList(); err != nil {
			return err
		}
		c.contacts[p.Account] = p
	}
	if own := c.contacts[c.account.Account]; own != nil {
		c.epoch.Store(own.Epoch)
		c.lists.wake()
	}
	if c.unsettled() {
		c.lists.wake()
	}
	return nil
}

// changeContact stores a changed copy and then takes it up. c.mu is held.
func (c *Client) changeContact(p *contact, change func(*contact), also func(*tx) error) (*contact, error) {
	changed := *p
	change(&changed)
	err := c.store.update(func(t *tx) error {
		if also != nil {
			if err := also(t); err != nil {
				return err
			}
		}
		return changed.write(t)
	})
	if err != nil {
		return nil, err
	}
	c.contacts[changed.Account] = &changed
	return &changed, nil
}

// Contacts lists all, sorted by name.
func (c *Client) Contacts() []Contact {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []Contact
	for _, p := range c.contacts {
		if p.Account != c.account.Account {
			list = append(list, p.public())
		}
	}
	slices.SortFunc(list, func(a, b Contact) int { return strings.Compare(a.String(), b.String()) })
	return list
}

// Contact finds one by user name, or by account as Contact.String prints it.
func (c *Client) Contact(username string) (Contact, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.named(username)
	if p == nil {
		return Contact{}, tell(ErrNoContact, "%s is not a contact: add them first", username)
	}
	return p.public(), nil
}

// named finds a contact, nil if there is none. c.mu is held.
func (c *Client) named(username string) *contact {
	for _, p := range c.contacts {
		if username != "" && p.Account != c.account.Account && (p.Username == username || p.Username == "" && p.Account.String() == username) {
			return p
		}
	}
	return nil
}

// AddContact accepts somebody as a contact, and pins their identity key if this is the first time they appear.
func (c *Client) AddContact(ctx context.Context, username string) (Contact, error) {
	p, err := c.meet(ctx, username)
	if err != nil {
		return Contact{}, err
	}
	return p.public(), nil
}

// meet returns the contact of that name, accepted and with a session, and pins the name. It asks the server only for what is not known
// here.
func (c *Client) meet(ctx context.Context, username string) (*contact, error) {
	c.mu.Lock()
	p := c.named(username)
	c.mu.Unlock()
	if p != nil && p.Blocked {
		return nil, fmt.Errorf("%s cannot be reached: %w", p.public(), ErrBlocked)
	}
	if p != nil && p.Appeared != nil {
		return nil, &IdentityChangedError{p.public().String()}
	}
	if p != nil && p.Claims != "" {
		return nil, errNameDisputed(p)
	}
	var id uuid.UUID
	var err error
	switch {
	case p != nil:
		id, username = p.Account, p.Username
	case !validUsername(username):
		err = errUsername
	case username == c.account.Username:
		err = errors.New("this is your own account")
	default:
		id, err = c.lookUp(ctx, username)
	}
	if err != nil {
		return nil, err
	}
	if err := c.ensureSessions(ctx, id, username); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p = c.contacts[id]
	if p == nil {
		return nil, errNoContact
	}
	if p.Accepted {
		return p, nil
	}
	return c.changeContact(p, func(p *contact) { p.Accepted = true }, nil)
}

// lookUp asks the server whose name this is.
func (c *Client) lookUp(ctx context.Context, username string) (uuid.UUID, error) {
	reply, err := c.request(ctx, &wire.ClientFrame{Body: &wire.ClientFrame_LookUp{LookUp: &wire.LookUp{Username: username}}})
	if refused(err, wire.Error_NOT_FOUND) {
		return uuid.Nil, fmt.Errorf("%w: %s", ErrNoSuchUser, username)
	}
	if err != nil {
		return uuid.Nil, err
	}
	id, err := uuid.FromBytes(reply.GetAccount().GetAccount())
	if err != nil || reply.GetAccount().GetUsername() != username || id == c.account.Account {
		return uuid.Nil, errProtocol
	}
	return id, nil
}

// AcceptIdentity pins the identity key that appeared, if it is the one whose SafetyNumber the user has seen: yet another key may have
// appeared since. What came under the key is delivered then.
func (c *Client) AcceptIdentity(ctx context.Context, username, safetyNumber string) error {
	if err := c.pin(username, safetyNumber); err != nil {
		return err
	}
	return c.releaseHeld(ctx)
}

func (c *Client) pin(username, safetyNumber string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.named(username)
	if p == nil {
		return tell(ErrNoContact, "%s is not a contact: add them first", username)
	}
	number, err := c.safetyNumber(p)
	if err != nil {
		return err
	}
	if strings.Join(strings.Fields(safetyNumber), "") != number {
		return errors.New("this is not the safety number of the key that appeared last: compare again, then accept the number shown now")
	}
	if p.Appeared == nil {
		return nil // it was pinned before
	}
	return c.pinAppeared(p, false)
}

// pinAppeared takes the key that appeared for the contact's. c.mu is held.
func (c *Client) pinAppeared(p *contact, verified bool) error {
	sessions := c.store.list(recordSession + p.Account.String())
	_, err := c.changeContact(p, func(p *contact) {
		p.Identity, p.Appeared, p.Verified = p.Appeared, nil, verified
		p.Token = nil                                                         // who gave it had the old key
		p.Epoch, p.Heard, p.List, p.Signature, p.listed = 0, 0, nil, nil, nil // which signed it
	}, func(t *tx) error {
		for _, record := range sessions { // they were with the old key, or with devices that it vouched for
			t.delete(record)
		}
		return nil
	})
	return err
}

// identityAppeared notes another key of a contact's. c.mu is held.
func (c *Client) identityAppeared(p *contact, key ratchet.PublicKey) error {
	if string(p.Appeared) == string(key.Bytes()) {
		return nil
	}
	p, err := c.changeContact(p, func(p *contact) { p.Appeared, p.Verified = key.Bytes(), false }, nil)
	if err != nil {
		return err
	}
	c.events.offer(IdentityChanged{p.public()})
	return nil
}

// SafetyNumber is equal on both ends exactly if nobody stands between this account and a contact: twelve groups of five digits to
// compare by voice or in person. If another identity key appeared, the number is that key's.
func (c *Client) SafetyNumber(username string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.named(username)
	if p == nil {
		return "", tell(ErrNoContact, "%s is not a contact: add them first", username)
	}
	number, err := c.safetyNumber(p)
	return safety.Format(number), err
}

// safetyNumber is the number without spaces. c.mu is held.
func (c *Client) safetyNumber(p *contact) (string, error) {
	ours, theirs, err := c.comparedKeys(p)
	if err != nil {
		return "", err
	}
	return safety.Number(ours, theirs, c.account.Account[:], p.Account[:]), nil
}

// accountIdentity is the identity key of this account's first device. c.mu is held.
func (c *Client) accountIdentity() [33]byte {
	if own := c.contacts[c.account.Account]; own != nil && len(own.Identity) == 33 {
		return [33]byte(own.Identity)
	}
	return [33]byte(c.identity.Public().Bytes())
}

// comparedKeys are this account's identity key and the contact's: the one that appeared, if another did.
func (c *Client) comparedKeys(p *contact) (ours, theirs [33]byte, err error) {
	ours, key := c.accountIdentity(), p.Identity
	if p.Appeared != nil {
		key = p.Appeared
	}
	if len(key) != len(theirs) {
		return ours, theirs, errDamaged
	}
	return ours, [33]byte(key), nil
}
