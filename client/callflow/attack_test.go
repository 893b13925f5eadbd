package callflow

import (
	"testing"
	"time"

	"sotto/wire"
)

const attackerModel = "an attacker calls"

// everything a peer can send, and what the callee's own side can report: in any order.
func attackerEvents() []Event {
	var events []Event
	for _, from := range []Address{a1, a2} {
		for _, message := range []Message{
			Offer{}, Offer{Video: true}, Ringing{}, Answer{}, Accept{}, Reveal{}, Confirm{}, MediaState{1, Media{}}, MediaState{2, Media{Held: true}},
			Path{Generation: 1}, Candidates{}, MissedCall{},
			Hangup{wire.Hangup_NORMAL}, Hangup{wire.Hangup_ACCEPTED_ELSEWHERE}, Hangup{wire.Hangup_FAILED}, Hangup{99},
		} {
			for call := byte(1); call <= 2; call++ {
				events = append(events, Received{from, id(call), uint64(call), message})
			}
		}
	}
	for call := byte(1); call <= 2; call++ {
		at := Leg{id(call), 1}
		events = append(events, Prepared{Call: id(call)}, NoRelay{id(call)}, Connected(at), FirstMedia(at), Undecryptable(at), KeyChanged(at),
			Stalled(at), Interrupted(at), DirectAllowed(at), PathReady{id(call), 1, Path{Generation: 1}}, Fault{id(call), 1, errFault})
	}
	return append(events, NetworkChanged{}, Tick{}, DeviceRemoved{a1})
}

// attack lets a caller with two devices send anything to a callee whose user does nothing at all, in every order, until that leads to
// nothing new, and says what went wrong.
func attack(step machine) (states int, problem string) {
	start := New(StandardTiming)
	known := map[Endpoint]bool{start: true}
	queue := []Endpoint{start}
	events := attackerEvents()
	for len(queue) > 0 {
		from := queue[0]
		queue = queue[1:]
		for _, event := range events {
			for _, now := range []time.Duration{1, 2 * time.Minute} {
				to, effects := step(from, event, now)
				for _, effect := range effects {
					switch e := effect.(type) {
					case Open:
						return len(known), "the microphone opens"
					case SetFlow:
						return len(known), "media flows"
					case Send:
						if _, ok := e.Message.(Accept); ok {
							return len(known), "the call is accepted"
						}
					}
				}
				if !known[to] {
					known[to] = true
					queue = append(queue, to)
				}
			}
		}
	}
	return len(known), ""
}

// TestNothingOpensWithoutTheUser is the promise of the package comment, against a caller who keeps to no rule.
func TestNothingOpensWithoutTheUser(t *testing.T) {
	states, problem := attack(Endpoint.Step)
	if problem != "" {
		t.Fatal(problem)
	}
	t.Logf("%d states", states)
}
