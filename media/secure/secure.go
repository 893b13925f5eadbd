// Package secure seals and opens RTP and RTCP with keys that are handed in: SRTP and SRTCP (RFC 3711) under AEAD_AES_256_GCM
// (RFC 7714), with a one-byte MKI that names the key's epoch so that a call can rekey while it runs.
//
// It guarantees that a nonce is never used for two packets: a Sealer refuses a sequence number that is not newer than the last one
// of its SSRC, whoever asks. It guarantees that a packet is opened at most once, within a window of 1024. A Sealer seals and an
// Opener opens; nothing does both with one key. Both are safe for concurrent use.
package secure

import (
	"errors"
	"fmt"
	"sync"

	"github.com/pion/rtp"
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

var (
	// ErrUndecryptable says that a packet was not sealed with the key held here, or was changed on its way.
	ErrUndecryptable = errors.New("packet cannot be decrypted: the peer uses another key, or the packet was altered")
	// ErrReplayed says that a packet was opened before, or is older than the window.
	ErrReplayed = errors.New("packet was received before")

	errReused = errors.New("sequence number is not newer than the last one sealed")
)

// epoch is the MKI of the first key of a call.
var epoch = []byte{0}

// A Sealer protects what one end sends.
type Sealer struct {
	mu   sync.Mutex
	ctx  *srtp.Context
	last map[uint32]uint16 // highest sequence number sealed, by SSRC
}

// NewSealer takes the key and salt of the sending direction.
func NewSealer(key, salt []byte) (*Sealer, error) {
	ctx, err := srtp.CreateContext(key, salt, profile, srtp.MasterKeyIndicator(epoch))
	if err != nil {
		return nil, fmt.Errorf("sending key: %w", err)
	}
	return &Sealer{ctx: ctx, last: make(map[uint32]uint16)}, nil
}

// RTP seals one packet. The sequence numbers of an SSRC must increase (modulo 2^16): anything else would seal two packets with one
// nonce, which in GCM gives away both.
func (s *Sealer) RTP(header *rtp.Header, payload []byte) ([]byte, error) {
	packet := make([]byte, header.MarshalSize()+len(payload), header.MarshalSize()+len(payload)+Overhead)
	n, err := header.MarshalTo(packet)
	if err != nil {
		return nil, err
	}
	copy(packet[n:], payload)

	s.mu.Lock()
	defer s.mu.Unlock()
	if last, ok := s.last[header.SSRC]; ok {
		if ahead := header.SequenceNumber - last; ahead == 0 || ahead >= 1<<15 {
			return nil, errReused
		}
	}
	s.last[header.SSRC] = header.SequenceNumber
	return s.ctx.EncryptRTP(nil, packet, nil)
}

// RTCP seals one compound or reduced-size packet; the context numbers it.
func (s *Sealer) RTCP(packet []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ctx.EncryptRTCP(nil, packet, nil)
}

// An Opener opens what the peer sealed.
type Opener struct {
	mu  sync.Mutex
	ctx *srtp.Context
}

// NewOpener takes the key and salt of the receiving direction.
func NewOpener(key, salt []byte) (*Opener, error) {
	// Without these options pion accepts replays.
	ctx, err := srtp.CreateContext(key, salt, profile, srtp.MasterKeyIndicator(epoch),
		srtp.SRTPReplayProtection(window), srtp.SRTCPReplayProtection(window))
	if err != nil {
		return nil, fmt.Errorf("receiving key: %w", err)
	}
	return &Opener{ctx: ctx}, nil
}

// RTP returns the packet in the clear. Its error is ErrUndecryptable or ErrReplayed.
func (o *Opener) RTP(datagram []byte) ([]byte, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	packet, err := o.ctx.DecryptRTP(nil, datagram, nil)
	return packet, verdict(err)
}

// RTCP returns the compound packet in the clear. Its error is ErrUndecryptable or ErrReplayed.
func (o *Opener) RTCP(datagram []byte) ([]byte, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	packet, err := o.ctx.DecryptRTCP(nil, datagram, nil)
	return packet, verdict(err)
}

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
