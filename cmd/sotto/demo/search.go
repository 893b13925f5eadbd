package demo

import (
	"bytes"
	"fmt"
	"math"
)

// A secret is something only the ends may hold. The search looks for it in what others carried.
type secret struct {
	kind  string // "messages", "call parameters", "speech", "video"
	bytes []byte
}

// A search finds secrets in arbitrary bytes at any offset, whole or in part: short secrets as they are, long ones by each
// block of blockSize bytes, so that a leak of any 2·blockSize-1 bytes in a row is seen.
type search struct {
	short  []secret
	blocks map[[blockSize]byte]string // to the kind
}

const (
	blockSize = 16
	// A shorter secret would be found by chance: n bytes at random hold a given word of 5 with probability n/2⁴⁰.
	shortest = 5
)

func newSearch(secrets []secret) (*search, error) {
	s := &search{blocks: map[[blockSize]byte]string{}}
	for _, secret := range secrets {
		switch {
		case len(secret.bytes) < shortest:
			return nil, fmt.Errorf("demo: a secret of %d bytes is too short to search for", len(secret.bytes))
		case len(secret.bytes) < 2*blockSize:
			s.short = append(s.short, secret)
		default:
			for block := secret.bytes; len(block) >= blockSize; block = block[blockSize:] {
				if varied(block[:blockSize]) {
					s.blocks[[blockSize]byte(block)] = secret.kind
				}
			}
		}
	}
	return s, nil
}

// varied leaves out silence and padding, which are nobody's secret and occur everywhere.
func varied(block []byte) bool {
	var seen [256]bool
	distinct := 0
	for _, b := range block {
		if !seen[b] {
			seen[b] = true
			distinct++
		}
	}
	return distinct >= blockSize/2
}

// needles is the number of different things the search looks for.
func (s *search) needles() int { return len(s.short) + len(s.blocks) }

// in counts what is found in data, by kind.
func (s *search) in(data []byte, found map[string]int) {
	for _, secret := range s.short {
		found[secret.kind] += bytes.Count(data, secret.bytes)
	}
	for i := 0; i+blockSize <= len(data); i++ {
		if kind, ok := s.blocks[[blockSize]byte(data[i:])]; ok {
			found[kind]++
		}
	}
}

// entropy is the Shannon entropy of the byte values, in bits a byte: 8 for noise, about 4.5 for English text.
func entropy(counts *[256]int) float64 {
	total := 0
	for _, n := range counts {
		total += n
	}
	bits := 0.0
	for _, n := range counts {
		if n > 0 {
			p := float64(n) / float64(total)
			bits -= p * math.Log2(p)
		}
	}
	return bits
}

// kinds of secrets, in the order they are reported.
var kinds = []string{"messages", "call parameters", "speech", "video"}

func (s *Search) plantedFound() int {
	found := 0
	for _, kind := range kinds {
		if s.Planted[kind] > s.Server[kind]+s.Relay[kind] {
			found++
		}
	}
	return found
}
