package client

import (
	"context"
	"errors"
	"time"

	"sotto/wire"
)

// Deleting an account, in order:
//
//  1. The server is asked over the link, which the first device's key has opened. It erases the
//     account, and ends the links of all devices.
//  2. The client is closed, and what this device keeps is erased, its keys first.
//
// Whoever dies in between finds at the next start that the account was deleted (ErrAccountDeleted).
// Then, and on the account's other devices, there is only step 2.

// DeleteAccount deletes the account at its server, with all that waits there, and what this device
// keeps of it, and closes the client. Nobody can take the name again. Contacts are not told: what
// they send is refused. It takes a client that was started, on the account's first device; on any,
// if the account was deleted before. A key file elsewhere (KeyFile) stays.
func (c *Client) DeleteAccount(ctx context.Context) error {
	if err := c.deleteAtServer(ctx); err != nil && !errors.Is(err, ErrAccountDeleted) {
		return err
	}
	c.store.eraseAtClose()
	return c.Close()
}

// deleteAtServer is step 1. If the link breaks before the answer, the next one tells.
func (c *Client) deleteAtServer(ctx context.Context) error {
	for {
		_, err := c.request(ctx, &wire.ClientFrame{Body: &wire.ClientFrame_DeleteAccount{
			DeleteAccount: &wire.DeleteAccount{Username: c.account.Username},
		}})
		switch {
		case errors.Is(err, errLinkDown):
			select {
			case <-time.After(minPause): // the link that broke may still be in its place
			case <-ctx.Done():
				return err
			}
		case refused(err, wire.Error_BAD_REQUEST):
			return errors.New("the server is too old to delete accounts: ask whoever runs it")
		default:
			return err
		}
	}
}
