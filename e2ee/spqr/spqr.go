// Package spqr is the sparse post-quantum ratchet that runs beside the Double Ratchet: every message carries a few bytes of an
// ML-KEM-768 exchange (the braid), every completed exchange starts new chains, and every message gets a key of its own from
// them. The session mixes that key into its message keys, so that a message stays closed unless both ratchets are broken.
//
// It follows Signal's SPQR protocol, version 1, byte for byte; docs/protocol.md describes it. Messages that name no
// post-quantum key are refused. The package knows nothing of sessions and networks, and its randomness is handed in.
package spqr

import "maps"

// A State is one party's side of the ratchet in one session. It is not safe for concurrent use.
type State struct {
	braid  braid
	chains chains
}

// New starts the ratchet from the 32-byte key that the handshake set aside for it. Both sides take the same key and opposite
// directions.
func New(pqKey [32]byte, d Direction) *State {
	return &State{braid: newBraid(&pqKey, d), chains: newChains(&pqKey, d)}
}

// Send returns what the next message carries and the key it is mixed with. The state moves on at once: store it before the
// message leaves.
func (s *State) Send(random Random) (message []byte, key [32]byte, err error) {
	next := *s
	m, secret, err := next.braid.send(random)
	if err != nil {
		return nil, key, err
	}
	if secret != nil {
		next.chains.addEpoch(secret)
		clear(secret[:])
	}
	if m.index, key, err = next.chains.sendKey(m.epoch - 1); err != nil {
		return nil, key, err
	}
	*s = next
	return m.append(nil), key, nil
}

// A Received message is on its way through three steps:
//
//  1. Receive finds its Key.
//  2. The caller authenticates the message with the Key, and says so: Authenticated works on the exchange.
//  3. Commit moves the State on. Until then it is as before.
//
// A Received is void once its State was used again.
type Received struct {
	Key     [32]byte
	message message
	found   found
	state   *State
	next    *State // set by Authenticated
}

// Receive finds the key of a received message, at most MaxJump messages ahead of the newest one of its epoch. The message is not
// authenticated yet, so the caller says how many messages it may pass over at most, each for one HKDF, and gets that deducted.
//
// A message's key is always of an exchange completed before, so that nothing else needs to be done here.
func (s *State) Receive(message []byte, work *int) (*Received, error) {
	m, err := parseMessage(message)
	if err != nil {
		return nil, err
	}
	r := &Received{message: m, state: s}
	if r.found, err = s.chains.receiveKey(m.epoch-1, m.index, work); err != nil {
		return nil, err
	}
	r.Key = r.found.key
	return r, nil
}

// Authenticated takes in what the message carries. It refuses what an authentic message of the protocol cannot hold.
func (r *Received) Authenticated() error {
	next := *r.state
	secret, err := next.braid.receive(&r.message)
	if err != nil {
		return err
	}
	if secret != nil {
		next.chains.addEpoch(secret)
		clear(secret[:])
	}
	r.next = &next
	return nil
}

// Commit moves the state on: the key was used. It is called after Authenticated agreed.
func (r *Received) Commit() {
	r.next.chains.commit(&r.found)
	*r.state = *r.next
}

// Clear forgets what was found. It comes last, with or without Commit.
func (r *Received) Clear() {
	clear(r.Key[:])
	r.found, r.next = found{}, nil
}

// Epoch is the number of the exchange under way, from 1.
func (s *State) Epoch() uint64 {
	return s.braid.epoch
}

// Trim forgets the keys of overtaken messages but for those of the last keep messages of each epoch.
func (s *State) Trim(keep int) {
	for _, e := range s.chains.epochs {
		maps.DeleteFunc(e.skipped, func(i uint32, _ [32]byte) bool { return int64(e.receive.counter)-int64(i) > int64(keep) })
	}
}
