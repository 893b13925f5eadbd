package callkey

import (
	"bytes"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
)

// The verification code is a short authentication string with hash commitments, as ZRTP's (RFC 6189 section 4.3):
//
//  1. Offer: the caller commits to its part, 32 random bytes.
//  2. Answer: the callee commits to its own, and has fixed everything else the code depends on.
//  3. Reveal: the caller opens its commitment, since the answer is in.
//  4. Accept: the callee opens its own, since its user has accepted.
//
// Whoever sits between caller and callee, in two calls of its own, has fixed its part in each before it knows the honest end's. So it
// meets the same code on both ends with one chance in a million. Nor can it try in secret: what the code of a call would have been
// at the callee it learns only when the callee's user has accepted. (If the answer opened the callee's part, it could ring again
// and again until the code suited it.)

// ErrTampered is the answer to a part that is not what the peer committed to. The call must end.
var ErrTampered = errors.New("the call was tampered with: hang up, and compare safety numbers before calling again")

// Reveal is this end's part. The caller sends it once Caller.Keys has the answer, the callee when its user accepts; not before: a
// peer that knew it could choose its own to fit.
func (k *Keys) Reveal() []byte {
	if k.code == nil {
		return nil
	}
	return bytes.Clone(k.reveal[:])
}

// VerificationCode checks the part the peer revealed and returns six digits for both people to compare, as "418 205". After
// ErrTampered the call must end.
func (k *Keys) VerificationCode(revealed []byte) (string, error) {
	if k.code == nil {
		return "", errErased
	}
	label := labelCallerPart
	if k.caller {
		label = labelCalleePart
	}
	if len(revealed) != SecretSize || subtle.ConstantTimeCompare(commit(label, revealed), k.commitment[:]) != 1 {
		return "", ErrTampered
	}
	parts := string(revealed) + string(k.reveal[:])
	if k.caller {
		parts = string(k.reveal[:]) + string(revealed)
	}
	b := expand(k.code[:], parts)
	n := binary.BigEndian.Uint64(b[:]) % 1_000_000 // no digit is likelier than another by more than 2^-44
	return fmt.Sprintf("%03d %03d", n/1000, n%1000), nil
}

func commit(label string, part []byte) []byte {
	h := sha256.New()
	h.Write([]byte(label))
	h.Write(part)
	return h.Sum(nil)
}
