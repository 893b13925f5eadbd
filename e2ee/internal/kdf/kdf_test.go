package kdf

import (
	"bytes"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"testing"
)

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func TestHMACAgreesWithStandardLibrary(t *testing.T) {
	for _, keySize := range []int{0, 1, 32, 63, 64} {
		for size := range 300 {
			key, message := random(keySize), random(size)
			h := hmac.New(sha256.New, key)
			h.Write(message)
			if got := HMAC(key, message[:size/3], message[size/3:size/2], message[size/2:]); !bytes.Equal(got[:], h.Sum(nil)) {
				t.Fatalf("key of %d bytes, message of %d: differs from crypto/hmac", keySize, size)
			}
		}
	}
}

func TestHKDFAgreesWithStandardLibrary(t *testing.T) {
	for _, saltSize := range []int{0, 32, 64} {
		for _, size := range []int{1, 31, 32, 33, 64, 80, 96, 255 * 32} {
			for infoSize := range 100 {
				salt, secret, info := random(saltSize), random(infoSize+1), string(random(infoSize))
				want, err := hkdf.Key(sha256.New, secret, salt, info, size)
				if err != nil {
					t.Fatal(err)
				}
				got := make([]byte, size)
				HKDF(got, salt, secret, info)
				if !bytes.Equal(got, want) {
					t.Fatalf("salt of %d bytes, info of %d, output of %d: differs from crypto/hkdf", saltSize, infoSize, size)
				}
			}
		}
	}
}

// The steps of both ratchets do not allocate.
func TestAllocations(t *testing.T) {
	key, out := random(32), make([]byte, 80)
	info := string(random(50))
	if n := testing.AllocsPerRun(100, func() { HMAC(key, key[:1]); HKDF(out, key, key, info) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkHMAC(b *testing.B) {
	var key [32]byte
	for b.Loop() {
		key = HMAC(key[:], []byte{2})
	}
}

func BenchmarkHKDF(b *testing.B) {
	var key [32]byte
	info := string(random(35))
	for b.Loop() {
		HKDF(key[:], nil, key[:], info)
	}
}
