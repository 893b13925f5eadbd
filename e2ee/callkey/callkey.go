// Package callkey derives the keys of one call.
//
// An offer and its answer travel end to end encrypted (e2ee/ratchet). Each carries a fresh secret, and between them they run a
// fresh hybrid key encapsulation, X-Wing (ML-KEM-768 and X25519) by HPKE in its export-only mode (RFC 9180 section 5.3,
// draft-ietf-hpke-pq). All of it, and every byte of offer and answer, the two devices and the call's id go into the keys:
//
//	transcript = SHA-256(label || offer || answer || both addresses || both identity keys)
//	master     = HKDF-SHA-256(salt: transcript, ikm: KEM secret || offer secret || answer secret, info: label || call id)
//	           → a chain of keys for each direction, and the verification code
//
// Guarantees:
//
//   - The keys stay secret if either the session that carried the offer and answer or the encapsulation does, now and against a
//     later quantum computer. They share nothing with the keys of another call.
//   - Ends that did not see the same offer, answer, devices and call get different keys, and so no call.
//   - A key serves one direction, in one epoch, for one context: it is handed out once and forgotten here.
//   - Equal verification codes on both ends mean that nobody sits between them, up to one chance in a million, even if both
//     sessions are an attacker's.
//
// One call, in order:
//
//  1. Caller: NewCaller, Fill an Offer, send its bytes; for each device of the callee a Caller of its own.
//  2. Callee: NewCallee with those bytes, Fill an Answer, send its bytes, derive Keys.
//  3. Caller: derive Keys from both byte strings, send Keys.Reveal.
//  4. Both: take media keys from Keys.Send and Keys.Receive; show VerificationCode of what was revealed. An error there ends the call.
package callkey

import (
	"bytes"
	"crypto/hpke"
	"crypto/rand"
	"crypto/subtle"
	"errors"

	"google.golang.org/protobuf/proto"

	"sotto/wire"
)

// Sizes of the fields of Offer and Answer.
const (
	SecretSize        = 32
	KEMPublicKeySize  = 1216 // ML-KEM-768 encapsulation key || X25519 public key
	KEMCiphertextSize = 1120 // ML-KEM-768 ciphertext || X25519 public key
)

var (
	errOffer  = errors.New("the call's offer is malformed")
	errAnswer = errors.New("the call's answer is malformed")
	errUsed   = errors.New("the call's keys were derived before: place a new call")
)

// A Party is one of the two devices of a call, as its session knows it.
type Party struct {
	Account  [16]byte
	Device   uint8
	Identity [33]byte
}

// A Call says whose keys are derived.
type Call struct {
	ID             [16]byte
	Caller, Callee Party
}

// A Caller holds the secrets behind one offer until its answer is in.
type Caller struct {
	hidden
	seed   *[32]byte // of the encapsulation key pair
	secret *[32]byte
	reveal *[32]byte // what the commitment opens to
	public []byte
}

// NewCaller makes the secrets of one offer to one device.
func NewCaller() (*Caller, error) {
	return newCaller(random32(), random32(), random32())
}

func newCaller(seed, secret, reveal *[32]byte) (*Caller, error) {
	private, err := hpke.MLKEM768X25519().NewPrivateKey(seed[:])
	if err != nil {
		return nil, err
	}
	return &Caller{seed: seed, secret: secret, reveal: reveal, public: private.PublicKey().Bytes()}, nil
}

// Fill writes the caller's part of the key agreement into an offer.
func (c *Caller) Fill(offer *wire.Offer) {
	offer.KemPublicKey = bytes.Clone(c.public)
	offer.Secret = bytes.Clone(c.secret[:])
	offer.Commitment = commit(labelCallerPart, c.reveal[:])
}

// Keys derives the caller's keys from the offer and the answer exactly as they were sent. It can be asked once: whatever the
// outcome, the secrets are erased, so a second answer finds nothing.
func (c *Caller) Keys(call Call, offer, answer []byte) (*Keys, error) {
	if c.seed == nil {
		return nil, errUsed
	}
	defer c.Erase()
	o, err := parseOffer(offer)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(o.KemPublicKey, c.public)&subtle.ConstantTimeCompare(o.Secret, c.secret[:]) == 0 {
		return nil, errOffer // not the one Fill was asked for
	}
	a, err := parseAnswer(answer)
	if err != nil {
		return nil, err
	}
	kemSecret, err := decapsulate(c.seed, a.KemCiphertext)
	if err != nil {
		return nil, errAnswer
	}
	s := derive(inputs{kemSecret, (*[32]byte)(o.Secret), (*[32]byte)(a.Secret), call, offer, answer})
	return &Keys{
		Send:       &SendChain{c: s.caller},
		Receive:    &ReceiveChain{c: s.callee},
		caller:     true,
		reveal:     (*[32]byte)(bytes.Clone(c.reveal[:])),
		commitment: (*[32]byte)(a.Commitment),
		code:       s.code,
	}, nil
}

// Erase forgets the secrets: for a call that ended before its answer came.
func (c *Caller) Erase() {
	if c.seed == nil {
		return
	}
	clear(c.seed[:])
	clear(c.secret[:])
	clear(c.reveal[:])
	*c = Caller{}
}

// A Callee holds the secrets behind one answer until the keys are derived.
type Callee struct {
	hidden
	offer      *[]byte
	kemSecret  *[32]byte
	ciphertext []byte
	secret     *[32]byte
	reveal     *[32]byte // what the commitment opens to
}

// NewCallee takes an offer's bytes as they came and makes the secrets of the answer.
func NewCallee(offer []byte) (*Callee, error) {
	o, err := parseOffer(offer)
	if err != nil {
		return nil, err
	}
	kemSecret, ciphertext, err := encapsulate(o.KemPublicKey)
	if err != nil {
		return nil, errOffer
	}
	offer = bytes.Clone(offer)
	return &Callee{
		offer:      &offer,
		kemSecret:  kemSecret,
		ciphertext: ciphertext,
		secret:     random32(),
		reveal:     random32(),
	}, nil
}

// Fill writes the callee's part of the key agreement into an answer.
func (c *Callee) Fill(answer *wire.Answer) {
	answer.KemCiphertext = bytes.Clone(c.ciphertext)
	answer.Secret = bytes.Clone(c.secret[:])
	answer.Commitment = commit(labelCalleePart, c.reveal[:])
}

// Keys derives the callee's keys, from the answer exactly as it will be sent. It can be asked once.
func (c *Callee) Keys(call Call, answer []byte) (*Keys, error) {
	if c.kemSecret == nil {
		return nil, errUsed
	}
	defer c.Erase()
	o, err := parseOffer(*c.offer)
	if err != nil {
		return nil, err
	}
	a, err := parseAnswer(answer)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(a.KemCiphertext, c.ciphertext)&subtle.ConstantTimeCompare(a.Secret, c.secret[:])&
		subtle.ConstantTimeCompare(a.Commitment, commit(labelCalleePart, c.reveal[:])) == 0 {
		return nil, errAnswer // not the one Fill was asked for
	}
	s := derive(inputs{c.kemSecret, (*[32]byte)(o.Secret), (*[32]byte)(a.Secret), call, *c.offer, answer})
	return &Keys{
		Send:       &SendChain{c: s.callee},
		Receive:    &ReceiveChain{c: s.caller},
		reveal:     (*[32]byte)(bytes.Clone(c.reveal[:])),
		commitment: (*[32]byte)(o.Commitment),
		code:       s.code,
	}, nil
}

// Erase forgets the secrets: for a call that is not answered.
func (c *Callee) Erase() {
	if c.kemSecret == nil {
		return
	}
	clear(c.kemSecret[:])
	clear(c.secret[:])
	clear(c.reveal[:])
	*c = Callee{}
}

func parseOffer(b []byte) (*wire.Offer, error) {
	var o wire.Offer
	if proto.Unmarshal(b, &o) != nil || len(o.KemPublicKey) != KEMPublicKeySize || len(o.Secret) != SecretSize ||
		len(o.Commitment) != SecretSize {
		return nil, errOffer
	}
	return &o, nil
}

func parseAnswer(b []byte) (*wire.Answer, error) {
	var a wire.Answer
	if proto.Unmarshal(b, &a) != nil || len(a.KemCiphertext) != KEMCiphertextSize || len(a.Secret) != SecretSize ||
		len(a.Commitment) != SecretSize {
		return nil, errAnswer
	}
	return &a, nil
}

func random32() *[32]byte {
	b := new([32]byte)
	rand.Read(b[:]) // never fails
	return b
}
