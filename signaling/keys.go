package signaling

import (
	"math"

	"google.golang.org/protobuf/proto"

	"sotto/e2ee/xeddsa"
	"sotto/signaling/store"
	"sotto/wire"
)

// Sizes of public keys in their wire form: a type byte, then the key.
const (
	curveKeySize  = 33   // 05 || u-coordinate
	kyberKeySize  = 1569 // 08 || Kyber1024 public key
	curveKeyType  = 0x05
	kyberKeyType  = 0x08
	signatureSize = 64
)

const (
	oneTimeLimit = 200 // one-time keys of one kind held for a device
	uploadLimit  = 100 // one-time keys of one kind in one upload
	maxPreKeyID  = math.MaxUint32
)

func validCurveKey(key []byte) bool { return len(key) == curveKeySize && key[0] == curveKeyType }

func validKyberKey(key []byte) bool { return len(key) == kyberKeySize && key[0] == kyberKeyType }

// verify checks an XEdDSA signature by an identity key in wire form.
func verify(identity [33]byte, message, signature []byte) bool {
	public := [32]byte(identity[1:])
	return len(signature) == signatureSize && xeddsa.Verify(&public, message, signature)
}

// parsePreKeys checks every key and signature of an upload and returns it in the store's form. first says that signed and
// last-resort keys must be there.
func parsePreKeys(k *wire.PreKeys, identity [33]byte, first bool) (store.Keys, error) {
	var keys store.Keys
	if len(k.GetOneTime()) > uploadLimit || len(k.GetOneTimeKyber()) > uploadLimit {
		return keys, errTooLarge
	}
	if first && (k.GetSignedPreKey() == nil || k.GetLastResortKyber() == nil) {
		return keys, badRequest("The signed pre-key or the last-resort key is missing.")
	}
	if s := k.GetSignedPreKey(); s != nil {
		if !validCurveKey(s.GetPublicKey()) || !verify(identity, s.GetPublicKey(), s.GetSignature()) {
			return keys, errBadPreKey
		}
		keys.Signed = known(&wire.SignedPreKey{Id: s.Id, PublicKey: s.PublicKey, Signature: s.Signature})
	}
	if l := k.GetLastResortKyber(); l != nil {
		record, err := parseKyber(l, identity)
		if err != nil {
			return keys, err
		}
		keys.LastResort = record
	}
	for _, o := range k.GetOneTime() {
		if o.GetId() == 0 || !validCurveKey(o.GetPublicKey()) {
			return keys, errBadPreKey
		}
		keys.OneTime = append(keys.OneTime, store.OneTimeKey{ID: o.Id, Data: known(&wire.PreKey{Id: o.Id, PublicKey: o.PublicKey})})
	}
	for _, o := range k.GetOneTimeKyber() {
		record, err := parseKyber(o, identity)
		if err != nil {
			return keys, err
		}
		if o.GetId() == 0 {
			return keys, errBadPreKey
		}
		if l := k.GetLastResortKyber(); l != nil && l.GetId() == o.GetId() {
			return keys, badRequest("A one-time key has the id of the last-resort key: first messages name a Kyber key by its id alone.")
		}
		keys.OneTimeKyber = append(keys.OneTimeKyber, store.OneTimeKey{ID: o.Id, Data: record})
	}
	return keys, nil
}

var errBadPreKey = badRequest("A pre-key is malformed or its signature does not fit the identity key.")

func parseKyber(k *wire.KyberPreKey, identity [33]byte) ([]byte, error) {
	if !validKyberKey(k.GetPublicKey()) || !verify(identity, k.GetPublicKey(), k.GetSignature()) {
		return nil, errBadPreKey
	}
	return known(&wire.KyberPreKey{Id: k.Id, PublicKey: k.PublicKey, Signature: k.Signature}), nil
}

// known serialises a message made here: what an upload holds beside the fields we know is not kept.
func known(m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err) // only invalid UTF-8 in strings fails, and these hold none
	}
	return b
}

// bundleOf puts together what TakeKeys gave.
func bundleOf(t store.Taken) (*wire.Bundle, error) {
	b := &wire.Bundle{
		Account:        t.Device.Address.Account[:],
		Device:         uint32(t.Device.Address.Device),
		RegistrationId: t.Device.RegistrationID,
		IdentityKey:    t.Device.IdentityKey[:],
		SignedPreKey:   &wire.SignedPreKey{},
		Kyber:          &wire.KyberPreKey{},
		LastResort:     t.LastResort,
	}
	if err := proto.Unmarshal(t.Signed, b.SignedPreKey); err != nil {
		return nil, err
	}
	if err := proto.Unmarshal(t.Kyber, b.Kyber); err != nil {
		return nil, err
	}
	if t.OneTime != nil {
		b.OneTime = &wire.PreKey{}
		if err := proto.Unmarshal(t.OneTime, b.OneTime); err != nil {
			return nil, err
		}
	}
	return b, nil
}
