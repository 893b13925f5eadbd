package turnserver

import (
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
)

// ErrNeedsRestart says that Reload was given what it cannot change.
var ErrNeedsRestart = errors.New("only a restart changes")

// Reload takes over what can change while the relay runs: AllowPeers, MaxAllocations, MaxPerUser, MaxPerAddress, MaxConnections,
// MaxConnectionsPerAddress and, if there are any, Secrets; and
// Users unless it is nil, as SetUsers does. What is above a bound that is lower now may stay; but nothing is exchanged any more
// with a peer that is no longer allowed. If cfg makes no sense nothing changes. If it differs in what only a restart can change, all else is taken
// over, and the error is ErrNeedsRestart with their names. TLSConfig and Logger are not looked at.
func (s *Server) Reload(cfg Config) error {
	if len(cfg.Secrets) == 0 {
		cfg.Secrets = *s.secrets.Load()
	}
	users := cfg.Users
	if users == nil {
		cfg.Users = *s.named.Load()
	}
	tls, dtls := cfg.TLS, cfg.DTLS
	cfg.TLS, cfg.DTLS = s.cfg.TLS, s.cfg.DTLS // whether there is a certificate for others is a question for the restart
	cfg.TLSConfig, cfg.tune = s.cfg.TLSConfig, s.cfg.tune
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	cfg.TLS, cfg.DTLS = tls, dtls
	s.secrets.Store(&cfg.Secrets)
	if users != nil {
		_ = s.SetUsers(users) // which were looked at above
	}
	s.users.bound(cfg.MaxAllocations, cfg.MaxPerUser)
	s.addresses.bound(math.MaxInt, cfg.MaxPerAddress)
	s.connections.bound(cfg.MaxConnections, cfg.MaxConnectionsPerAddress)
	s.headers.bound(cfg.MaxConnections, cfg.MaxConnections)
	s.policy.open(cfg.AllowPeers)
	s.offload.again() // the driver forgets whom it may not reach
	return s.cfg.stays(cfg)
}

// reloaded are the settings that Reload takes over, and those that it does not look at.
var reloaded = []string{
	"AllowPeers", "MaxAllocations", "MaxPerUser", "MaxPerAddress", "MaxConnections",
	"MaxConnectionsPerAddress", "Secrets", "Users", "TLSConfig", "Logger",
}

// stays names what is different in other and yet stays as it is.
func (c Config) stays(other Config) error {
	var names []string
	is, asked := reflect.ValueOf(c), reflect.ValueOf(other)
	for i, field := range reflect.VisibleFields(is.Type()) {
		if !field.IsExported() || slices.Contains(reloaded, field.Name) {
			continue
		}
		if fmt.Sprint(is.Field(i)) != fmt.Sprint(asked.Field(i)) { // so that no list and an empty one are the same
			names = append(names, field.Name)
		}
	}
	if names == nil {
		return nil
	}
	return fmt.Errorf("%w %s", ErrNeedsRestart, strings.Join(names, ", "))
}
