package ratchet

import (
	"crypto/mlkem"
	"crypto/rand"

	"sotto/e2ee/spqr"
)

// Random is the source of fresh secrets, one method for each purpose, so that a test can replay a recorded conversation.
type Random interface {
	BaseKey() [32]byte    // private half of a handshake's base key
	RatchetKey() [32]byte // private half of a ratchet key
	// Encapsulate makes a fresh shared secret for key: ML-KEM-1024.
	Encapsulate(key *mlkem.EncapsulationKey1024) (shared, ciphertext []byte)
	spqr.Random
}

type systemRandom struct{}

func (systemRandom) BaseKey() [32]byte    { return random32() }
func (systemRandom) RatchetKey() [32]byte { return random32() }

func (systemRandom) Encapsulate(key *mlkem.EncapsulationKey1024) (shared, ciphertext []byte) {
	return key.Encapsulate()
}

func (systemRandom) Encaps() [32]byte { return random32() }

func (systemRandom) KeyGen() (seed [64]byte) {
	rand.Read(seed[:])
	return seed
}

func random32() (b [32]byte) {
	rand.Read(b[:])
	return b
}

func (l *Local) random() Random {
	if l.Random == nil {
		return systemRandom{}
	}
	return l.Random
}
