package client

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"google.golang.org/protobuf/proto"

	"sotto/e2ee/linking"
	"sotto/e2ee/ratchet"
	"sotto/wire"
)

// A new device joins an account:
//
//  1. Draw the identity key and the first pre-keys, seal them for the code, and store it all with the very bytes that will be sent.
//  2. Send them. The server answers when the first device has added this one; until then it is asked again.
//  3. Check the answer (linking.Code.OpenReply) and store what is in it: account, list of devices, contacts. Forget the code.
//
// A process that dies before 3 finds the bytes when it links again with the same code. With another code it begins anew.

const (
	recordLinking = "linking"
	linkWait      = 6 * time.Minute // for one answer: more than the server takes
	linkKyberKeys = 25              // one-time keys of 1.6 KB that a request has room for; more follow over the link
)

// joining is the record of a device that has no account yet.
type joining struct {
	Code     string
	Identity []byte // private half
	Request  []byte // as sealed
}

// LinkOptions say which account to join.
type LinkOptions struct {
	Options

	// Code is what AddDevice shows on the account's first device.
	Code string

	// Show gets the ten digits that the first device asks its user about. It may be nil.
	Show func(digits string)
}

// Link makes this device, in a directory that has no account, another device of an account, and opens it. It returns when the account's
// user has confirmed on the first device.
func Link(ctx context.Context, dir string, o LinkOptions) (_ *Client, err error) {
	code, err := linking.ParseCode(o.Code)
	if err != nil {
		return nil, err
	}
	server, err := parseServer(code.Server(), o.AllowPlain)
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
	if a, err := readAccount(s); err == nil {
		return nil, fmt.Errorf("%s holds the account of %s already: use another directory", dir, a.Username)
	} else if !errors.Is(err, errNoRecord) {
		return nil, err
	}
	j, err := draftJoining(s, code)
	if err != nil {
		return nil, err
	}
	identity, err := ratchet.UnmarshalKeyPair(j.Identity)
	if err != nil {
		return nil, err
	}
	public := [33]byte(identity.Public().Bytes())
	if o.Show != nil {
		o.Show(code.Digits(public))
	}
	slot := code.Slot()
	body, err := proto.Marshal(&wire.LinkRequest{Slot: slot[:], Blob: j.Request})
	if err != nil {
		return nil, err
	}
	answer, err := askToLink(ctx, server, o.TLS, body)
	if err != nil {
		return nil, err
	}
	linked, err := parseLinked(code, j.Request, answer, public)
	if err != nil {
		return nil, err
	}
	a := &account{Server: server.String(), RegistrationID: ratchet.RegistrationID(identity.Public()), Identity: j.Identity}
	if err := adoptLinked(s, a, linked); err != nil {
		return nil, err
	}
	return newClient(s, a, o.Options)
}

// draftJoining is step 1, unless that was done for this code before.
func draftJoining(s *store, code linking.Code) (*joining, error) {
	value, err := s.get(recordLinking)
	j := new(joining)
	if err == nil {
		err = json.Unmarshal(value, j)
	}
	if err == nil && j.Code == code.String() || err != nil && !errors.Is(err, errNoRecord) {
		return j, err
	}
	identity := ratchet.GenerateKeyPair()
	keys, upload := newPreKeys(identity, time.Now(), linkKyberKeys)
	preKeys, err := proto.Marshal(upload)
	if err != nil {
		return nil, err
	}
	j = &joining{Code: code.String(), Identity: identity.Marshal()}
	private := [32]byte(j.Identity)
	defer clear(private[:])
	j.Request, err = code.SealRequest(&wire.NewDevice{
		IdentityKey: identity.Public().Bytes(), RegistrationId: ratchet.RegistrationID(identity.Public()), PreKeys: preKeys,
	}, &private)
	if err != nil {
		return nil, err
	}
	return j, s.update(func(t *tx) error {
		if err := keys.write(t); err != nil {
			return err
		}
		return putJSON(t, recordLinking, j)
	})
}

// askToLink is step 2.
func askToLink(ctx context.Context, server *url.URL, config *tls.Config, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, linkingTime)
	defer cancel()
	reached := false
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		answer, connected, err := postLinkRequest(ctx, server, config, body)
		if err == nil {
			return answer, nil
		}
		if reached = reached || connected; !reached { // a wrong name or authority: the code works on
			return nil, err
		}
		if refused(err, wire.Error_FORBIDDEN) {
			return nil, errors.New("the code does not work any more, or was not confirmed: make a new one on the account's first device")
		}
		if lasting(err) || errors.Is(err, errProtocol) || errors.Is(err, ErrTLSEnded) {
			return nil, err
		}
		select {
		case <-time.After(max(pause, retryAfter(err))):
		case <-ctx.Done():
			return nil, err
		}
	}
}

func postLinkRequest(ctx context.Context, server *url.URL, config *tls.Config, body []byte) (_ []byte, connected bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, linkWait)
	defer cancel()
	response, connected, err := post(ctx, server.JoinPath("v1/devices"), config, body,
		func(binding []byte) proto.Message { return &wire.LinkRequest{ChannelBinding: binding} })
	if err != nil {
		return nil, connected, unreachable(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(response.Body, wire.MaxLinkReply+1024))
	if err != nil {
		return nil, true, unreachable(err)
	}
	refusal := new(wire.Error)
	switch {
	case !isProtobuf(response) && response.StatusCode >= 500:
		return nil, true, errInFront(server, response.StatusCode)
	case !isProtobuf(response):
		return nil, true, errProtocol
	case response.StatusCode == http.StatusOK:
		return answer, true, nil
	case proto.Unmarshal(answer, refusal) != nil:
		return nil, true, errProtocol
	}
	return nil, true, refusalOf(refusal)
}
