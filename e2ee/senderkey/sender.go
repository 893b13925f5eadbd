package senderkey

import (
	"crypto/rand"
	"encoding/binary"
	"math"

	"sotto/e2ee/internal/cbc"
	"sotto/e2ee/internal/kdf"
	"sotto/e2ee/ratchet"
)

// Sender is our own key for one distribution id.
type Sender struct {
	distribution DistributionID
	chainID      uint32
	iteration    uint32 // of the next message
	chainKey     [32]byte
	signing      *ratchet.KeyPair
}

// NewSender makes a fresh key.
func NewSender(distribution DistributionID) *Sender {
	s := &Sender{distribution: distribution, signing: ratchet.GenerateKeyPair()}
	var id [4]byte
	rand.Read(id[:])
	s.chainID = binary.BigEndian.Uint32(id[:]) >> 1 // 31 bits, as others read it as signed
	rand.Read(s.chainKey[:])
	return s
}

// DistributionID returns the id the key was made for.
func (s *Sender) DistributionID() DistributionID { return s.distribution }

// Distribution returns the message that hands the key to a member, from the next message on. It holds the key: it must travel
// inside a session.
func (s *Sender) Distribution() []byte {
	m := distributionMessage{s.distribution, s.chainID, s.iteration, s.chainKey, s.signing.Public()}
	defer clear(m.chainKey[:])
	return m.encode()
}

// Encrypt makes one message for all who have the key.
func (s *Sender) Encrypt(plaintext []byte) ([]byte, error) {
	if s.iteration == math.MaxUint32-1 {
		return nil, ErrExhausted // the last iteration that still has a successor
	}
	seed := chainSeed(&s.chainKey)
	keys := newMessageKeys(&seed)
	defer clear(keys)
	m := message{distribution: s.distribution, chainID: s.chainID, iteration: s.iteration}
	m.ciphertext = cbc.Encrypt(keys[16:], keys[:16], plaintext)
	b := m.encode()
	b = append(b, s.signing.Sign(b)...)
	s.chainKey = chainNext(&s.chainKey)
	s.iteration++
	return b, nil
}

// chainSeed and chainNext are the symmetric ratchet (Double Ratchet specification section 7.2, KDF_CK): what a message's keys come from,
// and the chain key of the message after it.
func chainSeed(chainKey *[32]byte) [32]byte { return kdf.HMAC(chainKey[:], []byte{0x01}) }
func chainNext(chainKey *[32]byte) [32]byte { return kdf.HMAC(chainKey[:], []byte{0x02}) }

// newMessageKeys returns IV [16] || cipher key [32], and clears the seed.
func newMessageKeys(seed *[32]byte) []byte {
	defer clear(seed[:])
	keys := make([]byte, 48)
	kdf.HKDF(keys, nil, seed[:], "WhisperGroup")
	return keys
}
