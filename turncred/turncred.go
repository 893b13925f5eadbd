// Package turncred mints and checks the time-limited credentials of a TURN relay, in the form that
// draft-uberti-behave-turn-rest-00 describes and that coturn (use-auth-secret), pion and every browser understand.
//
//	username = expiry ":" id                      expiry: Unix seconds in decimal; id: any name, the unit of quotas
//	password = base64(HMAC-SHA1(secret, username))
//	key      = MD5(username ":" realm ":" password)   RFC 8489 section 9.2.2: what signs each TURN request
//
// The minter and the relay share a secret and nothing else: no account reaches the relay, no request reaches the minter. A credential
// cannot be taken back before it expires, which is why Mint gives none for longer than MaxTTL. Several secrets may be
// valid at once, so that they can be replaced without refusing anybody.
//
// SHA-1 and MD5 are what the protocol prescribes. HMAC-SHA1 is not touched by SHA-1's collisions, and MD5 only shapes a value that is already
// unpredictable.
package turncred

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// MaxTTL bounds the life of a minted credential. It need only last until the allocation is made: a running call outlives it.
const MaxTTL = 10 * time.Minute

// maxID keeps the username below the 509 bytes that RFC 8489 section 14.3 allows.
const maxID = 256

var (
	// ErrMalformed says that a username is not of the form "expiry:id".
	ErrMalformed = errors.New("turncred: username is not expiry:id")
	// ErrExpired says that a credential's time is over: ask its minter for a new one.
	ErrExpired = errors.New("turncred: credential has expired")
	// ErrWrong says that a password was not made from any of the secrets.
	ErrWrong = errors.New("turncred: password does not match")
)

// Mint makes a credential for id that expires ttl after now, and after MaxTTL at most. The id must be one that Parse accepts: not
// empty, at most 256 bytes, no control characters.
func Mint(secret []byte, id string, ttl time.Duration, now time.Time) (username, password string) {
	expiry := now.Add(min(ttl, MaxTTL)).Unix()
	username = strconv.FormatInt(expiry, 10) + ":" + id
	return username, Password(secret, username)
}

// Parse splits a username. It accepts exactly one spelling of every expiry and says nothing of whether it has passed.
func Parse(username string) (id string, expiry time.Time, err error) {
	digits, id, found := strings.Cut(username, ":")
	seconds, err := strconv.ParseInt(digits, 10, 64)
	if !found || err != nil || seconds <= 0 || strconv.FormatInt(seconds, 10) != digits || !validID(id) {
		return "", time.Time{}, ErrMalformed
	}
	return id, time.Unix(seconds, 0), nil
}

// Password is the password that belongs to a username under a secret.
func Password(secret []byte, username string) string {
	mac := hmac.New(sha1.New, secret)
	mac.Write([]byte(username))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// Key is the long-term credential key of RFC 8489 section 9.2.2.
func Key(username, realm, password string) []byte {
	sum := md5.Sum([]byte(username + ":" + realm + ":" + password))
	return sum[:]
}

// Check says whether password belongs to username under one of the secrets and is still valid, and for whom. The comparison takes the
// same time whatever the password.
func Check(secrets [][]byte, username, password string, now time.Time) (id string, expiry time.Time, err error) {
	id, expiry, err = Parse(username)
	if err != nil {
		return "", time.Time{}, err
	}
	match := false
	for _, secret := range secrets {
		if hmac.Equal([]byte(Password(secret, username)), []byte(password)) {
			match = true
		}
	}
	switch {
	case !match:
		return "", time.Time{}, ErrWrong
	case !now.Before(expiry):
		return "", time.Time{}, ErrExpired
	}
	return id, expiry, nil
}

func validID(id string) bool {
	return id != "" && len(id) <= maxID && utf8.ValidString(id) && !strings.ContainsFunc(id, unicode.IsControl)
}
