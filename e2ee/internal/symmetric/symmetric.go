// Package symmetric has the two symmetric steps of a chain of messages: the chain of keys (Double Ratchet specification section 7.2,
// KDF_CK) and AES-256-CBC with PKCS#7 padding.
package symmetric

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"errors"
)

// ErrPadding says that a ciphertext has no whole blocks or no right padding. Callers turn it into an error of their own.
var ErrPadding = errors.New("bad padding")

// Seed returns what the keys of a chain's current message come from, Next the chain key of the message after it.
func Seed(chain *[32]byte) [32]byte { return hmac32(chain, 0x01) }

// Next returns the chain key of the following message.
func Next(chain *[32]byte) [32]byte { return hmac32(chain, 0x02) }

// hmac32 is HMAC-SHA-256 (RFC 2104) of one byte. It is written out because skipping 25,000 messages takes as many: crypto/hmac
// allocates for each new key and takes several times as long.
func hmac32(key *[32]byte, input byte) [32]byte {
	var inner [sha256.BlockSize + 1]byte
	var outer [sha256.BlockSize + sha256.Size]byte
	defer func() { clear(inner[:]); clear(outer[:]) }()
	copy(inner[:], key[:])
	copy(outer[:], key[:])
	for i := range sha256.BlockSize {
		inner[i] ^= 0x36
		outer[i] ^= 0x5c
	}
	inner[sha256.BlockSize] = input
	digest := sha256.Sum256(inner[:])
	copy(outer[sha256.BlockSize:], digest[:])
	return sha256.Sum256(outer[:])
}

// Encrypt pads plaintext (PKCS#7, RFC 5652 section 6.3) and encrypts it. key has 32 bytes, iv 16.
func Encrypt(key, iv, plaintext []byte) []byte {
	padding := aes.BlockSize - len(plaintext)%aes.BlockSize
	b := make([]byte, len(plaintext)+padding)
	copy(b, plaintext)
	for i := len(plaintext); i < len(b); i++ {
		b[i] = byte(padding)
	}
	cipher.NewCBCEncrypter(newBlock(key), iv).CryptBlocks(b, b)
	return b
}

// Decrypt is for authenticated ciphertext only: it returns early on bad padding.
func Decrypt(key, iv, ciphertext []byte) ([]byte, error) {
	if len(ciphertext) == 0 || len(ciphertext)%aes.BlockSize != 0 {
		return nil, ErrPadding
	}
	b := make([]byte, len(ciphertext))
	cipher.NewCBCDecrypter(newBlock(key), iv).CryptBlocks(b, ciphertext)
	padding := int(b[len(b)-1])
	if padding < 1 || padding > aes.BlockSize {
		return nil, ErrPadding
	}
	for _, p := range b[len(b)-padding:] {
		if int(p) != padding {
			return nil, ErrPadding
		}
	}
	return b[:len(b)-padding], nil
}

func newBlock(key []byte) cipher.Block {
	block, err := aes.NewCipher(key)
	if err != nil {
		panic("symmetric: " + err.Error()) // only for another key length than 16, 24, 32
	}
	return block
}
