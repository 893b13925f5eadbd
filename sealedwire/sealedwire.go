// Package sealedwire is the half of sealed sender (package e2ee/sealed) that holds no key of a message: the certificates by which a
// server vouches for senders, and the form in which a message for many recipients reaches the server, which cuts it up. Server and
// devices share it. The formats are those of libsignal-client 0.103.0 (docs/protocol.md, "Sealed sender").
//
// How certificates hang together:
//
//  1. A trust root, whose public half every device knows, signs the server's key: ServerCertificate. Its private half is not needed
//     again before the server's key is replaced.
//  2. The server signs for a short time that an account's device has an identity key: Issuer.Issue, a SenderCertificate, which holds
//     the server certificate.
//  3. A recipient checks both signatures and the time: SenderCertificate.Validate. It learns who the sender is from there, since the
//     envelope does not say.
//
// All parsers accept one encoding of everything, so that no bit of a certificate can be changed without being noticed.
package sealedwire

import (
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"

	"sotto/e2ee/xeddsa"
)

// The errors a caller acts on.
var (
	// ErrMalformed: the bytes are not what was to be parsed, or not in its one encoding.
	ErrMalformed = errors.New("malformed certificate or message for many recipients")
	// ErrCertificate: a signature of the certificate is wrong, or its time is over: ask the server for a new one.
	ErrCertificate = errors.New("certificate is invalid or has expired")
)

// PublicKey is a Curve25519 public key: 0x05, then the u coordinate.
type PublicKey [33]byte

const publicKeyType = 0x05

// PrivateKey signs certificates: a trust root's or a server's key. It opens no message.
type PrivateKey struct {
	bytes  [32]byte
	public PublicKey
}

// GeneratePrivateKey makes a fresh key.
func GeneratePrivateKey() *PrivateKey {
	var b [32]byte
	rand.Read(b[:])
	defer clear(b[:])
	return newPrivateKey(&b)
}

// UnmarshalPrivateKey reads what Marshal wrote: any 32 random bytes.
func UnmarshalPrivateKey(b []byte) (*PrivateKey, error) {
	if len(b) != 32 {
		return nil, ErrMalformed
	}
	return newPrivateKey((*[32]byte)(b)), nil
}

func newPrivateKey(b *[32]byte) *PrivateKey {
	private, err := ecdh.X25519().NewPrivateKey(b[:])
	if err != nil {
		panic("sealedwire: " + err.Error()) // only for another length than 32
	}
	k := &PrivateKey{bytes: *b}
	k.public[0] = publicKeyType
	copy(k.public[1:], private.PublicKey().Bytes())
	return k
}

// Marshal returns the 32 secret bytes.
func (k *PrivateKey) Marshal() []byte { return k.bytes[:] }

// Public returns the public half.
func (k *PrivateKey) Public() PublicKey { return k.public }

func (k *PrivateKey) sign(message []byte) []byte {
	var random [64]byte
	rand.Read(random[:])
	return xeddsa.Sign(&k.bytes, message, &random)
}

func (k PublicKey) verify(message, signature []byte) bool {
	u := [32]byte(k[1:])
	return k[0] == publicKeyType && xeddsa.Verify(&u, message, signature)
}

// Format writes the type alone, whatever the verb, so that no log holds a key.
func (k PrivateKey) Format(f fmt.State, _ rune) { fmt.Fprint(f, "sealedwire.PrivateKey") }

// LogValue is the type alone.
func (k PrivateKey) LogValue() slog.Value { return slog.StringValue("sealedwire.PrivateKey") }

// Format writes the type alone, whatever the verb.
func (k PublicKey) Format(f fmt.State, _ rune) { fmt.Fprint(f, "sealedwire.PublicKey") }

// LogValue is the type alone.
func (k PublicKey) LogValue() slog.Value { return slog.StringValue("sealedwire.PublicKey") }
