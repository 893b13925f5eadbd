package client

import (
	"encoding/hex"
	"time"
)

// An Event is what Client.Events yields: one of the types below.
type Event interface{ event() }

// A MessageID names a message on both ends.
type MessageID [16]byte

func (id MessageID) String() string { return hex.EncodeToString(id[:]) }

// Message is a text that arrived. It is kept, encrypted, until Done is called, and delivered again after a restart if it was not.
type Message struct {
	ID       MessageID
	From     Contact
	Text     string
	SentAt   time.Time // by the sender's clock
	Received time.Time

	done func() error
}

// Done says that the program has dealt with the message: it is erased from the account directory.
func (m Message) Done() error { return m.done() }

// MessageSent says that the server has taken the message, and keeps it until the recipient's device has it.
type MessageSent struct {
	ID MessageID
	To string
}

// MessageDelivered says that the recipient's device has the message. Only people who have accepted this account as a contact tell.
type MessageDelivered struct {
	ID MessageID
	To string
}

// MessageFailed says that the message will not be sent any more.
type MessageFailed struct {
	ID  MessageID
	To  string
	Err error
}

// MailboxFull says that the server takes nothing more for somebody, until a device of theirs has
// been online. The message waits here, and is tried again every minute; one that is sent without
// this account's name goes out with it, as senders without one have a part of the mailbox only. It
// is said once for what waits, until the server takes something, and for each text that is sent
// meanwhile.
type MailboxFull struct {
	ID MessageID
	To string
}

// Undecryptable says that something arrived that could not be decrypted: the sender's session or this one's is damaged, or somebody
// tampered.
type Undecryptable struct {
	From  Contact
	Asked bool // their device was asked to send it anew; otherwise, and if it does not have it any more, what it was is lost
}

// SessionReset says that the session with a contact was replaced by a new one, since messages in it could not be decrypted: by the
// contact's device at this one's request, or the other way round.
type SessionReset struct {
	Contact Contact
	Resent  int // texts and steps of a call that this device sends anew
}

// SenderShown says that what is sent to a contact, who had given us a delivery token, goes out under this account's name: the server
// learns who writes to them. Either they replaced their token, and the next message of theirs brings the new one; or the server has
// trouble with sealed messages, or wants to know. It is said once until an envelope goes out sealed again.
type SenderShown struct {
	Contact Contact
}

// IdentityChanged says that a contact appeared with another identity key than the one pinned. Nothing is sent, and what arrives under
// the new key is held back, until Client.AcceptIdentity.
type IdentityChanged struct {
	Contact Contact
}

// NameDisputed says that a contact goes by another name, Contact.Claims, than the one that the user
// wrote to: the server may have named somebody else. Nothing is sent, and nothing of theirs shown,
// until Client.AcceptName.
type NameDisputed struct {
	Contact Contact
}

// ServerKeyChanged says that the server has another key for sender certificates than the one that
// this account has seen since its first link: ErrServerKeyChanged says what that means.
type ServerKeyChanged struct{}

// DirectoryCopied says that another copy of this account's directory has been connected since this
// one was: somebody has copied it, or put a backup in its place. What the other has received is not
// here. One of the two must go; Client.AddDevice is the way to use an account in two places.
type DirectoryCopied struct{}

// DevicesChanged says that an accepted contact has added or removed a device: their first device, whose key is pinned, has signed it.
// What is sent to them goes to exactly the devices they have now.
type DevicesChanged struct {
	Contact Contact
	Devices int
}

// IncomingCall says that somebody calls: Accept or Decline it.
type IncomingCall struct {
	Call    *Call
	Waiting bool // beside another call, which Accept puts on hold and AcceptInstead ends
}

// MissedCall says that somebody called and nobody took the call: it stopped ringing here, or it came while this device was not
// connected. Each call is told of once, in order with messages, and as they are: it is kept until Done is called, and delivered again
// after a restart if it was not.
type MissedCall struct {
	ID    CallID
	From  Contact
	Video bool
	At    time.Time // by the caller's clock

	done func() error
}

// Done says that the program has dealt with the call, as Message.Done does.
func (m MissedCall) Done() error { return m.done() }

// LinkUp says that the server is connected.
type LinkUp struct {
	// ClockDoubt is by how much the server's clock is ahead of this device's, if that is more than a
	// minute and was not told before. It is followed for five minutes only. Calls between devices
	// whose clocks disagree may not ring: one of the clocks must be set.
	ClockDoubt time.Duration
}

// LinkDown says that the server is not connected any more, or could not be reached.
type LinkDown struct {
	Err   error
	Retry time.Duration // until the next attempt; 0 with Final
	Final bool          // no further attempt: ErrReplaced or ErrUnauthenticated
}

func (Message) event()          {}
func (MessageSent) event()      {}
func (MessageDelivered) event() {}
func (MessageFailed) event()    {}
func (MailboxFull) event()      {}
func (Undecryptable) event()    {}
func (SessionReset) event()     {}
func (SenderShown) event()      {}
func (IdentityChanged) event()  {}
func (NameDisputed) event()     {}
func (ServerKeyChanged) event() {}
func (DirectoryCopied) event()  {}
func (DevicesChanged) event()   {}
func (IncomingCall) event()     {}
func (MissedCall) event()       {}
func (LinkUp) event()           {}
func (LinkDown) event()         {}
