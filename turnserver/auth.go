package turnserver

import (
	"net"

	"github.com/pion/logging"
	"github.com/pion/stun/v4"
	"github.com/pion/turn/v5"

	"sotto/turncred"
)

// credential is what an allocation was made with.
type credential struct {
	username, id string
	key          []byte
}

// authenticate finds the key that must have signed a request; pion checks the signature with it. pion asks before every Allocate, Refresh,
// CreatePermission and ChannelBind.
//
// A credential lives for minutes, a call for hours. So an allocation goes on with the credential it was made with after that has expired, for
// a day at most: its own client, on its own 5-tuple, may refresh it and open peers. A new allocation always needs a valid one.
func (f *frontend) authenticate(a *turn.RequestAttributes) (userID string, key []byte, ok bool) {
	e := &f.exchange
	if r := e.relay; r != nil && a.Method != stun.MethodAllocate && a.Realm == f.s.cfg.Realm &&
		a.Username == r.credential.username && f.s.now().Sub(r.born) < credentialGrace {
		e.credential = r.credential
		return r.credential.id, r.credential.key, true
	}
	id, expiry, err := turncred.Parse(a.Username)
	if err == nil && f.s.cfg.tune.wall().Before(expiry) && a.Realm == f.s.cfg.Realm {
		for _, secret := range *f.s.secrets.Load() {
			key := turncred.Key(a.Username, a.Realm, turncred.Password(secret, a.Username))
			if e.authentic(key) { // which of several secrets it was; with one, pion would find the same
				e.credential = credential{username: a.Username, id: id, key: key}
				return id, key, true
			}
		}
	}
	f.s.metrics.refusedAuth.Inc()
	return "", nil, false
}

// judged is told what pion found of a signature. It counts the wrong ones: those on a live allocation, whose key authenticate hands out unseen. And it answers
// requests where pion is silent: to an allocation that is not there, such as that of a client which does not know that the relay was started anew, and to
// somebody else's (RFC 8656 section 5).
func (f *frontend) judged(_, _ net.Addr, _, _, _, _ string, ok bool) {
	e, m := &f.exchange, f.s.metrics
	code := stun.CodeAllocMismatch
	switch {
	case !ok:
		m.refusedAuth.Inc()
		return
	case e.method == stun.MethodAllocate || e.relay != nil && e.relay.credential.id == e.credential.id:
		return
	case e.relay != nil:
		code = stun.CodeWrongCredentials
	}
	m.refusedAllocation.Inc()
	if b := f.refusal(code); f.mayAnswer(len(b)) {
		f.socket.write(b, e.client)
	} else {
		m.droppedSilenced.Inc()
	}
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
