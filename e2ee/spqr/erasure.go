package spqr

import "slices"

// The erasure code that lets a key or ciphertext of the braid cross in any order and with any loss. A message of 32·N bytes is N
// chunks; chunk i holds the values at x = i of 16 polynomials over GF(2^16), where polynomial j has degree below N and passes
// through the j-th big-endian word of each of the N chunks of the message. So chunks 0..N-1 are the message, later ones are
// parity, and any N of the 65,536 determine it. All of this data is public: tables are fine.

const (
	chunkSize  = 32
	chunkWords = chunkSize / 2
)

type chunk struct {
	index uint16
	data  [chunkSize]byte
}

// An encoder yields chunks 0, 1, 2, … without end.
type encoder struct {
	message []byte
	next    uint16
}

func (e encoder) advance() (chunk, encoder) {
	c := chunk{index: e.next}
	if at := int(e.next) * chunkSize; at < len(e.message) {
		copy(c.data[:], e.message[at:])
	} else {
		points := make([]chunk, len(e.message)/chunkSize)
		for i := range points {
			points[i].index = uint16(i)
			copy(points[i].data[:], e.message[i*chunkSize:])
		}
		c.data = interpolate(points, e.next)
	}
	e.next++ // wraps at 65,536
	return c, e
}

// A decoder collects distinct chunks until it has the message. It is never changed in place: add returns a new one.
type decoder struct {
	size   int // bytes of the message
	chunks []chunk
}

func (d decoder) add(c chunk) decoder {
	if d.complete() || slices.ContainsFunc(d.chunks, func(have chunk) bool { return have.index == c.index }) {
		return d
	}
	d.chunks = append(slices.Clip(d.chunks), c)
	return d
}

func (d decoder) complete() bool {
	return len(d.chunks)*chunkSize >= d.size
}

// message returns the message of a complete decoder.
func (d decoder) message() []byte {
	message := make([]byte, d.size)
	for i := range d.size / chunkSize {
		at := slices.IndexFunc(d.chunks, func(c chunk) bool { return int(c.index) == i })
		var data [chunkSize]byte
		if at >= 0 {
			data = d.chunks[at].data
		} else {
			data = interpolate(d.chunks, uint16(i))
		}
		copy(message[i*chunkSize:], data[:])
	}
	return message
}

// interpolate evaluates at x the 16 polynomials through points, none of which is at x (Lagrange; the weights serve all 16).
func interpolate(points []chunk, x uint16) (result [chunkSize]byte) {
	// weight_i = Π_{j≠i} (x - x_j) / (x_i - x_j), and in this field minus is plus is exclusive or. In logarithms the products
	// are sums.
	all := 0
	for _, p := range points {
		all += int(gfLog[x^p.index])
	}
	var words [chunkWords]uint16
	for i, p := range points {
		weight := all - int(gfLog[x^p.index])
		for j, other := range points {
			if j != i {
				weight -= int(gfLog[p.index^other.index])
			}
		}
		weight = ((weight % gfOrder) + gfOrder) % gfOrder
		for w := range words {
			if v := uint16(p.data[2*w])<<8 | uint16(p.data[2*w+1]); v != 0 {
				words[w] ^= gfExp[weight+int(gfLog[v])]
			}
		}
	}
	for w, v := range words {
		result[2*w], result[2*w+1] = byte(v>>8), byte(v)
	}
	return result
}

// GF(2^16) with the reduction polynomial x^16+x^12+x^3+x+1, in which 2 generates the multiplicative group.
const (
	gfPolynomial = 0x1100b
	gfOrder      = 1<<16 - 1
)

var (
	gfExp [2 * gfOrder]uint16 // powers of 2, twice over so that a sum of two logarithms needs no reduction
	gfLog [1 << 16]uint16
)

func init() {
	v := 1
	for i := range gfOrder {
		gfExp[i], gfExp[i+gfOrder] = uint16(v), uint16(v)
		gfLog[v] = uint16(i)
		if v <<= 1; v >= 1<<16 {
			v ^= gfPolynomial
		}
	}
}
