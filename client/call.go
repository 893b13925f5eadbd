package client

import (
	"context"
	"encoding/hex"
	"errors"
	"sync"

	"sotto/media"
)

// A CallID names a call on both ends.
type CallID [16]byte

func (id CallID) String() string { return hex.EncodeToString(id[:]) }

// MediaOptions are where a call's sound and pictures come from and go to. The functions are called when the callee has accepted and this
// end's user has said so, by Call or by Accept; never before. They may wait for the user as long as the call does: their context ends
// with it. Any of them may be nil. What they return is closed when the call ends, if it has a Close method, which must end a ReadFrame
// or WriteFrame that blocks; a device that does not close keeps no call from ending. The camera stays closed in a call that was not announced with video.
type MediaOptions struct {
	Microphone func(context.Context) (media.AudioSource, error)
	Camera     func(context.Context) (media.VideoSource, error)
	Speaker    func(context.Context) (media.AudioSink, error)
	Screen     func(context.Context) (media.VideoSink, error)
}

// CallOptions say how to call.
type CallOptions struct {
	MediaOptions

	// Video announces that this call may show pictures, either way.
	Video bool
	// RelayOnly keeps this device's addresses from the callee, as Options.RelayOnly does for all calls.
	RelayOnly bool
}

// EndReason says why a call ended.
type EndReason int

const (
	NotEnded    EndReason = iota
	Normal                // one of the two hung up
	Cancelled             // the caller gave up before it was accepted
	Declined              // the callee did not want it
	Busy                  // the callee is in another call
	Timeout               // nobody accepted it within a minute
	Elsewhere             // accepted on another device
	Unreachable           // the callee's device is not connected
	Failed                // keys, devices or the network failed: Call.Err says more
)

func (r EndReason) String() string {
	switch r {
	case NotEnded:
		return "not ended"
	case Normal:
		return "hung up"
	case Cancelled:
		return "cancelled"
	case Declined:
		return "declined"
	case Busy:
		return "busy"
	case Timeout:
		return "not answered"
	case Elsewhere:
		return "accepted on another device"
	case Unreachable:
		return "not reachable"
	}
	return "failed"
}

// A CallEvent is what Call.Events yields: one of the types below.
type CallEvent interface{ callEvent() }

// Ringing says that the callee's device rings.
type Ringing struct{}

// Accepted says that the callee has accepted, here or there: media begins.
type Accepted struct{}

// Connected says that a path between the devices was found, or found again after Interrupted.
type Connected struct {
	Path string // "direct" or "relay"
}

// FirstMedia says that the first authenticated packet of the peer's arrived.
type FirstMedia struct{}

// Verified yields the code which both people can compare: equal on both ends, nobody sits in between.
type Verified struct {
	Code string // as "418 205"
}

// Interrupted says that nothing has arrived for some seconds; Connected or Ended follows.
type Interrupted struct{}

// MediaUndecryptable says that packets arrive which this call's keys do not open. Unless others follow that they do, the call ends.
type MediaUndecryptable struct{}

// Ended is the last event of a call.
type Ended struct {
	Reason EndReason
	Err    error // with Failed and Unreachable: what happened, in a sentence
}

func (Ringing) callEvent()            {}
func (Accepted) callEvent()           {}
func (Connected) callEvent()          {}
func (FirstMedia) callEvent()         {}
func (Verified) callEvent()           {}
func (Interrupted) callEvent()        {}
func (MediaUndecryptable) callEvent() {}
func (Ended) callEvent()              {}

const callEventBuffer = 64

// A Call is one call, going out or coming in. Its methods may be called by any goroutine.
type Call struct {
	id       CallID
	peer     *contact
	incoming bool
	video    bool
	events   chan CallEvent
	done     chan struct{}
	cancel   context.CancelFunc // ends what waits for devices or the server
	run      *callRun

	mu      sync.Mutex
	media   *MediaOptions // set by Accept at the callee's end
	session *media.Session
	code    string
	reason  EndReason
	err     error
}

// ID names the call, on both ends alike.
func (call *Call) ID() CallID { return call.id }

// Peer is who is at the other end.
func (call *Call) Peer() Contact { return call.peer.public() }

// Incoming tells whether the other end called.
func (call *Call) Incoming() bool { return call.incoming }

// Video tells whether the call was announced as one with pictures.
func (call *Call) Video() bool { return call.video }

// Events tell what happens to the call. The channel is closed after Ended.
func (call *Call) Events() <-chan CallEvent { return call.events }

// Accept takes an incoming call: the other end is told, and what MediaOptions names is opened. It returns when that is done.
func (call *Call) Accept(ctx context.Context, m MediaOptions) error {
	if !call.incoming {
		return errors.New("only an incoming call can be accepted")
	}
	call.mu.Lock()
	again := call.media != nil
	if !again {
		call.media = &m
	}
	call.mu.Unlock()
	if again {
		return errors.New("the call was accepted before")
	}
	call.run.post(inLocalAccept{})
	select {
	case err := <-call.run.opened:
		return err
	case <-call.done:
		if err := call.Err(); err != nil {
			return err
		}
		return ErrCallEnded
	case <-ctx.Done():
		return errors.Join(ctx.Err(), call.Hangup())
	}
}

// Decline refuses an incoming call.
func (call *Call) Decline() error { return call.Hangup() }

// Hangup ends the call, whatever its state, and does not wait: Done is closed when it has ended. The other end is told as soon as the
// server can be reached.
func (call *Call) Hangup() error {
	call.cancel()
	call.run.post(inLocalHangup{})
	return nil
}

// Done is closed when the call has ended.
func (call *Call) Done() <-chan struct{} { return call.done }

// End is why the call ended, or NotEnded.
func (call *Call) End() EndReason {
	call.mu.Lock()
	defer call.mu.Unlock()
	return call.reason
}

// Err is what failed, if the call ended as Failed or Unreachable; or the error of closing a sink, whose recording is not complete then.
func (call *Call) Err() error {
	call.mu.Lock()
	defer call.mu.Unlock()
	return call.err
}

// Stats tell how the media flows; also after the call has ended.
func (call *Call) Stats() media.Stats {
	call.mu.Lock()
	session := call.session
	call.mu.Unlock()
	if session == nil {
		return media.Stats{}
	}
	return session.Stats()
}

// VerificationCode is six digits, as "418 205", once both ends have agreed on them: equal on both, nobody sits in between.
func (call *Call) VerificationCode() (code string, ok bool) {
	call.mu.Lock()
	defer call.mu.Unlock()
	return call.code, call.code != ""
}

// emit keeps the last place for Ended. A program that does not listen misses events, not the call.
func (call *Call) emit(e CallEvent) {
	if _, last := e.(Ended); last || len(call.events) < cap(call.events)-1 {
		call.events <- e
	}
}
