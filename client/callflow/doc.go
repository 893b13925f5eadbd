// Package callflow decides what happens in a device's calls. It is pure: Endpoint.Step takes a state, an event and the time, and returns
// a state and effects. There is no clock, goroutine, input, output or randomness in it, and the state is a comparable value without
// pointers, so that the tests walk through every state of several endpoints and the network between them.
//
//	caller                                   callee, each device
//	Offer          ───────────────────────▶  rings its user
//	               ◀───────────────────────  Ringing
//	               ◀───────────────────────  Answer          both derive keys; ICE runs while it rings
//	Reveal         ───────────────────────▶                  the callee knows the verification code
//	Candidates     ◀──────────────────────▶  Candidates
//	               ◀───────────────────────  Accept          the callee's user accepts: its microphone opens
//	Confirm        ───────────────────────▶                  to the first device that accepted; the others get a Hangup
//	its microphone opens, and it knows the code
//	MediaState     ◀──────────────────────▶  MediaState      muted, held, video, screen
//	Path           ◀──────────────────────▶  Path            a new path beside the old one
//	Hangup         ◀──────────────────────▶  Hangup
//
// An Endpoint has at most one call that is not accepted yet, and two that are, of which at most one is not on hold. A call has one leg
// for each device of the other end: up to MaxLegs at the caller's end, exactly one at the callee's.
//
// Guarantees:
//
//   - What opens a microphone or camera is the effect Open and nothing else, once in a call. At the callee's end it comes of the local
//     user's accept of that call, or of the local user's own call to that account if both called at once; at the caller's, whose user
//     asked for the call, of one callee device's Accept once keys are agreed and its part of the verification code is checked.
//   - What the local user has muted or put on hold sends again only when the local user says so.
//   - The first Accept that reaches the caller wins; every other device is told.
//   - Every call that is not accepted, or has no path, ends by itself. When all messages have arrived and all times have passed, both
//     ends agree on who is in which call.
//
// rules_test.go has one test for each rule of docs/protocol.md, "Call flow"; explore_test.go walks; bugs_test.go shows that
// the walk finds the mistakes that other products shipped; consent.pml is the same for Spin.
package callflow
