// Package xeddsa signs and verifies with X25519 keys, so that one identity key both agrees and signs.
//
// The scheme is Signal's XEdDSA specification (https://signal.org/docs/specifications/xeddsa/) over Curve25519 and SHA-512, in
// the form in use: the sign of the signer's Edwards key is not forced to zero but travels in the top bit of the signature.
//
// A signature has one encoding: Verify refuses a public key or a scalar that is not canonical, and public keys of small order,
// under which anybody could sign.
package xeddsa

import (
	"crypto/sha512"
	"crypto/subtle"
	"errors"

	"filippo.io/edwards25519"
	"filippo.io/edwards25519/field"
)

// SignatureSize is the length of a signature in bytes.
const SignatureSize = 64

// hash1 begins what is hashed into the nonce: 2^256 - 1 - 1, little endian (XEdDSA section 2.5, hash_1).
var hash1 = [32]byte{
	0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
	0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
}

// Sign signs message with an X25519 private key. random must be fresh for each signature.
func Sign(private *[32]byte, message []byte, random *[64]byte) []byte {
	a, err := edwards25519.NewScalar().SetBytesWithClamping(private[:])
	if err != nil {
		panic("xeddsa: " + err.Error()) // only for another length than 32
	}
	public := new(edwards25519.Point).ScalarBaseMult(a).Bytes()
	r := hashToScalar(hash1[:], private[:], message, random[:])
	signature := new(edwards25519.Point).ScalarBaseMult(r).Bytes()
	h := hashToScalar(signature, public, message)
	signature = append(signature, edwards25519.NewScalar().MultiplyAdd(h, a, r).Bytes()...)
	signature[63] |= public[31] & 0x80
	return signature
}

// Verify reports whether signature was made over message with the private half of public, an X25519 u coordinate.
func Verify(public *[32]byte, message, signature []byte) bool {
	if len(signature) != SignatureSize {
		return false
	}
	var encoded [32]byte
	copy(encoded[:], signature[32:])
	sign := encoded[31] & 0x80
	encoded[31] &= 0x7f
	s, err := edwards25519.NewScalar().SetCanonicalBytes(encoded[:])
	if err != nil {
		return false
	}
	a, err := edwardsPoint(public, sign)
	if err != nil || new(edwards25519.Point).MultByCofactor(a).Equal(edwards25519.NewIdentityPoint()) == 1 {
		return false
	}
	h := hashToScalar(signature[:32], a.Bytes(), message)
	r := new(edwards25519.Point).VarTimeDoubleScalarBaseMult(h.Negate(h), a, s)
	return subtle.ConstantTimeCompare(r.Bytes(), signature[:32]) == 1
}

// PrimeOrder reports whether public is the canonical encoding of a point on the curve without a torsion part, as every honestly
// made public key is. Adding a small-order point, or the field's modulus, gives other keys with which a clamped private key agrees
// on the same secret; where a public key is not authenticated byte by byte, this check leaves one encoding.
func PrimeOrder(public *[32]byte) bool {
	p, err := edwardsPoint(public, 0)
	if err != nil {
		return false
	}
	// [L]P = [L-1]P + P, and L - 1 is the scalar -1.
	lessOne := edwards25519.NewScalar().Negate(one)
	q := new(edwards25519.Point).VarTimeDoubleScalarBaseMult(lessOne, p, edwards25519.NewScalar())
	return q.Add(q, p).Equal(edwards25519.NewIdentityPoint()) == 1
}

var one, _ = edwards25519.NewScalar().SetCanonicalBytes(append([]byte{1}, make([]byte, 31)...))

var errNotOnCurve = errors.New("xeddsa: not a canonical public key")

// edwardsPoint maps a u coordinate to the Edwards point with y = (u-1)/(u+1) and the given sign bit of x.
func edwardsPoint(u *[32]byte, sign byte) (*edwards25519.Point, error) {
	x, err := new(field.Element).SetBytes(u[:])
	if err != nil || subtle.ConstantTimeCompare(x.Bytes(), u[:]) != 1 {
		return nil, errNotOnCurve
	}
	unit := new(field.Element).One()
	denominator := new(field.Element).Add(x, unit)
	if denominator.Equal(new(field.Element).Zero()) == 1 {
		return nil, errNotOnCurve
	}
	y := new(field.Element).Subtract(x, unit)
	y.Multiply(y, denominator.Invert(denominator))
	encoded := y.Bytes()
	encoded[31] |= sign
	return new(edwards25519.Point).SetBytes(encoded)
}

// hashToScalar returns SHA-512 of the parts, modulo the order of the group.
func hashToScalar(parts ...[]byte) *edwards25519.Scalar {
	h := sha512.New()
	for _, p := range parts {
		h.Write(p)
	}
	s, err := edwards25519.NewScalar().SetUniformBytes(h.Sum(nil))
	if err != nil {
		panic("xeddsa: " + err.Error()) // only for another length than 64
	}
	return s
}
