// Package linking is the key material of adding a device to an account.
//
// An account's first device shows a code, as text or as a QR code, which the user brings to the new device. In it is a secret that the
// server never sees, and by what the new device knows the first one's identity key when it gets it. From the secret come
//
//	slot    SHA-256("Sotto linking slot v1" 00 || secret), the first 16 bytes: where the two meet on the server
//	keys    HKDF-SHA-256(ikm: secret, info: "Sotto linking request v1" or "Sotto linking reply v1"), one for each direction
//	digits  ten, Argon2id of the new device's identity key and the slot, for the user to compare on both screens
//
// and a blob in either direction is
//
//	nonce [12] || ChaCha20-Poly1305(plaintext || 80 || zeros up to a multiple of 1024)
//
// with random nonces. The additional data of a request is empty, that of a reply SHA-256(request): it opens for that request alone.
//
// Linking, in order:
//
//  1. First device: NewCode; open_linking with its Slot; show Code.String.
//  2. New device: ParseCode; Code.SealRequest with its public keys, which it signs; POST it.
//  3. First device: Code.OpenRequest; ask the user, who may compare Code.Digits; SignList with the new device; Code.SealReply, which signs
//     all that it says; add_device.
//  4. New device: Code.OpenReply, which checks all of it.
//
// Guarantees:
//
//   - Who does not know the secret (the server, the network) learns nothing of what is sealed but its size to a kilobyte, and can
//     neither add a device nor have a new device join another account. The secret has 128 random bits.
//   - The account that a new device joins is the one whose first device showed the code, and what it is told of it and of contacts comes
//     from there: even if somebody else knows the code, and the server is theirs.
//   - Who knows the code can be added in the new device's place if the user agrees without comparing the digits. To find a key with the
//     same digits they would have to compute Argon2id ten thousand million times while the code is shown.
//
// The secret protects what was sealed for as long as nobody sees the code: the code is shown for ten minutes at most, works once, and is
// not kept.
package linking

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/chacha20poly1305"

	"sotto/wire"
)

const (
	slotLabel   = "Sotto linking slot v1\x00"
	firstLabel  = "Sotto linking account v1\x00"
	requestInfo = "Sotto linking request v1"
	replyInfo   = "Sotto linking reply v1"
)

const padTo = 1024

// Argon2id (RFC 9106) for the digits: 50 ms on a desktop computer.
const (
	digitsTime   = 1
	digitsMemory = 32 << 10 // KiB
	digitsLanes  = 1
)

// ErrRefused is all that is said of a blob or a list that is not what it should be.
var ErrRefused = errors.New("what came does not belong to this linking code: make a new code on the first device and try again")

// Slot names the meeting place on the server.
func (c Code) Slot() [wire.SlotSize]byte {
	sum := sha256.Sum256(append([]byte(slotLabel), c.secret[:]...))
	return [wire.SlotSize]byte(sum[:])
}

// Digits are what both devices show of the new device's identity key, "12345 67890". Whoever is faster than the new device has a key with
// other digits. Somebody who saw the code, and to whom the server shows the new device's request before it passes on their own, could try
// keys until one has the same digits; so each try costs time and memory.
func (c Code) Digits(identity [33]byte) string {
	slot := c.Slot()
	sum := argon2.IDKey(identity[:], slot[:], digitsTime, digitsMemory, digitsLanes, 8)
	n := binary.BigEndian.Uint64(sum)
	return fmt.Sprintf("%05d %05d", n/100_000%100_000, n%100_000)
}

func (c Code) seal(info string, data, plaintext []byte, nonce [chacha20poly1305.NonceSize]byte) []byte {
	padded := make([]byte, (len(plaintext)/padTo+1)*padTo)
	copy(padded, plaintext)
	padded[len(plaintext)] = 0x80 // ISO/IEC 7816-4
	return c.aead(info).Seal(nonce[:], nonce[:], padded, data)
}

func (c Code) open(info string, data, blob []byte) ([]byte, error) {
	if len(blob) < chacha20poly1305.NonceSize {
		return nil, ErrRefused
	}
	nonce, sealed := blob[:chacha20poly1305.NonceSize], blob[chacha20poly1305.NonceSize:]
	padded, err := c.aead(info).Open(nil, nonce, sealed, data)
	if err != nil {
		return nil, ErrRefused
	}
	for end := len(padded) - 1; end >= 0; end-- {
		switch padded[end] {
		case 0:
		case 0x80:
			return padded[:end], nil
		default:
			return nil, ErrRefused
		}
	}
	return nil, ErrRefused
}

func (c Code) aead(info string) cipher.AEAD {
	key, err := hkdf.Key(sha256.New, c.secret[:], nil, info, chacha20poly1305.KeySize)
	if err != nil {
		panic(err) // only for more output than HKDF gives
	}
	aead, err := chacha20poly1305.New(key)
	if err != nil {
		panic(err) // only for another key size
	}
	return aead
}

func freshNonce() (nonce [chacha20poly1305.NonceSize]byte) {
	rand.Read(nonce[:])
	return nonce
}
