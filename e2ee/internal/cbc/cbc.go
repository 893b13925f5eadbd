// Package cbc is AES-256-CBC with PKCS#7 padding, as the formats of sessions and sender keys prescribe.
package cbc

import (
	"crypto/aes"
	"crypto/cipher"
	"errors"
)

// ErrPadding says that a ciphertext has no whole blocks or no right padding. Callers turn it into an error of their own.
var ErrPadding = errors.New("bad padding")

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
		panic("cbc: " + err.Error()) // only for another key length than 16, 24, 32
	}
	return block
}
