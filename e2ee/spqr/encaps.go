package spqr

import (
	"crypto/sha3"
	"crypto/subtle"
	"errors"
)

// ML-KEM-768 (FIPS 203) in pieces. The encapsulation key travels as a header, from which the first part of the ciphertext can be
// made, and a vector, which arrives while that part is already on its way back:
//
//	header[64]  = rho[32] || SHA3-256(vector || rho)      the second half is FIPS 203's H(ek)
//	vector[1152] = t-hat
//	ct1[960]    = compressed u, ct2[128] = compressed v   ct1 || ct2 is the FIPS 203 ciphertext
//
// The owner of the key needs crypto/mlkem only; this file is the encapsulating side.
const (
	headerSize = 64
	vectorSize = k * encodingSize12
	ct1Size    = 960
	ct2Size    = 128
)

var errKey = errors.New("spqr: encapsulation key does not match its header")

// encaps1 makes the shared secret and the first part of the ciphertext from the header and 32 random bytes m. It is
// ML-KEM.Encaps_internal (FIPS 203, algorithm 17) up to the u of K-PKE.Encrypt (algorithm 14).
func encaps1(header *[headerSize]byte, m *[32]byte) (secret [32]byte, ct1 []byte) {
	secret, r := deriveEncaps(header, m)
	defer clear(r[:])
	y := sampleY(&r)
	defer clear(y[:])
	ct1 = make([]byte, 0, ct1Size)
	for i := range k {
		var u nttElement
		for j := range k {
			// The transposed matrix: row i of the product takes column i.
			u = polyAdd(u, nttMul(sampleNTT(header[:32], byte(i), byte(j)), y[j]))
		}
		ct1 = ringCompressAndEncode10(ct1, polyAdd(inverseNTT(u), samplePolyCBD(r[:], byte(k+i))))
	}
	return secret, ct1
}

// encaps2 makes the rest of the ciphertext once the vector is known: the v of K-PKE.Encrypt. It refuses a vector that is not the
// header's or has unreduced coefficients (FIPS 203 section 7.2).
func encaps2(header *[headerSize]byte, vector []byte, m *[32]byte) (ct2 []byte, err error) {
	t, err := checkVector(header, vector)
	if err != nil {
		return nil, err
	}
	_, r := deriveEncaps(header, m)
	defer clear(r[:])
	y := sampleY(&r)
	defer clear(y[:])
	var v nttElement
	for i := range t {
		v = polyAdd(v, nttMul(t[i], y[i]))
	}
	sum := polyAdd(polyAdd(inverseNTT(v), samplePolyCBD(r[:], 2*k)), ringDecodeAndDecompress1(m))
	defer clear(sum[:])
	return ringCompressAndEncode4(make([]byte, 0, ct2Size), sum), nil
}

func checkVector(header *[headerSize]byte, vector []byte) (t [k]nttElement, err error) {
	if len(vector) != vectorSize {
		return t, errKey
	}
	h := sha3.New256()
	h.Write(vector)
	h.Write(header[:32])
	if subtle.ConstantTimeCompare(h.Sum(nil), header[32:]) != 1 {
		return t, errKey
	}
	for i := range t {
		if t[i], err = polyByteDecode[nttElement](vector[i*encodingSize12 : (i+1)*encodingSize12]); err != nil {
			return t, err
		}
	}
	return t, nil
}

// deriveEncaps is (K, r) = G(m || H(ek)), FIPS 203 algorithm 17 step 1.
func deriveEncaps(header *[headerSize]byte, m *[32]byte) (secret, r [32]byte) {
	g := sha3.New512()
	g.Write(m[:])
	g.Write(header[32:])
	sum := g.Sum(nil)
	copy(secret[:], sum[:32])
	copy(r[:], sum[32:])
	clear(sum)
	return secret, r
}

func sampleY(r *[32]byte) (y [k]nttElement) {
	for i := range y {
		y[i] = ntt(samplePolyCBD(r[:], byte(i)))
	}
	return y
}
