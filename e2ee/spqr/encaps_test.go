package spqr

import (
	"bytes"
	"crypto/mlkem"
	"crypto/mlkem/mlkemtest"
	"crypto/rand"
	"flag"
	"testing"

	"sotto/e2ee/internal/wycheproof"
)

func TestSplitEncapsulationVector(t *testing.T) {
	v := &kat.Split
	pair, err := mlkem.NewDecapsulationKey768(v.Seed)
	if err != nil {
		t.Fatal(err)
	}
	vector, header := splitKey(pair.EncapsulationKey().Bytes())
	equal(t, "vector", vector, v.Vector)
	equal(t, "header", header, v.Header)
	secret, ct1 := encaps1((*[headerSize]byte)(v.Header), (*[32]byte)(v.M))
	equal(t, "shared secret", secret[:], v.SharedSecret)
	equal(t, "ct1", ct1, v.Ct1)
	ct2, err := encaps2((*[headerSize]byte)(v.Header), v.Vector, (*[32]byte)(v.M))
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "ct2", ct2, v.Ct2)
	epoch := epochSecret(1, &secret)
	equal(t, "epoch secret", epoch[:], v.EpochSecret)
}

var splitCases = flag.Int("split-cases", 300, "random cases of TestSplitAgreesWithStandardLibrary")

// TestSplitAgreesWithStandardLibrary compares the two pieces with the whole of crypto/mlkem on random keys:
//
//	go test -run SplitAgrees ./e2ee/spqr -split-cases 100000
func TestSplitAgreesWithStandardLibrary(t *testing.T) {
	for range *splitCases {
		pair, err := mlkem.GenerateKey768()
		if err != nil {
			t.Fatal(err)
		}
		var m [32]byte
		rand.Read(m[:])
		wantSecret, wantCiphertext, err := mlkemtest.Encapsulate768(pair.EncapsulationKey(), m[:])
		if err != nil {
			t.Fatal(err)
		}
		secret, ct1, ct2 := encapsulate(t, pair.EncapsulationKey(), &m)
		if !bytes.Equal(secret[:], wantSecret) || !bytes.Equal(append(ct1, ct2...), wantCiphertext) {
			t.Fatalf("differs from crypto/mlkem for key %x, m %x", pair.Bytes(), m)
		}
	}
}

func TestEncapsulationRefusesOtherVectors(t *testing.T) {
	v := &kat.Split
	for _, change := range []func([]byte) []byte{
		func(b []byte) []byte { b[700] ^= 1; return b },
		func(b []byte) []byte { return b[1:] },
		func(b []byte) []byte { return nil },
	} {
		if _, err := encaps2((*[headerSize]byte)(v.Header), change(bytes.Clone(v.Vector)), (*[32]byte)(v.M)); err == nil {
			t.Error("accepted a vector that is not the header's")
		}
	}
	// An unreduced coefficient whose hash is right.
	vector := bytes.Clone(v.Vector)
	vector[0], vector[1] = 0xff, vector[1]|0x0f
	_, header := splitKey(append(bytes.Clone(vector), v.Header[:32]...))
	if _, err := encaps2((*[headerSize]byte)(header), vector, (*[32]byte)(v.M)); err == nil {
		t.Error("accepted an unreduced coefficient")
	}
}

// encapsulate does both pieces, one after the other.
func encapsulate(t *testing.T, key *mlkem.EncapsulationKey768, m *[32]byte) (secret [32]byte, ct1, ct2 []byte) {
	t.Helper()
	vector, header := splitKey(key.Bytes())
	secret, ct1 = encaps1((*[headerSize]byte)(header), m)
	ct2, err := encaps2((*[headerSize]byte)(header), vector, m)
	if err != nil {
		t.Fatal(err)
	}
	return secret, ct1, ct2
}

// Project Wycheproof's vectors for encapsulation are keys with a coefficient that is not reduced; its one key pair decapsulates what we
// encapsulate.
func TestWycheproof(t *testing.T) {
	type group struct {
		ParameterSet string
		Tests        []struct {
			wycheproof.Case
			Seed, EK, C, K wycheproof.Hex
		}
	}
	refused := 0
	for _, g := range wycheproof.Load[group](t, "mlkem", 39) {
		if g.ParameterSet != "ML-KEM-768" {
			continue
		}
		for _, v := range g.Tests {
			m := [32]byte{1, 2, 3}
			if !v.Valid() {
				vector, header := splitKey(v.EK)
				if _, err := encaps2((*[headerSize]byte)(header), vector, &m); err == nil {
					t.Errorf("%d (%s): key accepted", v.ID, v.Comment)
				}
				refused++
				continue
			}
			pair, err := mlkem.NewDecapsulationKey768(v.Seed)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "key", pair.EncapsulationKey().Bytes(), v.EK)
			secret, ct1, ct2 := encapsulate(t, pair.EncapsulationKey(), &m)
			shared, err := pair.Decapsulate(append(ct1, ct2...))
			if err != nil {
				t.Fatal(err)
			}
			equal(t, "shared secret", shared, secret[:])
		}
	}
	if refused != 12 {
		t.Errorf("%d keys refused, not 12", refused)
	}
}
