// Package sealed hides from the server who sends a message (sealed sender). The message of a session, or of a sender key, is sealed to
// the recipient's identity key together with a certificate in which the server has confirmed, some time before, who the sender is. The
// formats are those of libsignal-client 0.103.0, version 1 for one recipient and version 2 for many (docs/protocol.md, "Sealed sender").
//
//  1. A sender fetches its certificate from the server now and then (package sealedwire).
//  2. It encrypts as always, puts the message and its certificate into a Content, and calls Seal, or SealMany for a group: the
//     server cuts that up by sealedwire.ParseMulti.
//  3. The recipient calls Open, which tells it who the sender is, and then decrypts Content.Message in the session with that sender.
//
// What the package guarantees:
//
//   - Open succeeds only for an unaltered message, sealed for this identity key, by who holds the private half of the identity key in
//     the certificate, which the trust root vouches for and which has not expired. No bit of a message can be changed on its way
//     (for what other recipients can do in version 2, see below).
//   - Work before that is known is bounded: two Diffie-Hellman agreements (a third multiplication in version 2), two signature checks,
//     and time and memory in proportion to the message. Nothing is looked up or changed.
//   - Only the recipient's private key shows the sender.
//   - Formatting a Content shows its type alone.
//
// What it does not: in version 2 the recipients of one message share a key. One of them, together with the server, can put another body
// into the message of another one, under the same sender's name. The message inside must therefore be authenticated by itself, as
// those of sessions and sender keys are; a Content of TypePlaintext is refused in version 2; Hint and Group are hints.
//
// And it is no session. Who takes a recipient's identity key later learns who sent what was recorded, and could have
// made it all up, too; what was said is protected by the message inside. Nor does it stop repeats: the message inside does. And a server
// still sees addresses on the network, times and sizes.
//
// What the caller must do: use Content.Sender, and nothing that the envelope says, as the sender of Content.Message, and require of its
// session the identity key named there; decide whether messages from oneself are wanted.
package sealed

import (
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"sotto/e2ee/ratchet"
	"sotto/sealedwire"
)

// The errors a caller acts on, beside sealedwire.ErrCertificate, which Open returns for a message that is whole but whose certificate
// has expired or is not the trust root's.
var (
	// ErrUndecryptable: the message was altered, or was not sealed for this identity key.
	ErrUndecryptable = errors.New("sealed message cannot be opened")
	// ErrSender: the content's certificate is not for the key that is to seal it.
	ErrSender = errors.New("certificate is for another identity key: get a new one")
	// ErrRecipient: a recipient's identity key or address cannot be sealed to.
	ErrRecipient = errors.New("recipient of a sealed message is invalid")
	// ErrContent: the content is of no known type.
	ErrContent = errors.New("sealed message has an unknown type")
)

// Open opens a message of either version with the recipient's identity key pair. root is the key that the recipient's server
// certificates are signed with.
func Open(local *ratchet.KeyPair, root sealedwire.PublicKey, message []byte, now time.Time) (*Content, error) {
	if len(message) == 0 {
		return nil, ErrUndecryptable
	}
	var content *Content
	var err error
	switch message[0] {
	case version1:
		content, err = open1(local, message)
	case version2:
		content, err = open2(local, message)
	default:
		return nil, ErrUndecryptable
	}
	if err != nil {
		return nil, ErrUndecryptable
	}
	if err := content.Sender.Validate(root, now); err != nil {
		return nil, err
	}
	return content, nil
}

// checkSender refuses, before anything is sealed, what the recipient would refuse.
func checkSender(local *ratchet.KeyPair, c *Content) error {
	if c.Sender == nil || sealedwire.PublicKey(local.Public().Bytes()) != c.Sender.Identity {
		return ErrSender
	}
	return nil
}

func derive(secret, salt []byte, info string, size int) []byte {
	out, err := hkdf.Key(sha256.New, secret, salt, info, size)
	if err != nil {
		panic("sealed: " + err.Error()) // only for more output than HKDF gives
	}
	return out
}

// Format writes the type alone, whatever the verb, so that no log holds a message or its sender.
func (c Content) Format(f fmt.State, _ rune) { fmt.Fprint(f, "sealed.Content") }

// LogValue is the type alone.
func (c Content) LogValue() slog.Value { return slog.StringValue("sealed.Content") }

// Format writes the type alone, whatever the verb.
func (r Recipient) Format(f fmt.State, _ rune) { fmt.Fprint(f, "sealed.Recipient") }

// LogValue is the type alone.
func (r Recipient) LogValue() slog.Value { return slog.StringValue("sealed.Recipient") }
