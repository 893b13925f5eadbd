package xeddsa

import (
	"crypto/ed25519"
	"testing"

	"filippo.io/edwards25519"

	"sotto/e2ee/internal/wycheproof"
)

// A signature of Ed25519 is one of XEdDSA under the Montgomery form of its key, once the sign of the key that form loses is in the top
// bit: the vectors for one are vectors for the other.
func TestWycheproof(t *testing.T) {
	type group struct {
		PublicKey struct{ PK wycheproof.Hex }
		Tests     []struct {
			wycheproof.Case
			Msg, Sig wycheproof.Hex
		}
	}
	valid, invalid, unmapped := 0, 0, 0
	for _, g := range wycheproof.Load[group](t, "ed25519", 150) {
		point, err := new(edwards25519.Point).SetBytes(g.PublicKey.PK)
		if err != nil {
			t.Fatal(err)
		}
		public := [32]byte(point.BytesMontgomery())
		for _, v := range g.Tests {
			if len(v.Sig) == SignatureSize {
				if v.Sig[63]&0x80 != 0 { // which only XEdDSA has a meaning for
					unmapped++
					continue
				}
				if ed25519.Verify(ed25519.PublicKey(g.PublicKey.PK), v.Msg, v.Sig) != v.Valid() {
					t.Fatalf("%d (%s): the vector is not Ed25519's", v.ID, v.Comment)
				}
				v.Sig[63] |= g.PublicKey.PK[31] & 0x80
			}
			if Verify(&public, v.Msg, v.Sig) != v.Valid() {
				t.Errorf("%d (%s): want %s", v.ID, v.Comment, v.Result)
			}
			if v.Valid() {
				valid++
			} else {
				invalid++
			}
		}
	}
	t.Logf("%d valid, %d invalid, %d that cannot be said in XEdDSA", valid, invalid, unmapped)
	if valid != 88 || invalid < 50 {
		t.Error("vectors are missing")
	}
}
