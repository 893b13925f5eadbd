package callflow

import (
	"time"

	"sotto/wire"
)

// A CallID names a call on both ends; its caller chooses it at random.
type CallID [16]byte

// An Account is a UUID.
type Account [16]byte

// An Address is one device of an account.
type Address struct {
	Account Account
	Device  uint8 // 1 to 127
}

// A Message is one step of a call: one of the types below. In a Send the fields that keys or media sessions hold are empty: who performs
// the effect fills them in.
type Message any

type (
	Offer struct {
		Video     bool
		Age       time.Duration // received: by the clock that servers keep together; negative if it is of the future
		Malformed bool          // received: it parses as no offer
		Stranger  bool          // received: of somebody who is no accepted contact
		Quiet     bool          // received: of a stranger who may not ring now
	}
	Ringing    struct{}
	Answer     struct{ Body string }         // as it was sent: the keys bind the bytes
	Reveal     struct{ Verification string } // the caller's part of the verification code
	Accept     struct{ Verification string } // the callee's
	Confirm    struct{}
	Candidates struct {
		Generation uint32 // of the path; 0 is the one of offer and answer
		List       []string
	}
	MediaState struct {
		Sequence uint32
		Media
	}
	Path struct { // ICE credentials of a new path
		Generation      uint32
		Ufrag, Password string
	}
	Hangup struct{ Reason wire.Hangup_Reason }

	// MissedCall is no step of a call but an ordinary message, left for somebody who was called.
	MissedCall struct {
		Video bool
		At    uint64 // Unix milliseconds
	}
)

// Media is what one end sends.
type Media struct {
	Muted  bool
	Held   bool // neither sends nor plays
	Video  bool
	Screen bool
}

// Flow is what a media session does now. Unless it plays the call is on hold, and nothing is sent; a camera that is on stays on.
type Flow struct{ Microphone, Camera, Screen, Play bool }

// flow follows from both ends: a call on hold at either one is silent in both directions. The camera is its user's alone, who sees its
// light: a hold turns it neither off nor, when it ends, on.
func flow(local, peer Media) Flow {
	if local.Held || peer.Held {
		return Flow{Camera: local.Video}
	}
	return Flow{Microphone: !local.Muted, Camera: local.Video, Screen: local.Screen, Play: true}
}
