package secure

import (
	"fmt"
	"sync"
	"time"

	"github.com/pion/rtp"
	"github.com/pion/srtp/v3"
)

// A Sealer protects what one end sends.
type Sealer struct {
	mu    sync.Mutex
	ctx   *srtp.Context
	last  map[uint32]uint16 // highest sequence number sealed, by SSRC
	next  Source
	every time.Duration
	epoch uint32
	since time.Time // of the first packet of the epoch
}

// NewSealer takes the key and salt of the sending direction. From next it takes others, one each time every has passed since the
// first packet under the last one; with nil the first key serves for the whole call.
func NewSealer(key, salt []byte, next Source, every time.Duration) (*Sealer, error) {
	ctx, err := srtp.CreateContext(key, salt, profile, srtp.MasterKeyIndicator(mki(0)))
	if err != nil {
		return nil, fmt.Errorf("sending key: %w", err)
	}
	return &Sealer{ctx: ctx, last: make(map[uint32]uint16), next: next, every: every}, nil
}

// RTP seals one packet. The sequence numbers of an SSRC must increase (modulo 2^16): anything else would seal two packets with one
// nonce, which in GCM gives away both.
func (s *Sealer) RTP(header *rtp.Header, payload []byte, now time.Time) ([]byte, error) {
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
	if err := s.rekey(now); err != nil {
		return nil, err
	}
	s.last[header.SSRC] = header.SequenceNumber
	return s.ctx.EncryptRTP(nil, packet, nil)
}

// RTCP seals one compound or reduced-size packet; the context numbers it.
func (s *Sealer) RTCP(packet []byte, now time.Time) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.rekey(now); err != nil {
		return nil, err
	}
	return s.ctx.EncryptRTCP(nil, packet, nil)
}

// Epoch counts the keys from 0.
func (s *Sealer) Epoch() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.epoch
}

// rekey goes one epoch on when it is time. A key is only ever changed by a packet that is sealed with it, so a sender that is silent
// does not run away from its receiver. Without a key for the next epoch nothing more is sealed.
func (s *Sealer) rekey(now time.Time) error {
	if s.since.IsZero() {
		s.since = now
	}
	if s.next == nil || now.Sub(s.since) < s.every {
		return nil
	}
	key, salt, err := s.next()
	if err != nil {
		return fmt.Errorf("the next sending key: %w", err)
	}
	defer clear(key)
	defer clear(salt)
	before, after := mki(s.epoch), mki(s.epoch+1)
	if err := s.ctx.AddCipherForMKI(after, key, salt); err != nil {
		return fmt.Errorf("the next sending key: %w", err)
	}
	if err := s.ctx.SetSendMKI(after); err != nil {
		return err
	}
	s.epoch, s.since = s.epoch+1, now
	return s.ctx.RemoveMKI(before)
}

// mki is the epoch modulo 256: at most lookAhead+2 epochs are told apart at a time.
func mki(epoch uint32) []byte { return []byte{byte(epoch)} }
