package callkey

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
)

// The verification code is a short authentication string with a hash commitment, as ZRTP's (RFC 6189 section 4.3):
//
//  1. Offer: the caller commits to 32 random bytes.
//  2. Answer: the callee shows 32 random bytes, and has fixed everything else the code depends on.
//  3. Reveal: the caller opens its commitment; the callee checks it.
//
// Whoever sits between caller and callee, in two calls of its own, must choose its part in each before it knows the honest end's.
// So it meets the same code on both ends with one chance in a million, and has one try for a call.

// ErrTampered is the answer to a reveal that is not what the caller committed to. The call must end.
var ErrTampered = errors.New("the call was tampered with: hang up, and compare safety numbers before calling again")

// Reveal is what the caller sends once Caller.Keys has the answer: an answer made in knowledge of it could be made to fit. It is
// nil on the callee's end.
func (k *Keys) Reveal() []byte {
	if k.reveal == nil {
		return nil
	}
	return bytes.Clone(k.reveal[:])
}

// VerificationCode checks what the caller revealed (on the caller's own end, Keys.Reveal) and returns six digits for both people
// to compare, as "418 205". After ErrTampered the call must end.
func (k *Keys) VerificationCode(reveal []byte) (string, error) {
	if k.code == nil {
		return "", errErased
	}
	if len(reveal) != SecretSize || subtle.ConstantTimeCompare(commit(reveal), k.commitment[:]) != 1 {
		return "", ErrTampered
	}
	b := expand(k.code[:], string(reveal)+string(k.verification[:]))
	n := binary.BigEndian.Uint64(b[:]) % 1_000_000 // no digit is likelier than another by more than 2^-44
	return fmt.Sprintf("%03d %03d", n/1000, n%1000), nil
}

func commit(reveal []byte) []byte {
	h := sha256.New()
	h.Write([]byte(labelCommitment))
	h.Write(reveal)
	return h.Sum(nil)
}
