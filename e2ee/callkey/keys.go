package callkey

import (
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
)

var (
	errTaken  = errors.New("this call key is in use already: take the next epoch's")
	errErased = errors.New("the call has ended: its keys are erased")
)

// hidden is part of every struct that has secrets: to format one prints nothing of it. And they hold their secrets behind pointers,
// because package fmt does not ask unexported fields of other structs how to format them: it prints the address.
type hidden struct{}

func (hidden) Format(s fmt.State, _ rune) { io.WriteString(s, "[call keys]") }

// Keys are one end's keys of a call. They are not safe for concurrent use, but for the two chains: each takes its turn with Erase and
// with whoever else uses it.
type Keys struct {
	hidden
	Send    *SendChain
	Receive *ReceiveChain

	caller     bool      // which end this is
	reveal     *[32]byte // this end's part of the verification code
	commitment *[32]byte // to the peer's
	code       *[32]byte
}

// Erase forgets what is left of the keys, at the end of the call.
func (k *Keys) Erase() {
	k.Send.c.erase()
	k.Receive.c.erase()
	if k.code != nil {
		clear(k.code[:])
		clear(k.reveal[:])
		k.code, k.reveal = nil, nil
	}
}

// A SendChain yields the keys for what this end sends, one epoch after the other.
type SendChain struct {
	hidden
	c *chain
}

// A ReceiveChain yields the keys for what the peer sends, one epoch after the other.
type ReceiveChain struct {
	hidden
	c *chain
}

// Next moves on to the next epoch, the first time to epoch 0, and forgets what earlier epochs' keys were made of.
func (s *SendChain) Next() (*SendKey, error) {
	m, err := s.c.next()
	if err != nil {
		return nil, err
	}
	return &SendKey{m: m}, nil
}

// Next moves on to the next epoch, the first time to epoch 0, and forgets what earlier epochs' keys were made of.
func (r *ReceiveChain) Next() (*ReceiveKey, error) {
	m, err := r.c.next()
	if err != nil {
		return nil, err
	}
	return &ReceiveKey{m: m}, nil
}

// NextSRTP is Next and its SRTP for an end that uses SRTP alone: a source of keys for rekeying.
func (s *SendChain) NextSRTP() (key, salt []byte, err error) { return s.c.nextSRTP() }

// NextSRTP is Next and its SRTP for an end that uses SRTP alone: a source of keys for rekeying.
func (r *ReceiveChain) NextSRTP() (key, salt []byte, err error) { return r.c.nextSRTP() }

// A SendKey protects what this end sends in one epoch.
type SendKey struct {
	hidden
	m material
}

// Epoch counts from 0.
func (k *SendKey) Epoch() uint32 { return k.m.epoch }

// SRTP hands out the master key (32 bytes) and salt (12 bytes) for AEAD_AES_256_GCM (RFC 7714), once.
func (k *SendKey) SRTP() (key, salt []byte, err error) { return k.m.takeSRTP() }

// SFrame hands out the base key (32 bytes; RFC 9605 section 4.4.2), once.
func (k *SendKey) SFrame() ([]byte, error) { return k.m.takeSFrame() }

// A ReceiveKey opens what the peer sends in one epoch.
type ReceiveKey struct {
	hidden
	m material
}

// Epoch counts from 0.
func (k *ReceiveKey) Epoch() uint32 { return k.m.epoch }

// SRTP is as SendKey.SRTP, for the peer's stream.
func (k *ReceiveKey) SRTP() (key, salt []byte, err error) { return k.m.takeSRTP() }

// SFrame is as SendKey.SFrame, for the peer's frames.
func (k *ReceiveKey) SFrame() ([]byte, error) { return k.m.takeSFrame() }

// chain is one direction's: each epoch's secret is a one-way function of the one before.
type chain struct {
	mu     sync.Mutex
	secret *[32]byte // of the epoch to come
	epoch  uint32
}

func (c *chain) next() (material, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.secret == nil || c.epoch == math.MaxUint32 {
		return material{}, errErased
	}
	m := material{
		epoch:  c.epoch,
		srtp:   expand(c.secret[:], labelSRTPKey),
		salt:   expand(c.secret[:], labelSRTPSalt),
		sframe: expand(c.secret[:], labelSFrame),
	}
	after := expand(c.secret[:], labelNext)
	clear(c.secret[:])
	c.secret, c.epoch = after, c.epoch+1
	return m, nil
}

func (c *chain) nextSRTP() (key, salt []byte, err error) {
	m, err := c.next()
	if err != nil {
		return nil, nil, err
	}
	clear(m.sframe[:])
	return m.takeSRTP()
}

func (c *chain) erase() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.secret != nil {
		clear(c.secret[:])
		c.secret = nil
	}
}

// material is one epoch of one direction. What was taken is gone, so no second context can be given the same key and repeat its
// nonces.
type material struct {
	epoch        uint32
	srtp, sframe *[32]byte
	salt         *[32]byte // the first 12 bytes count
}

func (m *material) takeSRTP() (key, salt []byte, err error) {
	if m.srtp == nil {
		return nil, nil, errTaken
	}
	key, salt = m.srtp[:], m.salt[:12:12]
	m.srtp, m.salt = nil, nil
	return key, salt, nil
}

func (m *material) takeSFrame() ([]byte, error) {
	if m.sframe == nil {
		return nil, errTaken
	}
	key := m.sframe[:]
	m.sframe = nil
	return key, nil
}
