package gcmsiv

import (
	"encoding/binary"
	"math/bits"
)

// polyval is the hash of RFC 8452 section 3: over the field GF(2^128) with x^128 + x^127 + x^126 + x^121 + 1,
//
//	S_0 = 0;  S_j = dot(S_(j-1) + X_j, H);  dot(a, b) = a * b * x^-128
//
// Elements are little endian, bit 0 of the first byte being the coefficient of x^0.
type polyval struct {
	key, state element
}

type element struct{ lo, hi uint64 }

func newPolyval(key *[16]byte) *polyval { return &polyval{key: load(key[:])} }

// update hashes data, which is filled up to whole blocks with zeros.
func (p *polyval) update(data []byte) {
	for len(data) >= 16 {
		p.block(load(data))
		data = data[16:]
	}
	if len(data) > 0 {
		var last [16]byte
		copy(last[:], data)
		p.block(load(last[:]))
	}
}

func (p *polyval) block(x element) {
	p.state = dot(element{p.state.lo ^ x.lo, p.state.hi ^ x.hi}, p.key)
}

func (p *polyval) sum() (b [16]byte) {
	binary.LittleEndian.PutUint64(b[:], p.state.lo)
	binary.LittleEndian.PutUint64(b[8:], p.state.hi)
	return b
}

func load(b []byte) element {
	return element{binary.LittleEndian.Uint64(b), binary.LittleEndian.Uint64(b[8:])}
}

// dot returns a * b * x^-128.
func dot(a, b element) element {
	// The product, 256 bits in four words, by Karatsuba's three multiplications.
	lowLo, lowHi := multiply(a.lo, b.lo)
	highLo, highHi := multiply(a.hi, b.hi)
	midLo, midHi := multiply(a.lo^a.hi, b.lo^b.hi)
	w0, w1 := lowLo, lowHi^midLo^lowLo^highLo
	w2, w3 := highLo^midHi^lowHi^highHi, highHi

	// Division by x^128, one word at a time (Montgomery): w0 times the polynomial is added, which makes w0 vanish, since
	// the polynomial is 1 modulo x^64; what it adds above that are w0 shifted by 121, 126, 127 and 128.
	w1 ^= w0<<57 ^ w0<<62 ^ w0<<63
	w2 ^= w0>>7 ^ w0>>2 ^ w0>>1 ^ w0
	w2 ^= w1<<57 ^ w1<<62 ^ w1<<63
	w3 ^= w1>>7 ^ w1>>2 ^ w1>>1 ^ w1
	return element{w2, w3}
}

// multiply returns the carry-less product of x and y. The upper half is the lower half of the product of the reversed operands.
func multiply(x, y uint64) (lo, hi uint64) {
	return multiplyLow(x, y), bits.Reverse64(multiplyLow(bits.Reverse64(x), bits.Reverse64(y))) >> 1
}

// multiplyLow returns the lower 64 bits of the carry-less product. Each operand is split into four with only every fourth bit set: an
// integer product of two such parts adds up at most 16 ones at a place, and only at the highest place so many, so that
// carries stay within the three empty bits above each, or leave the word.
func multiplyLow(x, y uint64) uint64 {
	const m0, m1, m2, m3 = 0x1111111111111111, 0x2222222222222222, 0x4444444444444444, 0x8888888888888888
	x0, x1, x2, x3 := x&m0, x&m1, x&m2, x&m3
	y0, y1, y2, y3 := y&m0, y&m1, y&m2, y&m3
	z0 := x0*y0 ^ x1*y3 ^ x2*y2 ^ x3*y1
	z1 := x0*y1 ^ x1*y0 ^ x2*y3 ^ x3*y2
	z2 := x0*y2 ^ x1*y1 ^ x2*y0 ^ x3*y3
	z3 := x0*y3 ^ x1*y2 ^ x2*y1 ^ x3*y0
	return z0&m0 | z1&m1 | z2&m2 | z3&m3
}
