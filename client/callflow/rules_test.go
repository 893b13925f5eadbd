package callflow

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"sotto/wire"
)

// bench is one endpoint, tried with one event after the other.
type bench struct {
	*testing.T
	Endpoint
	now time.Duration
}

func newBench(t *testing.T) *bench {
	return &bench{T: t, Endpoint: New(StandardTiming), now: time.Hour}
}

// on takes an event and holds its effects to those named, in one line: "Send(Accept B1) Open(1 B1)".
func (b *bench) on(event Event, want string) {
	b.Helper()
	var effects []Effect
	b.Endpoint, effects = b.Step(event, b.now)
	if got := names(effects); got != want {
		b.Errorf("%+v:\n  %s\nwant\n  %s", event, got, want)
	}
}

func (b *bench) after(wait time.Duration, want string) {
	b.Helper()
	b.now += wait
	b.on(Tick{}, want)
}

func (b *bench) from(a Address, call byte, m Message, want string) {
	b.Helper()
	b.on(Received{From: a, Call: id(call), Sent: uint64(b.now.Milliseconds()), Message: m}, want)
}

func names(effects []Effect) string {
	var all []string
	for _, e := range effects {
		name := strings.TrimPrefix(fmt.Sprintf("%T", e), "callflow.")
		switch e := e.(type) {
		case Send:
			what := strings.TrimPrefix(fmt.Sprintf("%T", e.Message), "callflow.")
			if h, ok := e.Message.(Hangup); ok {
				what = h.Reason.String()
			}
			name = fmt.Sprintf("%s→%v", what, e.To)
		case Tell:
			name = [...]string{"", "alerting", "accepted", "connected", "reconnecting", "first-media", "undecryptable", "deaf", "held", "resumed"}[e.Notice]
		case End:
			name = "End(" + e.Reason.String() + ")"
		case Incoming:
			if e.Waiting {
				name = "Waiting"
			}
		case SetFlow:
			name = fmt.Sprintf("SetFlow(%v)", e.Flow.Microphone)
		}
		all = append(all, name)
	}
	return strings.Join(all, " ")
}

// calling is a call of a's to b's devices that ring.
func calling(t *testing.T, devices ...uint8) *bench {
	b := newBench(t)
	b.on(PlaceCall{Call: id(5), Peer: bob}, "Prepare")
	var all [MaxLegs]uint8
	copy(all[:], devices)
	b.Endpoint, _ = b.Step(Prepared{Call: id(5), Devices: all}, b.now)
	for _, d := range devices {
		b.Endpoint, _ = b.Step(Received{From: Address{bob, d}, Call: id(5), Message: Ringing{}}, b.now)
	}
	return b
}

// talking is a call of a's that this end has accepted.
func talking(t *testing.T) *bench {
	b := newBench(t)
	b.from(a1, 5, Offer{}, "Ringing→A1 Prepare Incoming")
	b.on(Prepared{Call: id(5)}, "Answer→A1 Connect Gather")
	b.from(a1, 5, Reveal{}, "Verify")
	b.on(Connected{id(5), 1}, "")
	b.on(AcceptCall{Call: id(5)}, "AllowAddresses Accept→A1 Open accepted MediaState→A1 connected")
	b.from(a1, 5, Confirm{}, "GoDirect")
	return b
}

func TestRule1CallerOpensAfterAnAcceptAndKeys(t *testing.T) {
	b := calling(t, 1)
	b.from(b1, 5, Accept{}, "") // overtakes the answer
	b.from(b1, 5, Answer{}, "Connect Reveal→B1 Verify Confirm→B1 Open accepted MediaState→B1")
	b.from(b1, 5, Accept{}, "")
	b = calling(t, 1)
	b.from(b1, 5, Accept{}, "")
	b.after(15*time.Second, "FAILED→B1 End(failed)")
}

func TestRule2TheFirstAcceptWins(t *testing.T) {
	b := calling(t, 1, 2, 3)
	b.from(b2, 5, Answer{}, "Connect Reveal→B2")
	b.from(b2, 5, Accept{}, "ACCEPTED_ELSEWHERE→B1 CloseLeg ACCEPTED_ELSEWHERE→B3 CloseLeg Verify Confirm→B2 Open accepted MediaState→B2")
	b.from(b1, 5, Accept{}, "")
	b.from(b1, 5, Hangup{wire.Hangup_FAILED}, "")
	b.from(b2, 5, Hangup{}, "End(hung up)")
}

func TestRule2AnUnconfirmedAcceptEnds(t *testing.T) {
	b := newBench(t)
	b.from(a1, 5, Offer{}, "Ringing→A1 Prepare Incoming")
	b.on(Prepared{Call: id(5)}, "Answer→A1 Connect Gather")
	b.from(a1, 5, Reveal{}, "Verify")
	b.on(AcceptCall{Call: id(5)}, "AllowAddresses Accept→A1 Open accepted MediaState→A1")
	lost := b.Endpoint
	b.from(a1, 5, Hangup{wire.Hangup_ACCEPTED_ELSEWHERE}, "End(accepted on another device)")
	b.Endpoint = lost
	b.now += 10 * time.Second
	b.on(Tick{}, "RestartPath")
	b.after(5*time.Second, "FAILED→A1 End(failed)")
}

func TestRule3DeclinedAndBusy(t *testing.T) {
	b := calling(t, 1, 2)
	b.from(b1, 5, Hangup{wire.Hangup_DECLINED}, "CloseLeg DECLINED_ELSEWHERE→B2 CloseLeg End(declined)")
	b = calling(t, 1, 2)
	b.from(b1, 5, Hangup{wire.Hangup_BUSY}, "CloseLeg")
	b.from(b2, 5, Hangup{wire.Hangup_FAILED}, "CloseLeg LeaveMissed End(busy)")
	b = calling(t, 1, 2)
	b.on(Fault{Call: id(5), Device: 1, Err: errors.New("broken")}, "FAILED→B1 CloseLeg")
	b.on(Fault{Call: id(5), Device: 2, Err: errors.New("broken")}, "FAILED→B2 CloseLeg LeaveMissed End(failed)")
}

func TestRule4EndsWithoutAnAcceptLeaveAMissedCall(t *testing.T) {
	b := calling(t, 1, 2)
	b.on(HangUp{id(5)}, "NORMAL→B1 NORMAL→B2 LeaveMissed End(cancelled)")
	b = calling(t, 1)
	b.after(time.Minute, "TIMEOUT→B1 LeaveMissed End(not answered)")
	b = newBench(t)
	b.on(PlaceCall{Call: id(5), Peer: bob}, "Prepare")
	b.on(Prepared{Call: id(5), Devices: [MaxLegs]uint8{1}}, "Offer→B1")
	b.after(14*time.Second, "")
	b.after(time.Second, "NORMAL→B1 LeaveMissed End(not reachable)")
}

func TestRule4EachMissedCallIsShownOnce(t *testing.T) {
	b := newBench(t)
	b.from(a1, 5, Offer{}, "Ringing→A1 Prepare Incoming")
	b.from(a1, 5, Hangup{}, "Missed End(cancelled)")
	b.from(a1, 5, MissedCall{}, "")
	b.from(a1, 6, MissedCall{}, "Missed")
	b.from(a1, 6, MissedCall{}, "")
	b.from(a1, 6, Offer{}, "")
	b.from(a1, 7, Offer{}, "Ringing→A1 Prepare Incoming")
	b.on(HangUp{id(7)}, "DECLINED→A1 End(declined)")
	b.from(a1, 7, MissedCall{}, "")
	b.from(a1, 8, Offer{}, "Ringing→A1 Prepare Incoming")
	b.from(a1, 8, MissedCall{}, "Missed End(cancelled)")
}

func TestRule5ASecondCallWaits(t *testing.T) {
	waiting := talking(t)
	waiting.from(c1, 6, Offer{}, "Ringing→C1 Prepare Waiting")
	waiting.from(b1, 7, Offer{}, "BUSY→B1")
	waiting.on(Prepared{Call: id(6)}, "Answer→C1 Connect Gather")

	b := *waiting
	b.on(AcceptCall{Call: id(6)}, "SetFlow(false) MediaState→A1 held AllowAddresses Accept→C1 Open accepted MediaState→C1")
	b.on(Hold{id(5), false}, "SetFlow(false) MediaState→C1 held SetFlow(true) MediaState→A1 resumed")
	b.from(b1, 7, Offer{}, "")
	b.from(b1, 8, Offer{}, "Ringing→B1 Prepare Waiting")
	b.on(AcceptCall{Call: id(8)}, "Refused")
	b.on(AcceptCall{Call: id(8), EndOther: true}, "NORMAL→A1 End(hung up) AllowAddresses")
	b = *waiting
	b.on(AcceptCall{Call: id(6), EndOther: true}, "NORMAL→A1 End(hung up) AllowAddresses Accept→C1 Open accepted MediaState→C1")
	b = *waiting
	b.on(HangUp{id(6)}, "DECLINED→C1 End(declined)")
	b.from(c1, 6, MissedCall{}, "")
	b = *waiting
	b.on(BusyHere{id(6)}, "BUSY→C1 End(busy)")
	b.from(c1, 6, Offer{}, "")
	b.from(c1, 6, MissedCall{}, "Missed")
	b.on(PlaceCall{Call: id(9), Peer: carol}, "Refused")
}

func TestRule6CrossingCallsBecomeOne(t *testing.T) {
	b := calling(t, 1, 2)
	b.from(b1, 4, Offer{}, "BUSY→B1")
	b.from(b1, 6, Offer{}, "ACCEPTED_ELSEWHERE→B1 ACCEPTED_ELSEWHERE→B2 Adopt Ringing→B1 Prepare AllowAddresses")
	b.on(Prepared{Call: id(6)}, "Answer→B1 Connect Gather Accept→B1 Open accepted MediaState→B1")
	b = calling(t, 1)
	b.from(c1, 6, Offer{}, "BUSY→C1") // of somebody else: no consent in it

	// Where theirs shows no pictures, the one call shows none.
	for _, theirs := range []bool{false, true} {
		b = newBench(t)
		b.on(PlaceCall{id(5), b1.Account, true}, "Prepare")
		b.from(b1, 6, Offer{Video: theirs}, "Adopt Ringing→B1 Prepare AllowAddresses")
		step := step{Endpoint: &b.Endpoint}
		if c := step.find(id(6)); c.local.Video != theirs {
			t.Errorf("theirs with pictures: %t, the one call: %t", theirs, c.local.Video)
		}
	}
}

func TestRule7WhoLostTheCallRingsAnew(t *testing.T) {
	b := talking(t)
	b.on(Received{From: a1, Call: id(6), Sent: 1, Message: Offer{}}, "") // older than the call: late
	b.from(a1, 8, Offer{}, "")                                           // as old as the call
	b.now += time.Second
	b.from(a1, 7, Offer{}, "FAILED→A1 End(failed) Ringing→A1 Prepare Incoming")
}

func TestRule8OffersThatMustNotRing(t *testing.T) {
	b := newBench(t)
	b.from(a1, 1, Hangup{}, "")
	b.from(a1, 1, Offer{}, "")
	b.from(a1, 2, Offer{Age: 61 * time.Second}, "")
	b.from(a1, 3, Offer{Age: -61 * time.Second}, "")
	b.from(a1, 4, Offer{Malformed: true}, "FAILED→A1")
	b.from(a1, 4, Offer{}, "")
	b.from(a1, 5, Accept{}, "")
	b.from(a1, 5, Offer{}, "Ringing→A1 Prepare Incoming")
	b.from(a1, 5, Offer{}, "")
	b.from(c1, 5, Hangup{}, "")
	b.from(a2, 5, Hangup{}, "")
}

func TestRule9RemovedDevices(t *testing.T) {
	b := calling(t, 1, 2)
	b.on(DeviceRemoved{b1}, "CloseLeg")
	b.from(b1, 5, Accept{}, "")
	b.on(DeviceRemoved{b2}, "CloseLeg LeaveMissed End(failed)")
	b = talking(t)
	b.on(DeviceRemoved{b1}, "")
	b.on(DeviceRemoved{a1}, "End(failed)")
}

func TestRule10HeldByEither(t *testing.T) {
	b := talking(t)
	b.on(Hold{id(5), true}, "SetFlow(false) MediaState→A1 held")
	b.from(a1, 5, MediaState{2, Media{Held: true}}, "PeerMedia")
	b.from(a1, 5, MediaState{1, Media{}}, "") // late
	b.on(Hold{id(5), false}, "SetFlow(false) MediaState→A1 resumed")
	b.from(a1, 5, MediaState{3, Media{}}, "SetFlow(true) PeerMedia")
	b.on(Mute{id(5), true}, "SetFlow(false) MediaState→A1")
	b.on(ShowVideo{id(5), true}, "Refused")
}

func TestRule11AnotherPath(t *testing.T) {
	b := talking(t)
	b.on(Interrupted{id(5), 1}, "reconnecting RestartPath")
	b.on(PathReady{id(5), 1, Path{Generation: 1}}, "Path→A1")
	b.from(a1, 5, Path{Generation: 1}, "ConnectPath") // both began it
	b.from(a1, 5, Path{Generation: 1}, "")
	b.after(5*time.Second, "RestartPath")
	b.from(a1, 5, Path{Generation: 3}, "RestartPath ConnectPath")
	b.on(PathReady{id(5), 1, Path{Generation: 2}}, "") // overtaken
	b.on(LocalCandidates{id(5), 1, Candidates{Generation: 3}}, "Candidates→A1")
	b.from(a1, 5, Candidates{Generation: 2}, "")
	b.from(a1, 5, Path{Generation: 1 << 31}, "")
	lost := *b
	b.on(Connected{id(5), 1}, "connected MediaState→A1")
	b.on(NetworkChanged{}, "RestartPath")
	lost.after(25*time.Second, "LOST→A1 End(connection lost)")
	b.from(a1, 5, Hangup{wire.Hangup_LOST}, "End(connection lost)")
}

func TestRule12Undecryptable(t *testing.T) {
	b := talking(t)
	b.on(Undecryptable{id(5), 1}, "undecryptable")
	later := *b
	b.on(FirstMedia{id(5), 1}, "first-media")
	b.after(time.Hour, "")
	later.after(5*time.Second, "FAILED→A1 End(failed)")

	heard := talking(t)
	heard.on(FirstMedia{id(5), 1}, "first-media")
	heard.on(Undecryptable{id(5), 1}, "undecryptable") // a single packet: anybody's
	heard.on(KeyChanged{id(5), 1}, "deaf")
	again := *heard
	heard.after(29*time.Second, "")
	heard.after(time.Second, "FAILED→A1 End(failed)")
	again.on(FirstMedia{id(5), 1}, "first-media")
	again.after(time.Hour, "")
}

func TestAStrangersCallWithoutARelay(t *testing.T) {
	b := newBench(t)
	b.from(a1, 5, Offer{}, "Ringing→A1 Prepare Incoming")
	early := *b
	b.on(NoRelay{id(5)}, "")
	b.on(AcceptCall{Call: id(5)}, "AllowAddresses Prepare")
	b.on(Prepared{Call: id(5)}, "Answer→A1 Connect Gather Accept→A1 Open accepted MediaState→A1")
	early.on(AcceptCall{Call: id(5)}, "AllowAddresses")
	early.on(NoRelay{id(5)}, "Prepare")
}

// TestNextIsTheEarliest shows that whoever waits for Next misses nothing.
func TestNextIsTheEarliest(t *testing.T) {
	b := calling(t, 1)
	if got := b.Next(); got != b.now+time.Minute {
		t.Errorf("%v", got)
	}
	var waits []time.Duration
	for _, at := range times(&b.Endpoint) {
		if *at != 0 {
			waits = append(waits, *at)
		}
	}
	if slices.Min(waits) != b.Next() {
		t.Errorf("%v", waits)
	}
}

func TestRule11AStallLooksForAnotherPath(t *testing.T) {
	b := newBench(t)
	b.from(a1, 5, Offer{}, "Ringing→A1 Prepare Incoming")
	b.on(Prepared{Call: id(5)}, "Answer→A1 Connect Gather")
	b.on(Stalled{id(5), 1}, "") // it rings yet
	b = talking(t)
	b.on(Stalled{id(5), 1}, "RestartPath")
	b.on(Interrupted{id(5), 1}, "reconnecting RestartPath")
	b.on(Stalled{id(5), 1}, "") // that is known
}

func TestRule11APathThatBreaksWhileItRings(t *testing.T) {
	b := newBench(t)
	b.from(a1, 5, Offer{}, "Ringing→A1 Prepare Incoming")
	b.on(Prepared{Call: id(5)}, "Answer→A1 Connect Gather")
	b.on(Connected{id(5), 1}, "")
	b.on(Interrupted{id(5), 1}, "")
	back := *b
	b.on(AcceptCall{Call: id(5)}, "AllowAddresses Accept→A1 Open accepted MediaState→A1 reconnecting RestartPath")
	b.on(Interrupted{id(5), 1}, "")
	b.after(5*time.Second, "RestartPath")
	back.on(Connected{id(5), 1}, "")
	back.on(AcceptCall{Call: id(5)}, "AllowAddresses Accept→A1 Open accepted MediaState→A1 connected")
}

func TestRule12NothingIsDueBeforeTheCallIsOpen(t *testing.T) {
	b := newBench(t)
	b.from(a1, 5, Offer{}, "Ringing→A1 Prepare Incoming")
	b.on(Prepared{Call: id(5)}, "Answer→A1 Connect Gather")
	b.from(a1, 5, Reveal{}, "Verify")
	b.on(Connected{id(5), 1}, "")
	b.on(Undecryptable{id(5), 1}, "")
	b.after(30*time.Second, "")
	heard := *b
	b.on(AcceptCall{Call: id(5)}, "AllowAddresses Accept→A1 Open accepted MediaState→A1 connected undecryptable")
	b.after(30*time.Second, "FAILED→A1 End(failed)")
	heard.on(FirstMedia{id(5), 1}, "")
	changed := heard
	heard.on(AcceptCall{Call: id(5)}, "AllowAddresses Accept→A1 Open accepted MediaState→A1 connected first-media")
	changed.on(KeyChanged{id(5), 1}, "")
	changed.after(29*time.Second, "")
	changed.on(AcceptCall{Call: id(5)}, "AllowAddresses Accept→A1 Open accepted MediaState→A1 connected undecryptable")
	changed.after(30*time.Second, "FAILED→A1 End(failed)")
}

func TestAHoldLeavesTheCameraToItsUser(t *testing.T) {
	b := newBench(t)
	b.from(a1, 5, Offer{Video: true}, "Ringing→A1 Prepare Incoming")
	b.on(Prepared{Call: id(5)}, "Answer→A1 Connect Gather")
	b.on(AcceptCall{Call: id(5), Camera: true}, "AllowAddresses Accept→A1 Open accepted MediaState→A1")
	camera := func(event Event, want Flow) {
		t.Helper()
		var effects []Effect
		b.Endpoint, effects = b.Step(event, b.now)
		if len(effects) == 0 || effects[0] != (SetFlow{Leg{id(5), 1}, want}) {
			t.Errorf("%+v: %+v", event, effects)
		}
	}
	camera(Hold{id(5), true}, Flow{Camera: true})
	camera(ShowVideo{id(5), false}, Flow{})
	camera(ShowVideo{id(5), true}, Flow{Camera: true})
	camera(Hold{id(5), false}, Flow{Microphone: true, Camera: true, Play: true})
}

func TestAStrangersCallBecomesDirect(t *testing.T) {
	b := newBench(t)
	b.from(a1, 5, Offer{}, "Ringing→A1 Prepare Incoming")
	b.on(Prepared{Call: id(5)}, "Answer→A1 Connect Gather")
	b.on(DirectAllowed{id(5), 1}, "") // it rings yet
	b = talking(t)                    // which says GoDirect as soon as the caller has confirmed, though neither end sent anything
	b.on(DirectAllowed{id(5), 1}, "RestartPath")
	b.from(a1, 5, Confirm{}, "") // once
	b.on(FirstMedia{id(5), 1}, "first-media")

	lost := newBench(t) // the confirmation is: the caller's media say the same
	lost.from(a1, 5, Offer{}, "Ringing→A1 Prepare Incoming")
	lost.on(Prepared{Call: id(5)}, "Answer→A1 Connect Gather")
	lost.on(AcceptCall{Call: id(5)}, "AllowAddresses Accept→A1 Open accepted MediaState→A1")
	lost.on(FirstMedia{id(5), 1}, "first-media GoDirect")
}

// A stranger never occupies the line: contacts and the user come first, and what does not ring gets
// no answer at all.
func TestAStrangerNeverHasTheLine(t *testing.T) {
	b := newBench(t)
	b.from(a1, 5, Offer{Stranger: true}, "Ringing→A1 Prepare Incoming")
	b.from(c1, 6, Offer{Stranger: true}, "") // another stranger beside it
	b.from(c1, 7, Offer{}, "Missed End(cancelled) Ringing→C1 Prepare Incoming")
	b.from(a1, 5, Hangup{}, "")              // late
	b.from(a1, 8, Offer{Stranger: true}, "") // redials
	b.from(a1, 9, Offer{}, "BUSY→A1")        // contacts hear what they always heard

	b = newBench(t)
	b.from(a1, 5, Offer{Stranger: true}, "Ringing→A1 Prepare Incoming")
	b.on(PlaceCall{Call: id(6), Peer: Account{9}}, "Missed End(cancelled) Prepare")
	b.from(c1, 7, Offer{Stranger: true}, "")

	b = talking(t)
	b.from(c1, 6, Offer{Stranger: true}, "") // does not wait beside a call

	b = newBench(t)
	for call, offer := range []Offer{{Malformed: true}, {Quiet: true}, {Age: 2 * MaxOfferAge}} {
		offer.Stranger = true
		b.from(a1, byte(10+call), offer, "")
	}
}
