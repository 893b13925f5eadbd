package ratchet

import (
	"errors"
	"sync"
	"time"

	"sotto/e2ee/spqr"
)

// Limits of the protocol. Another implementation counts on them.
const (
	maxArchived        = 40                  // sessions kept beside the current one
	maxReceivingChains = 5                   // per session, newest kept
	maxSkipped         = 2000                // message seeds kept per receiving chain, oldest dropped
	maxJump            = 25_000              // messages skipped at once
	unansweredLimit    = 30 * 24 * time.Hour // age at which a session nobody answered stops sending
)

// Limits of our own. The first keeps a record small: with maxSkipped in each of its sessions whoever starts 40 of them could make it
// weigh megabytes, which the caller stores anew with every message. The others are what a message may cost before it is
// authenticated.
const (
	maxArchivedSkipped = 50 // message seeds kept per receiving chain of an archived session, and keys of the post-quantum ratchet

	shortJump     = 1_000 // messages that any message may pass over in each ratchet
	longJumps     = 4     // messages refused, of those that passed over more,
	longJumpsTime = time.Minute
)

// work is what one message may still cost before it is authenticated: messages passed over in either ratchet. The current session
// has one allowance, all archived sessions together another, which is never long for a ratchet key that no session knows; without it a
// forged counter would cost maxJump steps in each of them.
type work struct{ chain, pq int }

var (
	shortWork = work{shortJump, shortJump}
	longWork  = work{maxJump, spqr.MaxJump}
)

// errFar says that a message would cost more than it was allowed.
var errFar = errors.New("message is far ahead")

// LongJumps limits how often a message that is refused in the end may have cost the work of passing over more than 1,000 messages:
// four times a minute. Authentic messages do not count. While the limit is reached, long jumps are refused as undecryptable. The
// zero value is ready. It may be used from several goroutines.
type LongJumps struct {
	mu    sync.Mutex
	since time.Time
	tries int
}

// try reports whether there may be another try, and counts it.
func (l *LongJumps) try(now time.Time) bool {
	if l == nil {
		return true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if age := now.Sub(l.since); age < 0 || age >= longJumpsTime {
		l.since, l.tries = now, 0
	}
	if l.tries == longJumps {
		return false
	}
	l.tries++
	return true
}

// authentic takes a try back.
func (l *LongJumps) authentic() {
	if l != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.tries = max(l.tries-1, 0)
	}
}
