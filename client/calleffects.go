package client

import (
	"errors"
	"time"

	"github.com/google/uuid"

	"sotto/client/callflow"
	"sotto/media"
	"sotto/wire"
)

// perform carries out effects in order. After one that failed, what else was to be done for the same call is left out. It returns what
// the flow has to hear of that, and why the local user's wish is refused.
func (s *calls) perform(effects []callflow.Effect) (events []callflow.Event, refused error) {
	broken := map[callflow.CallID]bool{}
	for _, effect := range effects {
		at := s.legNamed(effect)
		if broken[at.Call] {
			continue
		}
		var err error
		switch e := effect.(type) {
		case callflow.Refused:
			refused = e.Err
			if errors.Is(e.Err, callflow.ErrBusy) {
				refused = ErrBusy
			}
		case callflow.Incoming:
			if !s.c.events.offer(IncomingCall{Call: s.table[e.Call].call, Waiting: e.Waiting}) {
				events = append(events, callflow.BusyHere{Call: e.Call})
			}
		default:
			err = s.carryOut(effect)
		}
		if err != nil {
			broken[at.Call] = true
			events = append(events, callflow.Fault{Call: at.Call, Device: at.Device, Err: err})
		}
	}
	return events, refused
}

// legNamed is what an effect is about.
func (s *calls) legNamed(effect callflow.Effect) callflow.Leg {
	switch e := effect.(type) {
	case callflow.Send:
		return callflow.Leg{Call: e.Call, Device: e.To.Device}
	case callflow.Prepare:
		return callflow.Leg{Call: e.Call}
	case callflow.Gather:
		return callflow.Leg(e)
	case callflow.Connect:
		return e.Leg
	case callflow.AddCandidates:
		return e.Leg
	case callflow.AllowAddresses:
		return callflow.Leg{Call: e.Call}
	case callflow.Verify:
		return e.Leg
	case callflow.Open:
		return e.Leg
	case callflow.SetFlow:
		return e.Leg
	case callflow.RestartPath:
		return e.Leg
	case callflow.ConnectPath:
		return e.Leg
	case callflow.Incoming:
		return callflow.Leg{Call: e.Call}
	case callflow.Tell:
		return callflow.Leg{Call: e.Call} // it may tell of what an effect before it should have done
	}
	return callflow.Leg{} // what remains ends things, or needs nothing that an effect before it makes
}

func (s *calls) carryOut(effect callflow.Effect) error {
	switch e := effect.(type) {
	case callflow.Send:
		return s.send(e)
	case callflow.Prepare:
		s.prepare(s.table[e.Call])
	case callflow.Gather:
		return s.leg(callflow.Leg(e)).session.GatherCandidates()
	case callflow.Connect:
		return s.leg(e.Leg).connect(s, e.Answer)
	case callflow.AddCandidates:
		s.leg(e.Leg).addCandidates(e.Candidates)
	case callflow.GoDirect:
		s.goDirect(s.leg(callflow.Leg(e)))
	case callflow.AllowAddresses:
		s.table[e.Call].allow()
		if err := s.c.answered(s.table[e.Call].peer.Account); err != nil {
			s.c.log.Error("that a stranger was answered was not stored", "error", err)
		}
	case callflow.Verify:
		return s.leg(e.Leg).verify(e.Verification)
	case callflow.Open:
		s.open(s.leg(e.Leg), e.Flow)
	case callflow.SetFlow:
		s.setFlow(s.table[e.Call], e.Flow)
	case callflow.RestartPath:
		s.restartPath(s.leg(e.Leg), e.Generation)
	case callflow.ConnectPath:
		s.leg(e.Leg).connectPath(e.Path)
	case callflow.CloseLeg:
		s.closeLeg(callflow.Leg(e))
	case callflow.LeaveMissed:
		s.leaveMissed(e)
	case callflow.Adopt:
		s.adopt(e)
	case callflow.Tell:
		s.tell(s.table[e.Call], e.Notice)
	case callflow.PeerMedia:
		s.table[e.Call].call.peerMedia(PeerState(e.Media))
	case callflow.Missed:
		s.missed(e)
	case callflow.End:
		s.end(s.table[e.Call], e.Reason, e.Cause)
	}
	return nil
}

// leg is what an effect names. The flow names none that is not there.
func (s *calls) leg(at callflow.Leg) *leg { return s.table[at.Call].legs[at.Device] }

// legOf is a leg of a call, or nil.
func (s *calls) legOf(id callflow.CallID, device uint8) *leg {
	if o := s.table[id]; o != nil {
		return o.legs[device]
	}
	return nil
}

// send fills in what keys and media sessions hold, and queues the message. That a hangup cannot be sent fails nothing more.
func (s *calls) send(e callflow.Send) error {
	l := s.legOf(e.Call, e.To.Device)
	m := &wire.CallMessage{CallId: e.Call[:]}
	switch body := e.Message.(type) {
	case callflow.Offer:
		m.Body = &wire.CallMessage_Offer{Offer: l.offer}
		s.table[e.Call].offered()
	case callflow.Ringing:
		m.Body = &wire.CallMessage_Ringing{Ringing: &wire.Ringing{}}
	case callflow.Answer:
		m.Body = &wire.CallMessage_Answer{Answer: l.answer}
	case callflow.Reveal:
		m.Body = &wire.CallMessage_Reveal{Reveal: &wire.Reveal{Verification: l.keys.Reveal()}}
	case callflow.Accept:
		m.Body = &wire.CallMessage_Accept{Accept: &wire.Accept{Verification: l.keys.Reveal()}}
	case callflow.Confirm:
		m.Body = &wire.CallMessage_Confirm{Confirm: &wire.Confirm{}}
	case callflow.Candidates:
		m.Body = &wire.CallMessage_Candidates{Candidates: &wire.Candidates{Candidates: body.List, Generation: body.Generation}}
	case callflow.MediaState:
		m.Body = &wire.CallMessage_MediaState{MediaState: &wire.MediaState{
			Sequence: body.Sequence, Muted: body.Muted, Held: body.Held, Video: body.Video, Screen: body.Screen,
		}}
	case callflow.Path:
		m.Body = &wire.CallMessage_Path{Path: &wire.Path{
			Generation: body.Generation, Ice: &wire.IceParameters{Ufrag: body.Ufrag, Password: body.Password},
		}}
	case callflow.Hangup:
		m.Body = &wire.CallMessage_Hangup{Hangup: &wire.Hangup{Reason: body.Reason}}
		if err := s.post(e.To, m, nil); err != nil {
			s.c.log.Warn("a hangup was not sent", "error", err)
		}
		return nil
	}
	return s.post(e.To, m, func(err error) {
		s.box.post(func() { s.step(callflow.Fault{Call: e.Call, Device: e.To.Device, Err: err}) })
	})
}

// post queues one step of a call. refused hears if the server will not carry it.
func (s *calls) post(to callflow.Address, m *wire.CallMessage, refused func(error)) error {
	content := s.c.newContent()
	content.Body = &wire.Content_Call{Call: m}
	return s.c.sendTo(uuid.UUID(to.Account), to.Device, content, outgoing{Expires: time.Now().Add(callLifetime), refused: refused})
}

// leaveMissed leaves a message that waits for devices that were away.
func (s *calls) leaveMissed(e callflow.LeaveMissed) {
	o := s.table[e.Call]
	for _, d := range o.peer.devices() {
		content := s.c.newContent()
		content.Body = &wire.Content_MissedCall{MissedCall: &wire.MissedCall{CallId: e.Call[:], Timestamp: o.at, Video: e.Video}}
		if err := s.c.sendTo(o.peer.Account, d.id, content, outgoing{ofCall: true}); err != nil {
			s.c.log.Warn("a missed call was not left", "error", err)
		}
	}
}

// missed tells the program of a call that nobody took here.
func (s *calls) missed(e callflow.Missed) {
	if err := s.c.showMissed(e); err != nil {
		s.c.log.Error("a missed call was not stored", "error", err)
	}
}

// adopt lets the call that the offer asks for be what the local user's program knows as its own.
func (s *calls) adopt(e callflow.Adopt) {
	own, o := s.table[e.Old], s.offer
	o.call, o.relayOnly, o.variable, o.allowed = own.call, own.relayOnly, own.variable, true
	o.call.mu.Lock()
	o.call.id, o.call.video = CallID(o.id), o.video
	o.call.mu.Unlock()
	s.remove(own)
	s.put(o)
	own.release(s)
	o.offered()
}

func (s *calls) tell(o *ongoing, notice callflow.Notice) {
	switch notice {
	case callflow.NoticeAlerting:
		o.call.emit(Ringing{})
	case callflow.NoticeAccepted:
		o.call.emit(Accepted{})
		s.awaitPath(o)
	case callflow.NoticeConnected:
		o.connected = true
		o.call.emit(Connected{o.chosen.session.Stats().Path.Kind})
	case callflow.NoticeReconnecting:
		o.call.emit(Interrupted{})
	case callflow.NoticeFirstMedia:
		o.call.emit(FirstMedia{})
	case callflow.NoticeUndecryptable:
		o.call.emit(MediaUndecryptable{Err: callflow.ErrUndecryptable})
	case callflow.NoticeDeaf:
		o.call.emit(MediaUndecryptable{Err: callflow.ErrUndecryptable, Deaf: true})
	case callflow.NoticeHeld:
		o.call.emit(Held{})
	case callflow.NoticeResumed:
		o.call.emit(Resumed{})
	}
}

func (call *Call) peerMedia(state PeerState) {
	call.mu.Lock()
	call.peerState = state
	call.mu.Unlock()
	call.emit(state)
}

// onMedia is what a media session reports.
func (s *calls) onMedia(l *leg, event media.Event) {
	if s.legOf(l.at.Call, l.at.Device) != l {
		return // it is being closed
	}
	switch event {
	case media.EventConnected, media.EventPathChanged:
		s.step(callflow.Connected(l.at))
	case media.EventStalled:
		s.step(callflow.Stalled(l.at))
	case media.EventInterrupted, media.EventFailed: // the flow decides when it gives up
		s.step(callflow.Interrupted(l.at))
	case media.EventFirstMedia:
		s.step(callflow.FirstMedia(l.at))
	case media.EventUndecryptable:
		s.step(callflow.Undecryptable(l.at))
	case media.EventPeerKeyChanged:
		s.step(callflow.KeyChanged(l.at))
	case media.EventQualityPoor, media.EventQualityGood:
		if o := s.table[l.at.Call]; o.chosen == l {
			o.call.emit(QualityChanged{event == media.EventQualityPoor})
		}
	}
}
