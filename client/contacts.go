package client

import (
	"time"

	"github.com/google/uuid"
)

// A Contact is somebody this account has heard from or written to. Their identity key was pinned at first use.
type Contact struct {
	Username string // empty where the server does not confirm the name that somebody claims
	Account  uuid.UUID
	Accepted bool // added, written to or called by this account's user: they learn when a message was delivered, and addresses in a call
	Changed  bool // another identity key appeared: nothing is sent until Client.AcceptIdentity
	Added    time.Time
}

// String is the user name, or the account where there is none.
func (c Contact) String() string {
	if c.Username == "" {
		return c.Account.String()
	}
	return c.Username
}
