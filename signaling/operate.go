package signaling

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"sotto/signaling/store"
	"sotto/wire"
)

// What the operator of a running server does and sees. There is little to see: names, how much
// waits in mailboxes, and nothing of who writes to whom or when anybody was there.

// Reasons why something could not be done, for programs.
var (
	ErrNoAccount    = errors.New("there is no account of that name")
	ErrNoInvitation = errors.New("there is no such invitation: " +
		"it may be used up, expired or taken back")
)

// What devices are told.
var (
	errDisabled = unauthenticated(wire.Error_ACCOUNT_DISABLED,
		"Whoever runs the server has disabled this account.")
	errDeleted = unauthenticated(wire.Error_ACCOUNT_DELETED, "This account was deleted.")
)

// AccountState is an account as its operator sees it.
type AccountState struct {
	Name     string
	Disabled bool
	Devices  int
	Waiting  Waiting // in the mailboxes of all its devices
	Mailbox  Quota   // of each device
}

// Waiting is what is in mailboxes.
type Waiting = store.Waiting

// A Quota bounds what waits in one mailbox.
type Quota struct {
	Envelopes int
	Bytes     int64
	Own       bool // set for the account, where the server's limits would be others
}

// Accounts returns up to limit accounts whose names come after the one given, in order.
func (s *Server) Accounts(after string, limit int) ([]AccountState, error) {
	list, err := s.store.Standings(after, limit)
	if err != nil {
		return nil, err
	}
	accounts := make([]AccountState, len(list))
	for i, a := range list {
		accounts[i] = s.accountState(a)
	}
	return accounts, nil
}

// Account returns one, or ErrNoAccount.
func (s *Server) Account(name string) (AccountState, error) {
	a, err := s.accountOf(name)
	if err != nil {
		return AccountState{}, err
	}
	standing, err := s.store.Standing(a)
	return s.accountState(standing), err
}

func (s *Server) accountState(a store.Standing) AccountState {
	limits := s.limitsOf(a.Conditions)
	return AccountState{
		Name: a.Username, Disabled: a.Disabled, Devices: a.Devices, Waiting: a.Waiting,
		Mailbox: Quota{limits.Count, limits.Bytes, a.Mailbox != store.Limits{}},
	}
}

func (s *Server) accountOf(name string) (store.Account, error) {
	a, err := s.store.AccountByName(name)
	if errors.Is(err, store.ErrNotFound) {
		err = ErrNoAccount
	}
	return a, err
}

// DisableAccount ends an account's links and refuses its devices until EnableAccount. To others it
// is like an account whose devices are switched off: what they send waits, and nothing is lost.
func (s *Server) DisableAccount(name string) error {
	a, err := s.setConditions(name, func(c *store.Conditions) { c.Disabled = true })
	if err != nil {
		return err
	}
	devices, err := s.store.Devices(a.ID)
	s.endLinks(a.ID, devices, errDisabled)
	return err
}

// EnableAccount undoes DisableAccount.
func (s *Server) EnableAccount(name string) error {
	_, err := s.setConditions(name, func(c *store.Conditions) { c.Disabled = false })
	return err
}

// SetMailboxQuota bounds what may wait for each device of an account. A field that is 0 stands for
// the server's limit. What waits already stays.
func (s *Server) SetMailboxQuota(name string, envelopes int, bytes int64) error {
	if envelopes < 0 || bytes < 0 {
		return errors.New("a quota is not less than nothing")
	}
	_, err := s.setConditions(name, func(c *store.Conditions) {
		c.Mailbox = store.Limits{Count: envelopes, Bytes: bytes}
	})
	return err
}

func (s *Server) setConditions(name string, change func(*store.Conditions)) (store.Account, error) {
	a, err := s.accountOf(name)
	if err != nil {
		return a, err
	}
	if err = s.store.SetConditions(a.ID, change); errors.Is(err, store.ErrNotFound) {
		err = ErrNoAccount // deleted a moment ago
	}
	return a, err
}

// DeleteAccount erases an account with all that waits for it. Its name is not given again.
func (s *Server) DeleteAccount(name string) error {
	a, err := s.accountOf(name)
	if err != nil {
		return err
	}
	if err = s.deleteAccount(a); errors.Is(err, store.ErrNotFound) {
		err = ErrNoAccount
	}
	return err
}

func (s *Server) deleteAccount(a store.Account) error {
	devices, err := s.store.Devices(a.ID)
	if err != nil {
		return err
	}
	if err := s.store.DeleteAccount(a); err != nil {
		return err
	}
	s.erased.Store(true)
	s.endLinks(a.ID, devices, errDeleted)
	return nil
}

// endLinks ends the links of an account's devices. One that begins meanwhile sees for itself: see
// authenticate.
func (s *Server) endLinks(account store.UUID, devices []store.Device, why *failure) {
	s.meetings.forget(account)
	for _, d := range devices {
		if l := s.hub.get(d.Address); l != nil {
			l.end(why, websocket.ClosePolicyViolation)
		}
	}
}

// mayHaveLink says why a device that has proved its key may have no link: nil if it may.
func (s *Server) mayHaveLink(device store.Device) error {
	now, err := s.store.Device(device.Address)
	switch {
	case errors.Is(err, store.ErrNotFound), err == nil && now.IdentityKey != device.IdentityKey:
		gone, err := s.store.Deleted(device.Address.Account)
		if gone {
			return errDeleted
		}
		return cmp.Or(err, error(errRemoved))
	case err != nil:
		return err
	}
	c, err := s.store.Conditions(device.Address.Account)
	if c.Disabled {
		return errDisabled
	}
	return err
}

// An InvitationState is an invitation that can still be used. Its token is not known to the server.
type InvitationState struct {
	ID      string // the beginning of the token's SHA-256
	Uses    int    // left
	Expires time.Time
}

func invitationID(hash [32]byte) string { return hex.EncodeToString(hash[:6]) }

// Invitations lists those that can be used.
func (s *Server) Invitations() ([]InvitationState, error) {
	list, err := s.store.Invitations(s.now())
	if err != nil {
		return nil, err
	}
	states := make([]InvitationState, len(list))
	for i, inv := range list {
		states[i] = InvitationState{invitationID(inv.Hash), inv.Uses, inv.Expires}
	}
	return states, nil
}

// RevokeInvitation takes one back, named by its id or its token.
func (s *Server) RevokeInvitation(which string) error {
	list, err := s.store.Invitations(s.now())
	if err != nil {
		return err
	}
	own := sha256.Sum256([]byte(which))
	err = ErrNoInvitation
	for _, inv := range list {
		if inv.Hash == own || invitationID(inv.Hash) == strings.ToLower(which) {
			err = s.store.RemoveInvitation(inv.Hash)
		}
	}
	if errors.Is(err, store.ErrNotFound) {
		return ErrNoInvitation // used up a moment ago
	}
	return err
}

// State is what a server holds and does.
type State struct {
	Totals          store.Totals
	Links           int // of devices
	Anonymous       int // that sealed envelopes come over
	Unauthenticated int
	StoreBytes      int64
	FreeBytes       int64 // where the store is
	Uptime          time.Duration
}

// State counts. It reads a record for each account, device and mailbox.
func (s *Server) State() (State, error) {
	totals, err := s.store.Totals()
	if err != nil {
		return State{}, err
	}
	used, free, err := s.store.Disk()
	return State{
		Totals: totals, StoreBytes: used, FreeBytes: free, Uptime: time.Since(s.started),
		Links: len(s.hub.all()), Anonymous: s.anonymous.size(), Unauthenticated: s.strangers.size(),
	}, err
}

// Backup makes a directory, while the server runs, with what New needs to go on from this moment:
// what was answered before the call is in it. It must not be there yet.
func (s *Server) Backup(dir string) error {
	if !s.enter() {
		return errStopping
	}
	defer s.running.Done()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := s.store.Backup(filepath.Join(dir, "store")); err != nil {
		return fmt.Errorf("the store cannot be copied: %w", err)
	}
	keys, err := os.ReadFile(filepath.Join(s.cfg.DataDir, "certificates"))
	if err != nil {
		return err
	}
	return writeDurably(filepath.Join(dir, "certificates"), keys)
}
