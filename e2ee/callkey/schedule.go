package callkey

import (
	"crypto/hkdf"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/binary"
)

// Labels separate every use of a hash or key from every other. Those that begin a hashed string end in a zero byte, so that none is
// a prefix of another.
const (
	labelKEM        = "Sotto call v1 KEM"
	labelTranscript = "Sotto call v1 transcript\x00"
	labelMaster     = "Sotto call v1 master\x00"
	labelCode       = "Sotto call v1 verification code"
	labelCallerPart = "Sotto call v1 caller's commitment\x00"
	labelCalleePart = "Sotto call v1 callee's commitment\x00"
	labelCaller     = "Sotto call v1 from caller"
	labelCallee     = "Sotto call v1 from callee"
	labelSRTPKey    = "Sotto call v1 SRTP key"
	labelSRTPSalt   = "Sotto call v1 SRTP salt"
	labelSFrame     = "Sotto call v1 SFrame base key"
	labelNext       = "Sotto call v1 next epoch"
)

// encapsulate makes a secret that only the holder of the private key can find again (RFC 9180 sections 5.1.1 and 5.3).
func encapsulate(public []byte) (secret *[32]byte, ciphertext []byte, err error) {
	key, err := hpke.MLKEM768X25519().NewPublicKey(public)
	if err != nil {
		return nil, nil, err
	}
	ciphertext, sender, err := hpke.NewSender(key, hpke.HKDFSHA256(), hpke.ExportOnly(), []byte(labelKEM))
	if err != nil {
		return nil, nil, err
	}
	exported, err := sender.Export(labelKEM, 32)
	if err != nil {
		return nil, nil, err
	}
	return (*[32]byte)(exported), ciphertext, nil
}

func decapsulate(seed *[32]byte, ciphertext []byte) (*[32]byte, error) {
	key, err := hpke.MLKEM768X25519().NewPrivateKey(seed[:])
	if err != nil {
		return nil, err
	}
	recipient, err := hpke.NewRecipient(ciphertext, key, hpke.HKDFSHA256(), hpke.ExportOnly(), []byte(labelKEM))
	if err != nil {
		return nil, err
	}
	exported, err := recipient.Export(labelKEM, 32)
	if err != nil {
		return nil, err
	}
	return (*[32]byte)(exported), nil
}

// inputs is everything the keys depend on.
type inputs struct {
	kemSecret, offerSecret, answerSecret *[32]byte
	call                                 Call
	offer, answer                        []byte
}

// schedule is what comes of them.
type schedule struct {
	caller, callee *chain // of what the caller and of what the callee sends
	code           *[32]byte
}

func derive(in inputs) schedule {
	ikm := make([]byte, 0, 3*32)
	ikm = append(ikm, in.kemSecret[:]...)
	ikm = append(ikm, in.offerSecret[:]...)
	ikm = append(ikm, in.answerSecret[:]...)
	prk, err := hkdf.Extract(sha256.New, ikm, in.transcript())
	clear(ikm)
	if err != nil {
		panic("callkey: " + err.Error()) // only a hash below the FIPS limits fails; SHA-256 is not
	}
	defer clear(prk)
	master := expand(prk, labelMaster+string(in.call.ID[:]))
	defer clear(master[:])
	return schedule{
		caller: &chain{secret: expand(master[:], labelCaller)},
		callee: &chain{secret: expand(master[:], labelCallee)},
		code:   expand(master[:], labelCode),
	}
}

// transcript hashes what both ends must have seen alike. The variable parts carry their length; the rest has a fixed one.
func (in inputs) transcript() []byte {
	h := sha256.New()
	h.Write([]byte(labelTranscript))
	for _, b := range [][]byte{in.offer, in.answer} {
		h.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b))))
		h.Write(b)
	}
	for _, p := range []Party{in.call.Caller, in.call.Callee} {
		h.Write(p.Account[:])
		h.Write([]byte{p.Device})
	}
	for _, p := range []Party{in.call.Caller, in.call.Callee} {
		h.Write(p.Identity[:])
	}
	return h.Sum(nil)
}

// expand is HKDF-Expand (RFC 5869 section 2.3) to one 32-byte key.
func expand(secret []byte, info string) *[32]byte {
	b, err := hkdf.Expand(sha256.New, secret, info, 32)
	if err != nil {
		panic("callkey: " + err.Error()) // only for more than 255 hash lengths
	}
	return (*[32]byte)(b)
}
