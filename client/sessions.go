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
	recordSession = "session/" // the account's UUID, "/" and the device; without the device it is the first's, from before there were others
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

func readSession(t *tx, with ratchet.Address) (*session, error) {
	value, err := t.get(addressRecord(recordSession, with))
	if errors.Is(err, errNoRecord) && with.Device == firstDevice {
		value, err = t.get(recordSession + uuid.UUID(with.Account).String())
	}
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

func (s *session) write(t *tx, with ratchet.Address) error {
	s.Record = s.ratchet.Marshal()
	defer clear(s.Record)
	if with.Device == firstDevice {
		t.delete(recordSession + uuid.UUID(with.Account).String())
	}
	return putJSON(t, addressRecord(recordSession, with), s)
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

const bundleTries = 3 // a list may name a device whose bundle is not there yet

// ensureSessions starts sessions with an account's devices where there are none, and pins the identity key and the user name, unless that
// is empty, at first use.
func (c *Client) ensureSessions(ctx context.Context, id uuid.UUID, username string) error {
	for range bundleTries {
		lacking, err := c.withoutSession(id, username)
		if err != nil || lacking == nil {
			return err
		}
		var which uint8 // all
		if len(lacking) == 1 {
			which = lacking[0]
		}
		bundles, err := c.fetchBundles(ctx, id, which)
		if err != nil {
			return err
		}
		if err := c.startSessions(id, username, bundles); err != nil {
			return err
		}
	}
	if lacking, err := c.withoutSession(id, username); err != nil || lacking == nil {
		return err
	}
	return errors.New("the server has no keys for one of their devices: try again later")
}

const anyDevice = 0 // whichever an account has

// withoutSession lists the devices that a session has to be started with, and takes up the user name if there are none.
func (c *Client) withoutSession(id uuid.UUID, username string) (lacking []uint8, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.mayBeNamed(id, username); err != nil {
		return nil, err
	}
	p := c.contacts[id]
	if p == nil || p.outdated() {
		return []uint8{anyDevice}, nil
	}
	remotes, err := c.remotes(p)
	if err != nil {
		return nil, err
	}
	err = c.store.update(func(t *tx) error {
		for _, remote := range remotes {
			s, err := readSession(t, remote.Address)
			if err != nil {
				return err
			}
			if !s.ratchet.CanEncrypt(remote, time.Now()) {
				lacking = append(lacking, remote.Address.Device)
			}
		}
		return nil
	})
	if err == nil && lacking == nil && username != p.Username && username != "" {
		_, err = c.changeContact(p, func(p *contact) { p.Username = username }, nil)
	}
	return lacking, err
}

// startSessions takes what the server gave: bundles, and the list of the account's devices.
func (c *Client) startSessions(id uuid.UUID, username string, reply *wire.Bundles) error {
	bundles, err := parseBundles(id, reply)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.mayBeNamed(id, username); err != nil { // as it is now
		return err
	}
	p, first := c.contacts[id], bundles[firstDevice]
	switch {
	case p == nil && (first == nil || id == c.account.Account):
		return errProtocol
	case p == nil:
		p = &contact{Account: id, Identity: first.Identity.Bytes(), Added: time.Now()}
	case first != nil && !bytes.Equal(p.Identity, first.Identity.Bytes()):
		if err := c.identityAppeared(p, first.Identity); err != nil {
			return err
		}
		return &IdentityChangedError{p.public().String()}
	}
	list, err := c.verifyList(p, reply.GetDeviceList())
	if err == errListOlder && !p.outdated() {
		c.log.Warn("the server gave an older list of a contact's devices, which was ignored")
		list, err = nil, nil
	}
	if err != nil {
		return err
	}
	changed := *p
	if list != nil {
		changed.listed = list.list
	}
	remotes, err := c.remotes(&changed)
	if err != nil {
		return err
	}
	_, err = c.takeList(p, list, func(p *contact) {
		if username != "" {
			p.Username = username
		}
	}, func(t *tx) error {
		for _, remote := range remotes {
			bundle := bundles[remote.Address.Device]
			if bundle == nil || !bundle.Identity.Equal(remote.Identity) {
				continue
			}
			s, err := readSession(t, remote.Address)
			if err != nil {
				return err
			}
			if s.ratchet.CanEncrypt(remote, time.Now()) { // one was started from the other end meanwhile
				continue
			}
			if err := s.ratchet.Initiate(c.local(), remote, bundle, time.Now()); err != nil {
				return fmt.Errorf("the server gave keys that cannot be used: %w", err)
			}
			if err := s.write(t, remote.Address); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return c.spread(id) // before a text that is written now
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

// fetchBundles asks the server for the pre-keys of an account's devices, or of one.
func (c *Client) fetchBundles(ctx context.Context, id uuid.UUID, device uint8) (*wire.Bundles, error) {
	reply, err := c.askAbout(ctx, id, func(token []byte) *wire.ClientFrame {
		return &wire.ClientFrame{Body: &wire.ClientFrame_FetchBundles{
			FetchBundles: &wire.FetchBundles{Account: id[:], Device: uint32(device), DeliveryToken: token},
		}}
	})
	if err != nil {
		return nil, err
	}
	if reply.GetBundles() == nil {
		return nil, errProtocol
	}
	return reply.GetBundles(), nil
}

// fetchBundle asks for one device's.
func (c *Client) fetchBundle(ctx context.Context, of ratchet.Address) (*ratchet.Bundle, error) {
	reply, err := c.fetchBundles(ctx, of.Account, of.Device)
	if err != nil {
		return nil, err
	}
	bundles, err := parseBundles(of.Account, reply)
	if err == nil && bundles[of.Device] == nil {
		err = errProtocol
	}
	return bundles[of.Device], err
}

// errIdentified says that the server must be asked under this account's name.
var errIdentified = errors.New("not to be had anonymously")

// askAbout asks the server about an account, and does not say who asks if the account gave us its delivery token.
func (c *Client) askAbout(ctx context.Context, id uuid.UUID, frame func(token []byte) *wire.ClientFrame) (*wire.ServerFrame, error) {
	c.mu.Lock()
	known := c.contacts[id]
	c.mu.Unlock()
	reply, err := c.askAnonymously(ctx, known, frame)
	if err == errIdentified {
		reply, err = c.request(ctx, frame(nil))
	}
	if refused(err, wire.Error_NOT_FOUND) {
		return nil, fmt.Errorf("%w: the account or its device is gone", ErrNoSuchUser)
	}
	return reply, err
}

func (c *Client) askAnonymously(ctx context.Context, known *contact, frame func(token []byte) *wire.ClientFrame) (*wire.ServerFrame, error) {
	if known == nil || known.Token == nil {
		return nil, errIdentified
	}
	if _, err := c.link.wait(ctx); err != nil { // the anonymous link is opened beside it
		return nil, err
	}
	reply, err := c.requestAnonymously(ctx, frame(known.Token))
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

// parseBundles takes an account's bundles, by device.
func parseBundles(id uuid.UUID, reply *wire.Bundles) (map[uint8]*ratchet.Bundle, error) {
	bundles := map[uint8]*ratchet.Bundle{}
	for _, b := range reply.GetBundles() {
		if !bytes.Equal(b.GetAccount(), id[:]) || b.GetDevice() < 1 || b.GetDevice() > wire.MaxDeviceID {
			return nil, errProtocol
		}
		bundle, err := parseBundle(b)
		if err != nil {
			return nil, err
		}
		bundles[uint8(b.Device)] = bundle
	}
	return bundles, nil
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
