package client

import (
	"testing"
	"time"

	"sotto/e2ee/ratchet"
	"sotto/wire"
)

// However many first messages come: a use is remembered as long as its key is there, there is a key that is not used up, and the record
// has a bound.
func TestLastResortUsesAreRememberedAsLongAsTheKey(t *testing.T) {
	t.Parallel()
	identity, now := ratchet.GenerateKeyPair(), time.Now()
	keys, _ := newPreKeys(identity, now, preKeyBatch)
	keys.rotate(identity, new(wire.PreKeys), now)
	keys.Unsent = false
	baseKey := ratchet.GenerateKeyPair().Public()
	var used []ratchet.Used
	for n := range 3 * maxLastResorts {
		served := keys.LastResort[n%len(keys.LastResort)].ID // also with those that were replaced
		use := ratchet.Used{LastResort: true, KyberID: served, SignedID: uint32(n), BaseKey: baseKey}
		keys.spend(&use, now)
		used = append(used, use)
		if len(keys.Seen) > maxLastResorts || len(keys.LastResort) == 0 {
			t.Fatalf("after %d uses: %d are remembered, of %d keys", n+1, len(keys.Seen), len(keys.LastResort))
		}
	}
	if !keys.Unsent {
		t.Error("the newest key will not be uploaded")
	}
	remembered := map[lastResortID]bool{}
	for _, use := range keys.Seen {
		remembered[lastResortID{use.Kyber, use.Signed}] = true
	}
	for n, use := range used {
		if find(keys.LastResort, use.KyberID) != nil && !remembered[lastResortID{use.KyberID, use.SignedID}] {
			t.Fatalf("use %d is forgotten, and its key is there", n)
		}
	}
	newest := keys.LastResort[len(keys.LastResort)-1].ID
	if known, err := (lookup{keys}).LastResortUsed(newest, 1<<31, baseKey); err != nil || known {
		t.Errorf("a new use of the newest key: %v, %v", known, err)
	}
}

type lastResortID struct{ kyber, signed uint32 }
