package ratchet

import (
	"bytes"

	"sotto/e2ee/internal/kdf"
)

// handshakeLabel names the parameters of PQXDH (section 2.2 of its specification).
const handshakeLabel = "WhisperText_X25519_SHA-256_CRYSTALS-KYBER-1024"

// handshake is what PQXDH gives both sides.
type handshake struct {
	root, chain, pq [32]byte
}

func (h *handshake) clear() { *h = handshake{} }

// agreement is one Diffie-Hellman of the handshake.
type agreement struct {
	private *KeyPair
	public  PublicKey
}

// agree runs the agreements in order and derives the keys (PQXDH section 3.3). It clears the KEM's secret.
func agree(agreements []agreement, kemSecret []byte) (*handshake, error) {
	defer clear(kemSecret)
	secret := make([]byte, 0, 32*(len(agreements)+2)) // never grown: growing would leave a copy
	defer func() { clear(secret) }()
	secret = append(secret, bytes.Repeat([]byte{0xff}, 32)...)
	for _, a := range agreements {
		shared, err := a.private.Agree(a.public)
		if err != nil {
			return nil, err
		}
		secret = append(secret, shared...)
		clear(shared)
	}
	secret = append(secret, kemSecret...)
	return deriveHandshake(secret), nil
}

func deriveHandshake(secret []byte) *handshake {
	var out [96]byte
	defer clear(out[:])
	kdf.HKDF(out[:], nil, secret, handshakeLabel)
	return &handshake{root: [32]byte(out[:32]), chain: [32]byte(out[32:64]), pq: [32]byte(out[64:])}
}

// initiate is the initiator's half of PQXDH. It returns the outer message that lets the recipient do its half.
func initiate(local *Local, b *Bundle) (*handshake, *preKeyMessage, error) {
	base := generate(local.random().BaseKey())
	kemSecret, ciphertext, err := kyberEncapsulate(b.KyberKey, local.random())
	if err != nil {
		return nil, nil, err
	}
	agreements := []agreement{{local.Identity, b.SignedKey}, {base, b.Identity}, {base, b.SignedKey}}
	m := &preKeyMessage{
		baseKey: base.public, identity: local.Identity.public, registrationID: local.registrationID(),
		signedID: b.SignedID, kyberID: b.KyberID, kyberCiphertext: ciphertext,
	}
	if b.OneTime != nil {
		agreements = append(agreements, agreement{base, b.OneTime.Key})
		m.hasOneTime, m.oneTimeID = true, b.OneTime.ID
	}
	h, err := agree(agreements, kemSecret)
	return h, m, err
}

// respond is the recipient's half.
func respond(identity, signed, oneTime *KeyPair, kyber *KyberKeyPair, m *preKeyMessage) (*handshake, error) {
	kemSecret, err := kyber.decapsulate(m.kyberCiphertext)
	if err != nil {
		return nil, err
	}
	agreements := []agreement{{signed, m.identity}, {identity, m.baseKey}, {signed, m.baseKey}}
	if oneTime != nil {
		agreements = append(agreements, agreement{oneTime, m.baseKey})
	}
	return agree(agreements, kemSecret)
}

func generate(private [32]byte) *KeyPair { return newKeyPair(&private) }
