package client

import (
	"crypto/x509"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"sotto/client/callflow"
	"sotto/e2ee/callkey"
	"sotto/media"
	"sotto/wire"
)

const (
	candidateBatch = 5 * time.Millisecond // candidates found within become one message: each costs an envelope
	maxEarly       = 64                   // candidates of the peer's that cannot be used yet
)

// ongoing is a call as long as it lasts. The loop owns it; what runs beside gets values.
type ongoing struct {
	id        callflow.CallID
	call      *Call
	peer      *contact
	caller    bool
	video     bool
	relayOnly bool   // no address of this device's may show
	variable  bool   // rate of sound
	allowed   bool   // the local user wants the call
	at        uint64 // when it was offered
	legs      map[uint8]*leg

	chosen     *leg // whose media was opened
	connected  bool // there was a path
	flow       callflow.Flow
	sending    bool // its devices are open
	cameraOn   bool
	cameraBusy bool           // it is being opened or closed
	sinks      []io.Closer    // to be closed with the call
	opening    sync.WaitGroup // of devices, beside the loop
}

// A leg is a call with one device of the other end: a media session, and what keys are agreed with.
type leg struct {
	at          callflow.Leg
	o           *ongoing
	device      peerDevice
	session     *media.Session
	relays      relays
	refused     bool           // one of them did not accept its credentials
	unusable    []RelayFailure // at most one for each
	relayOnly   bool
	variable    bool
	caller      *callkey.Caller
	callee      *callkey.Callee
	keys        *callkey.Keys
	offer       []byte // exactly as sent
	answer      []byte // the same
	description media.Description
	listed      []byte          // digest of the account's list that the peer's device holds
	early       []pathCandidate // of the peer's
	halves      map[uint32]callflow.Path
	begun       uint32            // the newest path's generation
	restarts    time.Duration     // see mayPass
	later       callflow.Received // the same

	mu    sync.Mutex
	found map[uint32][]string // candidates of this end's, by generation, until they leave
}

type pathCandidate struct {
	generation uint32
	text       string
}

func newLeg(o *ongoing, d peerDevice) *leg {
	return &leg{
		at: callflow.Leg{Call: o.id, Device: d.id}, o: o, device: d, relayOnly: o.relayOnly, variable: o.variable,
		halves: map[uint32]callflow.Path{}, restarts: -restartBurst * restartEvery, found: map[uint32][]string{},
	}
}

// readOffer checks an offer's bytes, and begins the answer if it is well formed and fresh.
func (s *calls) readOffer(from *contact, event callflow.Received, offer []byte) (*ongoing, callflow.Offer) {
	parsed, description, err := parseOffer(offer)
	sent := fromTimestamp(parsed.GetTimestamp())
	age := s.c.clock.age(sent, time.Now())
	if err == nil && age.Abs() > callflow.MaxOfferAge {
		s.c.log.Info("an offer was too old to ring")
		return nil, callflow.Offer{Age: age}
	}
	var callee *callkey.Callee
	if err == nil {
		callee, err = callkey.NewCallee(offer)
	}
	if err != nil {
		s.c.log.Warn("an offer was malformed")
		return nil, callflow.Offer{Malformed: true}
	}
	o := &ongoing{id: event.Call, peer: from, video: hasVideo(description.Streams), relayOnly: s.c.options.RelayOnly, at: timestamp(sent)}
	o.variable = s.c.options.VariableRate
	for _, d := range from.devices() {
		if d.id == event.From.Device {
			l := newLeg(o, d)
			l.callee, l.offer, l.description, l.listed = callee, offer, description, parsed.DeviceList
			o.legs = map[uint8]*leg{d.id: l}
		}
	}
	return o, callflow.Offer{Age: age, Video: o.video}
}

// offered says that the offers leave.
func (o *ongoing) offered() {
	select {
	case o.call.offered <- struct{}{}:
	default:
	}
}

// stranger is somebody who learns no address of this device's before the local user accepts their call.
func (o *ongoing) stranger() bool { return !o.peer.Accepted && !o.allowed }

// prepare makes what a call needs beside the loop.
func (s *calls) prepare(o *ongoing) {
	if o.caller {
		s.prepareCaller(o)
		return
	}
	for _, l := range o.legs { // one
		s.prepareCallee(o, l)
	}
}

// prepareCaller makes a session and an offer for each device of the callee's. One that fails is left out. Who calls as soon as there is a
// link may have a newer list of those devices waiting at the server, which is delivered before the answer about relays.
func (s *calls) prepareCaller(o *ongoing) {
	o.at = timestamp(s.c.now())
	s.running.Go(func() {
		var peer *contact
		var asking sync.WaitGroup
		asking.Go(func() { peer = s.c.newest(o.call.ctx, o.peer) })
		relays := s.c.fetchRelays(o.call.ctx)
		asking.Wait()
		peers := peer.devices()
		legs := map[uint8]*leg{}
		var devices [callflow.MaxLegs]uint8
		var failed error
		for i, d := range peers[:min(len(peers), callflow.MaxLegs)] {
			l := newLeg(o, d)
			l.relays = relays
			if failed = l.makeOffer(s); failed != nil {
				l.close()
				continue
			}
			legs[d.id], devices[i] = l, d.id
		}
		ready := s.box.post(func() {
			switch {
			case s.table[o.id] != o:
				s.closeBeside(slices.Collect(maps.Values(legs))...)
			case len(legs) == 0 && failed != nil:
				s.step(callflow.Fault{Call: o.id, Err: failed})
			default:
				o.peer, o.legs = peer, legs
				s.step(callflow.Prepared{Call: o.id, Devices: devices})
			}
		})
		if !ready {
			for _, l := range legs {
				l.close()
			}
		}
	})
}

func (l *leg) makeOffer(s *calls) (err error) {
	if err := l.makeSession(s, true); err != nil {
		return err
	}
	if l.caller, err = callkey.NewCaller(); err != nil {
		return err
	}
	offer := &wire.Offer{Timestamp: l.o.at, DeviceList: s.c.ownListDigest()}
	offer.Ice, offer.Streams = toWire(l.session.Local())
	l.caller.Fill(offer)
	l.offer, err = proto.Marshal(offer)
	return err
}

// prepareCallee makes the callee's session, unless that would show this device's address to a stranger, for want of a relay: then it has
// to wait for the local user's accept.
func (s *calls) prepareCallee(o *ongoing, l *leg) {
	stranger, relayOnly := o.stranger(), o.relayOnly
	made := newLeg(o, l.device)
	made.relayOnly = relayOnly || stranger
	s.running.Go(func() {
		made.relays = s.c.fetchRelays(o.call.ctx)
		err := s.c.sameList(o.call.ctx, o.peer, l.listed)
		if err == nil {
			err = made.makeSession(s, false)
		}
		wait := stranger && !relayOnly && errors.Is(err, media.ErrNoRelay)
		ready := s.box.post(func() {
			switch {
			case s.table[o.id] != o:
				s.closeBeside(made)
			case wait:
				s.step(callflow.NoRelay{Call: o.id})
			default:
				if err == nil {
					err = s.answer(l, made)
				}
				if err != nil {
					s.step(callflow.Fault{Call: o.id, Device: l.at.Device, Err: err})
					return
				}
				s.step(callflow.Prepared{Call: o.id})
			}
		})
		if !ready {
			made.close()
		}
	})
}

// answer lets the leg that has a session take the place of the one that the offer began.
func (s *calls) answer(offered, l *leg) (err error) {
	l.callee, l.offer, l.description = offered.callee, offered.offer, offered.description
	l.o.legs[l.at.Device] = l
	answer := &wire.Answer{DeviceList: s.c.ownListDigest()}
	answer.Ice, answer.Streams = toWire(l.session.Local())
	l.callee.Fill(answer)
	if l.answer, err = proto.Marshal(answer); err != nil {
		return err
	}
	l.addEarly(offered.early)
	return nil
}

// makeSession makes this end's media session.
func (l *leg) makeSession(s *calls, controlling bool) (err error) {
	l.session, err = media.NewSession(media.Config{
		Controlling: controlling, Relays: l.relays.list, RelayOnly: l.relayOnly, Loopback: s.c.options.Loopback,
		Video: l.o.video, Screen: l.o.video, VariableRate: l.variable, Log: s.c.log,
		InterruptedAfter: s.c.timing.interrupted,
		OnCandidate:      func(candidate string) { l.onCandidate(s, 0, candidate) },
		OnPathCandidate:  func(generation uint32, candidate string) { l.onCandidate(s, generation, candidate) },
		RelayRoots:       s.c.relayRoots(),
		LocalRelays:      s.c.serverIsLocal(),
		OnRelayFailed:    func(url string, why error) { s.box.post(func() { s.relayFailed(l, url, why) }) },
		OnEvent:          func(event media.Event) { s.box.post(func() { s.onMedia(l, event) }) },
		OnSourceEnded:    func(device string) { s.onSourceEnded(l.o.call, device) },
		OnDeviceFailed:   func(device string, err error) { s.box.post(func() { s.onDeviceFailed(l, device, err) }) },
	})
	return err
}

// relayRoots are who may sign for the server, and so for its relays.
func (c *Client) relayRoots() *x509.CertPool {
	if c.options.TLS == nil {
		return nil
	}
	return c.options.TLS.RootCAs
}

// onCandidate takes a candidate of this end's, and waits a moment for more. The session of a relay-only call finds none but the relay's;
// that no other leaves is made sure of here again.
func (l *leg) onCandidate(s *calls, generation uint32, candidate string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.relayOnly && !isRelay(candidate) {
		s.c.log.Error("a candidate other than the relay's was kept back from a relay-only call")
		return
	}
	l.found[generation] = append(l.found[generation], candidate)
	if len(l.found[generation]) == 1 {
		time.AfterFunc(candidateBatch, func() { s.box.post(func() { s.sendFound(l, generation) }) })
	}
}

func (s *calls) sendFound(l *leg, generation uint32) {
	l.mu.Lock()
	found := l.found[generation]
	delete(l.found, generation)
	l.mu.Unlock()
	if s.legOf(l.at.Call, l.at.Device) != l {
		return
	}
	for batch := range slices.Chunk(found, maxCandidates) {
		s.step(callflow.LocalCandidates{
			Call: l.at.Call, Device: l.at.Device, Candidates: callflow.Candidates{Generation: generation, List: batch},
		})
	}
}

// isRelay reads the type of a candidate (RFC 8839 section 5.1): foundation, component, transport, priority, address, port, "typ", type.
func isRelay(candidate string) bool {
	fields := strings.Fields(candidate)
	return len(fields) >= 8 && fields[6] == "typ" && fields[7] == "relay"
}

// connect derives the keys, from the bytes as they were sent, and starts the connectivity checks.
func (l *leg) connect(s *calls, answer string) (err error) {
	c := s.c
	us := callkey.Party{Account: c.account.Account, Device: c.account.Device, Identity: [33]byte(c.identity.Public().Bytes())}
	them := callkey.Party{Account: l.o.peer.Account, Device: l.device.id, Identity: [33]byte(l.device.identity)}
	if l.o.caller {
		var parsed *wire.Answer
		if parsed, l.description, err = parseAnswer([]byte(answer)); err != nil {
			return err
		}
		s.checkList(l, parsed.DeviceList)
		l.keys, err = l.caller.Keys(callkey.Call{ID: l.at.Call, Caller: us, Callee: them}, l.offer, []byte(answer))
	} else {
		l.keys, err = l.callee.Keys(callkey.Call{ID: l.at.Call, Caller: them, Callee: us}, l.answer)
	}
	if err != nil {
		return err
	}
	keys := media.Keys{NextSend: l.keys.Send.NextSRTP, NextReceive: l.keys.Receive.NextSRTP}
	if keys.SendKey, keys.SendSalt, err = keys.NextSend(); err != nil {
		return err
	}
	if keys.ReceiveKey, keys.ReceiveSalt, err = keys.NextReceive(); err != nil {
		return err
	}
	return l.session.Connect(l.description, keys)
}

// checkList ends the leg if the callee's device holds another list of its account than this end. That may take asking the server, beside
// which the call goes on with the device: its key is known in any case.
func (s *calls) checkList(l *leg, listed []byte) {
	s.running.Go(func() {
		if err := s.c.sameList(l.o.call.ctx, l.o.peer, listed); err != nil {
			s.box.post(func() {
				if s.legOf(l.at.Call, l.at.Device) == l {
					s.step(callflow.Fault{Call: l.at.Call, Device: l.at.Device, Err: err})
				}
			})
		}
	})
}

// verify shows the verification code, if the part the peer revealed is the one it had committed to.
func (l *leg) verify(revealed string) error {
	code, err := l.keys.VerificationCode([]byte(revealed))
	if err != nil {
		return err
	}
	call := l.o.call
	call.mu.Lock()
	call.code = code
	call.mu.Unlock()
	call.emit(Verified{code})
	return nil
}

// addCandidates gives the peer's candidates to the session. Before there is one, or a path of that generation, they wait; and before
// the local user has accepted a call of somebody who is no contact, only a relay's are used.
func (l *leg) addCandidates(c callflow.Candidates) {
	var list []pathCandidate
	for _, text := range c.List {
		list = append(list, pathCandidate{c.Generation, text})
	}
	l.addEarly(list)
}

func (l *leg) addEarly(candidates []pathCandidate) {
	for _, candidate := range candidates {
		if l.session == nil || candidate.generation > l.session.Generation() || l.o.stranger() && !isRelay(candidate.text) {
			if len(l.early) < maxEarly {
				l.early = append(l.early, candidate)
			}
			continue
		}
		_ = l.session.AddPathCandidate(candidate.generation, candidate.text) // one that cannot be used does not help, and others may
	}
}

// retryEarly takes candidates that waited.
func (l *leg) retryEarly() {
	early := l.early
	l.early = nil
	l.addEarly(early)
}

// allow says that the local user wants the call.
func (o *ongoing) allow() {
	o.allowed = true
	for _, l := range o.legs {
		l.retryEarly()
	}
}

// close ends a leg's media and forgets its secrets.
func (l *leg) close() {
	if l.session != nil {
		_ = l.session.Close() // it closes whatever happens, and errors of sockets are of no use any more
	}
	if l.caller != nil {
		l.caller.Erase()
	}
	if l.callee != nil {
		l.callee.Erase()
	}
	if l.keys != nil {
		l.keys.Erase()
	}
}

// closeLeg takes a leg out of its call.
func (s *calls) closeLeg(at callflow.Leg) {
	o := s.table[at.Call]
	s.closeBeside(o.legs[at.Device])
	delete(o.legs, at.Device)
}

// closeBeside closes legs whose devices were not opened.
func (s *calls) closeBeside(legs ...*leg) {
	for _, l := range legs {
		s.running.Go(l.close)
	}
}

// release closes all legs of a call that is given up.
func (o *ongoing) release(s *calls) {
	for _, l := range o.legs {
		s.closeBeside(l)
	}
}
