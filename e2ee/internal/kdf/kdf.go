// Package kdf has HMAC (RFC 2104) and HKDF (RFC 5869) with SHA-256 for short inputs, without allocating. A message that is not yet
// authenticated can ask for tens of thousands of both; crypto/hmac and crypto/hkdf allocate each time and take several times as long.
package kdf

import "crypto/sha256"

const block = sha256.BlockSize

// HMAC returns the code of message under a key of at most 64 bytes.
func HMAC(key, message []byte) [32]byte {
	return mac(key, message, nil, nil)
}

// HKDF fills out, of at most 255·32 bytes, from secret. The salt has at most 64 bytes; nil means none.
func HKDF[T []byte | string](out, salt, secret []byte, info T) {
	if len(out) > 255*sha256.Size {
		panic("kdf: more output than HKDF gives")
	}
	var text [64]byte // holds every info of the protocol, so that it stays on the stack
	prk := mac(salt, secret, nil, nil)
	var t [32]byte
	previous := t[:0]
	label := append(text[:0], info...)
	for i := byte(1); len(out) > 0; i++ {
		t = mac(prk[:], previous, label, []byte{i})
		previous = t[:]
		out = out[copy(out, t[:]):]
	}
	clear(prk[:])
	clear(t[:])
}

// mac is HMAC of a message in three parts. More than 128 bytes of it need an allocation.
func mac(key, a, b, c []byte) [32]byte {
	if len(key) > block {
		panic("kdf: key longer than a block")
	}
	var innerBuffer [block + 128]byte
	var outer [block + sha256.Size]byte
	copy(innerBuffer[:], key)
	copy(outer[:], key)
	for i := range block {
		innerBuffer[i] ^= 0x36
		outer[i] ^= 0x5c
	}
	inner := append(append(append(innerBuffer[:block], a...), b...), c...)
	digest := sha256.Sum256(inner)
	copy(outer[block:], digest[:])
	result := sha256.Sum256(outer[:])
	clear(inner)
	clear(outer[:])
	return result
}
