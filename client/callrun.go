package client

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"sotto/e2ee/callkey"
	"sotto/media"
	"sotto/wire"
)

const (
	callInputs     = 64
	candidateBatch = 5 * time.Millisecond // candidates found within become one message
	maxEarly       = 64                   // candidates of the peer's that cannot be used yet
)

var errFlooded = errors.New("the other end sent more messages than a call has")

// callRun carries out what callState decides. One goroutine, loop, owns it from beginning to end; the channels are for others.
type callRun struct {
	c    *Client
	call *Call
	ctx  context.Context // ends with the call, or with a local hangup

	inputs     chan input
	faults     chan error       // what makes the call fail from outside the loop; the first one counts
	candidates chan string      // found here
	mediaEvent chan media.Event // of the session
	opening    sync.WaitGroup   // of devices, beside the loop
	devices    chan devices     // what came of it
	opened     chan error       // the same, for Accept
	quit       chan struct{}    // nobody reads any more

	relayOnly         bool // no address of this device's may show
	allowed           bool // the local user has accepted
	session           *media.Session
	caller            *callkey.Caller
	callee            *callkey.Callee
	keys              *callkey.Keys
	offer, answer     []byte // exactly as sent
	remoteDescription media.Description
	early             []string    // of the peer's candidates
	sinks             []io.Closer // to be closed with the call
}

func newCallRun(c *Client, call *Call, ctx context.Context) *callRun {
	return &callRun{
		c: c, call: call, ctx: ctx,
		inputs: make(chan input, callInputs), faults: make(chan error, 1),
		candidates: make(chan string, callInputs), mediaEvent: make(chan media.Event, callInputs),
		devices: make(chan devices), opened: make(chan error, 1), quit: make(chan struct{}),
	}
}

// post hands an input of the local user's to the loop.
func (r *callRun) post(in input) {
	select {
	case r.inputs <- in:
	case <-r.quit:
	}
}

// peer hands an input of the peer's to the loop. It must not wait: everything that arrives for this device passes here. Of a peer that
// sends more than the loop can take, candidates are dropped, early enough to leave room for the rest; if there is none, the call fails.
func (r *callRun) peer(in input) {
	if _, spare := in.(inCandidates); spare && len(r.inputs) >= callInputs/2 {
		return
	}
	select {
	case r.inputs <- in:
	default:
		r.fault(errFlooded)
	}
}

// fault lets the call fail. It must not wait either. It also hears of an envelope that the server does not carry.
func (r *callRun) fault(err error) {
	select {
	case r.faults <- err:
	default:
	}
}

// remote turns a message of the peer's into an input.
func (r *callRun) remote(m *wire.CallMessage) {
	switch body := m.GetBody().(type) {
	case *wire.CallMessage_Ringing:
		r.peer(inRinging{})
	case *wire.CallMessage_Answer:
		r.peer(inAnswer{body.Answer})
	case *wire.CallMessage_Accept:
		r.peer(inAccept{body.Accept.GetVerification()})
	case *wire.CallMessage_Candidates:
		r.peer(inCandidates{body.Candidates.GetCandidates()})
	case *wire.CallMessage_Reveal:
		r.peer(inReveal{body.Reveal.GetVerification()})
	case *wire.CallMessage_Hangup:
		r.peer(inHangup{body.Hangup.GetReason()})
	}
}

// loop is the call's goroutine.
func (r *callRun) loop(state callState, effects []effect) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		for len(effects) > 0 {
			in := r.perform(effects)
			effects = nil
			if in != nil {
				state, effects = state.step(in, time.Now())
			}
		}
		if state.phase == ended {
			return
		}
		if next := state.next(); next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(next))
		}
		var in input
		select {
		case in = <-r.inputs:
		case err := <-r.faults:
			in = inFault{err}
		case candidate := <-r.candidates:
			in = inLocalCandidates{r.gather(candidate)}
		case event := <-r.mediaEvent:
			in = r.fromMedia(event)
		case d := <-r.devices:
			in = r.begin(d)
		case <-timer.C:
			in = inTick{}
		}
		state, effects = state.step(in, time.Now())
	}
}

// gather waits a moment for more candidates: each message costs an envelope.
func (r *callRun) gather(first string) []string {
	batch := []string{first}
	timer := time.NewTimer(candidateBatch)
	defer timer.Stop()
	for len(batch) < maxCandidates {
		select {
		case candidate := <-r.candidates:
			batch = append(batch, candidate)
		case <-timer.C:
			return batch
		}
	}
	return batch
}

func (r *callRun) fromMedia(event media.Event) input {
	switch event {
	case media.EventConnected:
		return inConnected{r.session.Stats().Path.Kind}
	case media.EventInterrupted:
		return inInterrupted{}
	case media.EventFirstMedia:
		return inFirstMedia{}
	case media.EventUndecryptable:
		return inUndecryptable{}
	case media.EventFailed:
		return inMediaFailed{<-r.session.Failed()}
	}
	return nil
}

// perform carries out effects in order. What it returns is the next input, nil if there is none.
func (r *callRun) perform(effects []effect) input {
	for _, e := range effects {
		var err error
		switch e := e.(type) {
		case effSendOffer:
			err = r.send(&wire.CallMessage{Body: &wire.CallMessage_Offer{Offer: r.offer}})
		case effSendRinging:
			err = r.send(&wire.CallMessage{Body: &wire.CallMessage_Ringing{Ringing: &wire.Ringing{}}})
		case effSendAnswer:
			err = r.send(&wire.CallMessage{Body: &wire.CallMessage_Answer{Answer: r.answer}})
		case effSendReveal:
			err = r.send(&wire.CallMessage{Body: &wire.CallMessage_Reveal{Reveal: &wire.Reveal{Verification: r.keys.Reveal()}}})
		case effSendCandidates:
			err = r.send(&wire.CallMessage{Body: &wire.CallMessage_Candidates{Candidates: &wire.Candidates{Candidates: e.candidates}}})
		case effSendAccept:
			err = r.send(&wire.CallMessage{Body: &wire.CallMessage_Accept{Accept: &wire.Accept{Verification: r.keys.Reveal()}}})
		case effSendHangup:
			if err := r.send(&wire.CallMessage{Body: &wire.CallMessage_Hangup{Hangup: &wire.Hangup{Reason: e.reason}}}); err != nil {
				r.c.log.Warn("a hangup was not sent", "error", err)
			}
		case effPrepare:
			ready, err := r.prepare()
			switch {
			case err != nil:
				return inFault{err}
			case !ready:
				return inNoRelay{}
			}
			return inPrepared{}
		case effGather:
			err = r.session.GatherCandidates()
		case effConnect:
			err = r.connect(e.answer)
		case effAddCandidates:
			r.addCandidates(e.candidates)
		case effAllowAddresses:
			r.allowed = true
			early := r.early
			r.early = nil
			r.addCandidates(early)
		case effVerify:
			err = r.verify(e.verification)
		case effOpen:
			r.open()
		case effEmit:
			r.call.emit(e.event)
		case effEnd:
			r.end(e.reason, e.err)
		}
		if err != nil {
			return inFault{err}
		}
	}
	return nil
}

func (r *callRun) send(m *wire.CallMessage) error {
	m.CallId = r.call.id[:]
	return r.c.sendCall(r.call.peer, m, r.fault)
}
