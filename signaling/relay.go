package signaling

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"time"

	"sotto/signaling/store"
	"sotto/turncred"
	"sotto/wire"
)

const maxRelayTTL = 10 * time.Minute

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
	username, password := turncred.Mint(r.Secret, relayID(r.Secret, account, now), r.TTL, now)
	return &wire.ServerFrame{Body: &wire.ServerFrame_RelayCredentials{RelayCredentials: &wire.RelayCredentials{
		Urls:      r.URLs,
		Username:  username,
		Password:  password,
		ExpiresAt: uint64(now.Add(r.TTL).UnixMilli()),
	}}}, nil
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
