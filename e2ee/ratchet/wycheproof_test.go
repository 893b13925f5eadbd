package ratchet

import (
	"bytes"
	"crypto/mlkem"
	"crypto/sha3"
	"testing"

	"sotto/e2ee/internal/wycheproof"
	"sotto/e2ee/xeddsa"
)

// X25519 is the standard library's. Our part is to clamp, to refuse a secret of zero, and to tell keys on the curve itself from others.
func TestWycheproofX25519(t *testing.T) {
	type group struct {
		Tests []struct {
			wycheproof.Case
			Public, Private, Shared wycheproof.Hex
		}
	}
	for _, g := range wycheproof.Load[group](t, "x25519", 518) {
		for _, v := range g.Tests {
			pair, err := UnmarshalKeyPair(v.Private)
			if err != nil {
				t.Fatal(err)
			}
			public, err := ParsePublicKey(append([]byte{publicKeyType}, v.Public...))
			if err != nil {
				t.Fatal(err)
			}
			shared, err := pair.Agree(public)
			if v.Has("ZeroSharedSecret") {
				if err == nil {
					t.Errorf("%d (%s): a secret of zero", v.ID, v.Comment)
				}
			} else if err != nil || !bytes.Equal(shared, v.Shared) {
				t.Errorf("%d (%s): %x, %v", v.ID, v.Comment, shared, err)
			}
			u := public.u()
			if (v.Has("Twist") || v.Has("LowOrderPublic") || v.Has("NonCanonicalPublic")) && xeddsa.PrimeOrder(&u) {
				t.Errorf("%d (%s): counts as of prime order", v.ID, v.Comment)
			}
		}
	}
}

// Kyber1024 is ML-KEM-1024 with another hash behind it.
func TestWycheproofKyber(t *testing.T) {
	type group struct {
		ParameterSet string
		Tests        []struct {
			wycheproof.Case
			Seed, EK, C, K wycheproof.Hex
		}
	}
	refused := 0
	for _, g := range wycheproof.Load[group](t, "mlkem", 39) {
		if g.ParameterSet != "ML-KEM-1024" {
			continue
		}
		for _, v := range g.Tests {
			if !v.Valid() { // a coefficient that is not reduced
				if _, _, err := kyberEncapsulate(append([]byte{kyberType}, v.EK...), systemRandom{}); err == nil {
					t.Errorf("%d (%s): key accepted", v.ID, v.Comment)
				}
				refused++
				continue
			}
			pair, err := UnmarshalKyberKeyPair(v.Seed)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(pair.Public()[1:], v.EK) {
				t.Errorf("%d: another public key", v.ID)
			}
			secret, err := pair.decapsulate(append([]byte{kyberType}, v.C...))
			hash := sha3.Sum256(v.C)
			want := sha3.SumSHAKE256(append(v.K, hash[:]...), mlkem.SharedKeySize)
			if err != nil || !bytes.Equal(secret, want) {
				t.Errorf("%d: %x, %v", v.ID, secret, err)
			}
		}
	}
	if refused != 16 {
		t.Errorf("%d keys refused, not 16", refused)
	}
}
