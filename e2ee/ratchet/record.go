package ratchet

import "time"

// Record holds the sessions with one remote device: the current one, and up to 40 archived ones whose messages may still be on
// their way. The zero value has none. A Record is for one goroutine at a time.
type Record struct{}

// CanEncrypt reports whether Encrypt would find a session: one exists, and was answered or is younger than 30 days.
func (r *Record) CanEncrypt(now time.Time) bool { return false }

// Initiate starts a session from the remote device's bundle and makes it the current one.
// It fails with ErrIdentityChanged or ErrBadBundle.
func (r *Record) Initiate(local Local, remote Remote, b *Bundle, now time.Time) error {
	return ErrBadBundle
}

// Encrypt encrypts in the current session. Store the record before the message leaves.
// It fails with ErrNoSession or ErrIdentityChanged.
func (r *Record) Encrypt(local Local, remote Remote, plaintext []byte, now time.Time) (Message, error) {
	return Message{}, ErrNoSession
}

// Decrypt decrypts a message of the given type. Store the record before the plaintext is shown.
// It fails with ErrUndecryptable, ErrDuplicate, ErrIdentityChanged, or an error of keys; the record is then unchanged.
func (r *Record) Decrypt(local Local, remote Remote, typ uint32, message []byte, keys PreKeys, now time.Time) (Plaintext, error) {
	return Plaintext{}, ErrUndecryptable
}

// Marshal returns the record for an encrypted store: it holds the sessions' secrets.
func (r *Record) Marshal() []byte { return nil }

// UnmarshalRecord reads what Marshal wrote. It fails with ErrBadRecord.
func UnmarshalRecord(b []byte) (*Record, error) { return new(Record), nil }
