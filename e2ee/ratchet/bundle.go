package ratchet

// Bundle is what a device publishes so that others can start a session with it while it is away.
type Bundle struct {
	RegistrationID uint32
	Identity       PublicKey

	OneTime *OneTimePreKey // nil when the device's are used up

	SignedID        uint32
	SignedKey       PublicKey
	SignedSignature []byte // by Identity over SignedKey.Bytes()

	KyberID        uint32 // a one-time key or the last resort; the bundle does not tell
	KyberKey       []byte // KyberPublicKeySize bytes
	KyberSignature []byte // by Identity over KyberKey
}

// OneTimePreKey is the public half of a one-time pre-key.
type OneTimePreKey struct {
	ID  uint32
	Key PublicKey
}

// Verify checks the keys' forms and both signatures. Initiate does it too. One-time pre-keys are not signed (PQXDH section 3.1):
// a wrong one makes the first message undecryptable, and tells nothing to who slipped it in.
func (b *Bundle) Verify() error {
	if err := b.verify(); err != nil {
		return err
	}
	if _, err := parseKyberPublicKey(b.KyberKey); err != nil {
		return ErrBadBundle
	}
	return nil
}

// verify leaves out the form of the Kyber key, which is expanded on use.
func (b *Bundle) verify() error {
	if b.Identity.IsZero() || b.SignedKey.IsZero() || b.OneTime != nil && b.OneTime.Key.IsZero() {
		return ErrBadBundle
	}
	if !b.Identity.Verify(b.SignedKey.Bytes(), b.SignedSignature) || !b.Identity.Verify(b.KyberKey, b.KyberSignature) {
		return ErrBadBundle
	}
	return nil
}
