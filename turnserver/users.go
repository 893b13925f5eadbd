package turnserver

import (
	"crypto/hmac"
	"crypto/md5"
	"errors"
	"fmt"
	"maps"
	"unicode"
	"unicode/utf8"

	"sotto/turncred"
)

const maxUserName = 256 // bytes, as of the ids in credentials

// checkUsers holds Config.Users to what it promises. Its errors name nobody.
func checkUsers(users map[string][]byte) error {
	for name, key := range users {
		_, _, notMinted := turncred.Parse(name)
		switch {
		case name == "" || len(name) > maxUserName || !utf8.ValidString(name) || hasControl(name):
			return fmt.Errorf("a user's name is not 1 to %d bytes of text", maxUserName)
		case notMinted == nil:
			return errors.New("a user's name is that of a time-limited credential: " +
				"a number before or behind a colon, or alone")
		case len(key) != md5.Size:
			return fmt.Errorf("a user's key has %d bytes, not %d: make it with turncred.Key",
				len(key), md5.Size)
		}
	}
	return nil
}

func hasControl(name string) bool {
	for _, c := range name {
		if unicode.IsControl(c) {
			return true
		}
	}
	return false
}

// SetUsers replaces the users while the relay runs. Who is not among them any more, or has another
// key, loses what he has: his allocations end.
func (s *Server) SetUsers(users map[string][]byte) error {
	if err := checkUsers(users); err != nil {
		return err
	}
	users = maps.Clone(users)
	s.named.Store(&users)
	for _, r := range s.table.all() {
		r.live.RLock()
		f := r.frontend
		gone := f != nil && !s.stillHas(r.credential)
		r.live.RUnlock()
		if gone {
			f.end(r)
		}
	}
	return nil
}

// stillHas says whether a credential is a user's as users are now. Others are not looked at.
func (s *Server) stillHas(c credential) bool {
	key := (*s.named.Load())[c.username]
	return c.id != namedID(c.username) || hmac.Equal(key, c.key)
}

// namedID is what quotas, and allocations, know a user by. No id of a time-limited credential
// begins with NUL: who mints for alice does not speak for the user of that name.
func namedID(name string) string { return "\x00" + name }
