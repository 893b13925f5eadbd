// Package safety makes safety numbers: 60 digits that two people compare, aloud or side by side, to know that each has the other's
// real identity key and nobody's in between. Both see the same number. It changes when either identity key does. A Code is the same
// for cameras: the content of a QR code that one device shows and the other compares.
//
// Numbers and codes are Signal's (version 2: the identifier is the account's raw UUID), byte for byte: 5200 rounds of SHA-512 make a
// search for another key with the same digits costly.
package safety

import (
	"crypto/sha512"
	"fmt"
	"strings"
)

const (
	rounds    = 5200
	groups    = 6 // of one party
	groupSize = 5 // bytes of fingerprint, and digits
)

// Number returns the 60 digits of two parties, each an identity key in its 33-byte form and an identifier.
func Number(localKey, remoteKey [33]byte, localID, remoteID []byte) string {
	local, remote := digits(localKey, localID), digits(remoteKey, remoteID)
	return min(local, remote) + max(local, remote)
}

// Format splits a number into groups of five, for reading aloud.
func Format(number string) string {
	var b strings.Builder
	for i, digit := range number {
		if i > 0 && i%groupSize == 0 {
			b.WriteByte(' ')
		}
		b.WriteRune(digit)
	}
	return b.String()
}

// digits are one party's 30.
func digits(key [33]byte, id []byte) string {
	fingerprint := fingerprint(key, id)
	var b strings.Builder
	for i := range groups {
		var n uint64
		for _, c := range fingerprint[i*groupSize : (i+1)*groupSize] {
			n = n<<8 | uint64(c)
		}
		fmt.Fprintf(&b, "%05d", n%100000)
	}
	return b.String()
}

// fingerprint stands for one party, in digits and in codes.
func fingerprint(key [33]byte, id []byte) []byte {
	h := sha512.New()
	h.Write([]byte{0, 0}) // version of the hash
	h.Write(key[:])
	h.Write(id)
	h.Write(key[:])
	fingerprint := h.Sum(nil)
	for range rounds - 1 {
		h.Reset()
		h.Write(fingerprint)
		h.Write(key[:])
		fingerprint = h.Sum(fingerprint[:0])
	}
	return fingerprint
}
