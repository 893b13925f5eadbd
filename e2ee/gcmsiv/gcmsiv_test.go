package gcmsiv

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"

	"sotto/e2ee/internal/wycheproof"
)

type hexBytes = wycheproof.Hex

type vector struct {
	ID                                 int
	Comment, Result                    string
	Key, Nonce, AAD, Plaintext, Sealed hexBytes
}

func readVectors(t testing.TB, file string, into any) {
	t.Helper()
	b, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatal(err)
	}
}

// RFC 8452 appendix C.2 and C.3.
func TestVectors(t *testing.T) {
	var vectors struct{ Tests []vector }
	readVectors(t, "rfc8452.json", &vectors)
	if len(vectors.Tests) != 22 {
		t.Errorf("%d vectors, not 22", len(vectors.Tests))
	}
	for _, v := range vectors.Tests {
		v.test(t)
	}
}

func (v *vector) test(t *testing.T) {
	t.Helper()
	key, nonce := [KeySize]byte(v.Key), [NonceSize]byte(v.Nonce)
	plaintext, err := Open(&key, &nonce, v.Sealed, v.AAD)
	if v.Result == "invalid" {
		if !errors.Is(err, ErrOpen) {
			t.Errorf("%d (%s): opened", v.ID, v.Comment)
		}
		return
	}
	if err != nil || !bytes.Equal(plaintext, v.Plaintext) {
		t.Errorf("%d (%s): opened as %x, %v", v.ID, v.Comment, plaintext, err)
	}
	if sealed := Seal(&key, &nonce, v.Plaintext, v.AAD); !bytes.Equal(sealed, v.Sealed) {
		t.Errorf("%d (%s): sealed as %x", v.ID, v.Comment, sealed)
	}
}

// Forged tags and wrapping counters among them.
func TestWycheproof(t *testing.T) {
	type group struct {
		KeySize int // in bits
		Tests   []struct {
			wycheproof.Case
			Key, IV, AAD, Msg, Ct, Tag hexBytes
		}
	}
	count := 0
	for _, g := range wycheproof.Load[group](t, "aes_gcm_siv", 202) {
		if g.KeySize != 8*KeySize {
			continue
		}
		for _, c := range g.Tests {
			v := vector{c.ID, c.Comment, c.Result, c.Key, c.IV, c.AAD, c.Msg, append(c.Ct, c.Tag...)}
			v.test(t)
			count++
		}
	}
	if count != 103 {
		t.Errorf("%d vectors, not 103", count)
	}
}

// A message sealed by libsignal-client 0.103.0.
func TestLibrary(t *testing.T) {
	var vectors struct {
		V struct {
			Key, Nonce, AAD, Ciphertext hexBytes
			Sealed                      hexBytes `json:"ciphertext_and_tag"`
			Plaintext                   string   `json:"plaintext_ascii"`
		} `json:"aes256_gcm_siv_library"`
	}
	readVectors(t, "kat.json", &vectors)
	v := vectors.V
	key, nonce := [KeySize]byte(v.Key), [NonceSize]byte(v.Nonce)
	if sealed := Seal(&key, &nonce, []byte(v.Plaintext), v.AAD); !bytes.Equal(sealed, v.Sealed) {
		t.Errorf("sealed as %x", sealed)
	}
	if plaintext, err := Open(&key, &nonce, v.Sealed, v.AAD); err != nil || string(plaintext) != v.Plaintext {
		t.Errorf("opened as %q, %v", plaintext, err)
	}
}

// POLYVAL of RFC 8452 appendix A.
func TestPolyval(t *testing.T) {
	h, _ := hex.DecodeString("25629347589242761d31f826ba4b757b")
	x, _ := hex.DecodeString("4f4f95668c83dfb6401762bb2d01a262" + "d1a24ddd2721d006bbe45f20d3c9f362")
	p := newPolyval((*[16]byte)(h))
	p.update(x)
	if sum := p.sum(); hex.EncodeToString(sum[:]) != "f7a3b47b846119fae5b7866cf5e5b77e" {
		t.Errorf("POLYVAL is %x", sum)
	}
}

// The multiplication by masks against one bit after the other.
func TestMultiply(t *testing.T) {
	try := func(x, y uint64) {
		var lo, hi uint64
		for i := range 64 {
			if y>>i&1 == 1 {
				lo ^= x << i
				if i > 0 {
					hi ^= x >> (64 - i)
				}
			}
		}
		if gotLo, gotHi := multiply(x, y); gotLo != lo || gotHi != hi {
			t.Fatalf("%016x * %016x = %016x %016x, not %016x %016x", x, y, gotHi, gotLo, hi, lo)
		}
	}
	const all = 1<<64 - 1
	for i := range 64 { // the fullest sums of ones
		try(all, all>>i)
		try(all<<i, all)
		try(0x1111111111111111<<(i%4), 0x1111111111111111>>(i/4*4)<<(i%4))
	}
	for range 10_000 {
		var b [16]byte
		rand.Read(b[:])
		e := load(b[:])
		try(e.lo, e.hi)
	}
}

func TestAltered(t *testing.T) {
	var key [KeySize]byte
	var nonce [NonceSize]byte
	rand.Read(key[:])
	for n := range 50 {
		plaintext, additional := make([]byte, n), make([]byte, n/3)
		sealed := Seal(&key, &nonce, plaintext, additional)
		for i := range 8 * len(sealed) {
			sealed[i/8] ^= 1 << (i % 8)
			if _, err := Open(&key, &nonce, sealed, additional); !errors.Is(err, ErrOpen) {
				t.Fatalf("%d bytes: opened with bit %d flipped", n, i)
			}
			sealed[i/8] ^= 1 << (i % 8)
		}
		for i := range sealed {
			if _, err := Open(&key, &nonce, sealed[:i], additional); !errors.Is(err, ErrOpen) {
				t.Fatalf("%d bytes: opened when cut to %d", n, i)
			}
		}
		if _, err := Open(&key, &nonce, append(sealed, 0), additional); !errors.Is(err, ErrOpen) {
			t.Fatal("opened with a byte more")
		}
		// Zeros that fill up a block are told apart by the lengths.
		if _, err := Open(&key, &nonce, sealed, append(additional, 0)); !errors.Is(err, ErrOpen) {
			t.Fatal("opened with more additional data")
		}
		if n > 0 {
			if _, err := Open(&key, &nonce, append(bytes.Clone(sealed[:n-1]), sealed[n:]...), additional); !errors.Is(err, ErrOpen) {
				t.Fatal("opened with a byte less")
			}
		}
	}
}

func FuzzOpen(f *testing.F) {
	var key [KeySize]byte
	var nonce [NonceSize]byte
	sealed := Seal(&key, &nonce, []byte("plaintext"), []byte("additional"))
	f.Add(key[:], nonce[:], sealed, []byte("additional"))
	f.Add(key[:], nonce[:], sealed[:3], []byte(nil))
	f.Fuzz(func(t *testing.T, k, n, b, additional []byte) {
		var key [KeySize]byte
		var nonce [NonceSize]byte
		copy(key[:], k)
		copy(nonce[:], n)
		if plaintext, err := Open(&key, &nonce, b, additional); err == nil && !bytes.Equal(Seal(&key, &nonce, plaintext, additional), b) {
			t.Fatal("opened something it does not seal")
		}
		if got, err := Open(&key, &nonce, Seal(&key, &nonce, b, additional), additional); err != nil || !bytes.Equal(got, b) {
			t.Fatal("does not open what it sealed")
		}
	})
}

func Benchmark(b *testing.B) {
	for _, size := range []int{256, 64 << 10} {
		var key [KeySize]byte
		var nonce [NonceSize]byte
		plaintext := make([]byte, size)
		sealed := Seal(&key, &nonce, plaintext, nil)
		b.Run(sizeName("seal", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				Seal(&key, &nonce, plaintext, nil)
			}
		})
		b.Run(sizeName("open", size), func(b *testing.B) {
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Open(&key, &nonce, sealed, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func sizeName(what string, size int) string { return fmt.Sprintf("%s-%d", what, size) }
