package callflow

import "errors"

// An Effect is to be carried out, in order. If one fails, those after it that name the same call are dropped, and Fault follows. What
// takes long (Prepare, RestartPath, Open) is done beside and reports by an event.
type Effect any

type (
	// Send is to go to one device; in vain, if it cannot be sent.
	Send struct {
		To      Address
		Call    CallID
		Message Message
	}
	// Prepare asks for what a call needs. At the caller's end: the callee's device list, and a media session and an offer for each
	// device. At the callee's: a media session and an answer. Prepared, NoRelay or Fault follows.
	Prepare struct{ Call CallID }
	Gather  Leg // begin to find candidates
	Connect struct {
		Leg
		Answer string // the callee's own answer is empty here
	} // derive keys and begin connectivity checks
	AddCandidates struct {
		Leg
		Candidates Candidates
	} // the peer's; those of a generation that is not there yet are kept, within limits
	// GoDirect says that the other end has opened the call, too. A path that was kept to relays for
	// the sake of this device's addresses need be so no longer: DirectAllowed follows if there is
	// anything to change.
	GoDirect       Leg
	AllowAddresses struct{ Call CallID } // the local user has consented: other than relay candidates may be used
	Verify         struct {
		Leg
		Verification string
	} // check the peer's part of the verification code, show the code
	// Open opens microphone, camera and speaker, as far as Flow says so. Nothing else opens any.
	Open struct {
		Leg
		Flow Flow
	}
	// SetFlow stops and starts what a leg that was opened sends and plays.
	SetFlow struct {
		Leg
		Flow Flow
	}
	// RestartPath makes a second path beside the one there is, which goes on. PathReady follows.
	RestartPath struct {
		Leg
		Generation uint32
	}
	// ConnectPath hands the peer's half to the path that RestartPath asked for; it takes over when it works.
	ConnectPath struct {
		Leg
		Path Path
	}
	CloseLeg Leg // close its media session, erase its keys; the call goes on without it
	// LeaveMissed leaves a MissedCall for every device of the account.
	LeaveMissed struct {
		Call  CallID
		Peer  Account
		Video bool
	}
	// Adopt says that both ends called at once: what the local user knows as call Old is call New from now on. Everything of Old is closed.
	Adopt struct{ Old, New CallID }
)

// What the program is told.
type (
	// Incoming: somebody calls.
	Incoming struct {
		Call    CallID
		From    Address
		Video   bool
		Waiting bool // beside another call
	}
	// Tell is what happens in a call.
	Tell struct {
		Call   CallID
		Notice Notice
	}
	// PeerMedia is what the other end sends.
	PeerMedia struct {
		Call  CallID
		Media Media
	}
	// Missed is somebody's call that this device neither accepted nor declined: once for each call.
	Missed struct {
		Call  CallID
		From  Account
		Video bool
		At    uint64 // when, by the caller's clock
	}
	// End is the last effect of a call: close what is open, erase its keys.
	End struct {
		Call   CallID
		Reason Reason
		Cause  error // what happened, in a sentence, if the reason does not say it all
	}
	// Refused says that what the local user asked for cannot be, and changed nothing.
	Refused struct {
		Call CallID
		Err  error
	}
)

// A Notice is something that happened in a call.
type Notice uint8

const (
	NoticeAlerting      Notice = iota + 1 // a device of the callee's rings
	NoticeAccepted                        // media begins
	NoticeConnected                       // there is a path, or again one
	NoticeReconnecting                    // there is none: NoticeConnected or End follows
	NoticeFirstMedia                      // something of the peer's was decrypted
	NoticeUndecryptable                   // something could not be
	NoticeDeaf                            // nothing that comes can be, any more: NoticeFirstMedia or End follows
	NoticeHeld                            // the local user put it on hold, if only by taking another call
	NoticeResumed
)

// A Reason says why a call ended.
type Reason uint8

const (
	NotEnded          Reason = iota
	Normal                   // one of the two hung up
	Cancelled                // the caller gave up before it was accepted
	Declined                 // the callee did not want it
	Busy                     // the callee is in another call
	Timeout                  // nobody accepted it in time
	Elsewhere                // accepted on another device
	DeclinedElsewhere        // declined on another device
	Unreachable              // none of the callee's devices is connected
	Lost                     // no path was found again
	Failed                   // keys, devices or the network failed
)

func (r Reason) String() string {
	return [...]string{"not ended", "hung up", "cancelled", "declined", "busy", "not answered", "accepted on another device",
		"declined on another device", "not reachable", "connection lost", "failed"}[r]
}

// ErrUndecryptable ends a call whose media is somebody else's.
var ErrUndecryptable = errors.New("the media that arrives cannot be decrypted with this call's keys: somebody tampered with the call")

// ErrBusy refuses a call beside another one.
var ErrBusy = errors.New("there is another call")

var (
	errUnreachable = errors.New("their device is not connected")
	errNotAgreed   = errors.New("the other end did not finish the key agreement")
	errPeerFailed  = errors.New("the call failed at the other end")
	errLost        = errors.New("the connection was interrupted and did not come back")
	errNoPath      = errors.New("no network path to the other end was found; a relay may be needed, or could not be reached")
	errAnew        = errors.New("the other end lost the call and called anew")
	errRemoved     = errors.New("the other end's device was removed from its account")
	errNoSuchCall  = errors.New("there is no such call any more")
	errNotActive   = errors.New("the call is not accepted")
	errNotIncoming = errors.New("the call is not waiting to be accepted")
	errNoVideo     = errors.New("the call was placed without video")
	errTwoHeld     = errors.New("there is a call on hold already: end the other one to take this one")
)
