package client

import (
	"context"
	"encoding/hex"

	"sotto/media"
)

// A CallID names a call on both ends.
type CallID [16]byte

func (id CallID) String() string { return hex.EncodeToString(id[:]) }

// MediaOptions are where a call's sound and pictures come from and go to. The functions are called once the call is accepted on both
// ends and this end's user has said so, by Call or by Accept; never before. Any of them may be nil.
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
