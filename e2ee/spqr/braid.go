package spqr

import (
	"crypto/mlkem"
	"crypto/sha3"
	"crypto/subtle"
	"errors"
)

// The braid agrees on one ML-KEM-768 secret per epoch, a few bytes on every message. In each epoch one party owns the key pair
// (the upper states), the other encapsulates (the lower); then they change places.
//
//	owner                                   encapsulator
//	KeysUnsampled                           NoHeaderReceived
//	KeysSampled           ── header ──▶
//	                                        HeaderReceived
//	                      ◀── ct1 ───       Ct1Sampled
//	HeaderSent            ── ek ──────▶
//	Ct1Received           ── ek+ack ──▶     EkReceivedCt1Sampled or Ct1Acknowledged
//	                      ◀── ct2 ───       Ct2Sampled
//	EkSentCt1Received     ── ack ─────▶
//	NoHeaderReceived, next epoch            KeysUnsampled, next epoch, on the first message of it
type braidState uint8

const (
	keysUnsampled braidState = iota
	keysSampled
	headerSent
	ct1Received
	ekSentCt1Received
	noHeaderReceived
	headerReceived
	ct1Sampled
	ekReceivedCt1Sampled
	ct1Acknowledged
	ct2Sampled
)

const macSize = 32

var (
	errFuture = errors.New("spqr: message of a later epoch")
	errMAC    = errors.New("spqr: wrong authentication code")
)

// braid is a value: its slices are replaced, never written to, so a copy is a snapshot.
type braid struct {
	state braidState
	epoch uint64
	auth  authenticator

	seed    [64]byte         // owner: ML-KEM key pair, d || z
	header  [headerSize]byte // encapsulator
	m       [32]byte         // encapsulator: randomness of the encapsulation, until ct2 is made
	ct1     []byte           // both, once complete
	vector  []byte           // encapsulator, once complete
	sending encoder
	pending decoder
}

func newBraid(pqKey *[32]byte, d Direction) braid {
	b := braid{epoch: 1, auth: newAuthenticator(pqKey)}
	if d == BtoA {
		b.awaitHeader()
	}
	return b
}

// Random yields the braid's secrets, each purpose apart so that recorded conversations replay.
type Random interface {
	// KeyGen returns the seed d || z of an ML-KEM-768 key pair (FIPS 203 section 7.1).
	KeyGen() [64]byte
	// Encaps returns the m of an encapsulation (FIPS 203 section 7.2).
	Encaps() [32]byte
}

// send yields what the next message carries, and the epoch's secret when it was made just now.
func (b *braid) send(random Random) (m message, secret *[32]byte, err error) {
	switch b.state {
	case keysUnsampled:
		if err := b.sampleKeys(random); err != nil {
			return m, nil, err
		}
	case headerReceived:
		secret = b.sampleCt1(random)
	}
	m.epoch = b.epoch
	switch b.state {
	case keysSampled:
		m.payload = payloadHdr
	case headerSent:
		m.payload = payloadEk
	case ct1Received:
		m.payload = payloadEkAck
	case ekSentCt1Received:
		m.payload = payloadAck
	case ct1Sampled, ekReceivedCt1Sampled:
		m.payload = payloadCt1
	case ct2Sampled:
		m.payload = payloadCt2
	}
	if m.payload.hasChunk() {
		m.chunk, b.sending = b.sending.advance()
	}
	return m, secret, nil
}

func (b *braid) sampleKeys(random Random) error {
	b.seed = random.KeyGen()
	pair, err := mlkem.NewDecapsulationKey768(b.seed[:])
	if err != nil {
		return err
	}
	vector, header := splitKey(pair.EncapsulationKey().Bytes())
	b.vector = vector
	mac := b.auth.headerMAC(b.epoch, header)
	b.sending = encoder{message: append(header, mac...)}
	b.state = keysSampled
	return nil
}

// splitKey turns t-hat || rho into the vector and the header.
func splitKey(key []byte) (vector, header []byte) {
	h := sha3.Sum256(key)
	vector = key[:vectorSize:vectorSize]
	return vector, append(append(make([]byte, 0, headerSize+macSize), key[vectorSize:]...), h[:]...)
}

func (b *braid) sampleCt1(random Random) *[32]byte {
	b.m = random.Encaps()
	shared, ct1 := encaps1(&b.header, &b.m)
	secret := epochSecret(b.epoch, &shared)
	clear(shared[:])
	b.auth = b.auth.update(b.epoch, &secret)
	b.ct1, b.sending = ct1, encoder{message: ct1}
	b.state = ct1Sampled
	return &secret
}

// receive takes a message and returns the epoch's secret when it completed just now. On an error b is to be thrown away.
func (b *braid) receive(m *message) (secret *[32]byte, err error) {
	switch {
	case m.epoch < b.epoch:
		return nil, nil
	case m.epoch > b.epoch:
		if b.state != ct2Sampled || m.epoch != b.epoch+1 {
			return nil, errFuture
		}
		*b = braid{state: keysUnsampled, epoch: m.epoch, auth: b.auth}
		return nil, nil
	}
	isEk := m.payload == payloadEk || m.payload == payloadEkAck
	isAck := m.payload == payloadAck || m.payload == payloadEkAck
	switch {
	case b.state == keysSampled && m.payload == payloadCt1:
		b.pending = decoder{size: ct1Size}.add(m.chunk)
		b.sending, b.vector = encoder{message: b.vector}, nil
		b.state = headerSent
	case b.state == headerSent && m.payload == payloadCt1:
		if b.pending = b.pending.add(m.chunk); b.pending.complete() {
			b.ct1, b.pending = b.pending.message(), decoder{}
			b.state = ct1Received
		}
	case b.state == ct1Received && m.payload == payloadCt2:
		b.pending = decoder{size: ct2Size + macSize}.add(m.chunk)
		b.sending = encoder{}
		b.state = ekSentCt1Received
	case b.state == ekSentCt1Received && m.payload == payloadCt2:
		if b.pending = b.pending.add(m.chunk); b.pending.complete() {
			return b.decapsulate()
		}
	case b.state == noHeaderReceived && m.payload == payloadHdr:
		if b.pending = b.pending.add(m.chunk); b.pending.complete() {
			return nil, b.acceptHeader()
		}
	case (b.state == ct1Sampled || b.state == ct1Acknowledged) && isEk:
		return nil, b.acceptVector(m.chunk, isAck)
	case b.state == ekReceivedCt1Sampled && isAck:
		return nil, b.makeCt2()
	}
	return nil, nil
}

func (b *braid) awaitHeader() {
	b.pending = decoder{size: headerSize + macSize}
	b.state = noHeaderReceived
}

func (b *braid) acceptHeader() error {
	message := b.pending.message()
	header, mac := message[:headerSize], message[headerSize:]
	if subtle.ConstantTimeCompare(mac, b.auth.headerMAC(b.epoch, header)) != 1 {
		return errMAC
	}
	b.header = [headerSize]byte(header)
	b.pending = decoder{size: vectorSize}
	b.state = headerReceived
	return nil
}

func (b *braid) acceptVector(c chunk, acknowledged bool) error {
	if acknowledged {
		b.sending, b.state = encoder{}, ct1Acknowledged
	}
	if b.pending = b.pending.add(c); !b.pending.complete() {
		return nil
	}
	b.vector, b.pending = b.pending.message(), decoder{}
	if b.state == ct1Acknowledged {
		return b.makeCt2()
	}
	if _, err := checkVector(&b.header, b.vector); err != nil {
		return err
	}
	b.state = ekReceivedCt1Sampled
	return nil
}

func (b *braid) makeCt2() error {
	ct2, err := encaps2(&b.header, b.vector, &b.m)
	if err != nil {
		return err
	}
	mac := b.auth.ciphertextMAC(b.epoch, b.ct1, ct2)
	*b = braid{state: ct2Sampled, epoch: b.epoch, auth: b.auth, sending: encoder{message: append(ct2, mac...)}}
	return nil
}

func (b *braid) decapsulate() (*[32]byte, error) {
	message := b.pending.message()
	ct2, mac := message[:ct2Size], message[ct2Size:]
	pair, err := mlkem.NewDecapsulationKey768(b.seed[:])
	if err != nil {
		return nil, err
	}
	shared, err := pair.Decapsulate(append(b.ct1[:ct1Size:ct1Size], ct2...))
	if err != nil {
		return nil, err
	}
	secret := epochSecret(b.epoch, (*[32]byte)(shared))
	clear(shared)
	auth := b.auth.update(b.epoch, &secret)
	if subtle.ConstantTimeCompare(mac, auth.ciphertextMAC(b.epoch, b.ct1, ct2)) != 1 {
		return nil, errMAC
	}
	*b = braid{epoch: b.epoch + 1, auth: auth}
	b.awaitHeader()
	return &secret, nil
}
