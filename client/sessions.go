package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"sotto/e2ee/ratchet"
	"sotto/wire"
)

const (
	recordSession = "session/" // and the account's UUID
	seenKept      = 256        // messages; the ratchet itself refuses what was decrypted before
)

// session is the record of the sessions with a contact's device, and of what came over them last: it changes with every message.
type session struct {
	Record []byte
	Seen   [][]byte // digests of messages and of requests to send something anew, oldest first
	Texts  [][]byte // ids of texts, likewise: as many as the other end keeps to send them anew
	Asked  bool     `json:",omitempty"` // something could not be decrypted, and they may begin a new session for it

	ratchet *ratchet.Record
}

func readSession(t *tx, id uuid.UUID) (*session, error) {
	value, err := t.get(recordSession + id.String())
	if errors.Is(err, errNoRecord) {
		return &session{ratchet: new(ratchet.Record)}, nil
	}
	if err != nil {
		return nil, err
	}
	s := new(session)
	if err := json.Unmarshal(value, s); err != nil {
		return nil, err
	}
	s.ratchet, err = ratchet.UnmarshalRecord(s.Record)
	return s, err
}

func (s *session) write(t *tx, id uuid.UUID) error {
	s.Record = s.ratchet.Marshal()
	defer clear(s.Record)
	return putJSON(t, recordSession+id.String(), s)
}

// seen tells whether an envelope's message came before. Its id does not tell: of what was sealed, the server could change it.
func (s *session) seen(e *wire.Envelope) bool { return among(s.Seen, digest(e)) }

func (s *session) see(e *wire.Envelope) { s.Seen = keepLast(s.Seen, digest(e), seenKept) }

func (s *session) seenText(id []byte) bool { return among(s.Texts, id) }

func (s *session) seeText(id []byte) { s.Texts = keepLast(s.Texts, id, maxSentTo) }

func among(list [][]byte, wanted []byte) bool {
	return slices.ContainsFunc(list, func(b []byte) bool { return bytes.Equal(b, wanted) })
}

func keepLast(list [][]byte, b []byte, most int) [][]byte {
	list = append(list, b)
	return list[max(0, len(list)-most):]
}

// digest names the message that an envelope, which is not sealed any more, holds.
func digest(e *wire.Envelope) []byte {
	sum := sha256.Sum256(append([]byte{byte(e.GetType())}, e.GetCiphertext()...))
	return sum[:16]
}

// ensureSession starts a session with an account's device unless there is one, and pins the identity key and the user name, unless that
// is empty, at first use.
func (c *Client) ensureSession(ctx context.Context, id uuid.UUID, username string) error {
	c.mu.Lock()
	known := c.contacts[id]
	ready := false
	err := c.mayBeNamed(id, username)
	if err == nil && known != nil {
		err = c.store.update(func(t *tx) error {
			s, err := readSession(t, id)
			if err != nil {
				return err
			}
			remote, err := known.remote()
			ready = err == nil && s.ratchet.CanEncrypt(remote, time.Now())
			return err
		})
	}
	if ready && username != known.Username && username != "" {
		_, err = c.changeContact(known, func(p *contact) { p.Username = username }, nil)
	}
	c.mu.Unlock()
	if err != nil || ready {
		return err
	}
	bundle, err := c.fetchBundle(ctx, id)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.mayBeNamed(id, username); err != nil { // as it is now
		return err
	}
	p := c.contacts[id]
	if p == nil {
		p = &contact{Account: id, Identity: bundle.Identity.Bytes(), Added: time.Now()}
	}
	if !bytes.Equal(p.Identity, bundle.Identity.Bytes()) {
		if err := c.identityAppeared(p, bundle.Identity); err != nil {
			return err
		}
		return &IdentityChangedError{p.public().String()}
	}
	remote, err := p.remote()
	if err != nil {
		return err
	}
	name := func(p *contact) {
		if username != "" {
			p.Username = username
		}
	}
	_, err = c.changeContact(p, name, func(t *tx) error {
		s, err := readSession(t, id)
		if err != nil || s.ratchet.CanEncrypt(remote, time.Now()) { // one was started from the other end meanwhile
			return err
		}
		if err := s.ratchet.Initiate(c.local(), remote, bundle, time.Now()); err != nil {
			return fmt.Errorf("the server gave keys that cannot be used: %w", err)
		}
		return s.write(t, id)
	})
	return err
}

// mayBeNamed refuses what only a server that lies, or has given the name to somebody else, says: that a name is now another account's, or
// an account has now another name. c.mu is held.
func (c *Client) mayBeNamed(id uuid.UUID, username string) error {
	if username == "" {
		return nil
	}
	if p := c.named(username); p != nil && p.Account != id {
		return fmt.Errorf("the server says that %s is another account than the contact of that name: do not trust it", username)
	}
	if p := c.contacts[id]; p != nil && p.Username != "" && p.Username != username {
		return fmt.Errorf("the server says that %s is the account of your contact %s: do not trust it", username, p.Username)
	}
	return nil
}

// fetchBundle asks the server for the pre-keys of an account's device, and does not say who asks if the account gave us its delivery
// token.
func (c *Client) fetchBundle(ctx context.Context, id uuid.UUID) (*ratchet.Bundle, error) {
	c.mu.Lock()
	known := c.contacts[id]
	c.mu.Unlock()
	request := &wire.FetchBundles{Account: id[:], Device: device}
	reply, err := c.fetchAnonymously(ctx, known, request)
	if err == errIdentified {
		reply, err = c.request(ctx, &wire.ClientFrame{Body: &wire.ClientFrame_FetchBundles{FetchBundles: request}})
	}
	if refused(err, wire.Error_NOT_FOUND) {
		return nil, fmt.Errorf("%w: the account is gone", ErrNoSuchUser)
	}
	if err != nil {
		return nil, err
	}
	for _, b := range reply.GetBundles().GetBundles() {
		if b.GetDevice() == device && bytes.Equal(b.GetAccount(), id[:]) {
			return parseBundle(b)
		}
	}
	return nil, errProtocol
}

// errIdentified says that the server must be asked under this account's name.
var errIdentified = errors.New("not to be had anonymously")

func (c *Client) fetchAnonymously(ctx context.Context, known *contact, request *wire.FetchBundles) (*wire.ServerFrame, error) {
	if known == nil || known.Token == nil {
		return nil, errIdentified
	}
	if _, err := c.link.wait(ctx); err != nil { // the anonymous link is opened beside it
		return nil, err
	}
	reply, err := c.requestAnonymously(ctx, &wire.ClientFrame{Body: &wire.ClientFrame_FetchBundles{
		FetchBundles: &wire.FetchBundles{Account: request.Account, Device: request.Device, DeliveryToken: known.Token},
	}})
	if err == nil || refused(err, wire.Error_NOT_FOUND) || ctx.Err() != nil {
		return reply, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if refused(err, wire.Error_FORBIDDEN) {
		if err := c.forgetToken(known); err != nil {
			return nil, err
		}
	} else {
		c.senderShown(known)
	}
	return nil, errIdentified
}

// parseBundle takes the server's form of a bundle; Record.Initiate checks its signatures.
func parseBundle(b *wire.Bundle) (*ratchet.Bundle, error) {
	identity, err1 := ratchet.ParsePublicKey(b.GetIdentityKey())
	signed, err2 := ratchet.ParsePublicKey(b.GetSignedPreKey().GetPublicKey())
	if errors.Join(err1, err2) != nil {
		return nil, errProtocol
	}
	bundle := &ratchet.Bundle{
		RegistrationID: b.GetRegistrationId(), Identity: identity,
		SignedID: b.GetSignedPreKey().GetId(), SignedKey: signed, SignedSignature: b.GetSignedPreKey().GetSignature(),
		KyberID: b.GetKyber().GetId(), KyberKey: b.GetKyber().GetPublicKey(), KyberSignature: b.GetKyber().GetSignature(),
	}
	if o := b.GetOneTime(); o != nil {
		key, err := ratchet.ParsePublicKey(o.GetPublicKey())
		if err != nil {
			return nil, errProtocol
		}
		bundle.OneTime = &ratchet.OneTimePreKey{ID: o.GetId(), Key: key}
	}
	return bundle, nil
}
