package linking

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"net/url"
	"strings"

	"sotto/wire"
)

// A Code is what the first device shows and the new device is given:
//
//	https://chat.example#ABCD-EFGH-IJKL-MNOP-QRST-UVWX-YZ23-4567-ABCD-EFGH-IJKL-MNOP
//
// the server's URL, and in base32 (RFC 4648 section 6), in groups of four, a secret and what tells the account's identity key from others.
type Code struct {
	server string // URL as text
	name   string // of the server, as it goes under signatures
	secret [secretSize]byte
	first  [firstSize]byte // of the hash of the first device's identity key
}

const (
	secretSize = 16 // nobody finds it by trying what opens a blob
	firstSize  = 14 // nobody finds a second key with the same in ten minutes, or in a lifetime
)

const maxCode = 1 << 10

var errCode = errors.New("this is not a linking code: it looks like https://chat.example#ABCD-EFGH-… and is shown by " +
	"“sotto devices add” on the first device")

// NewCode draws a secret. identity is the first device's, whose code it is.
func NewCode(server string, identity [33]byte) (Code, error) {
	c, err := codeFor(server)
	rand.Read(c.secret[:])
	c.first = c.fingerprint(identity[:])
	return c, err
}

// fingerprint is what a code says of an identity key.
func (c Code) fingerprint(identity []byte) [firstSize]byte {
	sum := sha256.Sum256(append([]byte(firstLabel+c.name+"\x00"), identity...))
	return [firstSize]byte(sum[:])
}

// ParseCode reads a code as it was shown, or as it was typed: capitals or not, with or without hyphens and spaces in the secret.
func ParseCode(text string) (Code, error) {
	server, secret, found := strings.Cut(strings.TrimSpace(text), "#")
	if !found || len(text) > maxCode {
		return Code{}, errCode
	}
	c, err := codeFor(server)
	if err != nil {
		return Code{}, err
	}
	secret = strings.ToUpper(strings.NewReplacer("-", "", " ", "").Replace(secret))
	// The decoder skips line ends, which no code has. 30 bytes are 48 characters with no bit left over: there is one text for each code.
	const size = secretSize + firstSize
	raw, err := base32.StdEncoding.DecodeString(secret)
	if err != nil || len(raw) != size || len(secret) != base32.StdEncoding.EncodedLen(size) {
		return Code{}, errCode
	}
	c.secret, c.first = [secretSize]byte(raw), [firstSize]byte(raw[secretSize:])
	return c, nil
}

func codeFor(server string) (Code, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil ||
		u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return Code{}, errCode
	}
	name, err := wire.ServerName(u.Host)
	if err != nil {
		return Code{}, errCode
	}
	return Code{server: strings.TrimSuffix(u.String(), "/"), name: name}, nil
}

// Server is the URL of the account's server.
func (c Code) Server() string { return c.server }

// String is what is shown, with the secret.
func (c Code) String() string {
	var b strings.Builder
	b.WriteString(c.server)
	separator := byte('#')
	for rest := base32.StdEncoding.EncodeToString(append(c.secret[:], c.first[:]...)); rest != ""; rest = rest[4:] {
		b.WriteByte(separator)
		b.WriteString(rest[:4])
		separator = '-'
	}
	return b.String()
}
