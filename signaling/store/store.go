// Package store is the signaling server's one seam to its disk: accounts, invitations, public pre-keys and mailboxes.
//
// Store is the interface; OpenPebble is the engine for one machine. Package storetest holds what every engine must show.
//
// Durability. A method that changes something returns when the change is durable (on disk, synced), except for the four that say
// otherwise: Put applies in order and hands back a function that waits; Erase, MarkDelivered and CountLink become durable within a second,
// because losing one of them costs a second delivery, or a warning, and never a message. Changes made at the same time share a sync.
//
// Erasing. Deleting a key of a log-structured engine leaves its bytes in old files. Scrub rewrites what holds them; see there.
//
// Time comes in as an argument: the store has no clock.
package store

import (
	"context"
	"errors"
	"time"
)

// Errors that callers tell apart. All others mean that the engine failed.
var (
	ErrNotFound      = errors.New("not found")
	ErrUsernameTaken = errors.New("user name taken")
	ErrBadInvitation = errors.New("invitation unknown, used up or expired")
	ErrMailboxFull   = errors.New("mailbox full")
	ErrListChanged   = errors.New("another device list is held")
	ErrInUse         = errors.New("the data directory is in use by another process")
)

// A UUID names an account.
type UUID [16]byte

// An Address names a device of an account.
type Address struct {
	Account UUID
	Device  uint8
}

// An Account is a user name and its device 1, which registered it. Device 1 adds others, which a DeviceList names.
type Account struct {
	ID       UUID
	Username string
}

// A Device has a public identity key.
type Device struct {
	Address        Address
	RegistrationID uint32
	IdentityKey    [33]byte
}

// Conditions are what an operator has set for an account. The zero value is for all others.
type Conditions struct {
	Disabled bool   `json:",omitempty"`
	Mailbox  Limits `json:",omitzero"` // of each device; a zero field stands for the server's
}

// A Standing is an account as its operator sees it.
type Standing struct {
	Account
	Conditions
	Devices int
	Waiting Waiting
}

// Waiting is what is in mailboxes.
type Waiting struct {
	Envelopes int
	Bytes     int64 // of bodies
}

// Totals are of the whole store. A mailbox without envelopes does not count.
type Totals struct {
	Accounts, Disabled, Devices, Mailboxes, Invitations int
	Waiting                                             Waiting
}

// An Invitation is known by its token's hash.
type Invitation struct {
	Hash    [32]byte
	Uses    int // left
	Expires time.Time
}

// A DeviceList is what device 1 has signed. It is opaque; the zero value stands for none.
type DeviceList struct {
	List      []byte
	Signature []byte
}

// A OneTimeKey is a public pre-key to be handed out once. Data is opaque.
type OneTimeKey struct {
	ID   uint32
	Data []byte
}

// Keys is an upload. Signed and LastResort replace what is held unless nil; one-time keys are added, except those whose ID is not
// above every ID of their kind added before: they came already, may have been handed out, and are skipped.
type Keys struct {
	Signed       []byte
	LastResort   []byte
	OneTime      []OneTimeKey
	OneTimeKyber []OneTimeKey
}

// Counts are the one-time keys left.
type Counts struct {
	OneTime, OneTimeKyber int
}

// Taken is what one session needs: keys that no other call returns, where there were any left.
type Taken struct {
	Device     Device
	Signed     []byte
	OneTime    []byte // nil when used up
	Kyber      []byte // one-time, or the last resort
	LastResort bool
}

// An Envelope waits in a mailbox. Body is opaque. From and ID name it within the mailbox.
type Envelope struct {
	To       Address
	From     UUID // zero: the sender is not named
	ID       [16]byte
	Body     []byte
	Accepted time.Time
	Expires  time.Time
}

// Stored is an envelope with its place in the mailbox: later ones have greater places.
type Stored struct {
	Envelope
	Place uint64
}

// Limits of one mailbox, in envelopes and bytes of Body. A sender who has more in it already than a quarter of what is left free is
// refused: so nobody fills a mailbox alone, each further sender of a crowd gets less, and one who has nothing waiting there gets an
// envelope in until it is full.
//
// Senders who are not named count as one, who may have as much as is left free: half of an empty mailbox. They are many, and people the
// recipient has accepted. The other half stays for senders with a name, who thus get an envelope in whatever one of those does.
type Limits struct {
	Count int
	Bytes int64
}

// Store is safe for concurrent use.
type Store interface {
	// AddInvitation makes the token with this hash good for uses registrations until expires.
	AddInvitation(hash [32]byte, uses int, expires time.Time) error

	// CheckInvitation returns ErrBadInvitation unless a registration with the token could use it now.
	CheckInvitation(hash [32]byte, now time.Time) error

	// Invitations are those that can be used now, in the order of their hashes.
	Invitations(now time.Time) ([]Invitation, error)

	// RemoveInvitation returns ErrNotFound if there is none.
	RemoveInvitation(hash [32]byte) error

	// CreateAccount makes an account with its device 1, and uses up one use of the invitation unless that is nil: all of it or
	// nothing. Errors: ErrBadInvitation, ErrUsernameTaken, also for the name of a deleted account.
	CreateAccount(a Account, d Device, k Keys, invitation *[32]byte, now time.Time) error

	// DeleteAccount erases an account with its devices, keys and mailboxes, all of it or nothing,
	// and keeps hashes of its name and id, so that neither is given again. Error: ErrNotFound if
	// the name is not that account's.
	DeleteAccount(Account) error

	// Deleted says whether there was an account of this id.
	Deleted(UUID) (bool, error)

	// Conditions returns the zero value for an account like any other, as for no account.
	Conditions(UUID) (Conditions, error)

	// SetConditions returns ErrNotFound if there is no such account.
	SetConditions(account UUID, change func(*Conditions)) error

	// Standings returns up to limit accounts whose names come after the one given, in order.
	Standings(after string, limit int) ([]Standing, error)
	Standing(Account) (Standing, error)
	Totals() (Totals, error)

	// Disk is what the store takes, and what is free where it is.
	Disk() (used, free int64, err error)

	// Backup makes a copy of the store in a directory that must not exist, while the store is in
	// use. What was durable before the call is in it.
	Backup(dir string) error

	// AccountByName and Device return ErrNotFound when there is none.
	AccountByName(username string) (Account, error)
	Device(Address) (Device, error)

	// Devices returns the devices of an account, none if there is no such account.
	Devices(UUID) ([]Device, error)

	// DeviceList returns the zero value for an account without one, as for no account.
	DeviceList(UUID) (DeviceList, error)

	// AddDevice makes a further device of an account, with its keys, and puts a list in place of the held one: all of it or nothing.
	// Error: ErrListChanged if what is held is not that.
	AddDevice(d Device, k Keys, held, list DeviceList) error

	// RemoveDevice erases a device, its keys and its mailbox, and puts a list in place of the held one: all of it or nothing. Nothing can
	// be put into that mailbox afterwards. Error: ErrListChanged.
	RemoveDevice(a Address, held, list DeviceList) error

	// RenewList puts a list of the same devices in place of the held one. Error: ErrListChanged.
	RenewList(account UUID, held, list DeviceList) error

	// SetDeliveryToken keeps the hash of an account's delivery token in place of the one before, and writes nothing if it is that one.
	// Error: ErrNotFound if there is no such account.
	SetDeliveryToken(account UUID, hash [32]byte) error

	// DeliveryToken returns ErrNotFound for an account without one, as for no account.
	DeliveryToken(account UUID) (hash [32]byte, err error)

	// CountLink notes the number that a device gives its link, and returns the highest before, 0 if
	// there was none. It becomes durable within a second. Error: ErrNotFound.
	CountLink(a Address, number uint64) (highest uint64, err error)

	// AddKeys adds an upload, holding at most limit one-time keys of each kind; those of the lowest IDs are added first.
	AddKeys(a Address, k Keys, limit int) (Counts, error)
	KeyCounts(Address) (Counts, error)

	// TakeKeys removes a one-time key of each kind and returns them. That they are removed is durable before it returns.
	TakeKeys(Address) (Taken, error)

	// Put appends to a mailbox. When it returns, the envelope can be read and later Puts come after it; it is durable when wait
	// returns nil. wait must be called exactly once. Of an envelope seen before (Seen) nothing is stored, and wait waits until what
	// was seen is durable. Errors: ErrMailboxFull; ErrNotFound if there is no such device.
	Put(e Envelope, limits Limits) (wait func() error, err error)

	// Seen says whether To was sent an envelope From with ID that was put or marked as delivered, and that it has not been forgotten
	// since: see Horizon.
	Seen(e Envelope) (bool, error)

	// MarkDelivered remembers an envelope that was delivered without being put.
	MarkDelivered(e Envelope) error

	// Mailbox returns up to limit envelopes after a place, in order, without those expired by now. next is where to go on: the place
	// of the last one looked at.
	Mailbox(a Address, after uint64, limit int, now time.Time) (list []Stored, next uint64, err error)

	// Erase removes an envelope from the mailbox. One that is not there is no error.
	Erase(a Address, from UUID, id [16]byte) error

	// Sweep erases envelopes, marks and invitations whose time is up and returns the number of envelopes.
	Sweep(ctx context.Context, now time.Time) (int, error)

	// Scrub removes the bytes of everything erased before the call from the engine's files.
	Scrub(ctx context.Context) error

	// Check makes a synced write and says whether it worked.
	Check() error

	// Close makes everything durable. The store must not be in use.
	Close() error
}

// Horizon is how long an envelope's ID is remembered after it was accepted; while the envelope waits in the mailbox, longer.
const Horizon = 48 * time.Hour
