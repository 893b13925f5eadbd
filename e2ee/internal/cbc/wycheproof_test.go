package cbc

import (
	"bytes"
	"errors"
	"testing"

	"sotto/e2ee/internal/wycheproof"
)

func TestWycheproof(t *testing.T) {
	type group struct {
		Tests []struct {
			wycheproof.Case
			Key, IV, Msg, Ct wycheproof.Hex
		}
	}
	for _, g := range wycheproof.Load[group](t, "aes_cbc_pkcs5", 216) {
		for _, v := range g.Tests {
			got, err := Decrypt(v.Key, v.IV, v.Ct)
			if !v.Valid() {
				if !errors.Is(err, ErrPadding) {
					t.Errorf("%d (%s): %v", v.ID, v.Comment, err)
				}
				continue
			}
			if err != nil || !bytes.Equal(got, v.Msg) {
				t.Errorf("%d (%s): decrypts to %x, %v", v.ID, v.Comment, got, err)
			}
			if got := Encrypt(v.Key, v.IV, v.Msg); !bytes.Equal(got, v.Ct) {
				t.Errorf("%d (%s): encrypts to %x", v.ID, v.Comment, got)
			}
		}
	}
}
