// Package secure seals and opens RTP and RTCP with keys that are handed in: SRTP and SRTCP (RFC 3711) under AEAD_AES_256_GCM
// (RFC 7714), with a one-byte MKI (RFC 3711 section 3.1) that names the key's epoch so that a call rekeys while it runs.
//
//  1. A Sealer that has sealed with one key for long enough takes the next one from its Source and goes on, under the next MKI.
//  2. An Opener that sees an MKI of the epochs to come takes their keys from its own Source and tries the one that is named. If it
//     opens the packet the epoch begins; the one before is kept for packets that were overtaken, for a moment.
//
// Sequence numbers, rollover counters and replay windows go on from epoch to epoch (RFC 3711 section 3.3.1), so a packet is refused or
// taken regardless of where in an epoch it falls.
//
// It guarantees that a nonce is never used for two packets: a Sealer refuses a sequence number that is not newer than the last one
// of its SSRC, whoever asks. It guarantees that a packet is opened at most once, within a window of 1024. A packet that does not
// authenticate changes nothing, and costs the check of its tag; besides, the key of each epoch ahead is expanded once. A Sealer seals and an Opener opens; nothing
// does both with one key. Both are safe for concurrent use.
package secure

import (
	"errors"

	"github.com/pion/srtp/v3"
)

// Sizes of AEAD_AES_256_GCM (RFC 7714 section 12) and of what sealing adds to an RTP packet.
const (
	KeyLen   = 32
	SaltLen  = 12
	Overhead = 16 + 1 // tag and MKI

	profile = srtp.ProtectionProfileAeadAes256Gcm
	window  = 1024 // packets; with 64 a late retransmission would be refused
)

// Cipher is the profile's registered name (RFC 7714 section 14.2).
const Cipher = "AEAD_AES_256_GCM"

// A Source yields the master key and salt of the epochs after the first, one after the other. What it returns is erased after use.
type Source func() (key, salt []byte, err error)

var (
	// ErrUndecryptable says that a packet was not sealed with the key held here, or was changed on its way.
	ErrUndecryptable = errors.New("packet cannot be decrypted: the peer uses another key, or the packet was altered")
	// ErrReplayed says that a packet was opened before, or is older than the window.
	ErrReplayed = errors.New("packet was received before")

	errReused = errors.New("sequence number is not newer than the last one sealed")
)

// replayed has the text by which pion's unexported error for a replay is known.
const replayed = "duplicated packet"

func verdict(err error) error {
	if err == nil {
		return nil
	}
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		if inner.Error() == replayed {
			return ErrReplayed
		}
	}
	return ErrUndecryptable
}
