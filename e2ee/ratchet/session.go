package ratchet

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"math"
	"slices"
	"time"

	"sotto/e2ee/spqr"
)

// session is one Double Ratchet with a remote device.
type session struct {
	created  time.Time // by this device's clock, whole seconds
	identity PublicKey // the other's

	// The recipient keeps the handshake's base key, by which it knows the session's further pre-key messages, and a digest of all
	// the fields they repeat.
	baseKey PublicKey
	outer   [32]byte

	// The initiator keeps what makes its messages pre-key messages, until the first answer.
	pending *preKeyMessage

	root            [32]byte
	ratchet         ratchetKey
	sending         sendingChain
	previousCounter uint32
	receiving       []*receivingChain // oldest first
	pq              *spqr.State
}

// ratchetKey is our current ratchet key pair, in a form that can be stored and cleared.
type ratchetKey struct {
	private [32]byte
	public  PublicKey
	pair    *KeyPair // the same, if it is at hand: to make it of the private key costs as much as to use it
}

func newRatchetKey(k *KeyPair) ratchetKey {
	return ratchetKey{[32]byte(k.private.Bytes()), k.public, k}
}

func (k *ratchetKey) dh(public PublicKey) ([]byte, error) {
	if k.pair == nil {
		k.pair = generate(k.private)
	}
	return k.pair.Agree(public)
}

// startInitiator begins the session of the side that has a bundle (Double Ratchet section 7.1, PQXDH section 3.3).
func startInitiator(local *Local, b *Bundle, now time.Time) (*session, error) {
	h, outer, err := initiate(local, b)
	if err != nil {
		return nil, err
	}
	defer h.clear()
	ratchet := generate(local.random().RatchetKey())
	shared, err := ratchet.Agree(b.SignedKey)
	if err != nil {
		return nil, err
	}
	s := &session{created: now.Truncate(time.Second), identity: b.Identity, pending: outer, ratchet: newRatchetKey(ratchet)}
	s.receiving = []*receivingChain{{ratchetKey: b.SignedKey, key: h.chain}}
	s.root, s.sending.key = rootStep(&h.root, shared)
	s.pq = spqr.New(h.pq, spqr.AtoB)
	return s, nil
}

// startRecipient begins the session of the side that got a first message. The message's own ratchet key then makes the first step.
func startRecipient(local *Local, signed, oneTime *KeyPair, kyber *KyberKeyPair, m *preKeyMessage, now time.Time) (*session, error) {
	h, err := respond(local.Identity, signed, oneTime, kyber, m)
	if err != nil {
		return nil, err
	}
	defer h.clear()
	s := &session{
		created: now.Truncate(time.Second), identity: m.identity, baseKey: m.baseKey, outer: m.digest(),
		root: h.root, ratchet: newRatchetKey(signed), sending: sendingChain{key: h.chain},
	}
	s.pq = spqr.New(h.pq, spqr.BtoA)
	return s, nil
}

// digest covers every field that a session's pre-key messages repeat.
func (m *preKeyMessage) digest() [32]byte {
	outer := *m
	outer.message = nil
	return sha256.Sum256(outer.encode())
}

// expired reports whether the session went unanswered for too long to send in.
func (s *session) expired(now time.Time) bool {
	return s.pending != nil && now.Sub(s.created) > unansweredLimit
}

// seal encrypts one message (Double Ratchet section 7.3, RatchetEncrypt). Nothing fails once the ratchets have moved.
func (s *session) seal(local *Local, remote Address, plaintext []byte) (Message, error) {
	if s.sending.index == math.MaxUint32-1 {
		return Message{}, ErrNoSession // the last counter that still has a successor
	}
	m := signalMessage{ratchetKey: s.ratchet.public, counter: s.sending.index, previousCounter: s.previousCounter}
	pq, salt, err := s.pq.Send(local.random())
	if err != nil {
		return Message{}, err
	}
	defer clear(salt[:])
	m.pq = pq
	if s.pending != nil {
		m.addresses = addressBinding(local.Address, remote)
	}
	seed := chainSeed(&s.sending.key)
	keys := newMessageKeys(&seed, salt[:])
	defer keys.clear()
	clear(seed[:])
	s.sending.key = chainNext(&s.sending.key)
	s.sending.index++

	m.ciphertext = keys.encrypt(plaintext)
	b := m.encode()
	mac := keys.mac(local.Identity.public, s.identity, b)
	b = append(b, mac[:]...)
	if s.pending == nil {
		return Message{TypeMessage, b}, nil
	}
	outer := *s.pending
	outer.message = b
	return Message{TypePreKeyMessage, outer.encode()}, nil
}

// open decrypts one message (section 7.4, RatchetDecrypt), with at most *work before it is authenticated.
// The session does not change before commit.
//
//  1. the receiving chain of the message's ratchet key, or the one a Diffie-Hellman step gives
//  2. the message's seed in it
//  3. the post-quantum ratchet's key
//  4. authentication: MAC and addresses
//  5. decryption, and what the message brings to the post-quantum exchange
//  6. for a new chain, the other half of the step: our answer's ratchet key and sending chain
func (s *session) open(local *Local, remote Address, m *signalMessage, work *work) (plaintext []byte, commit func(), err error) {
	chain, root, isNew := s.chain(m.ratchetKey), s.root, false
	if chain == nil {
		if m.counter > uint32(work.chain) {
			return nil, nil, errFar // before the Diffie-Hellman, of which there may be many
		}
		shared, err := s.ratchet.dh(m.ratchetKey)
		if err != nil {
			return nil, nil, ErrUndecryptable
		}
		isNew, chain = true, &receivingChain{ratchetKey: m.ratchetKey}
		root, chain.key = rootStep(&s.root, shared)
	}

	advance, err := chain.at(m.counter, &work.chain)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			advance.clear()
			if isNew {
				chain.clear()
			}
		}
	}()

	pq, err := s.pq.Receive(m.pq, &work.pq)
	if errors.Is(err, spqr.ErrJump) {
		return nil, nil, errFar
	}
	if err != nil {
		return nil, nil, ErrUndecryptable
	}
	defer func() {
		if err != nil {
			pq.Clear()
		}
	}()

	keys := newMessageKeys(&advance.seed, pq.Key[:])
	defer keys.clear()

	mac := keys.mac(s.identity, local.Identity.public, m.authenticated)
	addresses := addressBinding(remote, local.Address)
	if subtle.ConstantTimeCompare(mac[:], m.mac) != 1 ||
		len(m.addresses) > 0 && subtle.ConstantTimeCompare(addresses, m.addresses) != 1 {
		return nil, nil, ErrUndecryptable
	}
	if plaintext, err = keys.decrypt(m.ciphertext); err != nil {
		return nil, nil, ErrUndecryptable
	}
	if err := pq.Authenticated(); err != nil {
		return nil, nil, ErrUndecryptable
	}

	var ratchet ratchetKey
	var sending sendingChain
	if isNew {
		pair := generate(local.random().RatchetKey())
		shared, err := pair.Agree(m.ratchetKey)
		if err != nil {
			return nil, nil, ErrUndecryptable
		}
		ratchet = newRatchetKey(pair)
		root, sending.key = rootStep(&root, shared)
	}
	return plaintext, func() {
		if isNew {
			s.previousCounter = max(s.sending.index, 1) - 1
			s.root, s.ratchet, s.sending = root, ratchet, sending
			s.keep(chain)
			root, ratchet, sending = [32]byte{}, ratchetKey{}, sendingChain{} // the copies
		}
		advance.commit()
		advance.clear()
		pq.Commit()
		pq.Clear()
		s.pending = nil
	}, nil
}

func (s *session) chain(ratchetKey PublicKey) *receivingChain {
	for _, c := range s.receiving {
		if c.ratchetKey == ratchetKey {
			return c
		}
	}
	return nil
}

// keep adds a receiving chain and forgets the oldest beyond maxReceivingChains.
func (s *session) keep(c *receivingChain) {
	if len(s.receiving) == maxReceivingChains {
		s.receiving[0].clear()
		s.receiving = slices.Delete(s.receiving, 0, 1)
	}
	s.receiving = append(s.receiving, c)
}

// trim forgets all but the newest keys kept for overtaken messages.
func (s *session) trim(keep int) {
	for _, c := range s.receiving {
		if excess := len(c.skipped) - keep; excess > 0 {
			c.skipped = slices.Delete(c.skipped, 0, excess) // which clears what it frees at the end
		}
	}
	s.pq.Trim(keep)
}

// clear forgets the session's secrets.
func (s *session) clear() {
	clear(s.root[:])
	clear(s.ratchet.private[:])
	s.ratchet.pair = nil
	clear(s.sending.key[:])
	s.pq = nil
	for _, c := range s.receiving {
		c.clear()
	}
}
