package client

import (
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"sotto/client/callflow"
	"sotto/e2ee/callkey"
	"sotto/media"
	"sotto/wire"
)

// between puts f between what a person's sessions decrypt and the calls: the place of somebody who holds both sessions.
func (p *person) between(f func(m *wire.CallMessage) *wire.CallMessage) {
	p.mu.Lock()
	defer p.mu.Unlock()
	handle := p.calls.handle
	p.calls.handle = func(from *contact, device uint8, content *wire.Content) {
		if content.GetCall() != nil {
			m := f(content.GetCall())
			if m == nil {
				return
			}
			content.Body = &wire.Content_Call{Call: m}
		}
		handle(from, device, content)
	}
}

// takes is as if a step of a call had come from somebody, and waits until it is dealt with.
func (p *person) takes(from *contact, m *wire.CallMessage) {
	p.calls.onCallContent(from, firstDevice, &wire.Content{Timestamp: timestamp(p.now()), Body: &wire.Content_Call{Call: m}})
	p.calls.do(func() error { return nil })
}

// A caller's process that dies says nothing any more: the other end notices by itself.
func TestCallerDies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	bob.wait(func(w *timing) { w.interrupted, w.Lost = 500*time.Millisecond, 3*time.Second })
	caller, callee := ring(t, alice, bob, CallOptions{})
	if err := callee.Accept(patience(t), callee.media()); err != nil {
		t.Fatal(err)
	}
	eventually(t, "bob hears alice", func() bool { return callee.speaker.heard() > 10 })
	alice.life.stop()
	if err := caller.Call.session.Close(); err != nil {
		t.Fatal(err)
	}
	awaitEvent[Interrupted](t, callee)
	awaitEnd(t, callee, Lost)
	if callee.Err() == nil || !callee.mic.closed.Load() {
		t.Errorf("ended with %v", callee.Err())
	}
}

// A byte of the answer is changed on its way: both ends derive other keys, nothing is played, and the call fails saying so.
func TestTamperedAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	alice.wait(func(w *timing) { w.Decipher = 200 * time.Millisecond })
	bob.wait(func(w *timing) { w.Decipher = 200 * time.Millisecond })
	alice.between(func(m *wire.CallMessage) *wire.CallMessage {
		if m.GetAnswer() != nil {
			answer := new(wire.Answer)
			if err := proto.Unmarshal(m.GetAnswer(), answer); err != nil {
				t.Error(err)
			}
			answer.Secret[0] ^= 1
			b, err := proto.Marshal(answer)
			if err != nil {
				t.Error(err)
			}
			m.Body = &wire.CallMessage_Answer{Answer: b}
		}
		return m
	})
	caller, callee := ring(t, alice, bob, CallOptions{})
	if err := callee.Accept(patience(t), callee.media()); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, callee, Failed)
	awaitEnd(t, caller, Failed)
	// Who gets media first finds out, and hangs up: on a busy machine that may be the caller, before it has sent anything.
	told := false
	for e := range callee.Events() {
		_, undecryptable := e.(MediaUndecryptable)
		told = told || undecryptable
	}
	if errors.Is(callee.Err(), callflow.ErrUndecryptable) && !told {
		t.Error("the callee was not told why")
	}
	if !errors.Is(callee.Err(), callflow.ErrUndecryptable) && !errors.Is(caller.Err(), callflow.ErrUndecryptable) {
		t.Errorf("ended with %v and %v", callee.Err(), caller.Err())
	}
	if caller.speaker.heard()+callee.speaker.heard() != 0 {
		t.Error("something was played")
	}
	ours, _ := caller.VerificationCode()
	theirs, _ := callee.VerificationCode()
	if ours == theirs {
		t.Error("the verification codes are equal")
	}
}

// What the caller reveals is not what it committed to: no code is shown, the call ends.
func TestForgedReveal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	bob.between(func(m *wire.CallMessage) *wire.CallMessage {
		if m.GetReveal() != nil {
			m.GetReveal().Verification[5] ^= 4
		}
		return m
	})
	caller, callee := ring(t, alice, bob, CallOptions{})
	awaitEnd(t, callee, Failed)
	awaitEnd(t, caller, Failed)
	if _, ok := callee.VerificationCode(); ok || !errors.Is(callee.Err(), callkey.ErrTampered) {
		t.Errorf("ended with %v", callee.Err())
	}
}

// What the callee opens with its accept is not what it committed to: no code is shown, and the caller's microphone stays closed.
func TestForgedAccept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	alice.between(func(m *wire.CallMessage) *wire.CallMessage {
		if m.GetAccept() != nil {
			m.GetAccept().Verification[31] ^= 1
		}
		return m
	})
	caller, callee := ring(t, alice, bob, CallOptions{})
	if err := callee.Accept(patience(t), callee.media()); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, caller, Failed)
	awaitEnd(t, callee, Failed)
	if _, ok := caller.VerificationCode(); ok || !errors.Is(caller.Err(), callkey.ErrTampered) {
		t.Errorf("ended with %v", caller.Err())
	}
	if caller.mic.opened.Load() {
		t.Error("the caller's microphone was opened")
	}
}

// An offer with video is as long as one without, so that its length does not say what kind of call it is.
func TestOffersHaveOneLength(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	lengths := map[int]bool{}
	var offer []byte
	bob.between(func(m *wire.CallMessage) *wire.CallMessage {
		if m.GetOffer() != nil {
			offer = m.GetOffer()
		}
		return m
	})
	for _, video := range []bool{false, true} {
		caller, _ := ring(t, alice, bob, CallOptions{Video: video})
		content := alice.newContent()
		content.Body = &wire.Content_Call{Call: &wire.CallMessage{CallId: caller.id[:], Body: &wire.CallMessage_Offer{Offer: offer}}}
		b, err := sealable(content)
		if err != nil {
			t.Fatal(err)
		}
		lengths[len(b)] = true
		caller.Hangup()
		<-caller.Done()
	}
	if len(lengths) != 1 {
		t.Errorf("offers have lengths %v", lengths)
	}
}

// The reveal does not come: there can be no code, and the call does not go on without.
func TestWithheldReveal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	bob.wait(func(w *timing) { w.Agree = 300 * time.Millisecond })
	bob.between(func(m *wire.CallMessage) *wire.CallMessage {
		if m.GetReveal() != nil {
			return nil
		}
		return m
	})
	_, callee := ring(t, alice, bob, CallOptions{})
	if err := callee.Accept(patience(t), callee.media()); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, callee, Failed)
	if callee.Err() == nil || !strings.Contains(callee.Err().Error(), "key agreement") {
		t.Errorf("ended with %v", callee.Err())
	}
}

// Offers that come again, late, or after their hangup do not ring.
func TestOffersThatMustNotRing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	var offer *wire.CallMessage
	bob.between(func(m *wire.CallMessage) *wire.CallMessage {
		if m.GetOffer() != nil {
			offer = proto.CloneOf(m)
		}
		return m
	})
	caller, callee := ring(t, alice, bob, CallOptions{})
	if err := caller.Hangup(); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, callee, Cancelled)
	bob.mu.Lock()
	from := bob.named("alice")
	bob.mu.Unlock()

	fresh := func(change func(*wire.Offer)) *wire.CallMessage {
		parsed := new(wire.Offer)
		if err := proto.Unmarshal(offer.GetOffer(), parsed); err != nil {
			t.Fatal(err)
		}
		change(parsed)
		b, err := proto.Marshal(parsed)
		if err != nil {
			t.Fatal(err)
		}
		return &wire.CallMessage{CallId: randomBytes(16), Body: &wire.CallMessage_Offer{Offer: b}}
	}
	overtaken := fresh(func(*wire.Offer) {})
	bob.takes(from, &wire.CallMessage{CallId: overtaken.CallId, Body: &wire.CallMessage_Hangup{Hangup: &wire.Hangup{}}})
	for name, m := range map[string]*wire.CallMessage{
		"replayed":       offer,
		"overtaken":      overtaken,
		"stale":          fresh(func(o *wire.Offer) { o.Timestamp -= 61_000 }),
		"of the future":  fresh(func(o *wire.Offer) { o.Timestamp += 90_000 }),
		"bad KEM key":    fresh(func(o *wire.Offer) { o.KemPublicKey = o.KemPublicKey[1:] }),
		"no commitment":  fresh(func(o *wire.Offer) { o.Commitment = nil }),
		"unknown codec":  fresh(func(o *wire.Offer) { o.Streams[0].Codec = "PCMU" }),
		"no streams":     fresh(func(o *wire.Offer) { o.Streams = nil }),
		"bad ICE string": fresh(func(o *wire.Offer) { o.Ice.Ufrag = "a b" }),
		"not an offer":   {CallId: randomBytes(16), Body: &wire.CallMessage_Offer{Offer: []byte{0xff}}},
		"no call":        {CallId: randomBytes(16), Body: &wire.CallMessage_Accept{Accept: &wire.Accept{}}},
	} {
		bob.takes(from, m)
		if bob.calls.with(from.Account) {
			t.Fatalf("an offer that is %s rings", name)
		}
	}
	quiet[IncomingCall](t, bob)
	bob.takes(from, fresh(func(*wire.Offer) {}))
	call := &end{Call: expect[IncomingCall](t, bob).Call}
	if err := call.Decline(); err != nil {
		t.Fatal(err)
	}
}

// A third person who knows the call's id cannot take part in it.
func TestMessagesOfAThirdPartyAreIgnored(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	caller, _ := ring(t, alice, bob, CallOptions{})
	stranger := &contact{Account: w.register("carol").Account()}
	id := caller.ID()
	alice.takes(stranger, &wire.CallMessage{CallId: id[:], Body: &wire.CallMessage_Hangup{Hangup: &wire.Hangup{}}})
	alice.takes(stranger, &wire.CallMessage{CallId: id[:], Body: &wire.CallMessage_Accept{Accept: &wire.Accept{}}})
	if caller.End() != NotEnded || caller.mic.opened.Load() {
		t.Error("the third party had an effect")
	}
}

// legWith is the leg of a person's call with the other end.
func (p *person) legWith(t testing.TB, call *Call) (l *leg) {
	t.Helper()
	p.calls.do(func() error {
		for _, l = range p.calls.table[callflow.CallID(call.ID())].legs {
		}
		return nil
	})
	if l == nil {
		t.Fatal("the call has no leg")
	}
	return l
}

// At the end of a call its keys are gone, at both ends.
func TestKeysAreErasedAtTheEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	alice, bob := friends(t, w)
	caller, callee := ring(t, alice, bob, CallOptions{})
	if err := callee.Accept(patience(t), callee.media()); err != nil {
		t.Fatal(err)
	}
	awaitEvent[Connected](t, caller)
	awaitEvent[Connected](t, callee)
	legs := []*leg{alice.legWith(t, caller.Call), bob.legWith(t, callee.Call)}
	if err := caller.Hangup(); err != nil {
		t.Fatal(err)
	}
	awaitEnd(t, callee, Normal)
	awaitEnd(t, caller, Normal)
	alice.Close() // what is closed beside the calls' loop is waited for
	bob.Close()
	for _, l := range legs {
		_, _, err1 := l.keys.Send.NextSRTP()
		_, _, err2 := l.keys.Receive.NextSRTP()
		if err1 == nil || err2 == nil {
			t.Error("the keys of a call that is over are there")
		}
	}
}

const (
	hostCandidate  = "1 1 udp 2130706431 127.0.0.1 50000 typ host"
	relayCandidate = "2 1 udp 16777215 127.0.0.2 50001 typ relay raddr 0.0.0.0 rport 9"
)

// What a peer sends before it can be used is kept up to a limit.
func TestEarlyCandidatesAreBounded(t *testing.T) {
	t.Parallel()
	l := newLeg(&ongoing{peer: &contact{Accepted: true}}, peerDevice{})
	for range 2 * maxEarly {
		l.addCandidates(callflow.Candidates{List: []string{hostCandidate, relayCandidate}})
	}
	if len(l.early) != maxEarly {
		t.Errorf("%d candidates wait, want %d", len(l.early), maxEarly)
	}
}

// Before the local user has accepted a stranger's call this device sends to the relay they name,
// and to no other address of theirs.
func TestStrangersCandidatesWait(t *testing.T) {
	t.Parallel()
	session, err := media.NewSession(media.Config{Loopback: true})
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close()
	o := &ongoing{peer: &contact{}}
	l := newLeg(o, peerDevice{id: firstDevice})
	l.session, o.legs = session, map[uint8]*leg{firstDevice: l}
	list := []string{hostCandidate, relayCandidate, hostCandidate}
	l.addCandidates(callflow.Candidates{List: list})
	if len(l.early) != 2 || l.early[0].text != hostCandidate || l.early[1].text != hostCandidate {
		t.Errorf("%+v wait", l.early)
	}
	o.allow()
	if len(l.early) != 0 {
		t.Errorf("%+v wait after the accept", l.early)
	}
}

// Of a relay-only call no candidate but a relay's leaves, whatever the media session finds.
func TestOnlyRelaysLeaveARelayOnlyCall(t *testing.T) {
	t.Parallel()
	alice := newWorld(t).register("alice")
	for relayOnly, want := range map[bool]int{true: 1, false: 2} {
		l := newLeg(&ongoing{peer: &contact{}, relayOnly: relayOnly}, peerDevice{})
		l.onCandidate(alice.calls, 0, hostCandidate)
		l.onCandidate(alice.calls, 0, relayCandidate)
		l.mu.Lock()
		if found := l.found[0]; len(found) != want || found[len(found)-1] != relayCandidate {
			t.Errorf("relay-only %v: %q leave", relayOnly, found)
		}
		l.mu.Unlock()
	}
}
