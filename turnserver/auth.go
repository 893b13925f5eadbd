package turnserver

import (
	"net"

	"github.com/pion/logging"
	"github.com/pion/turn/v5"
)

// credential is what an allocation was made with.
type credential struct {
	username, id string
	key          []byte
}

// key tells pion what signs the request, which verify has checked before.
func (f *frontend) key(*turn.RequestAttributes) (userID string, key []byte, ok bool) {
	e := &f.exchange
	return e.credential.id, e.credential.key, e.authentic
}

// reserve takes the quota for an allocation that pion is about to make: created or settle gives it on or back.
func (f *frontend) reserve(id, _ string, _ net.Addr) bool {
	e := &f.exchange
	if !f.s.users.take(id) {
		f.s.metrics.refusedQuota.Inc()
		return false
	}
	if !f.s.addresses.take(e.client.Addr()) {
		f.s.users.give(id)
		f.s.metrics.refusedQuota.Inc()
		return false
	}
	e.reserved = true
	return true
}

// silence is pion's logger: what pion says names users and addresses.
type silence struct{}

func (silence) NewLogger(string) logging.LeveledLogger { return silence{} }
func (silence) Trace(string)                           {}
func (silence) Tracef(string, ...any)                  {}
func (silence) Debug(string)                           {}
func (silence) Debugf(string, ...any)                  {}
func (silence) Info(string)                            {}
func (silence) Infof(string, ...any)                   {}
func (silence) Warn(string)                            {}
func (silence) Warnf(string, ...any)                   {}
func (silence) Error(string)                           {}
func (silence) Errorf(string, ...any)                  {}
