// Package turncred mints and checks the time-limited credentials of a TURN relay, in the form that
// draft-uberti-behave-turn-rest-00 describes and that coturn (use-auth-secret), pion and every browser understand.
//
//	username = expiry ":" id                      expiry: Unix seconds in decimal; id: any name, the unit of quotas
//	password = base64(HMAC-SHA1(secret, username))
//	key      = MD5(username ":" realm ":" password)   RFC 8489 section 9.2.2: what signs each TURN request
//
// Other minters write the username as id ":" expiry or as the expiry alone (see Parse), or make the
// password with HMAC-SHA256. Relays take these too.
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
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"hash"
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
	// ErrMalformed says that a username has none of the forms that Parse takes.
	ErrMalformed = errors.New("turncred: username is not expiry:id, id:expiry or an expiry")
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

// Parse splits a username: "expiry:id", "id:expiry", or an expiry alone, which is then the id too,
// so that each such credential is a user of its own. If what stands before the first colon is a
// number it is the expiry, and all else the id, as coturn has it: "1:2" expires at 1. Otherwise the
// expiry stands behind the last colon. An expiry has one spelling, without sign and leading zeros.
// Parse says nothing of whether it has passed.
func Parse(username string) (id string, expiry time.Time, err error) {
	digits, id, found := strings.Cut(username, ":")
	switch last := strings.LastIndexByte(username, ':'); {
	case !found:
		id = username
	case strings.Trim(digits, "0123456789") != "":
		id, digits = username[:last], username[last+1:]
	}
	seconds, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || seconds <= 0 || strconv.FormatInt(seconds, 10) != digits || !validID(id) {
		return "", time.Time{}, ErrMalformed
	}
	return id, time.Unix(seconds, 0), nil
}

// Password is the password that belongs to a username under a secret.
func Password(secret []byte, username string) string {
	return password(sha1.New, secret, username)
}

// PasswordSHA256 is the one that minters make who take HMAC-SHA256 instead.
func PasswordSHA256(secret []byte, username string) string {
	return password(sha256.New, secret, username)
}

func password(h func() hash.Hash, secret []byte, username string) string {
	mac := hmac.New(h, secret)
	mac.Write([]byte(username))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// Key is the long-term credential key of RFC 8489 section 9.2.2.
func Key(username, realm, password string) []byte {
	sum := md5.Sum([]byte(username + ":" + realm + ":" + password))
	return sum[:]
}

// Check says whether password, of either kind, belongs to username under one of the secrets and is
// still valid, and for whom. The comparison takes the same time whatever the password.
func Check(secrets [][]byte, username, password string, now time.Time) (id string, expiry time.Time, err error) {
	id, expiry, err = Parse(username)
	if err != nil {
		return "", time.Time{}, err
	}
	match := false
	for _, secret := range secrets {
		for _, made := range []string{Password(secret, username), PasswordSHA256(secret, username)} {
			if hmac.Equal([]byte(made), []byte(password)) {
				match = true
			}
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
