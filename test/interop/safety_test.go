package interop

import (
	"crypto/rand"
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
