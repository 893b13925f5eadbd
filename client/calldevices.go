package client

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"time"

	"sotto/client/callflow"
	"sotto/media"
)

// How long a call that ends waits, first for the media session, then for devices that do not stop by themselves.
const (
	sessionPatience = time.Second
	devicePatience  = 3 * time.Second
)

var errDeviceStuck = errors.New("a device did not close in time; what it recorded may not be complete")

// devices are what MediaOptions opened for one call, or why that failed.
type devices struct {
	microphone media.AudioSource
	camera     media.VideoSource
	speaker    media.AudioSink
	screen     media.VideoSink
	shared     media.VideoSink
	err        error
}

// open opens the devices the local user has agreed to. That may ask the user first, so it happens beside the loop, to which the peer's
// hangup comes meanwhile; and calls that have just ended may have to let go of theirs. What is there when the call is over is closed again.
func (s *calls) open(l *leg, flow callflow.Flow) {
	o := l.o
	o.chosen, o.flow = l, flow
	l.session.Accepted()
	s.keepRelays(l)
	o.call.mu.Lock()
	m := o.call.media
	o.call.session = l.session
	l.session.SetLowData(o.call.lowData)
	o.call.mu.Unlock()
	if !flow.Camera {
		m.Camera = nil
	}
	if !o.video {
		m.Screen, m.SharedScreen = nil, nil
	}
	s.releasing = slices.DeleteFunc(s.releasing, over)
	before := slices.Clone(s.releasing)
	o.opening.Go(func() {
		for _, release := range before {
			select {
			case <-release:
			case <-o.call.ctx.Done():
			}
		}
		d := openDevices(o.call.ctx, m)
		if !s.box.post(func() { s.begin(o, d) }) {
			d.close()
		}
	})
}

func over(done chan struct{}) bool {
	select {
	case <-done:
		return true
	default:
		return false
	}
}

func openDevices(ctx context.Context, m MediaOptions) (d devices) {
	openDevice(ctx, m.Speaker, &d.speaker, &d.err)
	openDevice(ctx, m.Screen, &d.screen, &d.err)
	openDevice(ctx, m.SharedScreen, &d.shared, &d.err)
	openDevice(ctx, m.Microphone, &d.microphone, &d.err)
	openDevice(ctx, m.Camera, &d.camera, &d.err)
	return d
}

// openDevice opens one, unless one before it failed or the call is over. It is the only place that calls these functions.
func openDevice[D any](ctx context.Context, open func(context.Context) (D, error), device *D, err *error) {
	if *err == nil {
		*err = ctx.Err()
	}
	if *err != nil || open == nil {
		return
	}
	opened, failed := open(ctx)
	if failed != nil {
		*err = failed
		return
	}
	*device = opened
}

// begin sends and plays from now on.
func (s *calls) begin(o *ongoing, d devices) {
	if s.table[o.id] != o {
		go d.close() // which may block
		return
	}
	session := o.chosen.session
	err := d.err
	d.microphone = o.call.unending(d.microphone)
	if err == nil {
		session.SetMuted(!o.flow.Microphone)
		session.SetHeld(!o.flow.Play)
		err = session.StartSending(d.microphone, d.camera)
	}
	if err != nil {
		go d.close()
		o.call.opened <- err
		s.step(callflow.Fault{Call: o.id, Device: o.chosen.at.Device, Err: err})
		return
	}
	session.SetSinks(d.speaker, d.screen)
	session.SetScreenSink(d.shared)                  // nil: what comes is dropped
	o.sinks = closers(d.speaker, d.screen, d.shared) // the session closes its sources
	o.sending, o.cameraOn = true, d.camera != nil
	o.call.mu.Lock()
	o.call.sending = true
	o.call.mu.Unlock()
	s.setFlow(o, o.flow)
	o.call.opened <- nil
}

// setFlow stops and starts what is sent and played.
func (s *calls) setFlow(o *ongoing, flow callflow.Flow) {
	o.flow = flow
	if !o.sending {
		return
	}
	o.chosen.session.SetMuted(!flow.Microphone) // before a hold ends
	o.chosen.session.SetHeld(!flow.Play)
	s.turnCamera(o)
}

// turnCamera opens the camera, or closes it, as the flow says, during a hold as well; beside the loop, one after the other.
func (s *calls) turnCamera(o *ongoing) {
	on := o.flow.Camera
	if o.cameraBusy || on == o.cameraOn {
		return
	}
	o.cameraBusy = true
	o.call.mu.Lock()
	open := o.call.media.Camera
	o.call.mu.Unlock()
	session := o.chosen.session
	o.opening.Go(func() {
		var camera media.VideoSource
		var err error
		if on {
			openDevice(o.call.ctx, open, &camera, &err)
		}
		if err == nil {
			err = session.SetCamera(camera)
		}
		s.box.post(func() {
			if s.table[o.id] != o {
				return // the session closes what it has
			}
			o.cameraBusy = false
			if on && err != nil {
				s.lostDevice(o, "camera", err)
				return
			}
			o.cameraOn = on
			s.turnCamera(o)
		})
	})
}

// onDeviceFailed hears of a media session that one of its devices failed.
func (s *calls) onDeviceFailed(l *leg, device string, err error) {
	if o := s.table[l.at.Call]; o != nil && o.chosen == l {
		s.lostDevice(o, device, err)
	}
}

// An unending source goes on with silence: the network would see that there is nothing more to hear.
type unending struct {
	media.AudioSource
	ended func() // once
}

func (call *Call) unending(source media.AudioSource) media.AudioSource {
	if source == nil {
		return nil
	}
	return &unending{source, func() { call.calls.onSourceEnded(call, "microphone") }}
}

func (u *unending) ReadFrame(pcm []int16) error {
	if u.ended == nil {
		clear(pcm)
		return nil
	}
	err := u.AudioSource.ReadFrame(pcm)
	if errors.Is(err, io.EOF) {
		clear(pcm)
		u.ended()
		u.ended, err = nil, nil
	}
	return err
}

// Close closes what is wrapped.
func (u *unending) Close() error {
	if closer, ok := u.AudioSource.(io.Closer); ok {
		return closer.Close()
	}
	return nil
}

// onSourceEnded tells the program that a file is over, if the call is not.
func (s *calls) onSourceEnded(call *Call, device string) {
	s.box.post(func() {
		for _, o := range s.table {
			if o.call == call {
				call.emit(SourceEnded{device})
			}
		}
	})
}

// lostDevice tells the user that the call goes on without a device, and the other end if it showed pictures.
func (s *calls) lostDevice(o *ongoing, device string, err error) {
	o.call.emit(DeviceFailed{device, err})
	switch device {
	case "camera":
		s.step(callflow.ShowVideo{Call: o.id})
	case "screen":
		s.step(callflow.ShareScreen{Call: o.id})
	}
}

// close closes devices of which nothing was read.
func (d devices) close() {
	for _, device := range closers(d.speaker, d.screen, d.shared, d.microphone, d.camera) {
		_ = device.Close()
	}
}

func closers(devices ...any) (closers []io.Closer) {
	for _, device := range devices {
		if closer, ok := device.(io.Closer); ok {
			closers = append(closers, closer)
		}
	}
	return closers
}

// end lets go of everything, beside the loop.
func (s *calls) end(o *ongoing, reason EndReason, cause error) {
	s.remove(o)
	o.call.cancel()
	released := make(chan struct{})
	s.releasing = append(slices.DeleteFunc(s.releasing, over), released)
	s.running.Go(func() {
		defer close(released)
		if closing := o.letGo(s.c.log); closing != nil && cause == nil {
			cause = closing // a recording that could not be finished is worth telling
		}
		call := o.call
		call.mu.Lock()
		call.reason, call.err, call.sending = reason, cause, false
		call.mu.Unlock()
		call.emit(Ended{reason, cause})
		close(call.events)
		close(call.done)
	})
}

// letGo closes the media sessions and then the sinks, of which the sessions have let go by then. A sink that blocks holds its session:
// closing it must end that. What blocks even so is left behind: the call ends.
func (o *ongoing) letGo(log *slog.Logger) (err error) {
	released := make(chan struct{})
	go func() {
		defer close(released)
		for _, l := range o.legs {
			l.close()
		}
		o.opening.Wait()
	}()
	select {
	case <-released:
	case <-time.After(sessionPatience):
	}
	closed := make(chan error, len(o.sinks))
	for _, sink := range o.sinks {
		go func() { closed <- sink.Close() }()
	}
	late := time.After(devicePatience)
	for range o.sinks {
		select {
		case closing := <-closed:
			err = errors.Join(err, closing)
		case <-late:
			return errors.Join(err, errDeviceStuck)
		}
	}
	select {
	case <-released:
	case <-late:
		log.Warn("a call ended before its media session was closed")
	}
	return err
}
