package ratchet_test

import (
	"fmt"
	"time"

	"sotto/e2ee/ratchet"
)

// preKeys is a recipient's store: here one key of each kind.
type preKeys struct {
	oneTime, signed *ratchet.KeyPair
	kyber           *ratchet.KyberKeyPair
}

func (k *preKeys) OneTime(uint32) (*ratchet.KeyPair, error)                      { return k.oneTime, nil }
func (k *preKeys) Signed(uint32) (*ratchet.KeyPair, error)                       { return k.signed, nil }
func (k *preKeys) Kyber(uint32) (*ratchet.KyberKeyPair, bool, error)             { return k.kyber, false, nil }
func (k *preKeys) LastResortUsed(_, _ uint32, _ ratchet.PublicKey) (bool, error) { return false, nil }

func Example() {
	now := time.Now()
	alice := ratchet.Local{Identity: ratchet.GenerateKeyPair(), Address: ratchet.Address{Account: [16]byte{1}, Device: 1}}
	bob := ratchet.Local{Identity: ratchet.GenerateKeyPair(), Address: ratchet.Address{Account: [16]byte{2}, Device: 1}}

	// Bob publishes a bundle and keeps its secrets.
	keys := &preKeys{ratchet.GenerateKeyPair(), ratchet.GenerateKeyPair(), ratchet.GenerateKyberKeyPair()}
	bundle := &ratchet.Bundle{
		Identity:       bob.Identity.Public(),
		RegistrationID: ratchet.RegistrationID(bob.Identity.Public()),
		OneTime:        &ratchet.OneTimePreKey{ID: 1, Key: keys.oneTime.Public()},
		SignedID:       2, SignedKey: keys.signed.Public(), SignedSignature: bob.Identity.Sign(keys.signed.Public().Bytes()),
		KyberID: 3, KyberKey: keys.kyber.Public(), KyberSignature: bob.Identity.Sign(keys.kyber.Public()),
	}

	// Alice starts a session and sends, while Bob is away. She meets him for the first time: any identity key will do.
	var toBob ratchet.Record
	remote := ratchet.Remote{Address: bob.Address}
	if err := toBob.Initiate(alice, remote, bundle, now); err != nil {
		panic(err)
	}
	remote.Identity = bundle.Identity // from here on, only this one
	message, err := toBob.Encrypt(alice, remote, []byte("hello"), now)
	if err != nil {
		panic(err)
	}
	// Alice stores toBob, then lets the message go.

	var toAlice ratchet.Record
	plaintext, err := toAlice.Decrypt(bob, ratchet.Remote{Address: alice.Address}, message.Type, message.Bytes, keys, now)
	if err != nil {
		panic(err)
	}
	// Bob stores toAlice, erases the pre-keys in plaintext.Used, then shows the plaintext.
	fmt.Printf("%s, with one-time pre-key %d\n", plaintext.Bytes, plaintext.Used.OneTimeID)

	_, err = toAlice.Decrypt(bob, ratchet.Remote{Address: alice.Address}, message.Type, message.Bytes, keys, now)
	fmt.Println(err)
	// Output:
	// hello, with one-time pre-key 1
	// message was decrypted before
}
