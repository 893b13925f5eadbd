package ratchet

import (
	"crypto/mlkem"
	"crypto/sha3"
	"fmt"
	"log/slog"
)

// Sizes of the Kyber1024 forms: a type byte, then the 1568 bytes.
const (
	KyberPublicKeySize  = 1 + mlkem.EncapsulationKeySize1024
	kyberCiphertextSize = 1 + mlkem.CiphertextSize1024
	kyberType           = 0x08
)

// KyberKeyPair is a key pair of round-3 Kyber1024. It differs from ML-KEM-1024 (FIPS 203) in how the shared secret is hashed, see
// kyberSecret, so that an ML-KEM-1024 key pair serves.
type KyberKeyPair struct {
	private *mlkem.DecapsulationKey1024
	public  []byte
}

// GenerateKyberKeyPair makes a fresh key pair.
func GenerateKyberKeyPair() *KyberKeyPair {
	private, err := mlkem.GenerateKey1024()
	if err != nil {
		panic("ratchet: " + err.Error()) // crypto/mlkem documents no failure
	}
	return newKyberKeyPair(private)
}

// UnmarshalKyberKeyPair reads what Marshal wrote.
func UnmarshalKyberKeyPair(seed []byte) (*KyberKeyPair, error) {
	private, err := mlkem.NewDecapsulationKey1024(seed)
	if err != nil {
		return nil, ErrBadKey
	}
	return newKyberKeyPair(private), nil
}

func newKyberKeyPair(private *mlkem.DecapsulationKey1024) *KyberKeyPair {
	public := append([]byte{kyberType}, private.EncapsulationKey().Bytes()...)
	return &KyberKeyPair{private: private, public: public}
}

// Marshal returns the private half, a 64-byte seed (FIPS 203 section 7.1: d || z), for an encrypted store.
func (k *KyberKeyPair) Marshal() []byte { return k.private.Bytes() }

// Public returns the public half, KyberPublicKeySize bytes.
func (k *KyberKeyPair) Public() []byte { return append([]byte(nil), k.public...) }

// decapsulate returns the shared secret. A ciphertext made for another key gives another secret, not an error.
func (k *KyberKeyPair) decapsulate(ciphertext []byte) ([]byte, error) {
	if len(ciphertext) != kyberCiphertextSize || ciphertext[0] != kyberType {
		return nil, ErrBadKey
	}
	shared, err := k.private.Decapsulate(ciphertext[1:])
	if err != nil {
		return nil, err
	}
	return kyberSecret(shared, ciphertext[1:]), nil
}

// parseKyberPublicKey checks the modulus too (FIPS 203 section 7.2).
func parseKyberPublicKey(b []byte) (*mlkem.EncapsulationKey1024, error) {
	if len(b) != KyberPublicKeySize || b[0] != kyberType {
		return nil, ErrBadKey
	}
	return mlkem.NewEncapsulationKey1024(b[1:])
}

// kyberEncapsulate returns the shared secret and the ciphertext with its type byte.
func kyberEncapsulate(public []byte, random Random) (secret, ciphertext []byte, err error) {
	key, err := parseKyberPublicKey(public)
	if err != nil {
		return nil, nil, err
	}
	shared, raw := random.Encapsulate(key)
	return kyberSecret(shared, raw), append([]byte{kyberType}, raw...), nil
}

// kyberSecret turns the shared secret of ML-KEM into that of round-3 Kyber, KDF(K' || H(c)) (Kyber specification 3.02,
// algorithm 8), and clears the former. FIPS 203 dropped this hash and changed nothing else that the other side can see.
func kyberSecret(shared, ciphertext []byte) []byte {
	defer clear(shared)
	hash := sha3.Sum256(ciphertext)
	h := sha3.NewSHAKE256()
	h.Write(shared)
	h.Write(hash[:])
	secret := make([]byte, 32)
	h.Read(secret)
	return secret
}

// Format writes the type alone, whatever the verb.
func (k KyberKeyPair) Format(f fmt.State, _ rune) { fmt.Fprint(f, "ratchet.KyberKeyPair") }

// LogValue is the type alone.
func (k KyberKeyPair) LogValue() slog.Value { return slog.StringValue("ratchet.KyberKeyPair") }
