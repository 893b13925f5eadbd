package interop

import (
	"bytes"
	"crypto/rand"
	"errors"
	"testing"

	"github.com/google/uuid"

	"sotto/e2ee/ratchet"
	"sotto/e2ee/safety"
)

// The safety number of random parties, from either side, is the library's.
func TestSafetyNumbers(t *testing.T) {
	o := startOracle(t)
	for range 15 {
		var keys [2][33]byte
		var ids [2][]byte
		for i := range keys {
			keys[i] = [33]byte(ratchet.GenerateKeyPair().Public().Bytes())
			id := uuid.New()
			ids[i] = id[:]
		}
		var theirs struct{ Display string }
		o.must("fingerprint", args{"localId": ids[0], "localKey": keys[0][:], "remoteId": ids[1], "remoteKey": keys[1][:]}, &theirs)
		if got := safety.Number(keys[0], keys[1], ids[0], ids[1]); got != theirs.Display {
			t.Fatalf("got %s, the library says %s", got, theirs.Display)
		}
		if got := safety.Number(keys[1], keys[0], ids[1], ids[0]); got != theirs.Display {
			t.Fatalf("the other side gets %s, the library says %s", got, theirs.Display)
		}
	}
}

// What either shows as a QR code the other accepts. The library and we agree about every code: of the right people, swapped, with another
// key at either end, of another version.
func TestSafetyCodes(t *testing.T) {
	o := startOracle(t)
	matches := func(ours, theirs []byte) bool {
		var compared struct{ Match bool }
		err := o.call("fingerprint.compare", args{"ours": ours, "theirs": theirs}, &compared)
		return err == nil && compared.Match // the library answers another version with an error
	}
	for range 5 {
		var keys [3][33]byte
		var ids [3][]byte
		for i := range keys {
			keys[i] = [33]byte(ratchet.GenerateKeyPair().Public().Bytes())
			id := uuid.New()
			ids[i] = id[:]
		}
		theirs := func(version, local, remote int) []byte {
			var made struct{ Scannable []byte }
			o.must("fingerprint", args{
				"version": version, "localId": ids[local], "localKey": keys[local][:], "remoteId": ids[remote], "remoteKey": keys[remote][:],
			}, &made)
			return made.Scannable
		}
		ours := safety.NewCode(keys[0], keys[1], ids[0], ids[1])
		if !bytes.Equal(ours.Bytes(), theirs(2, 0, 1)) {
			t.Fatalf("we show %x, the library %x", ours.Bytes(), theirs(2, 0, 1))
		}
		for _, test := range []struct {
			name    string
			scanned []byte
			want    error
		}{
			{"the other end's", theirs(2, 1, 0), nil},
			{"our own", theirs(2, 0, 1), safety.ErrOthers},
			{"our own for a third", theirs(2, 0, 2), safety.ErrOthers},
			{"a third's", theirs(2, 2, 0), safety.ErrMismatch},
			{"the other end's for a third", theirs(2, 1, 2), safety.ErrMismatch},
			{"version 1", theirs(1, 1, 0), safety.ErrVersion},
		} {
			if err := ours.Compare(test.scanned); !errors.Is(err, test.want) {
				t.Errorf("%s: we say %v, want %v", test.name, err, test.want)
			}
			if matches(ours.Bytes(), test.scanned) != (test.want == nil) {
				t.Errorf("%s: the library does not agree with: %v", test.name, test.want)
			}
		}
		if back := safety.NewCode(keys[1], keys[0], ids[1], ids[0]); !matches(theirs(2, 0, 1), back.Bytes()) {
			t.Error("the library refuses what we show it")
		}
	}
}

// What either signs the other verifies, and not when a bit is changed.
func TestSignatures(t *testing.T) {
	o := startOracle(t)
	for i := range 50 {
		pair := ratchet.GenerateKeyPair()
		message := make([]byte, i)
		rand.Read(message)
		public := pair.Public()
		signature := pair.Sign(message)
		verify := func() bool {
			var made struct{ Valid bool }
			o.must("key.verify", args{"public": public.Bytes(), "message": message, "signature": signature}, &made)
			return made.Valid
		}
		if !verify() {
			t.Fatal("the library refuses our signature")
		}
		signature[i] ^= 4
		if verify() {
			t.Fatal("the library accepts an altered signature")
		}
		var made struct{ Signature []byte }
		o.must("key.sign", args{"private": pair.Marshal(), "message": message}, &made)
		if !public.Verify(message, made.Signature) {
			t.Fatal("we refuse the library's signature")
		}
		made.Signature[i] ^= 4
		if public.Verify(message, made.Signature) {
			t.Fatal("we accept an altered signature")
		}
	}
}
