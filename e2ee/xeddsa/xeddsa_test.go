package xeddsa

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"os"
	"testing"
)

// vectors were made by libsignal-client 0.103.0.
func vectors(t testing.TB) (out []struct{ Message, Private, Public, Signature string }) {
	b, err := os.ReadFile("testdata/signatures.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &out); err != nil || len(out) == 0 {
		t.Fatal(err)
	}
	return out
}

func fromHex(t testing.TB, s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestVectors(t *testing.T) {
	for _, v := range vectors(t) {
		public, message, signature := [32]byte(fromHex(t, v.Public)[1:]), fromHex(t, v.Message), fromHex(t, v.Signature)
		if !Verify(&public, message, signature) {
			t.Errorf("signature over %d bytes is refused", len(message))
		}
		private := [32]byte(fromHex(t, v.Private))
		var random [64]byte
		rand.Read(random[:])
		ours := Sign(&private, message, &random)
		if !Verify(&public, message, ours) {
			t.Errorf("our signature over %d bytes is refused", len(message))
		}
		if ours[63]&0x80 != signature[63]&0x80 {
			t.Error("the sign of the Edwards key differs")
		}
	}
}

func TestEveryFlippedBitIsRefused(t *testing.T) {
	v := vectors(t)[1]
	public, message, signature := [32]byte(fromHex(t, v.Public)[1:]), fromHex(t, v.Message), fromHex(t, v.Signature)
	for _, b := range [][]byte{public[:], message, signature} {
		for i := range len(b) * 8 {
			b[i/8] ^= 1 << (i % 8)
			if Verify(&public, message, signature) {
				t.Errorf("accepted with bit %d of a %d-byte part flipped", i, len(b))
			}
			b[i/8] ^= 1 << (i % 8)
		}
	}
	if Verify(&public, message, signature[:63]) || Verify(&public, message, append(signature, 0)) {
		t.Error("accepted with another length")
	}
	if !Verify(&public, message, signature) {
		t.Error("the untouched signature is refused")
	}
}

// Adding the group's order to s gives another encoding of the same scalar; it must not pass.
func TestScalarIsCanonical(t *testing.T) {
	order, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	for _, v := range vectors(t) {
		public, message, signature := [32]byte(fromHex(t, v.Public)[1:]), fromHex(t, v.Message), fromHex(t, v.Signature)
		sign := signature[63] & 0x80
		signature[63] &= 0x7f
		s := new(big.Int).SetBytes(reversed(signature[32:]))
		copy(signature[32:], reversed(s.Add(s, order).FillBytes(make([]byte, 32))))
		signature[63] |= sign
		if Verify(&public, message, signature) {
			t.Error("accepted s + L")
		}
	}
}

func reversed(b []byte) []byte {
	out := make([]byte, len(b))
	for i := range b {
		out[len(b)-1-i] = b[i]
	}
	return out
}

// smallOrder holds the u coordinates of the points whose order divides 8, and p - 1 which has no Edwards form.
var smallOrder = []string{
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0100000000000000000000000000000000000000000000000000000000000000",
	"e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
	"5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
}

func TestSmallOrderKeys(t *testing.T) {
	for _, u := range smallOrder {
		public := [32]byte(fromHex(t, u))
		if PrimeOrder(&public) {
			t.Errorf("%s counts as of prime order", u)
		}
		// With R the identity and s = 0, a signature holds whenever the order divides its hash: for one message in eight or more.
		for i := range 32 {
			forged := make([]byte, 64)
			forged[0] = 1 // R is the identity, s is 0
			if Verify(&public, []byte{byte(i)}, forged) {
				t.Errorf("forged under %s", u)
			}
		}
	}
}

func TestPrimeOrder(t *testing.T) {
	for range 50 {
		private, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		public := [32]byte(private.PublicKey().Bytes())
		if !PrimeOrder(&public) {
			t.Fatal("an honest key is refused")
		}
		high := public
		high[31] |= 0x80
		if PrimeOrder(&high) {
			t.Fatal("accepted with the high bit set")
		}
	}
	// u = 9 is the base point; u = 9 + p is the same point, encoded above the modulus.
	base := [32]byte{9}
	above := [32]byte(fromHex(t, "f6ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"))
	if !PrimeOrder(&base) || PrimeOrder(&above) {
		t.Error("base point")
	}
}

// A key with a torsion part agrees on the same secrets as the honest key it was made from: clamping multiplies by 8.
func TestTorsionIsRefused(t *testing.T) {
	private, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public := [32]byte(private.PublicKey().Bytes())
	p, err := edwardsPoint(&public, 0)
	if err != nil {
		t.Fatal(err)
	}
	order4 := [32]byte{1} // u = 1
	torsion, err := edwardsPoint(&order4, 0)
	if err != nil {
		t.Fatal(err)
	}
	mixed := [32]byte(p.Add(p, torsion).BytesMontgomery())
	peer, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(agree(t, peer, public), agree(t, peer, mixed)) {
		t.Fatal("the test's premise is wrong: the secrets differ")
	}
	if PrimeOrder(&mixed) {
		t.Error("a key with a torsion part is accepted")
	}
}

func agree(t *testing.T, private *ecdh.PrivateKey, u [32]byte) []byte {
	public, err := ecdh.X25519().NewPublicKey(u[:])
	if err != nil {
		t.Fatal(err)
	}
	shared, err := private.ECDH(public)
	if err != nil {
		t.Fatal(err)
	}
	return shared
}

func FuzzVerify(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(fromHex(f, v.Public)[1:], fromHex(f, v.Message), fromHex(f, v.Signature))
	}
	f.Fuzz(func(t *testing.T, public, message, signature []byte) {
		if len(public) != 32 {
			return
		}
		u := [32]byte(public)
		if !Verify(&u, message, signature) {
			return
		}
		// What is accepted has one encoding.
		for _, i := range []int{0, 255, 256, 508, 509, 510, 511} {
			signature[i/8] ^= 1 << (i % 8)
			if Verify(&u, message, signature) {
				t.Fatalf("accepted with bit %d flipped", i)
			}
			signature[i/8] ^= 1 << (i % 8)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	v := vectors(b)[1]
	public, message, signature := [32]byte(fromHex(b, v.Public)[1:]), fromHex(b, v.Message), fromHex(b, v.Signature)
	b.ReportAllocs()
	for b.Loop() {
		if !Verify(&public, message, signature) {
			b.Fatal("refused")
		}
	}
}
