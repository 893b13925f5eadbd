package callflow

import (
	"testing"
	"time"
)

// What comes twice, too early, or from before changes nothing. Each line is a rule that a mistake
// once broke unnoticed.
func TestWhatDoesNotFitChangesNothing(t *testing.T) {
	// The callee's end, before its user accepts.
	b := newBench(t)
	b.from(a1, 5, Offer{}, "Ringing→A1 Prepare Incoming")
	b.on(Prepared{Call: id(5)}, "Answer→A1 Connect Gather")
	b.from(a1, 5, Confirm{}, "")           // confirms nothing
	b.from(a1, 5, Path{Generation: 1}, "") // no path beside one that has not opened
	b.from(a1, 5, Reveal{}, "Verify")
	b.from(a1, 5, Reveal{}, "") // the code is shown once
	b.on(AcceptCall{Call: id(5)}, "AllowAddresses Accept→A1 Open accepted MediaState→A1")
	b.on(AcceptCall{Call: id(5)}, "Refused")
	b.from(a1, 5, Confirm{}, "GoDirect") // the one before the accept did not count
	b.from(a1, 5, MediaState{1, Media{Muted: true}}, "PeerMedia")
	b.from(a1, 5, MediaState{1, Media{Held: true}}, "") // the same number again

	// The caller's end.
	b = calling(t, 1)
	b.from(b1, 5, Answer{}, "Connect Reveal→B1")
	b.from(b1, 5, Answer{}, "") // the offer's secrets serve once
}

// Either of the two that the callee waits for after its accept is not enough.
func TestTheWaitAfterAnAcceptEndsWithBoth(t *testing.T) {
	for name, m := range map[string]Message{"the confirmation": Confirm{}, "the caller's part of the code": Reveal{}} {
		b := newBench(t)
		b.from(a1, 5, Offer{}, "Ringing→A1 Prepare Incoming")
		b.on(Prepared{Call: id(5)}, "Answer→A1 Connect Gather")
		b.on(Connected{id(5), 1}, "")
		b.on(AcceptCall{Call: id(5)}, "AllowAddresses Accept→A1 Open accepted MediaState→A1 connected")
		b.Endpoint, _ = b.Step(Received{From: a1, Call: id(5), Message: m}, b.now)
		b.now += StandardTiming.Agree
		var effects []Effect
		if b.Endpoint, effects = b.Step(Tick{}, b.now); names(effects) != "FAILED→A1 End(failed)" {
			t.Errorf("with %s alone: %s", name, names(effects))
		}
	}
}

// A call has a bounded number of paths, whoever begins them.
func TestPathsEnd(t *testing.T) {
	b := talking(t)
	b.from(a1, 5, Path{Generation: maxGeneration}, "RestartPath ConnectPath")
	b.on(NetworkChanged{}, "")
	b.after(time.Minute, "")
	b.from(a1, 5, Path{Generation: maxGeneration + 1}, "")
}

// A call on hold is not resumed beside one that this end is placing: that would open beside it.
func TestNoResumeBesideAnOutgoingCall(t *testing.T) {
	b := talking(t)
	b.on(Hold{id(5), true}, "SetFlow(false) MediaState→A1 held")
	b.on(PlaceCall{Call: id(6), Peer: bob}, "Prepare")
	b.on(Hold{id(5), false}, "Refused")
}
