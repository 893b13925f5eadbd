package signaling

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"sotto/signaling/store"
	"sotto/wire"
)

// Registration, in order; each step is cheaper than the next, and nothing about accounts shows before an invitation was good:
//
//  1. the limit of the source address, and of the body's size
//  2. the form of every field but the pre-keys
//  3. the TLS channel, which must reach from the device to here
//  4. the invitation
//  5. the signature by the identity key, over this server's name
//  6. every pre-key and its signature
//  7. the store makes the account, if name and invitation are still free
//
// A device that lost the answer asks again: the same identity key under the same name gets its account once more.

const maxRegistration = 256 << 10 // 100 Kyber keys of 1.6 kB, and the rest

func (s *Server) handleRegistration(w http.ResponseWriter, r *http.Request) {
	result, err := s.register(w, r)
	if err != nil {
		f := s.asFailure(err)
		respond(w, httpStatus(f.code), f.wire())
		return
	}
	respond(w, http.StatusOK, result)
}

func (s *Server) register(w http.ResponseWriter, r *http.Request) (*wire.RegistrationResult, error) {
	body, err := s.body(w, r, maxRegistration) // first: a device that still writes hears no refusal
	if err != nil {
		return nil, err
	}
	if wait := s.registrations.take(sourceOf(r.RemoteAddr), s.now()); wait > 0 {
		return nil, rateLimited(wait)
	}
	server, err := s.nameOf(r)
	if err != nil {
		return nil, err
	}
	reg, err := parseRegistration(body)
	if err != nil {
		return nil, err
	}
	if err := overSameChannel(reg.GetChannelBinding(), r); err != nil {
		return nil, err
	}
	identity := [33]byte(reg.GetIdentityKey())
	signed := wire.RegistrationToSign(server, reg)

	invitation, err := s.invitation(reg.GetInvitation())
	if err != nil {
		// A device that asks again may have used up its invitation the first time.
		if result := s.registered(reg.GetUsername(), identity); result != nil && verify(identity, signed, reg.GetSignature()) {
			return result, nil
		}
		return nil, err
	}
	if !verify(identity, signed, reg.GetSignature()) {
		return nil, errSignature
	}
	if result := s.registered(reg.GetUsername(), identity); result != nil {
		return result, nil
	}
	preKeys := &wire.PreKeys{}
	if proto.Unmarshal(reg.GetPreKeys(), preKeys) != nil {
		return nil, errMalformed
	}
	keys, err := parsePreKeys(preKeys, identity, true)
	if err != nil {
		return nil, err
	}
	account := store.Account{ID: store.UUID(uuid.New()), Username: reg.GetUsername()}
	device := store.Device{
		Address:        store.Address{Account: account.ID, Device: 1},
		RegistrationID: reg.GetRegistrationId(),
		IdentityKey:    identity,
	}
	if err := s.store.CreateAccount(account, device, keys, invitation, s.now()); err != nil {
		return nil, err
	}
	s.metrics.registrations.Inc()
	return &wire.RegistrationResult{Account: account.ID[:], Device: 1}, nil
}

// body reads a request.
func (s *Server) body(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	// Who has not sent its request when the server stops is not waited for.
	defer context.AfterFunc(s.stop, func() {
		http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.timing.closing))
	})()
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, errTooLarge
	case err != nil:
		return nil, errMalformed
	}
	return body, nil
}

// parseRegistration returns a body whose fields have the right form, its signatures and pre-keys not yet checked.
func parseRegistration(body []byte) (*wire.Registration, error) {
	r := &wire.Registration{}
	if proto.Unmarshal(body, r) != nil {
		return r, errMalformed
	}
	switch {
	case !ValidUsername(r.GetUsername()) || !newUsername(r.GetUsername()):
		return r, badRequest("A user name has 2 to 32 characters of a-z, 0-9, '.', '_' and '-'.")
	case !validCurveKey(r.GetIdentityKey()):
		return r, badRequest("The identity key is malformed.")
	case r.GetRegistrationId() != wire.RegistrationID(r.GetIdentityKey()):
		return r, badRequest("The registration id is not the one that follows from the identity key.")
	case len(r.GetSignature()) != signatureSize:
		return r, errSignature
	case len(r.GetInvitation()) > 128:
		return r, errForbidden
	}
	return r, nil
}

// ValidUsername says whether a user name is 2 to 32 of a-z, 0-9, '.', '_' and '-'.
func ValidUsername(name string) bool {
	return len(name) >= 2 && len(name) <= 32 && !strings.ContainsFunc(name, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '_' || r == '-')
	})
}

// newUsername tells whether a name is neither a path, such as "..", nor a flag. Older ones may be.
func newUsername(name string) bool { return !strings.ContainsAny(name[:1], "._-") }

// registered returns the account that this identity key registered under this name, nil if there is none.
func (s *Server) registered(username string, identity [33]byte) *wire.RegistrationResult {
	a, err := s.store.AccountByName(username)
	if err != nil {
		return nil
	}
	d, err := s.store.Device(store.Address{Account: a.ID, Device: 1})
	if err != nil || d.IdentityKey != identity {
		return nil
	}
	return &wire.RegistrationResult{Account: a.ID[:], Device: 1}
}

// NewInvitation returns a token that is good for a number of registrations until ttl is over. The store keeps only its hash.
func (s *Server) NewInvitation(ttl time.Duration, uses int) (token string, err error) {
	if uses < 1 || ttl <= 0 {
		return "", errors.New("an invitation needs at least one use and a time to live")
	}
	token = newToken()
	return token, s.store.AddInvitation(sha256.Sum256([]byte(token)), uses, s.now().Add(ttl))
}

// newToken makes one that a command line does not take for a flag, and that an eye does not take for
// punctuation: it begins with a letter or digit. Of its 168 random bits that leaves 167.9.
func newToken() string {
	secret := make([]byte, 21)
	for {
		rand.Read(secret)
		token := base64.RawURLEncoding.EncodeToString(secret)
		if token[0] != '-' && token[0] != '_' {
			return token
		}
	}
}

// invitation checks a token and returns its hash, nil when the server is open and no token was given.
func (s *Server) invitation(token string) (*[32]byte, error) {
	if token == "" {
		if s.cfg.OpenRegistration {
			return nil, nil
		}
		return nil, errInvitation
	}
	// A look-up by hash gives away nothing by its time: a token has 160 random bits or more.
	hash := sha256.Sum256([]byte(token))
	return &hash, s.store.CheckInvitation(hash, s.now())
}

func respond(w http.ResponseWriter, status int, m proto.Message) {
	w.Header().Set("Content-Type", "application/x-protobuf")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(known(m))
}
