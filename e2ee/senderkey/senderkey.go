// Package senderkey encrypts messages to a group once for all its members. Each sender has a key of its own for a group, and hands it
// to every member over their one-to-one sessions. The formats are those of libsignal-client 0.103.0, version 3 (docs/protocol.md,
// "Sender keys").
//
//  1. A sender calls NewSender and sends Sender.Distribution to every member, each time encrypted in a session of package ratchet.
//  2. Each member hands it to Receiver.Add.
//  3. The sender sends what Sender.Encrypt makes, the same bytes to all; each member's Receiver.Decrypt opens it.
//  4. A new member gets Distribution as it is then, which opens nothing sent before. When somebody leaves, every sender makes a new
//     Sender, under the same or another distribution id, and hands it to those who remain: the old key goes on opening what comes after.
//
// What the package guarantees:
//
//   - A message decrypts once, unaltered, and only if its sender signed it. No bit of it can be changed: it has one encoding, and the
//     signature covers all of it. The signature is checked before anything else is done.
//   - An error leaves the Receiver as it was. A failed decryption says ErrUndecryptable, and no more.
//   - Seeds are kept for 2,000 messages that were overtaken, and 25,000 may be skipped at once.
//   - Formatting a Sender or a Receiver with package fmt or log/slog shows its type, never its bytes.
//
// What it does not: there is no Diffie-Hellman ratchet. Who copies a Sender or Receiver reads and, with a Sender, writes on until its
// key is replaced. And a distribution message is authenticated by nothing but the session it comes in: altered, it would turn its
// sender's messages into nothing or noise.
//
// What the caller must do: keep one Receiver for each sender's address and distribution id, the address being that of the session the
// distribution message came in and of the authenticated envelope or sealed-sender certificate of each message; store a Sender before
// a message leaves and a Receiver before a plaintext is shown; use each from one goroutine at a time.
package senderkey

import (
	"errors"
	"fmt"
	"log/slog"
)

// Limits of the protocol. Another implementation counts on them.
const (
	maxKeys    = 5      // of one sender for one distribution id, newest kept
	maxSkipped = 2000   // message seeds kept per key, oldest dropped
	maxJump    = 25_000 // messages skipped at once
)

// TypeMessage is the type of a sender-key message beside the wire; the envelope carries it.
const TypeMessage uint32 = 7

// The errors a caller acts on.
var (
	// ErrUndecryptable: the message was altered, or its key is not or no longer known: ask its sender for the key.
	ErrUndecryptable = errors.New("group message cannot be decrypted")
	// ErrDuplicate: the message was decrypted before, or came later than 2,000 others.
	ErrDuplicate = errors.New("group message was decrypted before")
	// ErrBadDistribution: the distribution message is malformed, or for another distribution id.
	ErrBadDistribution = errors.New("sender key is invalid")
	// ErrExhausted: the key has made all the messages it can: make a new one and distribute it.
	ErrExhausted = errors.New("sender key is used up: make a new one")
	// ErrBadState: the bytes are not a stored Sender or Receiver of this version.
	ErrBadState = errors.New("malformed sender key state")
)

// DistributionID names one sender's sequence of keys for one group: a UUID that the sender chose.
type DistributionID [16]byte

// MessageDistribution returns the distribution id a message claims, by which a recipient finds the Receiver for it. Nothing is checked
// but the encoding.
func MessageDistribution(b []byte) (DistributionID, error) {
	m, err := parseMessage(b)
	if err != nil {
		return DistributionID{}, err
	}
	return m.distribution, nil
}

// KeyDistribution returns the distribution id a distribution message is for.
func KeyDistribution(b []byte) (DistributionID, error) {
	m, err := parseDistribution(b)
	if err != nil {
		return DistributionID{}, err
	}
	defer clear(m.chainKey[:])
	return m.distribution, nil
}

// Format writes the type alone, whatever the verb, so that no log holds a key.
func (s Sender) Format(f fmt.State, _ rune) { fmt.Fprint(f, "senderkey.Sender") }

// Format writes the type alone, whatever the verb.
func (r Receiver) Format(f fmt.State, _ rune) { fmt.Fprint(f, "senderkey.Receiver") }

// LogValue is the type alone.
func (s Sender) LogValue() slog.Value { return slog.StringValue("senderkey.Sender") }

// LogValue is the type alone.
func (r Receiver) LogValue() slog.Value { return slog.StringValue("senderkey.Receiver") }
