package ratchet

import (
	"slices"

	"sotto/e2ee/internal/cbc"
	"sotto/e2ee/internal/kdf"
)

// rootStep is KDF_RK of the Double Ratchet specification, section 7.2: it mixes a Diffie-Hellman secret into the root key and
// begins a chain. It clears the secret.
func rootStep(root *[32]byte, secret []byte) (nextRoot, chain [32]byte) {
	defer clear(secret)
	var out [64]byte
	defer clear(out[:])
	kdf.HKDF(out[:], root[:], secret, "WhisperRatchet")
	return [32]byte(out[:32]), [32]byte(out[32:])
}

// chainSeed and chainNext are KDF_CK of section 7.2: what a message's keys come from, and the chain key of the message after it.
func chainSeed(chain *[32]byte) [32]byte { return kdf.HMAC(chain[:], []byte{0x01}) }
func chainNext(chain *[32]byte) [32]byte { return kdf.HMAC(chain[:], []byte{0x02}) }

// sendingChain makes the seeds of our messages one after the other.
type sendingChain struct {
	key   [32]byte
	index uint32 // counter of the next message
}

// receivingChain makes the seeds of the other's messages sent under one ratchet key, in any order.
type receivingChain struct {
	ratchetKey PublicKey
	key        [32]byte
	index      uint32 // counter that key is for
	skipped    []skippedSeed
}

// skippedSeed waits for a message that was overtaken. It is the seed and not the message keys, because the post-quantum ratchet's
// part of these is known only when the message comes.
type skippedSeed struct {
	counter uint32
	seed    [32]byte
}

// advance is what receiving one message would do to its chain. The chain does not change before commit.
type advance struct {
	chain   *receivingChain
	counter uint32
	seed    [32]byte

	ahead    bool     // the counter is at or above the chain's index; otherwise the seed was a skipped one
	next     [32]byte // the chain key after the message
	from     uint32   // the first seed to keep for overtaken messages,
	fromKey  [32]byte // and the chain key it comes from
	position int      // of the skipped seed
}

// at finds the seed for counter. It fails with ErrDuplicate or errFar. It takes one HMAC for each message passed over, and *work of them
// at most; the seeds of those are not made before commit, when the message is authenticated.
func (c *receivingChain) at(counter uint32, work *int) (*advance, error) {
	a := &advance{chain: c, counter: counter}
	if counter < c.index {
		position, found := slices.BinarySearchFunc(c.skipped, counter, func(s skippedSeed, counter uint32) int {
			return int(int64(s.counter) - int64(counter))
		})
		if !found {
			return nil, ErrDuplicate
		}
		a.position, a.seed = position, c.skipped[position].seed
		return a, nil
	}
	jump := counter - c.index
	if jump > uint32(*work) {
		return nil, errFar
	}
	*work -= int(jump)
	a.ahead = true
	a.from = counter - min(jump, maxSkipped)
	key := c.key
	for i := c.index; i < counter; i++ {
		if i == a.from {
			a.fromKey = key
		}
		key = chainNext(&key)
	}
	a.seed, a.next = chainSeed(&key), chainNext(&key)
	clear(key[:])
	return a, nil
}

// commit moves the chain on: the seed is used, and those passed over are kept, the newest maxSkipped of them.
func (a *advance) commit() {
	c := a.chain
	if !a.ahead {
		clear(c.skipped[a.position].seed[:])
		c.skipped = slices.Delete(c.skipped, a.position, a.position+1) // which clears the freed last element
		return
	}
	for i := a.from; i < a.counter; i++ {
		c.skipped = append(c.skipped, skippedSeed{counter: i, seed: chainSeed(&a.fromKey)})
		a.fromKey = chainNext(&a.fromKey)
	}
	if excess := len(c.skipped) - maxSkipped; excess > 0 {
		c.skipped = slices.Delete(c.skipped, 0, excess)
	}
	c.key, c.index = a.next, a.counter+1
}

// clear forgets what was found.
func (a *advance) clear() {
	clear(a.seed[:])
	clear(a.next[:])
	clear(a.fromKey[:])
}

func (c *receivingChain) clear() {
	clear(c.key[:])
	clear(c.skipped)
}

// messageKeys protect one message.
type messageKeys struct {
	out [80]byte // cipher key [32] || MAC key [32] || IV [16]
}

// newMessageKeys mixes the two ratchets: salt is the post-quantum ratchet's key.
func newMessageKeys(seed *[32]byte, salt []byte) (k messageKeys) {
	kdf.HKDF(k.out[:], salt, seed[:], "WhisperMessageKeys")
	return k
}

func (k *messageKeys) clear() { clear(k.out[:]) }

// mac covers both identity keys, which bind the message to the two parties (the associated data of Double Ratchet section 3.4).
func (k *messageKeys) mac(sender, recipient PublicKey, authenticated []byte) [macSize]byte {
	code := kdf.HMAC(k.out[32:64], sender.bytes[:], recipient.bytes[:], authenticated)
	return [macSize]byte(code[:])
}

func (k *messageKeys) encrypt(plaintext []byte) []byte {
	return cbc.Encrypt(k.out[:32], k.out[64:], plaintext)
}

// decrypt is for authenticated ciphertext only: it returns early on bad padding.
func (k *messageKeys) decrypt(ciphertext []byte) ([]byte, error) {
	return cbc.Decrypt(k.out[:32], k.out[64:], ciphertext)
}
