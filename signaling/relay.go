package signaling

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"sotto/signaling/store"
	"sotto/turncred"
	"sotto/wire"
)

const (
	maxRelayTTL    = 10 * time.Minute
	minRelaySecret = 16
)

var errRelaySecret = fmt.Errorf("the relay's secret is shorter than %d bytes: make one with `openssl rand -base64 32`", minRelaySecret)

// relay mints credentials for the TURN relay.
func (l *link) relay() (*wire.ServerFrame, error) {
	s := l.server
	r := s.cfg.Relay
	if r == nil {
		return nil, errNoRelay
	}
	account := l.device.Address.Account
	if wait := s.relays.take(account, s.now()); wait > 0 {
		return nil, rateLimited(wait)
	}
	now := s.now()
	secret := *s.relaySecret.Load()
	username, password := turncred.Mint(secret, relayID(secret, account, now), r.TTL, now)
	return &wire.ServerFrame{Body: &wire.ServerFrame_RelayCredentials{RelayCredentials: &wire.RelayCredentials{
		Urls:      *s.relayURLs.Load(),
		Username:  username,
		Password:  password,
		ExpiresAt: uint64(now.Add(r.TTL).UnixMilli()),
	}}}, nil
}

// SetRelaySecret replaces the secret that credentials are made from, while the server runs. The relay must accept it already.
func (s *Server) SetRelaySecret(secret []byte) error {
	switch {
	case s.cfg.Relay == nil:
		return errors.New("there is no relay to make credentials for")
	case len(secret) < minRelaySecret:
		return errRelaySecret
	}
	s.relaySecret.Store(&secret)
	return nil
}

// SetRelayURLs replaces the relay's addresses, while the server runs: the relay has moved.
func (s *Server) SetRelayURLs(urls []string) error {
	if s.cfg.Relay == nil || len(urls) == 0 {
		return errors.New("there is no relay to send devices to")
	}
	s.relayURLs.Store(&urls)
	return nil
}

// relayID is what the relay knows an account by. It lets the relay's quotas follow an account for a day and tells it nothing else:
// the network reads it too.
func relayID(secret []byte, account store.UUID, now time.Time) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte("Sotto relay id v1\x00"))
	mac.Write(binary.BigEndian.AppendUint64(nil, uint64(now.Unix()/86400)))
	mac.Write(account[:])
	return hex.EncodeToString(mac.Sum(nil)[:12])
}
