package ratchet

import (
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

// work is what one message may still cost before it is authenticated: messages passed over in either ratchet. The current session
// has one allowance, all archived sessions together another; without it a forged counter would cost maxJump steps in each of them.
type work struct{ chain, pq int }

func newWork() work { return work{maxJump, spqr.MaxJump} }
