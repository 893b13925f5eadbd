package ratchet

// pqRatchet is the post-quantum ratchet that runs beside the Double Ratchet: it carries its own messages in field 5 of each
// SignalMessage, and its keys enter the message keys as the salt of their derivation. That is the whole coupling. A session without
// one writes no field 5, uses no salt, and refuses messages that carry one.
type pqRatchet interface {
	// send returns the next message's field 5 and salt, and moves on.
	send() (field, salt []byte, err error)
	// receive returns the salt for a received field 5. Nothing changes until commit.
	receive(field []byte) (salt []byte, commit func(), err error)
	marshal() []byte
}

// startPQ begins the post-quantum ratchet of a session from the handshake's third key.
type startPQ func(pqKey *[32]byte, initiator bool) (pqRatchet, error)
