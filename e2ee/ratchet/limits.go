package ratchet

import "time"

// Limits of the protocol. Another implementation counts on them.
const (
	maxArchived        = 40                  // sessions kept beside the current one
	maxReceivingChains = 5                   // per session, newest kept
	maxSkipped         = 2000                // message seeds kept per receiving chain, oldest dropped
	maxJump            = 25_000              // messages skipped at once
	unansweredLimit    = 30 * 24 * time.Hour // age at which a session nobody answered stops sending
)

// maxArchivedWork bounds the chain steps all archived sessions together may take for one message that is not authenticated yet.
// Without it a forged counter would cost maxJump steps for each of them.
const maxArchivedWork = maxJump
