package client

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"sotto/e2ee/ratchet"
	"sotto/wire"
)

// Registration, in order:
//
//  1. Draw the identity key and the first pre-keys, sign them, and store it all with the very bytes that will be sent.
//  2. Send them. The server makes the account.
//  3. Store the account's UUID, and forget the bytes and the invitation.
//
// A process that dies between 2 and 3 finds the bytes when it registers again, and sends them again: to the same identity key under
// the same name the server gives the same account. If the server refused, which it does only if it made none before either, or was
// never reached, everything is forgotten again.

const registrationTimeout = 30 * time.Second

const recordAccount = "account"

// account is the record of who this is.
type account struct {
	Server         string // URL
	Username       string
	Account        uuid.UUID
	Device         uint8
	RegistrationID uint32
	Identity       []byte // private half
	Registration   []byte `json:",omitempty"` // as sent, until the server's answer is in

	// Of the lists of devices that this device has signed, whether or not the server has taken them.
	SignedEpoch  uint32 `json:",omitempty"`
	SignedLastID uint32 `json:",omitempty"`
}

// Register makes an account on a server, in a directory that has none, and opens it.
func Register(ctx context.Context, dir string, o RegisterOptions) (_ *Client, err error) {
	if !validUsername(o.Username) || !newUsername(o.Username) {
		return nil, errUsername
	}
	server, err := parseServer(o.Server, o.AllowPlain)
	if err != nil {
		return nil, err
	}
	s, err := openStore(dir, o.Key, true)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	a, err := readAccount(s)
	fresh := errors.Is(err, errNoRecord)
	switch {
	case fresh:
		if a, err = draft(s, server, o.Username, o.Invitation); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	case a.Registration == nil:
		return nil, fmt.Errorf("%s holds the account of %s already: use another directory", dir, a.Username)
	case a.Username != o.Username || a.Server != server.String():
		return nil, fmt.Errorf("it is not known whether the server took the registration of %[2]s at %[3]s that was begun in %[1]s: "+
			"register that again first, or use another directory (this one can be removed if that name "+
			"is not wanted any more)", dir, a.Username, a.Server)
	}
	result, became, err := postRegistration(ctx, server, o.TLS, a.Registration)
	if became == refusedForGood || became == neverSent && fresh {
		return nil, errors.Join(err, s.update(func(t *tx) error {
			t.delete(recordAccount)
			t.delete(recordPreKeys)
			return nil
		}))
	}
	if err != nil {
		return nil, err
	}
	a.Account, a.Device, a.Registration = uuid.UUID(result.Account), uint8(result.Device), nil
	if err := s.update(func(t *tx) error { return a.write(t) }); err != nil {
		return nil, err
	}
	return newClient(s, a, o.Options)
}

// Open opens the account in a directory. Only one process at a time can.
func Open(dir string, o Options) (_ *Client, err error) {
	s, err := openStore(dir, o.Key, false)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	a, err := readAccount(s)
	if errors.Is(err, errNoRecord) {
		return nil, errNoAccount(dir)
	}
	if err != nil {
		return nil, err
	}
	if a.Registration != nil {
		return nil, fmt.Errorf("the registration of %s at %s was not finished: register again with the same name and directory", a.Username, a.Server)
	}
	if _, err := parseServer(a.Server, o.AllowPlain); err != nil {
		return nil, err
	}
	return newClient(s, a, o)
}

// draft is step 1.
func draft(s *store, server *url.URL, username, invitation string) (*account, error) {
	identity := ratchet.GenerateKeyPair()
	keys, upload := newPreKeys(identity, time.Now(), preKeyBatch)
	preKeys, err := proto.Marshal(upload)
	if err != nil {
		return nil, err
	}
	a := &account{
		Server: server.String(), Username: username, Identity: identity.Marshal(),
		RegistrationID: ratchet.RegistrationID(identity.Public()),
	}
	if err := a.sign(server, invitation, preKeys); err != nil {
		return nil, err
	}
	return a, s.update(func(t *tx) error {
		if err := keys.write(t); err != nil {
			return err
		}
		return a.write(t)
	})
}

// sign makes the bytes to be sent.
func (a *account) sign(server *url.URL, invitation string, preKeys []byte) error {
	identity, err := ratchet.UnmarshalKeyPair(a.Identity)
	if err != nil {
		return err
	}
	name, err := wire.ServerName(server.Host)
	if err != nil {
		return err
	}
	registration := &wire.Registration{
		Username: a.Username, Invitation: invitation, RegistrationId: a.RegistrationID,
		IdentityKey: identity.Public().Bytes(), PreKeys: preKeys,
	}
	registration.Signature = identity.Sign(wire.RegistrationToSign(name, registration))
	a.Registration, err = proto.Marshal(registration)
	return err
}

func readAccount(s *store) (*account, error) {
	value, err := s.get(recordAccount)
	if err != nil {
		return nil, err
	}
	a := new(account)
	return a, json.Unmarshal(value, a)
}

func (a *account) write(t *tx) error { return putJSON(t, recordAccount, a) }

// became is what is known of a request that failed.
type became uint8

const (
	unknown        became = iota // it may have made an account
	neverSent                    // not by this request
	refusedForGood               // nor by the same one before: the server looks for that first
)

// postRegistration is step 2.
func postRegistration(
	ctx context.Context, server *url.URL, config *tls.Config, body []byte,
) (_ *wire.RegistrationResult, became became, err error) {
	ctx, cancel := context.WithTimeout(ctx, registrationTimeout)
	defer cancel()
	response, connected, err := post(ctx, server.JoinPath("v1/accounts"), config, body,
		func(binding []byte) proto.Message { return &wire.Registration{ChannelBinding: binding} })
	if err != nil && !connected {
		return nil, neverSent, unreachable(err)
	}
	if err != nil {
		return nil, unknown, unreachable(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err != nil {
		return nil, unknown, unreachable(err)
	}
	// A server that is stopping, or a proxy that did not get its answer, leaves it open what has happened.
	if response.StatusCode >= 300 && response.StatusCode < 500 && response.StatusCode != http.StatusTooManyRequests {
		became = neverSent
	}
	result, refusal := new(wire.RegistrationResult), new(wire.Error)
	switch {
	case !isProtobuf(response) && response.StatusCode >= 500:
		return nil, became, errInFront(server, response.StatusCode)
	case !isProtobuf(response):
		return nil, became, fmt.Errorf("%s does not answer as a Sotto server: check the URL", server.Host)
	case response.StatusCode != http.StatusOK && proto.Unmarshal(answer, refusal) == nil:
		err := refusalOf(refusal)
		if became == neverSent && !errors.Is(err, ErrTLSEnded) { // one before may have come another way
			became = refusedForGood
		}
		return nil, became, err
	case proto.Unmarshal(answer, result) != nil || len(result.Account) != 16 || result.Device != firstDevice:
		return nil, became, fmt.Errorf("%s gave a malformed answer", server.Host)
	}
	return result, unknown, nil
}

// parseServer reads a server's URL. ws and wss mean http and https.
func parseServer(s string, allowPlain bool) (*url.URL, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, errors.New("the server must be a URL such as https://sotto.example")
	}
	switch u.Scheme {
	case "https", "wss":
		u.Scheme = "https"
	case "http", "ws":
		u.Scheme = "http"
		if !allowPlain && !loopback(u.Hostname()) {
			return nil, fmt.Errorf("%s %w", s, ErrPlain)
		}
	default:
		return nil, errors.New("the server must be a URL such as https://sotto.example")
	}
	if _, err := wire.ServerName(u.Host); err != nil {
		return nil, err
	}
	return u, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

var errUsername = errors.New("a user name has 2 to 32 characters of a-z 0-9 . _ -, and begins with a letter or digit")

// newUsername tells whether a name is neither a path, such as "..", nor a flag. Older ones may be.
func newUsername(name string) bool { return !strings.ContainsAny(name[:1], "._-") }

func validUsername(name string) bool {
	for _, c := range []byte(name) {
		if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-') {
			return false
		}
	}
	return len(name) >= 2 && len(name) <= maxUsername
}

func putJSON(t *tx, name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	t.put(name, b)
	return nil
}
