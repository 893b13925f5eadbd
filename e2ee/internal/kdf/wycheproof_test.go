package kdf

import (
	"bytes"
	"testing"

	"sotto/e2ee/internal/wycheproof"
)

func TestWycheproofHMAC(t *testing.T) {
	type group struct {
		TagSize int // in bits
		Tests   []struct {
			wycheproof.Case
			Key, Msg, Tag wycheproof.Hex
		}
	}
	for _, g := range wycheproof.Load[group](t, "hmac_sha256", 174) {
		for _, v := range g.Tests {
			if len(v.Key) > block { // no key of ours is so long
				if !panics(func() { HMAC(v.Key, v.Msg) }) {
					t.Errorf("%d: a key of %d bytes is taken", v.ID, len(v.Key))
				}
				continue
			}
			if got := HMAC(v.Key, v.Msg); bytes.Equal(got[:g.TagSize/8], v.Tag) != v.Valid() {
				t.Errorf("%d (%s): %x", v.ID, v.Comment, got)
			}
		}
	}
}

func TestWycheproofHKDF(t *testing.T) {
	type group struct {
		Tests []struct {
			wycheproof.Case
			IKM, Salt, Info, OKM wycheproof.Hex
			Size                 int
		}
	}
	for _, g := range wycheproof.Load[group](t, "hkdf_sha256", 86) {
		for _, v := range g.Tests {
			got := make([]byte, v.Size)
			if v.Has("SizeTooLarge") || len(v.Salt) > block {
				if !panics(func() { HKDF(got, v.Salt, v.IKM, []byte(v.Info)) }) {
					t.Errorf("%d (%s): %d bytes with a salt of %d", v.ID, v.Comment, v.Size, len(v.Salt))
				}
				continue
			}
			if HKDF(got, v.Salt, v.IKM, []byte(v.Info)); !bytes.Equal(got, v.OKM) {
				t.Errorf("%d (%s): %x", v.ID, v.Comment, got)
			}
		}
	}
}

func panics(f func()) (result bool) {
	defer func() { result = recover() != nil }()
	f()
	return false
}
