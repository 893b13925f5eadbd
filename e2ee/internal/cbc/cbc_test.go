package cbc

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"testing"
)

func TestPadding(t *testing.T) {
	key, iv := make([]byte, 32), make([]byte, 16)
	for n := range 50 {
		plaintext := bytes.Repeat([]byte{7}, n)
		ciphertext := Encrypt(key, iv, plaintext)
		if len(ciphertext) != n/16*16+16 {
			t.Errorf("%d bytes become %d", n, len(ciphertext))
		}
		if got, err := Decrypt(key, iv, ciphertext); err != nil || !bytes.Equal(got, plaintext) {
			t.Errorf("%d bytes do not come back: %v", n, err)
		}
	}
	for _, end := range []string{"\x00", "\x11", "\x02\x03\x03", "\x01\x02", "\xff"} {
		b := append(bytes.Repeat([]byte{9}, 16-len(end)), end...)
		cipher.NewCBCEncrypter(newBlock(key), iv).CryptBlocks(b, b)
		if _, err := Decrypt(key, iv, b); !errors.Is(err, ErrPadding) {
			t.Errorf("padding %x: %v", end, err)
		}
	}
	for _, n := range []int{0, 1, aes.BlockSize - 1, aes.BlockSize + 1} {
		if _, err := Decrypt(key, iv, make([]byte, n)); !errors.Is(err, ErrPadding) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}
