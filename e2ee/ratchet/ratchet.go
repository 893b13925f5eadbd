// Package ratchet keeps end-to-end encrypted sessions between two devices: the PQXDH handshake with Kyber1024, the Double Ratchet
// with the post-quantum ratchet of package spqr beside it, and session records as Sesame describes them. It speaks the formats of
// libsignal-client 0.103.0, version 4.
//
// A session goes like this:
//
//  1. The recipient publishes a Bundle: its identity key, a signed pre-key, a Kyber pre-key and perhaps a one-time pre-key.
//  2. The initiator calls Record.Initiate with it, then Record.Encrypt. Until the first reply decrypts, each message is a pre-key
//     message and carries what the recipient needs to derive the same keys.
//  3. The recipient's Record.Decrypt derives them, with the secrets it finds through PreKeys, and says which are used up.
//  4. From there both call Encrypt and Decrypt. Every change of direction mixes in a fresh Diffie-Hellman secret, every epoch of the
//     post-quantum ratchet a fresh ML-KEM secret.
//
// What the package guarantees:
//
//   - A message decrypts once, unaltered, on the device it was made for, from the identity key the caller trusts. No bit of a
//     message can be changed: encodings are canonical, and what no MAC covers is checked against what a MAC does.
//   - An error leaves the Record as it was. A failed decryption says ErrUndecryptable, and no more.
//   - Work before authentication is bounded, as limits.go says.
//   - Formatting a key or a record with package fmt or log/slog shows its type, never its bytes.
//
// What the caller must do: store the record before a ciphertext leaves or a plaintext is shown, since a rolled-back record uses
// keys twice; erase the pre-keys named by Used in the same transaction; keep one Record for each remote device; use a Record from
// one goroutine at a time.
package ratchet

import (
	"errors"
	"fmt"
	"log/slog"
)

// The errors a caller acts on. Others come from the caller's PreKeys and are returned wrapped.
var (
	// ErrUndecryptable: the message was altered, was not made for this device, or its keys are gone.
	ErrUndecryptable = errors.New("message cannot be decrypted")
	// ErrDuplicate: the message, or an identical one, was decrypted before.
	ErrDuplicate = errors.New("message was decrypted before")
	// ErrNoSession: there is no session to encrypt with, or it went unanswered for 30 days; fetch a bundle and call Initiate.
	ErrNoSession = errors.New("no session: fetch a new pre-key bundle")
	// ErrIdentityChanged: the other device's identity key is not the one the caller trusts.
	ErrIdentityChanged = errors.New("identity key has changed: compare the safety number, then accept the new key")
	// ErrBadBundle: a key of the bundle is malformed or its signature is wrong.
	ErrBadBundle = errors.New("pre-key bundle is invalid")
	// ErrBadKey: the bytes are not a key of the type asked for.
	ErrBadKey = errors.New("malformed key")
	// ErrBadRecord: the bytes are not a session record of this version.
	ErrBadRecord = errors.New("malformed session record")
	// ErrNoPreKey is what a PreKeys returns for an id it does not hold.
	ErrNoPreKey = errors.New("no such pre-key")
)

// Message types beside the wire; the envelope carries them.
const (
	TypeMessage       uint32 = 2 // SignalMessage
	TypePreKeyMessage uint32 = 3 // PreKeySignalMessage
)

// Address names a device: an account's UUID and a device number from 1 to 127.
type Address struct {
	Account [16]byte
	Device  uint8
}

// Local is this device.
type Local struct {
	Identity *KeyPair
	Address  Address

	// RegistrationID must be RegistrationID(Identity.Public()), or 0 which means the same, unless AnyRegistrationID is set.
	RegistrationID uint32

	// AnyRegistrationID admits registration ids that do not follow from the identity key. Other implementations choose theirs at
	// random; no MAC covers it, so its bits can then be changed in a pre-key message without being noticed. Nothing uses them.
	AnyRegistrationID bool

	// LongJumps limits the work that refused messages can cause. Share one between all records of the device. Nil is no limit but
	// that of the protocol: 25,000 messages passed over.
	LongJumps *LongJumps

	// Random is where fresh secrets come from; nil means crypto/rand. Tests replay recorded conversations with it.
	Random Random
}

// Remote is the other device.
type Remote struct {
	Address Address

	// Identity is the identity key the caller trusts for this device, and the only one accepted. The zero value accepts any key:
	// trust on first use. Keep what Bundle.Identity or Plaintext.Identity says then, and pass it from there on.
	Identity PublicKey
}

// Message is what Encrypt makes.
type Message struct {
	Type  uint32 // TypeMessage or TypePreKeyMessage
	Bytes []byte
}

// Plaintext is what Decrypt makes of a message.
type Plaintext struct {
	Bytes    []byte
	Identity PublicKey // the sender's, proved by the message

	// Used is set when the message began a session, and says which pre-keys that took.
	Used *Used
}

// Used names the pre-keys a first message took. Erase the private halves, together with storing the record:
// the one-time pre-key if there was one, and the Kyber pre-key unless it is the last resort. Of a last-resort key, remember KyberID,
// SignedID and BaseKey, so that PreKeys.LastResortUsed can refuse the same first message a second time.
type Used struct {
	OneTime    bool
	OneTimeID  uint32
	SignedID   uint32
	KyberID    uint32
	LastResort bool
	BaseKey    PublicKey
}

// PreKeys looks up the private halves of the pre-keys this device has published. A method returns ErrNoPreKey for an id it does not
// hold: the message is then undecryptable. Any other error is returned by Decrypt, wrapped: the message may be tried again.
type PreKeys interface {
	OneTime(id uint32) (*KeyPair, error)
	Signed(id uint32) (*KeyPair, error)
	Kyber(id uint32) (pair *KyberKeyPair, lastResort bool, err error)

	// LastResortUsed reports whether a first message with these ids and this base key was decrypted before. It is asked only for
	// last-resort keys; one-time keys are gone after use.
	LastResortUsed(kyberID, signedID uint32, baseKey PublicKey) (bool, error)
}

// PreKeyIdentity returns the sender's identity key that a pre-key message claims, without any other check or work. Decrypt proves it.
func PreKeyIdentity(message []byte) (PublicKey, error) {
	m, err := parsePreKeyMessage(message)
	if err != nil {
		return PublicKey{}, ErrUndecryptable
	}
	return m.identity, nil
}

func (a Address) valid() bool { return a.Device >= 1 && a.Device <= 127 }

// Format writes the type alone, whatever the verb: logs hold no addresses either.
func (a Address) Format(f fmt.State, _ rune) { fmt.Fprint(f, "ratchet.Address") }

// LogValue is the type alone.
func (a Address) LogValue() slog.Value { return slog.StringValue("ratchet.Address") }
