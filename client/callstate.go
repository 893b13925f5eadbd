package client

import (
	"errors"
	"time"

	"sotto/wire"
)

// The call flow as a pure function: no clock, no goroutine, no input or output. callrun.go carries out the effects.
//
//	caller                                   callee
//	Offer          ───────────────────────▶  rings its user
//	               ◀───────────────────────  Ringing
//	               ◀───────────────────────  Answer          both derive keys; ICE runs while it rings
//	Reveal         ───────────────────────▶                  the callee knows the verification code
//	Candidates     ◀──────────────────────▶  Candidates
//	               ◀───────────────────────  Accept          the callee's user accepts: its microphone opens
//	its microphone opens, and it knows the code
//	Hangup         ◀──────────────────────▶  Hangup
//
// What opens a microphone or camera is effOpen and nothing else. It comes of the local user's accept at the callee's end, and at the
// caller's, whose user asked for the call, of the callee's Accept once keys are agreed: no message of a caller's yields it at a
// callee's end, and no order of messages yields it twice.

// timing is how long things wait.
type timing struct {
	reach    time.Duration // for the callee's device to say anything
	ring     time.Duration // for the callee's user to accept
	agree    time.Duration // for answer and reveal, after the accept
	decipher time.Duration // for something to be decryptable, after something was not

	interrupted, failed time.Duration // media.Config.InterruptedAfter and FailAfter
	keys                time.Duration // from a pre-key's use to a look at what the server has left

	sealCall, sealText time.Duration // for the anonymous link, before a call or anything else leaves the ordinary way
	unused             time.Duration // for something to go over the anonymous link
}

var realTiming = timing{
	reach: 15 * time.Second, ring: 60 * time.Second, agree: 15 * time.Second, decipher: 5 * time.Second,
	interrupted: 5 * time.Second, failed: 30 * time.Second, keys: 30 * time.Second,
	sealCall: 10 * time.Second, sealText: 30 * time.Second, unused: 5 * time.Minute,
}

var (
	errUnreachable   = errors.New("their device is not connected")
	errNotAgreed     = errors.New("the other end did not finish the key agreement")
	errUndecryptable = errors.New("the media that arrives cannot be decrypted with this call's keys: somebody tampered with the call")
	errPeerFailed    = errors.New("the call failed at the other end")
)

type phase uint8

const (
	dialing  phase = iota // caller: nothing was heard of the callee
	alerting              // the callee's device rings
	active                // accepted
	ended
)

// callState is one end of one call. It is comparable, so that what was explored can be kept in a map.
type callState struct {
	phase  phase
	caller bool

	prepared bool   // callee: there is a media session, and the answer was sent
	waiting  bool   // callee: preparation waits for the local accept
	keyed    bool   // keys are agreed, the media session connects
	accepted bool   // by the callee's user
	verified bool   // the verification code is known
	part     string // caller: the callee's part of the code, if its accept overtook its answer
	heard    bool   // media of the peer's was decrypted

	timing                               timing
	reachBy, ringBy, agreeBy, decipherBy time.Time // zero: not awaited
}

// An input is what happens to a call.
type input any

type (
	// What the peer's device sends.
	inRinging    struct{}
	inAnswer     struct{ answer []byte }
	inAccept     struct{ verification []byte }
	inCandidates struct{ candidates []string }
	inReveal     struct{ verification []byte }
	inHangup     struct{ reason wire.Hangup_Reason }

	// What the local user does.
	inLocalAccept struct{}
	inLocalHangup struct{} // also declines

	// What comes of effects and of the media session.
	inPrepared        struct{}
	inNoRelay         struct{} // preparing would show this device's address to somebody who is no contact
	inLocalCandidates struct{ candidates []string }
	inConnected       struct{ path string }
	inInterrupted     struct{}
	inFirstMedia      struct{}
	inUndecryptable   struct{}
	inMediaFailed     struct{ err error }
	inFault           struct{ err error } // an effect failed, or the server refused an envelope of the call's

	inTick struct{} // the time of next has come
)

// An effect is to be carried out, in order. If one fails, those after it are dropped and inFault follows.
type effect any

type (
	effSendOffer      struct{}
	effSendRinging    struct{}
	effSendAnswer     struct{}
	effSendReveal     struct{}
	effSendCandidates struct{ candidates []string }
	effSendAccept     struct{}
	effSendHangup     struct{ reason wire.Hangup_Reason }

	effPrepare        struct{}                      // callee: make session and answer; last of its list, inPrepared or inNoRelay follows
	effGather         struct{}                      // begin to find candidates
	effConnect        struct{ answer []byte }       // derive keys and connect; the callee's own answer is nil here
	effAddCandidates  struct{ candidates []string } // the peer's
	effAllowAddresses struct{}                      // the local user has accepted: other than relay candidates may be used
	effVerify         struct{ verification []byte } // check the peer's part of the verification code, show the code
	effOpen           struct{}                      // open microphone and camera, begin to send and to play
	effEmit           struct{ event CallEvent }
	effEnd            struct { // close the media session, erase keys, tell the program
		reason EndReason
		err    error
	}
)

// newOutgoing is a call the local user places. Its media session exists already.
func newOutgoing(t timing, now time.Time) (callState, []effect) {
	s := callState{phase: dialing, caller: true, prepared: true, timing: t, reachBy: now.Add(t.reach), ringBy: now.Add(t.ring)}
	return s, []effect{effSendOffer{}, effGather{}}
}

// newIncoming is a call that a fresh, well-formed offer asks for.
func newIncoming(t timing, now time.Time) (callState, []effect) {
	return callState{phase: alerting, timing: t, ringBy: now.Add(t.ring)}, []effect{effSendRinging{}, effPrepare{}}
}

// next is when inTick is due; zero: never.
func (s callState) next() time.Time {
	var next time.Time
	for _, t := range []time.Time{s.reachBy, s.ringBy, s.agreeBy, s.decipherBy} {
		if !t.IsZero() && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	return next
}

// step is the whole flow.
func (s callState) step(in input, now time.Time) (callState, []effect) {
	if s.phase == ended {
		return s, nil
	}
	switch in := in.(type) {
	case inRinging:
		return s.onRinging()
	case inAnswer:
		return s.onAnswer(in.answer)
	case inAccept:
		return s.onAccept(in.verification, now)
	case inCandidates:
		return s, []effect{effAddCandidates(in)}
	case inReveal:
		return s.onReveal(in.verification)
	case inHangup:
		return s.onHangup(in.reason)

	case inLocalAccept:
		return s.onLocalAccept(now)
	case inLocalHangup:
		return s.onLocalHangup()

	case inPrepared:
		return s.onPrepared()
	case inNoRelay:
		s.waiting = !s.prepared
		return s, nil
	case inLocalCandidates:
		return s, []effect{effSendCandidates(in)}
	case inConnected:
		return s, []effect{effEmit{Connected{in.path}}}
	case inInterrupted:
		return s, []effect{effEmit{Interrupted{}}}
	case inFirstMedia:
		s.heard, s.decipherBy = true, time.Time{}
		return s, []effect{effEmit{FirstMedia{}}}
	case inUndecryptable:
		if !s.heard {
			s.decipherBy = now.Add(s.timing.decipher)
		}
		return s, []effect{effEmit{MediaUndecryptable{}}}
	case inMediaFailed:
		return s.fail(in.err)
	case inFault:
		return s.fail(in.err)

	case inTick:
		return s.onTick(now)
	}
	return s, nil
}

func (s callState) onRinging() (callState, []effect) {
	if !s.caller || s.phase != dialing {
		return s, nil
	}
	s.phase, s.reachBy = alerting, time.Time{}
	return s, []effect{effEmit{Ringing{}}}
}

// onAnswer takes the first answer only: the offer's secrets serve once.
func (s callState) onAnswer(answer []byte) (callState, []effect) {
	if !s.caller || s.keyed {
		return s, nil
	}
	s, effects := s.onRinging() // the answer may overtake Ringing
	s.keyed, s.agreeBy = true, time.Time{}
	effects = append(effects, effConnect{answer}, effSendReveal{})
	if s.accepted {
		s.verified = true
		effects = append(effects, effVerify{[]byte(s.part)}, effEmit{Accepted{}}, effOpen{})
	}
	return s, effects
}

// onAccept is the callee's accept, which counts at the caller's end only. The callee's part of the verification code is checked
// before anything opens.
func (s callState) onAccept(verification []byte, now time.Time) (callState, []effect) {
	if !s.caller || s.accepted {
		return s, nil
	}
	s, effects := s.onRinging()
	s.phase, s.accepted, s.ringBy = active, true, time.Time{}
	if s.keyed {
		s.verified = true
		effects = append(effects, effVerify{verification}, effEmit{Accepted{}}, effOpen{})
	} else {
		s.part, s.agreeBy = string(verification), now.Add(s.timing.agree)
	}
	return s, effects
}

func (s callState) onReveal(verification []byte) (callState, []effect) {
	if s.caller || !s.keyed || s.verified {
		return s, nil
	}
	s.verified, s.agreeBy = true, time.Time{}
	return s, []effect{effVerify{verification}}
}

// onLocalAccept is the one way to open a callee's microphone.
func (s callState) onLocalAccept(now time.Time) (callState, []effect) {
	if s.caller || s.accepted {
		return s, nil
	}
	s.phase, s.accepted, s.ringBy = active, true, time.Time{}
	if !s.verified {
		s.agreeBy = now.Add(s.timing.agree)
	}
	effects := []effect{effAllowAddresses{}}
	switch {
	case s.prepared:
		effects = append(effects, effSendAccept{}, effEmit{Accepted{}}, effOpen{})
	case s.waiting:
		s.waiting = false
		effects = append(effects, effPrepare{})
	}
	return s, effects
}

func (s callState) onPrepared() (callState, []effect) {
	if s.caller || s.prepared {
		return s, nil
	}
	s.prepared, s.keyed = true, true
	effects := []effect{effSendAnswer{}, effConnect{}, effGather{}}
	if s.accepted {
		effects = append(effects, effSendAccept{}, effEmit{Accepted{}}, effOpen{})
	}
	return s, effects
}

// onHangup reads the peer's reason by what has happened here.
func (s callState) onHangup(reason wire.Hangup_Reason) (callState, []effect) {
	before := s.phase != active
	switch reason {
	case wire.Hangup_BUSY:
		if s.caller && before {
			return s.end(Busy, nil)
		}
	case wire.Hangup_DECLINED:
		if s.caller && before {
			return s.end(Declined, nil)
		}
	case wire.Hangup_TIMEOUT:
		if before {
			return s.end(Timeout, nil)
		}
	case wire.Hangup_ACCEPTED_ELSEWHERE:
		if !s.caller && before {
			return s.end(Elsewhere, nil)
		}
	case wire.Hangup_FAILED:
		return s.end(Failed, errPeerFailed)
	}
	switch {
	case !before:
		return s.end(Normal, nil)
	case s.caller:
		return s.end(Declined, nil)
	}
	return s.end(Cancelled, nil)
}

func (s callState) onLocalHangup() (callState, []effect) {
	switch {
	case s.phase == active:
		return s.hangUp(wire.Hangup_NORMAL, Normal, nil)
	case s.caller:
		return s.hangUp(wire.Hangup_NORMAL, Cancelled, nil)
	}
	return s.hangUp(wire.Hangup_DECLINED, Declined, nil)
}

func (s callState) onTick(now time.Time) (callState, []effect) {
	due := func(t time.Time) bool { return !t.IsZero() && !now.Before(t) }
	switch {
	case due(s.reachBy):
		return s.hangUp(wire.Hangup_NORMAL, Unreachable, errUnreachable)
	case due(s.ringBy):
		return s.hangUp(wire.Hangup_TIMEOUT, Timeout, nil)
	case due(s.agreeBy):
		return s.fail(errNotAgreed)
	case due(s.decipherBy):
		return s.fail(errUndecryptable)
	}
	return s, nil
}

func (s callState) fail(err error) (callState, []effect) {
	return s.hangUp(wire.Hangup_FAILED, Failed, err)
}

func (s callState) hangUp(reason wire.Hangup_Reason, end EndReason, err error) (callState, []effect) {
	s, effects := s.end(end, err)
	return s, append([]effect{effSendHangup{reason}}, effects...)
}

// end forgets everything but that the call is over.
func (s callState) end(reason EndReason, err error) (callState, []effect) {
	return callState{phase: ended, caller: s.caller}, []effect{effEnd{reason, err}}
}
