package ratchet

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"sotto/e2ee/xeddsa"
)

// Record holds the sessions with one remote device: the current one, unless Archive has ended it, and up to 40 archived ones whose
// messages may still be on their way (the Sesame specification, section 3). The zero value has none. A Record is for one goroutine at a
// time.
type Record struct {
	current  *session
	archived []*session // newest first
}

// CanEncrypt reports whether Encrypt would find a session: one exists with the identity key the caller trusts, and it was
// answered or is younger than 30 days.
func (r *Record) CanEncrypt(remote Remote, now time.Time) bool {
	return r.current != nil && remote.trusts(r.current.identity) && !r.current.expired(now)
}

// Initiate starts a session from the remote device's bundle and makes it the current one.
// It fails with ErrIdentityChanged or ErrBadBundle.
func (r *Record) Initiate(local Local, remote Remote, b *Bundle, now time.Time) error {
	if err := check(&local, &remote); err != nil {
		return err
	}
	if !remote.trusts(b.Identity) {
		return ErrIdentityChanged
	}
	if !local.admits(b.RegistrationID, b.Identity) {
		return ErrBadBundle
	}
	if err := b.verify(); err != nil {
		return err
	}
	s, err := startInitiator(&local, b, now)
	if err != nil {
		return ErrBadBundle
	}
	r.add(s)
	return nil
}

// Encrypt encrypts in the current session. Store the record before the message leaves. It fails with ErrNoSession, also when the
// session is with another identity key than the one the caller trusts: a new bundle then tells which key the device has now.
func (r *Record) Encrypt(local Local, remote Remote, plaintext []byte, now time.Time) (Message, error) {
	if err := check(&local, &remote); err != nil {
		return Message{}, err
	}
	if !r.CanEncrypt(remote, now) {
		return Message{}, ErrNoSession
	}
	return r.current.seal(&local, remote.Address, plaintext)
}

// Decrypt decrypts a message of the given type. Store the record before the plaintext is shown.
// It fails with ErrUndecryptable, ErrDuplicate, ErrIdentityChanged, or an error of keys; the record is then unchanged.
func (r *Record) Decrypt(local Local, remote Remote, typ uint32, message []byte, keys PreKeys, now time.Time) (Plaintext, error) {
	if err := check(&local, &remote); err != nil {
		return Plaintext{}, err
	}
	var try func(allowed work) (Plaintext, error)
	switch typ {
	case TypeMessage:
		m, err := parseSignalMessage(message)
		if err != nil {
			return Plaintext{}, err
		}
		try = func(allowed work) (Plaintext, error) { return r.decrypt(&local, &remote, m, allowed) }
	case TypePreKeyMessage:
		m, err := parsePreKeyMessage(message)
		if err != nil {
			return Plaintext{}, err
		}
		try = func(allowed work) (Plaintext, error) { return r.decryptPreKey(&local, &remote, m, keys, now, allowed) }
	default:
		return Plaintext{}, ErrUndecryptable
	}
	plaintext, err := try(shortWork)
	if errors.Is(err, errFar) && local.LongJumps.try(now) {
		if plaintext, err = try(longWork); err == nil {
			local.LongJumps.authentic()
		}
	}
	if errors.Is(err, errFar) {
		err = ErrUndecryptable
	}
	return plaintext, err
}

// decrypt tries the current session, then the archived ones; the one that works becomes current. When some of them know the
// message's ratchet key it can be of no other: ratchet keys are random. It fails with errFar when one was not allowed to go far enough.
func (r *Record) decrypt(local *Local, remote *Remote, m *signalMessage, allowed work) (Plaintext, error) {
	sessions := r.sessions()
	knows := func(s *session) bool { return s.chain(m.ratchetKey) != nil }
	known := slices.ContainsFunc(sessions, knows)
	archivedAllowed := allowed
	if !known { // nobody turns the ratchet of a session we have left, and then sends thousands of messages that are lost
		archivedAllowed = shortWork
	}
	failure := ErrUndecryptable
	for _, s := range sessions {
		if !remote.trusts(s.identity) || known && !knows(s) {
			continue
		}
		work := &allowed
		if s != r.current {
			work = &archivedAllowed
		}
		plaintext, commit, err := s.open(local, remote.Address, m, work)
		switch {
		case errors.Is(err, ErrDuplicate):
			return Plaintext{}, err
		case errors.Is(err, errFar):
			failure = errFar
		case err == nil:
			commit()
			r.promote(s)
			return Plaintext{Bytes: plaintext, Identity: s.identity}, nil
		}
	}
	return Plaintext{}, failure
}

// decryptPreKey decrypts a message that may begin a session.
//
//  1. refuse what is not from the trusted identity, or is our own message coming back
//  2. refuse what does not name both devices: libsignal may leave that out, here it is required
//  3. a further message of a session already begun: decrypt in that session and no other
//  4. else look up the pre-keys, derive, decrypt, and only then change anything
func (r *Record) decryptPreKey(local *Local, remote *Remote, m *preKeyMessage, keys PreKeys, now time.Time, allowed work) (Plaintext, error) {
	if m.identity.Equal(local.Identity.public) {
		return Plaintext{}, ErrUndecryptable
	}
	if !remote.trusts(m.identity) {
		return Plaintext{}, ErrIdentityChanged
	}
	inner, err := parseSignalMessage(m.message)
	if err != nil || len(inner.addresses) == 0 {
		return Plaintext{}, ErrUndecryptable
	}
	if s := r.begunBy(m.baseKey); s != nil {
		if s.outer != m.digest() {
			return Plaintext{}, ErrUndecryptable
		}
		plaintext, commit, err := s.open(local, remote.Address, inner, &allowed)
		if err != nil {
			return Plaintext{}, err
		}
		commit()
		r.promote(s)
		return Plaintext{Bytes: plaintext, Identity: s.identity}, nil
	}

	s, used, err := accept(local, m, keys, now)
	if err != nil {
		return Plaintext{}, err
	}
	plaintext, commit, err := s.open(local, remote.Address, inner, &allowed)
	if err != nil {
		s.clear()
		return Plaintext{}, err
	}
	commit()
	r.add(s)
	return Plaintext{Bytes: plaintext, Identity: s.identity, Used: used}, nil
}

// accept looks up the pre-keys a first message names and derives the session from them.
func accept(local *Local, m *preKeyMessage, keys PreKeys, now time.Time) (*session, *Used, error) {
	baseKey := m.baseKey.u()
	if !local.admits(m.registrationID, m.identity) || !xeddsa.PrimeOrder(&baseKey) {
		return nil, nil, ErrUndecryptable
	}
	used := &Used{
		OneTime: m.hasOneTime, OneTimeID: m.oneTimeID, SignedID: m.signedID, KyberID: m.kyberID, BaseKey: m.baseKey,
	}
	signed, err := keys.Signed(m.signedID)
	if err != nil {
		return nil, nil, preKeyError(err)
	}
	kyber, lastResort, err := keys.Kyber(m.kyberID)
	if err != nil {
		return nil, nil, preKeyError(err)
	}
	used.LastResort = lastResort
	var oneTime *KeyPair
	if m.hasOneTime {
		if oneTime, err = keys.OneTime(m.oneTimeID); err != nil {
			return nil, nil, preKeyError(err)
		}
	}
	if lastResort {
		repeated, err := keys.LastResortUsed(m.kyberID, m.signedID, m.baseKey)
		if err != nil {
			return nil, nil, preKeyError(err)
		}
		if repeated {
			return nil, nil, ErrDuplicate
		}
	}
	s, err := startRecipient(local, signed, oneTime, kyber, m, now)
	if err != nil {
		return nil, nil, ErrUndecryptable
	}
	return s, used, nil
}

func preKeyError(err error) error {
	if errors.Is(err, ErrNoPreKey) {
		return ErrUndecryptable
	}
	return fmt.Errorf("looking up a pre-key: %w", err)
}

// begunBy returns the session that a first message with this base key began.
func (r *Record) begunBy(baseKey PublicKey) *session {
	for _, s := range r.sessions() {
		if s.baseKey == baseKey {
			return s
		}
	}
	return nil
}

// sessions returns the current session, if there is one, and then the archived ones. It must not be kept.
func (r *Record) sessions() []*session {
	if r.current == nil {
		return r.archived
	}
	return append([]*session{r.current}, r.archived...)
}

// add makes a new session current.
func (r *Record) add(s *session) {
	r.Archive()
	r.current = s
}

// Archive ends the current session for sending: Encrypt fails with ErrNoSession until Initiate, or a message from the other side, makes
// another one current. Messages of the archived session still decrypt. Beyond maxArchived the oldest is forgotten.
func (r *Record) Archive() {
	if r.current == nil {
		return
	}
	r.current.pending = nil // an archived session is only for receiving
	r.current.trim(maxArchivedSkipped)
	r.archived = slices.Insert(r.archived, 0, r.current)
	r.current = nil
	if last := len(r.archived) - 1; last == maxArchived {
		r.archived[last].clear()
		r.archived = slices.Delete(r.archived, last, last+1)
	}
}

// promote makes one of the record's sessions current.
func (r *Record) promote(s *session) {
	if i := slices.Index(r.archived, s); i >= 0 {
		r.archived = slices.Delete(r.archived, i, i+1)
		r.add(s)
	}
}

// trusts reports whether identity is the one the caller trusts.
func (r *Remote) trusts(identity PublicKey) bool {
	return r.Identity.IsZero() || r.Identity.Equal(identity)
}

// admits reports whether a registration id may belong to identity.
func (l *Local) admits(registrationID uint32, identity PublicKey) bool {
	return l.AnyRegistrationID || registrationID == RegistrationID(identity)
}

func (l *Local) registrationID() uint32 {
	if l.RegistrationID == 0 {
		return RegistrationID(l.Identity.public)
	}
	return l.RegistrationID
}

// check finds a caller's mistakes.
func check(local *Local, remote *Remote) error {
	if !local.Address.valid() || !remote.Address.valid() {
		return errors.New("device number must be from 1 to 127")
	}
	if local.RegistrationID != 0 && !local.admits(local.RegistrationID, local.Identity.public) {
		return errors.New("registration id does not follow from the identity key")
	}
	return nil
}

// Format writes the type alone, whatever the verb, so that no log holds a key.
func (r Record) Format(f fmt.State, _ rune) { fmt.Fprint(f, "ratchet.Record") }

// LogValue is the type alone.
func (r Record) LogValue() slog.Value { return slog.StringValue("ratchet.Record") }
