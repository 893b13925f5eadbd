package spqr

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"

	"sotto/e2ee/internal/kdf"
)

// protocol names the braid's parameters in every derivation.
const protocol = "Signal_PQCKA_V1_MLKEM768"

// The authenticator proves that what the braid reassembled comes from the peer: its key is renewed with every epoch secret.
type authenticator struct {
	root, mac [32]byte
}

func newAuthenticator(pqKey *[32]byte) authenticator {
	var a authenticator
	return a.update(1, pqKey)
}

func (a authenticator) update(epoch uint64, key *[32]byte) authenticator {
	var out [64]byte
	kdf.HKDF(out[:], nil, append(a.root[:], key[:]...), protocol+":Authenticator Update"+be64(epoch))
	a.root, a.mac = [32]byte(out[:32]), [32]byte(out[32:])
	return a
}

func (a *authenticator) headerMAC(epoch uint64, header []byte) []byte {
	return a.sum(":ekheader", epoch, header)
}

func (a *authenticator) ciphertextMAC(epoch uint64, ct1, ct2 []byte) []byte {
	return a.sum(":ciphertext", epoch, ct1, ct2)
}

func (a *authenticator) sum(label string, epoch uint64, parts ...[]byte) []byte {
	h := hmac.New(sha256.New, a.mac[:])
	h.Write([]byte(protocol + label + be64(epoch)))
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum(nil)
}

// epochSecret is what an ML-KEM shared secret gives to the chains.
func epochSecret(epoch uint64, shared *[32]byte) (secret [32]byte) {
	kdf.HKDF(secret[:], nil, shared[:], protocol+":SCKA Key"+be64(epoch))
	return secret
}

func be64(v uint64) string {
	return string(binary.BigEndian.AppendUint64(nil, v))
}
