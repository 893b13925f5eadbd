package sealedwire

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"log/slog"
	"time"

	"sotto/e2ee/xeddsa"
	"sotto/internal/protofield"
)

// Both certificates are
//
//	1 certificate: a protobuf    2 signature of field 1's bytes [64]

// ServerCertificate says that a server's key may sign sender certificates:
//
//	1 id    2 server's public key [33]
//
// signed by the trust root.
type ServerCertificate struct {
	ID  uint32 // chosen by who holds the root; tells a server's keys apart
	Key PublicKey

	encoded   []byte
	signature []byte
}

// SenderCertificate says whose identity key a key is:
//
//	1 telephone number (optional)    2 device    3 expiry in milliseconds (fixed64)    4 identity key [33]
//	5 server certificate             6 account, as a UUID in lower case
//
// signed by the server's key.
type SenderCertificate struct {
	Sender
	Expires time.Time // whole milliseconds
	Server  *ServerCertificate

	telephone []byte // other servers' certificates may have one; ours never do
	encoded   []byte
	signature []byte
}

// Sender is a device and its identity key.
type Sender struct {
	Account  [16]byte
	Device   uint8 // 1 to 127
	Identity PublicKey
}

// Certify makes the certificate of a server's key, with the root's private key.
func (k *PrivateKey) Certify(id uint32, server PublicKey) *ServerCertificate {
	c := &ServerCertificate{ID: id, Key: server}
	c.signature = k.sign(c.content())
	c.encoded = envelop(c.content(), c.signature)
	return c
}

// Issuer makes sender certificates.
type Issuer struct {
	private     *PrivateKey
	certificate *ServerCertificate
}

// NewIssuer returns an Issuer with a server's key and its certificate. It fails if these do not belong together.
func NewIssuer(private *PrivateKey, certificate *ServerCertificate) (*Issuer, error) {
	if private.public != certificate.Key {
		return nil, ErrCertificate
	}
	return &Issuer{private, certificate}, nil
}

// Issue certifies, until expires, that sender has its identity key, which the caller has seen proved.
func (i *Issuer) Issue(sender Sender, expires time.Time) (*SenderCertificate, error) {
	if sender.Device < 1 || sender.Device > 127 || sender.Identity[0] != publicKeyType || expires.UnixMilli() <= 0 {
		return nil, ErrMalformed
	}
	c := &SenderCertificate{Sender: sender, Expires: time.UnixMilli(expires.UnixMilli()), Server: i.certificate}
	c.signature = i.private.sign(c.content())
	c.encoded = envelop(c.content(), c.signature)
	return c, nil
}

// Bytes returns the certificate's encoding.
func (c *ServerCertificate) Bytes() []byte { return c.encoded }

// Bytes returns the certificate's encoding.
func (c *SenderCertificate) Bytes() []byte { return c.encoded }

// Validate checks that root signed the server certificate and the server the sender's, and that now is not past the expiry.
func (c *SenderCertificate) Validate(root PublicKey, now time.Time) error {
	if now.After(c.Expires) || !c.Server.Signed(root) || !c.Server.Key.verify(c.content(), c.signature) {
		return ErrCertificate
	}
	return nil
}

// Uniform reports whether the certificate is as long as everybody's. A server could tell a device's
// sealed messages by the length of a certificate with a telephone number or a long id.
func (c *SenderCertificate) Uniform() bool {
	return len(c.telephone) == 0 && c.Server.ID < 1<<7
}

// Signed reports whether root signed the certificate.
func (c *ServerCertificate) Signed(root PublicKey) bool { return root.verify(c.content(), c.signature) }

// ParseServerCertificate reads a server certificate. It checks no signature.
func ParseServerCertificate(b []byte) (*ServerCertificate, error) {
	content, signature, err := open(b)
	if err != nil {
		return nil, err
	}
	c := &ServerCertificate{encoded: bytes.Clone(b), signature: signature}
	err = protofield.Each(content, func(number int, integer uint64, value []byte) error {
		switch number {
		case 1:
			c.ID = uint32(integer)
		case 2:
			copy(c.Key[:], value)
		}
		return nil
	})
	if err != nil || c.Key[0] != publicKeyType || !bytes.Equal(c.content(), content) {
		return nil, ErrMalformed
	}
	return c, nil
}

// ParseSenderCertificate reads a sender certificate. It checks no signature and no time; Validate does.
func ParseSenderCertificate(b []byte) (*SenderCertificate, error) {
	content, signature, err := open(b)
	if err != nil {
		return nil, err
	}
	c := &SenderCertificate{encoded: bytes.Clone(b), signature: signature}
	err = protofield.Each(content, func(number int, integer uint64, value []byte) (err error) {
		switch number {
		case 1:
			c.telephone = bytes.Clone(value)
		case 2:
			c.Device = uint8(integer)
		case 3:
			c.Expires = time.UnixMilli(int64(integer))
		case 4:
			copy(c.Identity[:], value)
		case 5:
			c.Server, err = ParseServerCertificate(value)
		case 6:
			c.Account, err = parseUUID(value)
		}
		return err
	})
	if err != nil || c.Server == nil || c.Device < 1 || c.Device > 127 || c.Identity[0] != publicKeyType ||
		c.Expires.UnixMilli() <= 0 || !bytes.Equal(c.content(), content) {
		return nil, ErrMalformed
	}
	return c, nil
}

// content is what the root signs.
func (c *ServerCertificate) content() []byte {
	b := protofield.AppendVarint(nil, 1, uint64(c.ID))
	return protofield.AppendBytes(b, 2, c.Key[:])
}

// content is what the server signs.
func (c *SenderCertificate) content() []byte {
	var b []byte
	if len(c.telephone) > 0 {
		b = protofield.AppendBytes(b, 1, c.telephone)
	}
	b = protofield.AppendVarint(b, 2, uint64(c.Device))
	b = protofield.AppendFixed64(b, 3, uint64(c.Expires.UnixMilli()))
	b = protofield.AppendBytes(b, 4, c.Identity[:])
	b = protofield.AppendBytes(b, 5, c.Server.encoded)
	return protofield.AppendBytes(b, 6, appendUUID(nil, c.Account))
}

func envelop(content, signature []byte) []byte {
	return protofield.AppendBytes(protofield.AppendBytes(nil, 1, content), 2, signature)
}

func open(b []byte) (content, signature []byte, err error) {
	err = protofield.Each(b, func(number int, _ uint64, value []byte) error {
		switch number {
		case 1:
			content = value
		case 2:
			signature = bytes.Clone(value)
		}
		return nil
	})
	if err != nil || len(signature) != xeddsa.SignatureSize || !bytes.Equal(envelop(content, signature), b) {
		return nil, nil, ErrMalformed
	}
	return content, signature, nil
}

// uuidGroups are the bytes that a UUID's text (RFC 9562 section 4) puts between its hyphens.
var uuidGroups = [...]int{4, 2, 2, 2, 6}

func appendUUID(b []byte, id [16]byte) []byte {
	from := 0
	for i, n := range uuidGroups {
		if i > 0 {
			b = append(b, '-')
		}
		b = hex.AppendEncode(b, id[from:from+n])
		from += n
	}
	return b
}

// parseUUID reads the one text that appendUUID gives.
func parseUUID(text []byte) (id [16]byte, err error) {
	digits := bytes.ReplaceAll(text, []byte("-"), nil)
	if len(digits) != 2*len(id) {
		return id, ErrMalformed
	}
	if _, err := hex.Decode(id[:], digits); err != nil || !bytes.Equal(appendUUID(nil, id), text) {
		return id, ErrMalformed
	}
	return id, nil
}

// Format writes the type alone, whatever the verb: logs name nobody.
func (c SenderCertificate) Format(f fmt.State, _ rune) { fmt.Fprint(f, "sealedwire.SenderCertificate") }

// Format writes the type alone, whatever the verb.
func (s Sender) Format(f fmt.State, _ rune) { fmt.Fprint(f, "sealedwire.Sender") }

// LogValue is the type alone.
func (c SenderCertificate) LogValue() slog.Value {
	return slog.StringValue("sealedwire.SenderCertificate")
}

// LogValue is the type alone.
func (s Sender) LogValue() slog.Value { return slog.StringValue("sealedwire.Sender") }

// Format writes the type alone, whatever the verb, so that no log holds the key.
func (i Issuer) Format(f fmt.State, _ rune) { fmt.Fprint(f, "sealedwire.Issuer") }

// LogValue is the type alone.
func (i Issuer) LogValue() slog.Value { return slog.StringValue("sealedwire.Issuer") }
