package linking

import (
	"crypto/rand"
	"encoding/base32"
	"errors"
	"net/url"
	"strings"

	"sotto/wire"
)

// A Code is what the first device shows and the new device is given:
//
//	https://chat.example#ABCD-EFGH-IJKL-MNOP-QRST-UVWX-YZ23-4567
//
// the server's URL, and the secret in base32 (RFC 4648 section 6) in groups of four.
type Code struct {
	server string // URL as text
	name   string // of the server, as it goes under signatures
	secret [secretSize]byte
}

const maxCode = 1 << 10

var errCode = errors.New("this is not a linking code: it looks like https://chat.example#ABCD-EFGH-… and is shown by “sotto devices add” on the first device")

// NewCode draws a secret.
func NewCode(server string) (Code, error) {
	c, err := codeFor(server)
	rand.Read(c.secret[:])
	return c, err
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
	// The decoder skips line ends, which no code has. 20 bytes are 32 characters with no bit left over: there is one text for each secret.
	raw, err := base32.StdEncoding.DecodeString(secret)
	if err != nil || len(raw) != secretSize || len(secret) != base32.StdEncoding.EncodedLen(secretSize) {
		return Code{}, errCode
	}
	c.secret = [secretSize]byte(raw)
	return c, nil
}

func codeFor(server string) (Code, error) {
	u, err := url.Parse(server)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
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
	for rest := base32.StdEncoding.EncodeToString(c.secret[:]); rest != ""; rest = rest[4:] {
		b.WriteByte(separator)
		b.WriteString(rest[:4])
		separator = '-'
	}
	return b.String()
}
