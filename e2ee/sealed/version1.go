package sealed

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"

	"sotto/e2ee/ratchet"
	"sotto/internal/protofield"
)

const (
	version1 = 0x11
	macSize  = 10
)

// message1 is the message for one recipient:
//
//	0x11 || protobuf
type message1 struct {
	ephemeral ratchet.PublicKey // 1
	static    []byte            // 2: the sender's identity key [33], encrypted || MAC [10]
	content   []byte            // 3: encrypted || MAC [10]
}

// Seal seals content for one recipient, with the sender's identity key pair.
//
//  1. a fresh key pair agrees with the recipient's identity key: under that, the sender's identity key
//  2. the sender's identity key agrees with the recipient's: under that, the content
func Seal(local *ratchet.KeyPair, recipient ratchet.PublicKey, content *Content) ([]byte, error) {
	if err := checkSender(local, content); err != nil {
		return nil, err
	}
	plaintext, err := content.encode()
	if err != nil {
		return nil, err
	}
	ephemeral := ratchet.GenerateKeyPair()
	outer, err := outerKeys(ephemeral, recipient, recipient, ephemeral.Public())
	if err != nil {
		return nil, ErrRecipient
	}
	defer outer.clear()
	m := message1{ephemeral: ephemeral.Public(), static: outer.seal(local.Public().Bytes())}
	inner, err := innerKeys(local, recipient, outer, m.static)
	if err != nil {
		return nil, ErrRecipient
	}
	defer inner.clear()
	m.content = inner.seal(plaintext)
	return m.encode(), nil
}

func open1(local *ratchet.KeyPair, b []byte) (*Content, error) {
	m, err := parseMessage1(b)
	if err != nil {
		return nil, err
	}
	outer, err := outerKeys(local, m.ephemeral, local.Public(), m.ephemeral)
	if err != nil {
		return nil, err
	}
	defer outer.clear()
	static, err := outer.open(m.static)
	if err != nil {
		return nil, err
	}
	sender, err := ratchet.ParsePublicKey(static)
	if err != nil {
		return nil, err
	}
	inner, err := innerKeys(local, sender, outer, m.static)
	if err != nil {
		return nil, err
	}
	defer inner.clear()
	plaintext, err := inner.open(m.content)
	if err != nil {
		return nil, err
	}
	c, err := parseContent(plaintext)
	if err != nil {
		return nil, err
	}
	// The certificate must be for the key that has just been proved.
	if subtle.ConstantTimeCompare(c.Sender.Identity[:], static) != 1 {
		return nil, ErrUndecryptable
	}
	return c, nil
}

func (m *message1) encode() []byte {
	b := make([]byte, 0, 1+2+ratchet.PublicKeySize+2+len(m.static)+6+len(m.content))
	return protofield.Append(append(b, version1), m.write)
}

func (m *message1) write(w *protofield.Writer) {
	w.Bytes(1, m.ephemeral.Bytes())
	w.Bytes(2, m.static)
	w.Bytes(3, m.content)
}

// parseMessage1 accepts the one encoding that encode gives.
func parseMessage1(b []byte) (*message1, error) {
	if len(b) == 0 || b[0] != version1 {
		return nil, ErrUndecryptable
	}
	m := new(message1)
	err := protofield.Each(b[1:], func(number int, _ uint64, value []byte) (err error) {
		switch number {
		case 1:
			m.ephemeral, err = ratchet.ParsePublicKey(value)
		case 2:
			m.static = value
		case 3:
			m.content = value
		}
		return err
	})
	if err != nil || m.ephemeral.IsZero() || len(m.static) != ratchet.PublicKeySize+macSize || !protofield.Same(b[1:], m.write) {
		return nil, ErrUndecryptable
	}
	return m, nil
}

// keys1 is chain [32] || cipher key [32] || MAC key [32]. Each is used for one encryption.
type keys1 struct{ bytes []byte }

// outerKeys come from the ephemeral key. The ephemeral public key enters as it was received, so that no other form of it gives the same.
func outerKeys(local *ratchet.KeyPair, remote, recipient, ephemeral ratchet.PublicKey) (keys1, error) {
	secret, err := local.Agree(remote)
	if err != nil {
		return keys1{}, err
	}
	defer clear(secret)
	salt := append([]byte("UnidentifiedDelivery"), recipient.Bytes()...)
	salt = append(salt, ephemeral.Bytes()...)
	return keys1{derive(secret, salt, "", 96)}, nil
}

// innerKeys come from both identity keys, and through the salt from the outer keys.
func innerKeys(local *ratchet.KeyPair, remote ratchet.PublicKey, outer keys1, static []byte) (keys1, error) {
	secret, err := local.Agree(remote)
	if err != nil {
		return keys1{}, err
	}
	defer clear(secret)
	salt := append(bytes.Clone(outer.bytes[:32]), static...)
	defer clear(salt)
	return keys1{derive(secret, salt, "", 96)}, nil
}

func (k keys1) clear() { clear(k.bytes) }

func (k keys1) seal(plaintext []byte) []byte {
	b := make([]byte, len(plaintext), len(plaintext)+macSize)
	k.xor(b, plaintext)
	return append(b, k.mac(b)...)
}

func (k keys1) open(b []byte) ([]byte, error) {
	if len(b) < macSize {
		return nil, ErrUndecryptable
	}
	ciphertext, mac := b[:len(b)-macSize], b[len(b)-macSize:]
	if subtle.ConstantTimeCompare(k.mac(ciphertext), mac) != 1 {
		return nil, ErrUndecryptable
	}
	plaintext := make([]byte, len(ciphertext))
	k.xor(plaintext, ciphertext)
	return plaintext, nil
}

func (k keys1) mac(ciphertext []byte) []byte {
	h := hmac.New(sha256.New, k.bytes[64:])
	h.Write(ciphertext)
	return h.Sum(nil)[:macSize]
}

// xor is AES-256-CTR from zero.
func (k keys1) xor(dst, src []byte) {
	block, err := aes.NewCipher(k.bytes[32:64])
	if err != nil {
		panic("sealed: " + err.Error()) // only for another key length than 16, 24, 32
	}
	cipher.NewCTR(block, make([]byte, aes.BlockSize)).XORKeyStream(dst, src)
}
