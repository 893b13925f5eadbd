package secure

import (
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pion/srtp/v3"
)

const (
	// lookAhead is how many epochs may have begun unheard. A path is given up when nothing has come for 30 s; these are twice as many
	// epochs of a second.
	lookAhead = 64
	// grace is for packets that were overtaken by the first one of the next epoch. What comes later is of no use to anybody.
	grace = 3 * time.Second
)

// An Opener opens what the peer sealed.
type Opener struct {
	mu       sync.Mutex
	ctx      *srtp.Context
	next     Source
	epoch    uint32    // the newest of which a packet was opened
	ahead    int       // how many epochs after it have a cipher
	previous uint32    // the epoch that is kept
	until    time.Time // how long; zero if there is none
}

// NewOpener takes the key and salt of the receiving direction, and the source of those of later epochs; with nil there are none.
func NewOpener(key, salt []byte, next Source) (*Opener, error) {
	// Without these options pion accepts replays.
	ctx, err := srtp.CreateContext(key, salt, profile, srtp.MasterKeyIndicator(mki(0)),
		srtp.SRTPReplayProtection(window), srtp.SRTCPReplayProtection(window))
	if err != nil {
		return nil, fmt.Errorf("receiving key: %w", err)
	}
	return &Opener{ctx: ctx, next: next}, nil
}

// RTP returns the packet in the clear. Its error is ErrUndecryptable or ErrReplayed.
func (o *Opener) RTP(datagram []byte, now time.Time) ([]byte, error) {
	return o.open(datagram, now, func() ([]byte, error) { return o.ctx.DecryptRTP(nil, datagram, nil) })
}

// RTCP returns the compound packet in the clear. Its error is ErrUndecryptable or ErrReplayed.
func (o *Opener) RTCP(datagram []byte, now time.Time) ([]byte, error) {
	return o.open(datagram, now, func() ([]byte, error) { return o.ctx.DecryptRTCP(nil, datagram, nil) })
}

// Epoch counts the peer's keys from 0.
func (o *Opener) Epoch() uint32 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.epoch
}

// open looks for a replay first, then for the key. Only a packet that opens begins an epoch.
func (o *Opener) open(datagram []byte, now time.Time, decrypt func() ([]byte, error)) ([]byte, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.until.IsZero() && now.After(o.until) {
		o.forget()
	}
	packet, err := decrypt()
	if errors.Is(err, srtp.ErrMKINotFound) && o.prepare(o.steps(datagram)) {
		packet, err = decrypt()
	}
	if err != nil {
		return nil, verdict(err)
	}
	if steps := o.steps(datagram); steps > 0 && steps <= o.ahead {
		o.advance(steps, now)
	}
	return packet, nil
}

// steps is how many epochs a packet is ahead, by its MKI; one that is behind looks far ahead.
func (o *Opener) steps(datagram []byte) int { return int(datagram[len(datagram)-1] - byte(o.epoch)) }

// prepare has the ciphers of so many epochs ahead. Each is made once: what a forged packet caused is there for the peer's.
func (o *Opener) prepare(steps int) bool {
	if steps > lookAhead || o.next == nil {
		return false
	}
	for ; o.ahead < steps; o.ahead++ {
		key, salt, err := o.next()
		if err == nil {
			err = o.ctx.AddCipherForMKI(mki(o.epoch+uint32(o.ahead)+1), key, salt)
		}
		clear(key)
		clear(salt)
		if err != nil {
			o.next = nil // nor has it the keys after that
			return false
		}
	}
	return true
}

// advance begins an epoch and keeps the one before for a while. Those in between were never heard.
func (o *Opener) advance(steps int, now time.Time) {
	o.forget()
	o.previous, o.until = o.epoch, now.Add(grace)
	for passed := o.epoch + 1; passed < o.epoch+uint32(steps); passed++ {
		_ = o.ctx.RemoveMKI(mki(passed)) // prepare has added it
	}
	o.epoch, o.ahead = o.epoch+uint32(steps), o.ahead-steps
	_ = o.ctx.SetSendMKI(mki(o.epoch)) // the one that pion would not remove
}

// forget erases the epoch that was kept.
func (o *Opener) forget() {
	if !o.until.IsZero() {
		_ = o.ctx.RemoveMKI(mki(o.previous)) // it is there, and not the sending one
		o.until = time.Time{}
	}
}
