package client

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"sync"

	"sotto/client/callflow"
	"sotto/media"
)

// A CallID names a call on both ends.
type CallID [16]byte

func (id CallID) String() string { return hex.EncodeToString(id[:]) }

// MediaOptions are where a call's sound and pictures come from and go to. The functions are called when the callee has accepted and this
// end's user has said so, by Call or by Accept; never before. They may wait for the user as long as the call does: their context ends
// with it. Any of them may be nil. What they return is closed when the call ends, if it has a Close method, which must end a ReadFrame
// or WriteFrame that blocks; a device that does not close keeps no call from ending. While the call is muted or on hold what the
// microphone yields is dropped. The camera is closed whenever Call.ShowVideo turns it off, and opened anew when that turns it on; it
// stays closed in a call that was not announced with video.
type MediaOptions struct {
	Microphone   func(context.Context) (media.AudioSource, error)
	Camera       func(context.Context) (media.VideoSource, error)
	Speaker      func(context.Context) (media.AudioSink, error)
	Screen       func(context.Context) (media.VideoSink, error) // shows the other end's camera
	SharedScreen func(context.Context) (media.VideoSink, error) // shows the screen that the other end shares
}

// CallOptions say how to call.
type CallOptions struct {
	MediaOptions

	// Video announces that this call may show pictures, either way.
	Video bool
	// RelayOnly keeps this device's addresses from the callee, as Options.RelayOnly does for all calls.
	RelayOnly bool
	// VariableRate lets packets of sound be as large as the sound needs, as Options.VariableRate does
	// for all calls.
	VariableRate bool
}

// EndReason says why a call ended.
type EndReason = callflow.Reason

const (
	NotEnded          = callflow.NotEnded
	Normal            = callflow.Normal            // one of the two hung up
	Cancelled         = callflow.Cancelled         // the caller gave up before it was accepted
	Declined          = callflow.Declined          // the callee did not want it
	Busy              = callflow.Busy              // the callee is in another call
	Timeout           = callflow.Timeout           // nobody accepted it within a minute
	Elsewhere         = callflow.Elsewhere         // accepted on another device
	DeclinedElsewhere = callflow.DeclinedElsewhere // declined on another device
	Unreachable       = callflow.Unreachable       // none of the callee's devices is connected
	Lost              = callflow.Lost              // the connection was interrupted, and did not come back within 30 s
	Failed            = callflow.Failed            // keys, devices or the network failed: Call.Err says more
)

// A CallEvent is what Call.Events yields: one of the types below.
type CallEvent interface{ callEvent() }

// Ringing says that the callee's device rings.
type Ringing struct{}

// Accepted says that the callee has accepted, here or there: media begins.
type Accepted struct{}

// Connected says that a path between the devices was found, again after Interrupted, or another one.
type Connected struct {
	Path string // "direct" or "relay"
}

// NoPath says that the call was accepted a moment ago and there is no path between the devices yet.
// Connected follows, or within 30 s the call's end.
type NoPath struct {
	Relays []RelayFailure // those that cannot be used, and why
}

// FirstMedia says that the first authenticated packet of the peer's arrived; after MediaUndecryptable, that media can be decrypted again.
type FirstMedia struct{}

// Verified yields the code which both people can compare: equal on both ends, nobody sits in between.
type Verified struct {
	Code string // as "418 205"
}

// Interrupted says that nothing has arrived for some seconds; Connected or Ended follows.
type Interrupted struct{}

// MediaUndecryptable says that packets arrive which this call's keys do not open: somebody on the way tampers, or the other end uses other
// keys. Of some packets among others it says so once; Stats counts them. If the call is Deaf, FirstMedia follows, or within 30 s its end;
// if nothing was heard yet, that comes within 5 s.
type MediaUndecryptable struct {
	Err  error // in a sentence
	Deaf bool  // for two seconds nothing that arrived could be decrypted, of an end that was heard
}

// PeerState says what the other end sends now.
type PeerState struct {
	Muted  bool
	Held   bool // the call is silent both ways
	Video  bool
	Screen bool
}

// Held says that this end's user put the call on hold, if only by taking another one.
type Held struct{}

// Resumed says that this end's user took the call off hold.
type Resumed struct{}

// QualityChanged says that the connection has become poor, or good again; Stats tells more.
type QualityChanged struct {
	Poor bool
}

// DeviceFailed says that something the call sends from or plays to failed, or that the camera could not be opened when Call.ShowVideo
// asked for it. The call goes on without: a microphone can be replaced with Call.SetMicrophone, a camera opened anew with Call.ShowVideo.
type DeviceFailed struct {
	Device string // "microphone", "camera", "speaker", "display" of the other end's pictures, or "screen", which this end shares
	Err    error
}

// SourceEnded says that something the call sends from has no more: a file is over, a program has
// closed its pipe. After sound, silence is sent, until Call.SetMicrophone; pictures stand still, until
// Call.ShowVideo or Call.ShareScreen.
type SourceEnded struct {
	Device string // "microphone", "camera" or "screen"
}

// Ended is the last event of a call.
type Ended struct {
	Reason EndReason
	Err    error // with Failed, Lost and Unreachable: what happened, in a sentence
}

func (Ringing) callEvent()            {}
func (Accepted) callEvent()           {}
func (Connected) callEvent()          {}
func (NoPath) callEvent()             {}
func (FirstMedia) callEvent()         {}
func (Verified) callEvent()           {}
func (Interrupted) callEvent()        {}
func (MediaUndecryptable) callEvent() {}
func (PeerState) callEvent()          {}
func (Held) callEvent()               {}
func (Resumed) callEvent()            {}
func (QualityChanged) callEvent()     {}
func (DeviceFailed) callEvent()       {}
func (SourceEnded) callEvent()        {}
func (Ended) callEvent()              {}

const callEventBuffer = 64

// A Call is one call, going out or coming in. Its methods may be called by any goroutine.
type Call struct {
	calls    *calls
	peer     *contact
	incoming bool
	events   chan CallEvent
	done     chan struct{}
	ctx      context.Context // of what waits for devices
	cancel   context.CancelFunc
	offered  chan struct{} // has room for one: the offers have left
	opened   chan error    // likewise: what came of opening the devices

	mu        sync.Mutex
	id        CallID // another one from when both ends called at once
	video     bool
	accepted  bool // by Accept
	media     MediaOptions
	session   *media.Session // whose media was opened
	sending   bool           // it sends
	lowData   bool
	peerState PeerState
	code      string
	reason    EndReason
	err       error
}

// ID names the call, on both ends alike. It is another one once both ends turn out to have called at once: theirs is taken then.
func (call *Call) ID() CallID {
	call.mu.Lock()
	defer call.mu.Unlock()
	return call.id
}

// Peer is who is at the other end.
func (call *Call) Peer() Contact { return call.peer.public() }

// Incoming tells whether the other end called.
func (call *Call) Incoming() bool { return call.incoming }

// Video tells whether the call was announced as one with pictures.
func (call *Call) Video() bool {
	call.mu.Lock()
	defer call.mu.Unlock()
	return call.video
}

// Events tell what happens to the call. The channel is closed after Ended.
func (call *Call) Events() <-chan CallEvent { return call.events }

// Accept takes an incoming call: the other end is told, and what MediaOptions names is opened. It returns when that is done. Another
// call that is being had is put on hold.
func (call *Call) Accept(ctx context.Context, m MediaOptions) error {
	return call.accept(ctx, m, false)
}

// AcceptInstead is Accept for a call that waits: the other one is ended, not put on hold.
func (call *Call) AcceptInstead(ctx context.Context, m MediaOptions) error {
	return call.accept(ctx, m, true)
}

func (call *Call) accept(ctx context.Context, m MediaOptions, endOther bool) error {
	if !call.incoming {
		return errors.New("only an incoming call can be accepted")
	}
	call.mu.Lock()
	again, before := call.accepted, call.media
	if !again {
		call.accepted, call.media = true, m
	}
	call.mu.Unlock()
	if again {
		return errors.New("the call was accepted before")
	}
	err := call.do(func(id callflow.CallID) callflow.Event {
		return callflow.AcceptCall{Call: id, Camera: m.Camera != nil, EndOther: endOther}
	})
	if err != nil {
		call.mu.Lock()
		call.accepted, call.media = false, before // it may be asked again, when the other call has ended
		call.mu.Unlock()
		return err
	}
	select {
	case err := <-call.opened:
		return err
	case <-call.done:
		return call.ended()
	case <-ctx.Done():
		return errors.Join(ctx.Err(), call.Hangup())
	}
}

// Decline refuses an incoming call, also for the user's other devices.
func (call *Call) Decline() error { return call.Hangup() }

// Busy refuses an incoming call for this device alone. The user's other devices ring on; if there is none that takes it, it is a missed call.
func (call *Call) Busy() error {
	call.cancel()
	call.calls.box.post(func() { call.calls.step(callflow.BusyHere{Call: callflow.CallID(call.ID())}) })
	return nil
}

// Hangup ends the call, whatever its state, and does not wait: Done is closed when it has ended. The other end is told as soon as the
// server can be reached.
func (call *Call) Hangup() error {
	call.cancel()
	call.calls.box.post(func() { call.calls.step(callflow.HangUp{Call: callflow.CallID(call.ID())}) })
	return nil
}

// Mute puts silence in the place of what the microphone hears, or ends that. The other end is told; the network cannot tell.
func (call *Call) Mute(on bool) error {
	return call.do(func(id callflow.CallID) callflow.Event { return callflow.Mute{Call: id, On: on} })
}

// Hold puts the call on hold: nothing is sent or played at either end. Or resumes it, and puts a call that is being had meanwhile on
// hold: of two calls one is.
func (call *Call) Hold(on bool) error {
	return call.do(func(id callflow.CallID) callflow.Event { return callflow.Hold{Call: id, On: on} })
}

// ShowVideo opens the camera, or closes it, in a call that was announced with video. DeviceFailed tells if it cannot be opened.
func (call *Call) ShowVideo(on bool) error {
	call.mu.Lock()
	camera := call.media.Camera
	call.mu.Unlock()
	if on && camera == nil {
		return errors.New("this call was given no camera")
	}
	return call.do(func(id callflow.CallID) callflow.Event { return callflow.ShowVideo{Call: id, On: on} })
}

// ShareScreen shows a second source of pictures beside the camera, or another in its place; nil ends it. The call closes the source.
func (call *Call) ShareScreen(source media.VideoSource) error {
	session, err := call.sendingSession()
	if err == nil {
		err = call.do(func(id callflow.CallID) callflow.Event { return callflow.ShareScreen{Call: id, On: source != nil} })
	}
	if err != nil {
		closeUnused(source)
		return err
	}
	return session.SetScreen(source)
}

// SetMicrophone goes over to another source of sound, without a gap: for instance to the headset that was just plugged in. The call
// closes the one before, and this one at its end.
func (call *Call) SetMicrophone(source media.AudioSource) error {
	session, err := call.sendingSession()
	if err != nil {
		closeUnused(source)
		return err
	}
	return session.SetMicrophone(call.unending(source))
}

// SetLowData keeps what this end sends to 300 kb/s in all, or ends that.
func (call *Call) SetLowData(low bool) {
	call.mu.Lock()
	call.lowData = low
	session := call.session
	call.mu.Unlock()
	if session != nil {
		session.SetLowData(low)
	}
}

// PeerState is what the other end said last that it sends.
func (call *Call) PeerState() PeerState {
	call.mu.Lock()
	defer call.mu.Unlock()
	return call.peerState
}

// sendingSession is the media session, once its devices are open.
func (call *Call) sendingSession() (*media.Session, error) {
	call.mu.Lock()
	defer call.mu.Unlock()
	if !call.sending {
		return nil, errors.New("the call is not accepted yet")
	}
	return call.session, nil
}

func closeUnused(device any) {
	if closer, ok := device.(io.Closer); ok {
		_ = closer.Close() // nothing was read from it
	}
}

// do lets the flow decide about something that the local user wants.
func (call *Call) do(event func(callflow.CallID) callflow.Event) error {
	err := call.calls.do(func() error {
		id := callflow.CallID(call.ID())
		if call.calls.table[id] == nil {
			return ErrCallEnded
		}
		return call.calls.step(event(id))
	})
	if err == ErrCallEnded {
		<-call.done
		return call.ended()
	}
	return err
}

// ended is what to tell somebody who wanted something of a call that is over.
func (call *Call) ended() error {
	if err := call.Err(); err != nil {
		return err
	}
	return ErrCallEnded
}

// Done is closed when the call has ended.
func (call *Call) Done() <-chan struct{} { return call.done }

// End is why the call ended, or NotEnded.
func (call *Call) End() EndReason {
	call.mu.Lock()
	defer call.mu.Unlock()
	return call.reason
}

// Err is what failed, if the call ended as Failed, Lost or Unreachable; or the error of closing a sink, whose recording is not complete then.
func (call *Call) Err() error {
	call.mu.Lock()
	defer call.mu.Unlock()
	return call.err
}

// Stats tell how the media flows; also after the call has ended.
func (call *Call) Stats() media.Stats {
	call.mu.Lock()
	session := call.session
	call.mu.Unlock()
	if session == nil {
		return media.Stats{}
	}
	return session.Stats()
}

// VerificationCode is six digits, as "418 205", once both ends have agreed on them: equal on both, nobody sits in between.
func (call *Call) VerificationCode() (code string, ok bool) {
	call.mu.Lock()
	defer call.mu.Unlock()
	return call.code, call.code != ""
}

// emit keeps the last place for Ended. A program that does not listen misses events, not the call.
func (call *Call) emit(e CallEvent) {
	if _, last := e.(Ended); last || len(call.events) < cap(call.events)-1 {
		call.events <- e
	}
}
