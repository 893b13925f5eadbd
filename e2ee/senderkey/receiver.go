package senderkey

import (
	"cmp"
	"slices"

	"sotto/e2ee/internal/cbc"
	"sotto/e2ee/ratchet"
)

// Receiver holds the keys of one sender for one distribution id: the newest, and a few before it for messages still on their way.
type Receiver struct {
	distribution DistributionID
	keys         []*receivingKey // newest first
}

type receivingKey struct {
	chainID   uint32
	signing   ratchet.PublicKey
	iteration uint32 // that chainKey is for
	chainKey  [32]byte
	skipped   []skippedSeed // ascending
}

// skippedSeed waits for a message that was overtaken.
type skippedSeed struct {
	iteration uint32
	seed      [32]byte
}

// NewReceiver returns a Receiver without a key.
func NewReceiver(distribution DistributionID) *Receiver {
	return &Receiver{distribution: distribution}
}

// DistributionID returns the id it was made for.
func (r *Receiver) DistributionID() DistributionID { return r.distribution }

// Add takes the key that a distribution message holds, which must have come from the sender in an authenticated session. A key held
// already is left as it is, so that a repeated distribution message does not bring back what was used up. Another key with the same
// chain id takes the place of the one held.
func (r *Receiver) Add(distribution []byte) error {
	m, err := parseDistribution(distribution)
	if err != nil {
		return err
	}
	defer clear(m.chainKey[:])
	if m.distribution != r.distribution {
		return ErrBadDistribution
	}
	if i := r.find(m.chainID); i >= 0 {
		if r.keys[i].signing.Equal(m.signing) {
			return nil
		}
		r.remove(i)
	}
	if len(r.keys) == maxKeys {
		r.remove(maxKeys - 1)
	}
	r.keys = slices.Insert(r.keys, 0, &receivingKey{
		chainID: m.chainID, signing: m.signing, iteration: m.iteration, chainKey: m.chainKey,
	})
	return nil
}

// Decrypt opens one message, in any order.
//
//  1. the key by its chain id
//  2. the signature: up to here a message costs one parse and one verification, whatever it says
//  3. the message's seed in the chain
//  4. decryption
//  5. the seed is used up; those of messages passed over are kept
func (r *Receiver) Decrypt(b []byte) ([]byte, error) {
	m, err := parseMessage(b)
	if err != nil {
		return nil, err
	}
	i := r.find(m.chainID)
	if m.distribution != r.distribution || i < 0 {
		return nil, ErrUndecryptable
	}
	key := r.keys[i]
	if !key.signing.Verify(m.signed, m.signature) {
		return nil, ErrUndecryptable
	}
	seed, commit, err := key.at(m.iteration)
	if err != nil {
		return nil, err
	}
	keys := newMessageKeys(&seed)
	defer clear(keys)
	plaintext, err := cbc.Decrypt(keys[16:], keys[:16], m.ciphertext)
	if err != nil {
		return nil, ErrUndecryptable
	}
	commit()
	return plaintext, nil
}

// at finds the seed for an iteration. The key does not change before commit.
func (k *receivingKey) at(iteration uint32) (seed [32]byte, commit func(), err error) {
	if iteration < k.iteration {
		i, found := slices.BinarySearchFunc(k.skipped, iteration, func(s skippedSeed, iteration uint32) int {
			return cmp.Compare(s.iteration, iteration)
		})
		if !found {
			return seed, nil, ErrDuplicate
		}
		return k.skipped[i].seed, func() {
			clear(k.skipped[i].seed[:])
			k.skipped = slices.Delete(k.skipped, i, i+1) // which clears the freed last element
		}, nil
	}
	jump := iteration - k.iteration
	if jump > maxJump {
		return seed, nil, ErrUndecryptable
	}
	chainKey := k.chainKey
	skipped := make([]skippedSeed, 0, min(jump, maxSkipped))
	for i := k.iteration; i < iteration; i++ {
		if iteration-i <= maxSkipped {
			skipped = append(skipped, skippedSeed{i, chainSeed(&chainKey)})
		}
		chainKey = chainNext(&chainKey)
	}
	return chainSeed(&chainKey), func() {
		k.keep(skipped)
		k.chainKey, k.iteration = chainNext(&chainKey), iteration+1
		clear(chainKey[:])
	}, nil
}

// keep adds seeds, and forgets the oldest beyond maxSkipped.
func (k *receivingKey) keep(seeds []skippedSeed) {
	k.skipped = append(k.skipped, seeds...)
	clear(seeds)
	if excess := len(k.skipped) - maxSkipped; excess > 0 {
		k.skipped = slices.Delete(k.skipped, 0, excess)
	}
}

func (r *Receiver) find(chainID uint32) int {
	return slices.IndexFunc(r.keys, func(k *receivingKey) bool { return k.chainID == chainID })
}

// remove forgets a key and its secrets.
func (r *Receiver) remove(i int) {
	clear(r.keys[i].chainKey[:])
	clear(r.keys[i].skipped)
	r.keys = slices.Delete(r.keys, i, i+1)
}
