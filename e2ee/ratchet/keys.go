package ratchet

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/subtle"
	"fmt"
	"log/slog"

	"sotto/e2ee/xeddsa"
	"sotto/wire"
)

// PublicKeySize is the length of a serialised PublicKey: the type byte 0x05, then the u coordinate.
const PublicKeySize = 33

const publicKeyType = 0x05

// PublicKey is an X25519 public key. The zero value is no key.
type PublicKey struct {
	bytes [PublicKeySize]byte
}

// ParsePublicKey reads the 33-byte form, and nothing longer.
func ParsePublicKey(b []byte) (PublicKey, error) {
	var k PublicKey
	if len(b) != PublicKeySize || b[0] != publicKeyType {
		return k, ErrBadKey
	}
	copy(k.bytes[:], b)
	return k, nil
}

// Bytes returns the 33-byte form.
func (k PublicKey) Bytes() []byte { return k.bytes[:] }

// IsZero reports whether k is the zero value.
func (k PublicKey) IsZero() bool { return k == PublicKey{} }

// Equal reports whether k and other are the same key, in constant time.
func (k PublicKey) Equal(other PublicKey) bool {
	return subtle.ConstantTimeCompare(k.bytes[:], other.bytes[:]) == 1
}

// Verify reports whether signature was made over message by k's private half.
func (k PublicKey) Verify(message, signature []byte) bool {
	u := k.u()
	return k.bytes[0] == publicKeyType && xeddsa.Verify(&u, message, signature)
}

func (k PublicKey) u() [32]byte { return [32]byte(k.bytes[1:]) }

// RegistrationID returns the registration id of the device with this identity key
// (wire.RegistrationID). The recipient of a pre-key message, whose MACs cover the identity key but
// not the id, checks both.
func RegistrationID(identity PublicKey) uint32 { return wire.RegistrationID(identity.bytes[:]) }

// KeyPair is an X25519 key pair: an identity key, a pre-key or a ratchet key.
type KeyPair struct {
	private *ecdh.PrivateKey // of the clamped bytes
	public  PublicKey
}

// GenerateKeyPair makes a fresh key pair.
func GenerateKeyPair() *KeyPair {
	var b [32]byte
	rand.Read(b[:])
	return newKeyPair(&b)
}

// UnmarshalKeyPair reads what Marshal wrote. It clamps, so any 32 random bytes will do.
func UnmarshalKeyPair(private []byte) (*KeyPair, error) {
	if len(private) != 32 {
		return nil, ErrBadKey
	}
	b := [32]byte(private)
	return newKeyPair(&b), nil
}

// newKeyPair clears b.
func newKeyPair(b *[32]byte) *KeyPair {
	defer clear(b[:])
	b[0] &= 248
	b[31] = b[31]&127 | 64
	private, err := ecdh.X25519().NewPrivateKey(b[:])
	if err != nil {
		panic("ratchet: " + err.Error()) // only for another length than 32
	}
	k := &KeyPair{private: private}
	k.public.bytes[0] = publicKeyType
	copy(k.public.bytes[1:], private.PublicKey().Bytes())
	return k
}

// Marshal returns the private half, 32 secret bytes, for an encrypted store.
func (k *KeyPair) Marshal() []byte { return k.private.Bytes() }

// Public returns the public half.
func (k *KeyPair) Public() PublicKey { return k.public }

// Sign signs message. A signed pre-key's signature is identity.Sign(preKey.Public().Bytes()), and a Kyber pre-key's likewise.
func (k *KeyPair) Sign(message []byte) []byte {
	var random [64]byte
	rand.Read(random[:])
	private := [32]byte(k.private.Bytes())
	defer clear(private[:])
	return xeddsa.Sign(&private, message, &random)
}

// Agree returns the Diffie-Hellman secret with a public key. It fails when that is zero (RFC 7748 section 6.1).
func (k *KeyPair) Agree(public PublicKey) ([]byte, error) {
	u, err := ecdh.X25519().NewPublicKey(public.bytes[1:])
	if err != nil {
		return nil, err
	}
	return k.private.ECDH(u)
}

// Format writes the type alone, whatever the verb, so that no log holds a key.
func (k PublicKey) Format(f fmt.State, _ rune) { fmt.Fprint(f, "ratchet.PublicKey") }

// Format writes the type alone, whatever the verb.
func (k KeyPair) Format(f fmt.State, _ rune) { fmt.Fprint(f, "ratchet.KeyPair") }

// LogValue is the type alone.
func (k PublicKey) LogValue() slog.Value { return slog.StringValue("ratchet.PublicKey") }

// LogValue is the type alone.
func (k KeyPair) LogValue() slog.Value { return slog.StringValue("ratchet.KeyPair") }
