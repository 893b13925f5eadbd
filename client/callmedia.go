package client

import (
	"errors"
	"strings"

	"google.golang.org/protobuf/proto"

	"sotto/e2ee/callkey"
	"sotto/media"
	"sotto/wire"
)

// makeSession makes this end's media session.
func (r *callRun) makeSession(relays []media.Relay, controlling bool) error {
	if r.relayOnly && len(relays) == 0 {
		return errors.New("this call may use relays only, but the server offers none")
	}
	session, err := media.NewSession(media.Config{
		Controlling: controlling, Relays: relays, RelayOnly: r.relayOnly, Loopback: r.c.options.Loopback && !r.relayOnly,
		Video: r.call.video, Log: r.c.log,
		InterruptedAfter: r.c.timing.interrupted, FailAfter: r.c.timing.failed,
		OnCandidate: r.onCandidate,
		OnEvent: func(event media.Event) {
			select {
			case r.mediaEvent <- event:
			case <-r.quit:
			}
		},
	})
	if err != nil {
		return err
	}
	r.session = session
	r.call.mu.Lock()
	r.call.session = session
	r.call.mu.Unlock()
	return nil
}

// onCandidate takes a candidate of this end's. The session of a relay-only call finds none but the relay's; that no other leaves is
// made sure of here again.
func (r *callRun) onCandidate(candidate string) {
	if r.relayOnly && !isRelay(candidate) {
		r.c.log.Error("a candidate other than the relay's was kept back from a relay-only call")
		return
	}
	select {
	case r.candidates <- candidate:
	case <-r.quit:
	}
}

// isRelay reads the type of a candidate (RFC 8839 section 5.1): foundation, component, transport, priority, address, port, "typ", type.
func isRelay(candidate string) bool {
	fields := strings.Fields(candidate)
	return len(fields) >= 8 && fields[6] == "typ" && fields[7] == "relay"
}

func (r *callRun) makeOffer() (err error) {
	if r.caller, err = callkey.NewCaller(); err != nil {
		return err
	}
	offer := &wire.Offer{Timestamp: timestamp(r.c.now())}
	offer.Ice, offer.Streams = toWire(r.session.Local())
	r.caller.Fill(offer)
	r.offer, err = proto.Marshal(offer)
	return err
}

// prepare makes the callee's session and answer. Not ready means that it would show this device's address to somebody who is no
// accepted contact, for want of a relay: then it has to wait for the local user's accept.
func (r *callRun) prepare() (ready bool, err error) {
	relays := r.c.fetchRelays(r.ctx)
	stranger := !r.call.peer.Accepted && !r.allowed
	if stranger && len(relays) == 0 && !r.relayOnly {
		return false, nil
	}
	r.relayOnly = r.relayOnly || stranger
	if err := r.makeSession(relays, false); err != nil {
		return false, err
	}
	answer := new(wire.Answer)
	answer.Ice, answer.Streams = toWire(r.session.Local())
	r.callee.Fill(answer)
	if r.answer, err = proto.Marshal(answer); err != nil {
		return false, err
	}
	early := r.early
	r.early = nil
	r.addCandidates(early)
	return true, nil
}

// connect derives the keys, from the bytes as they were sent, and starts the connectivity checks.
func (r *callRun) connect(answer []byte) (err error) {
	us := callkey.Party{Account: r.c.account.Account, Device: r.c.account.Device, Identity: [33]byte(r.c.identity.Public().Bytes())}
	them := callkey.Party{Account: r.call.peer.Account, Device: device, Identity: [33]byte(r.call.peer.Identity)}
	if r.call.incoming {
		r.keys, err = r.callee.Keys(callkey.Call{ID: r.call.id, Caller: them, Callee: us}, r.answer)
	} else {
		if r.remoteDescription, err = parseAnswer(answer); err != nil {
			return err
		}
		r.keys, err = r.caller.Keys(callkey.Call{ID: r.call.id, Caller: us, Callee: them}, r.offer, answer)
	}
	if err != nil {
		return err
	}
	send, err := r.keys.Send.Next()
	if err != nil {
		return err
	}
	receive, err := r.keys.Receive.Next()
	if err != nil {
		return err
	}
	var keys media.Keys
	if keys.SendKey, keys.SendSalt, err = send.SRTP(); err != nil {
		return err
	}
	if keys.ReceiveKey, keys.ReceiveSalt, err = receive.SRTP(); err != nil {
		return err
	}
	keys.NextSend, keys.NextReceive = r.keys.Send.NextSRTP, r.keys.Receive.NextSRTP
	return r.session.Connect(r.remoteDescription, keys)
}

// addCandidates gives the peer's candidates to the session. Before there is one they wait, and before the local user has accepted a
// call of somebody who is no contact, only a relay's are used.
func (r *callRun) addCandidates(candidates []string) {
	stranger := r.call.incoming && !r.call.peer.Accepted && !r.allowed
	for _, candidate := range candidates {
		if r.session == nil || stranger && !isRelay(candidate) {
			if len(r.early) < maxEarly {
				r.early = append(r.early, candidate)
			}
			continue
		}
		if r.session.AddRemoteCandidate(candidate) != nil { // whose text might hold an address
			r.c.log.Debug("a candidate of the peer's cannot be used")
		}
	}
}

// verify shows the verification code, if the part the peer revealed is the one it had committed to.
func (r *callRun) verify(verification []byte) error {
	code, err := r.keys.VerificationCode(verification)
	if err != nil {
		return err
	}
	r.call.mu.Lock()
	r.call.code = code
	r.call.mu.Unlock()
	r.call.emit(Verified{code})
	return nil
}

// end lets go of everything.
func (r *callRun) end(reason EndReason, err error) {
	close(r.quit)
	r.call.cancel()
	if closing := r.release(); closing != nil && err == nil {
		err = closing // a recording that could not be finished is worth telling
	}
	if r.caller != nil {
		r.caller.Erase()
	}
	if r.callee != nil {
		r.callee.Erase()
	}
	if r.keys != nil {
		r.keys.Erase()
	}
	r.call.mu.Lock()
	r.call.reason, r.call.err = reason, err
	r.call.mu.Unlock()
	r.c.calls.end(r.call)
	r.call.emit(Ended{reason, err})
	close(r.call.events)
	close(r.call.done)
}
