// Package gcmsiv is AES-256-GCM-SIV (RFC 8452), which the standard library does not have. Sealed sender v2 is encrypted with it, each
// message under a key of its own.
//
// Sealing the same plaintext twice under one key and nonce shows that it was the same, and nothing else (RFC 8452 section 9).
//
// Time does not depend on secrets: POLYVAL multiplies with integer multiplication on masked operands, without a table or a branch
// (polyval.go), which is constant time where the processor's 64-bit multiplication is, as on amd64 and arm64. AES is crypto/aes,
// constant time where the processor has AES instructions; without them Go uses tables, here as everywhere.
package gcmsiv

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"errors"
)

const (
	KeySize   = 32
	NonceSize = 12
	TagSize   = 16
)

// ErrOpen says that ciphertext, tag or additional data is not what was sealed under the key and nonce.
var ErrOpen = errors.New("gcmsiv: message authentication failed")

// maxSize is the limit of RFC 8452 section 6 for plaintext and for additional data.
const maxSize = 1 << 36

// Seal encrypts and authenticates plaintext, authenticates additional, and returns the ciphertext with the tag behind it. It panics
// on more than 64 GiB.
func Seal(key *[KeySize]byte, nonce *[NonceSize]byte, plaintext, additional []byte) []byte {
	if uint64(len(plaintext)) > maxSize || uint64(len(additional)) > maxSize {
		panic("gcmsiv: message too large")
	}
	authentication, encryption := deriveKeys(key, nonce)
	defer clear(authentication[:])
	out := make([]byte, len(plaintext)+TagSize)
	t := tag(&authentication, encryption, nonce, plaintext, additional)
	counterMode(encryption, &t, out, plaintext)
	copy(out[len(plaintext):], t[:])
	return out
}

// Open undoes Seal. It fails with ErrOpen.
func Open(key *[KeySize]byte, nonce *[NonceSize]byte, sealed, additional []byte) ([]byte, error) {
	if len(sealed) < TagSize || uint64(len(sealed)) > maxSize+TagSize || uint64(len(additional)) > maxSize {
		return nil, ErrOpen
	}
	authentication, encryption := deriveKeys(key, nonce)
	defer clear(authentication[:])
	received := [TagSize]byte(sealed[len(sealed)-TagSize:])
	plaintext := make([]byte, len(sealed)-TagSize)
	counterMode(encryption, &received, plaintext, sealed[:len(plaintext)])
	expected := tag(&authentication, encryption, nonce, plaintext, additional)
	if subtle.ConstantTimeCompare(expected[:], received[:]) != 1 {
		clear(plaintext)
		return nil, ErrOpen
	}
	return plaintext, nil
}

// deriveKeys makes the message's keys from key and nonce: half of each of six encrypted blocks (RFC 8452 section 4).
func deriveKeys(key *[KeySize]byte, nonce *[NonceSize]byte) (authentication [16]byte, encryption cipher.Block) {
	generating := newBlock(key[:])
	var keys [48]byte
	defer clear(keys[:])
	var block [16]byte
	for i := range 6 {
		binary.LittleEndian.PutUint32(block[:], uint32(i))
		copy(block[4:], nonce[:])
		generating.Encrypt(block[:], block[:])
		copy(keys[8*i:8*i+8], block[:])
	}
	clear(block[:])
	return [16]byte(keys[:16]), newBlock(keys[16:])
}

// tag is the synthetic initialisation vector (RFC 8452 section 4): POLYVAL over additional data, plaintext and their lengths in bits,
// with the nonce mixed in and one bit cleared, encrypted.
func tag(authentication *[16]byte, encryption cipher.Block, nonce *[NonceSize]byte, plaintext, additional []byte) (t [TagSize]byte) {
	var lengths [16]byte
	binary.LittleEndian.PutUint64(lengths[:], 8*uint64(len(additional)))
	binary.LittleEndian.PutUint64(lengths[8:], 8*uint64(len(plaintext)))
	p := newPolyval(authentication)
	p.update(additional)
	p.update(plaintext)
	p.update(lengths[:])
	t = p.sum()
	*p = polyval{}
	subtle.XORBytes(t[:], t[:], nonce[:])
	t[15] &= 0x7f
	encryption.Encrypt(t[:], t[:])
	return t
}

// counterMode is AES-CTR of RFC 8452 section 4: the first 32 bits, little endian, count blocks and wrap around. The first block is the
// tag with its last bit set.
func counterMode(encryption cipher.Block, tag *[TagSize]byte, dst, src []byte) {
	block := *tag
	block[15] |= 0x80
	counter := binary.LittleEndian.Uint32(block[:])
	var stream [16]byte
	defer clear(stream[:])
	for len(src) > 0 {
		encryption.Encrypt(stream[:], block[:])
		n := subtle.XORBytes(dst, src, stream[:])
		dst, src = dst[n:], src[n:]
		counter++
		binary.LittleEndian.PutUint32(block[:], counter)
	}
}

func newBlock(key []byte) cipher.Block {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("gcmsiv: " + err.Error()) // only for another key length than 16, 24, 32
	}
	return block
}
