package sealed

import (
	"crypto/rand"
	"crypto/subtle"

	"sotto/e2ee/gcmsiv"
	"sotto/e2ee/ratchet"
	"sotto/sealedwire"
)

// version2 begins the message for many as one recipient gets it:
//
//	0x22 || encrypted key [32] || authentication tag [16] || ephemeral public key [32, no type byte] || body
const version2 = 0x22

const (
	keySize     = 32
	tagSize     = 16
	headerSize2 = 1 + keySize + tagSize + 32
)

// Recipient is an account that SealMany seals for. All devices of an account share its identity key.
type Recipient struct {
	Account  [16]byte
	Identity ratchet.PublicKey
	Devices  []sealedwire.Device // none: the account is excluded, and Identity not used
}

// SealMany seals content once for all recipients, with the sender's identity key pair, and returns the message for the server
// (sealedwire.Multi).
//
//  1. 32 random bytes M give an ephemeral key pair and the key of the body
//  2. the body: content under that key, the same for all
//  3. for each recipient: M, encrypted by the agreement of the ephemeral key with the recipient's identity key, and a tag by the
//     agreement of both identity keys
func SealMany(local *ratchet.KeyPair, recipients []Recipient, content *Content) ([]byte, error) {
	var m [keySize]byte
	rand.Read(m[:])
	defer clear(m[:])
	return sealMany(local, recipients, content, &m)
}

func sealMany(local *ratchet.KeyPair, recipients []Recipient, content *Content, m *[keySize]byte) ([]byte, error) {
	if err := checkSender(local, content); err != nil {
		return nil, err
	}
	plaintext, err := content.encode()
	if err != nil {
		return nil, err
	}
	if content.Type == TypePlaintext {
		return nil, ErrContent
	}
	ephemeral := ephemeralPair(m)
	multi := sealedwire.Multi{
		Recipients: make([]sealedwire.Recipient, 0, len(recipients)),
		Ephemeral:  [32]byte(ephemeral.Public().Bytes()[1:]),
		Body:       gcmsiv.Seal(bodyKey(m), new([gcmsiv.NonceSize]byte), plaintext, nil),
	}
	for _, r := range recipients {
		entry := sealedwire.Recipient{Account: r.Account, Devices: r.Devices}
		if len(r.Devices) > 0 {
			pad, err := keyPad(ephemeral, r.Identity, ephemeral.Public(), r.Identity)
			if err != nil {
				return nil, ErrRecipient
			}
			subtle.XORBytes(entry.Key[:], m[:], pad)
			clear(pad)
			tag, err := senderTag(local, r.Identity, ephemeral.Public(), entry.Key[:], local.Public(), r.Identity)
			if err != nil {
				return nil, ErrRecipient
			}
			copy(entry.Tag[:], tag)
		}
		multi.Recipients = append(multi.Recipients, entry)
	}
	b, err := multi.Encode()
	if err != nil {
		return nil, ErrRecipient
	}
	return b, nil
}

// open2 opens what SealMany made for one of the recipients.
func open2(local *ratchet.KeyPair, b []byte) (*Content, error) {
	if len(b) < headerSize2+gcmsiv.TagSize || b[0] != version2 {
		return nil, ErrUndecryptable
	}
	encrypted, tag, u, body := b[1:][:keySize], b[1+keySize:][:tagSize], b[1+keySize+tagSize:][:32], b[headerSize2:]
	received, err := ratchet.ParsePublicKey(append([]byte{0x05}, u...))
	if err != nil {
		return nil, err
	}
	pad, err := keyPad(local, received, received, local.Public())
	if err != nil {
		return nil, err
	}
	var m [keySize]byte
	defer clear(m[:])
	subtle.XORBytes(m[:], encrypted, pad)
	clear(pad)

	// M gives the ephemeral key again: no other key, and no other M, passes.
	if !ephemeralPair(&m).Public().Equal(received) {
		return nil, ErrUndecryptable
	}
	plaintext, err := gcmsiv.Open(bodyKey(&m), new([gcmsiv.NonceSize]byte), body, nil)
	if err != nil {
		return nil, err
	}
	c, err := parseContent(plaintext)
	if err != nil {
		return nil, err
	}
	// The tag proves that the certificate's identity key sealed M for us, but not what is under M: another recipient of the same
	// message knows M too and can exchange the body. A session's or sender key's message inside is authenticated by itself; plain
	// text is not.
	if c.Type == TypePlaintext {
		return nil, ErrUndecryptable
	}
	sender, err := ratchet.ParsePublicKey(c.Sender.Identity[:])
	if err != nil {
		return nil, err
	}
	expected, err := senderTag(local, sender, received, encrypted, sender, local.Public())
	if err != nil || subtle.ConstantTimeCompare(expected, tag) != 1 {
		return nil, ErrUndecryptable
	}
	return c, nil
}

func ephemeralPair(m *[keySize]byte) *ratchet.KeyPair {
	private := derive(m[:], nil, "Sealed Sender v2: r (2023-08)", 32)
	defer clear(private)
	pair, err := ratchet.UnmarshalKeyPair(private) // which clamps
	if err != nil {
		panic("sealed: " + err.Error()) // only for another length than 32
	}
	return pair
}

// bodyKey is for one body: M is fresh for each message, so that the nonce may be zero.
func bodyKey(m *[keySize]byte) *[gcmsiv.KeySize]byte {
	return (*[gcmsiv.KeySize]byte)(derive(m[:], nil, "Sealed Sender v2: K", gcmsiv.KeySize))
}

func keyPad(local *ratchet.KeyPair, remote, ephemeral, recipient ratchet.PublicKey) ([]byte, error) {
	return agreed(local, remote, "Sealed Sender v2: DH", keySize, ephemeral.Bytes(), recipient.Bytes())
}

func senderTag(local *ratchet.KeyPair, remote, ephemeral ratchet.PublicKey, encrypted []byte, sender, recipient ratchet.PublicKey) ([]byte, error) {
	return agreed(local, remote, "Sealed Sender v2: DH-sender", tagSize, ephemeral.Bytes(), encrypted, sender.Bytes(), recipient.Bytes())
}

// agreed derives from a Diffie-Hellman secret with what is behind it.
func agreed(local *ratchet.KeyPair, remote ratchet.PublicKey, info string, size int, behind ...[]byte) ([]byte, error) {
	secret, err := local.Agree(remote)
	if err != nil {
		return nil, err
	}
	input := make([]byte, 0, 32+32+3*ratchet.PublicKeySize)
	defer func() { clear(secret); clear(input[:cap(input)]) }()
	input = append(input, secret...)
	for _, b := range behind {
		input = append(input, b...)
	}
	return derive(input, nil, info, size), nil
}
