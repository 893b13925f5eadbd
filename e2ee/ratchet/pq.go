package ratchet

// pqRatchet is the post-quantum ratchet that runs beside the Double Ratchet: it carries its own messages in field 5 of each
// SignalMessage, and its keys enter the message keys as the salt of their derivation. That is the whole coupling. A value is never
// changed: send and receive return the state that follows, which the session keeps only if all else succeeds.
type pqRatchet interface {
	send() (field, salt []byte, next pqRatchet, err error)
	receive(field []byte) (salt []byte, next pqRatchet, err error)
	marshal() []byte
}

// startPQ begins the post-quantum ratchet of a session from the handshake's third key.
type startPQ func(pqKey *[32]byte, initiator bool) (pqRatchet, error)
