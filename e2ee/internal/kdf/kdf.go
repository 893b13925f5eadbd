// Package kdf has HMAC (RFC 2104) and HKDF (RFC 5869) with SHA-256 for short inputs, without allocating. A message that is not yet
// authenticated can ask for tens of thousands of both; crypto/hmac and crypto/hkdf allocate each time and take several times as long.
package kdf

import "crypto/sha256"

const block = sha256.BlockSize

// HMAC returns the code of a message, given in parts, under a key of at most 64 bytes. Messages of more than 128 bytes take one
// allocation.
func HMAC(key []byte, message ...[]byte) [32]byte {
	if len(key) > block {
		panic("kdf: key longer than a block")
	}
	var inner [block + 128]byte
	var outer [block + sha256.Size]byte
	copy(inner[:], key)
	copy(outer[:], key)
	for i := range block {
		inner[i] ^= 0x36
		outer[i] ^= 0x5c
	}
	size := block
	for _, part := range message {
		size += len(part)
	}
	if size > len(inner) {
		h := sha256.New()
		h.Write(inner[:block])
		for _, part := range message {
			h.Write(part)
		}
		h.Sum(outer[:block])
	} else {
		size = block
		for _, part := range message {
			size += copy(inner[size:], part)
		}
		digest := sha256.Sum256(inner[:size])
		copy(outer[block:], digest[:])
	}
	result := sha256.Sum256(outer[:])
	clear(inner[:])
	clear(outer[:])
	return result
}

// HKDF fills out, of at most 255·32 bytes, from secret. The salt has at most 64 bytes; nil means none.
func HKDF[T []byte | string](out, salt, secret []byte, info T) {
	if len(out) > 255*sha256.Size {
		panic("kdf: more output than HKDF gives")
	}
	var text [64]byte // holds every info of the protocol, so that it stays on the stack
	prk := HMAC(salt, secret)
	var t [32]byte
	previous := t[:0]
	label := append(text[:0], info...)
	for i := byte(1); len(out) > 0; i++ {
		t = HMAC(prk[:], previous, label, []byte{i})
		previous = t[:]
		out = out[copy(out, t[:]):]
	}
	clear(prk[:])
	clear(t[:])
}
