package client

import (
	"context"
	"errors"
	"io"
	"time"

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
	err        error
}

// open opens the devices the local user has agreed to. That may ask the user first, so it happens beside the loop, to which the peer's
// hangup comes meanwhile. What is there when the call is over is closed again.
func (r *callRun) open() {
	r.session.Accepted()
	r.call.mu.Lock()
	m := *r.call.media
	r.call.mu.Unlock()
	if !r.call.video {
		m.Camera = nil
	}
	r.opening.Go(func() {
		d := openDevices(r.ctx, m)
		select {
		case r.devices <- d:
		case <-r.quit:
			d.close()
		}
	})
}

func openDevices(ctx context.Context, m MediaOptions) (d devices) {
	openDevice(ctx, m.Speaker, &d.speaker, &d.err)
	openDevice(ctx, m.Screen, &d.screen, &d.err)
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

// begin sends and plays from now on. What it returns is the next input, nil if there is none.
func (r *callRun) begin(d devices) input {
	err := d.err
	if err == nil {
		err = r.session.StartSending(d.microphone, d.camera)
	}
	if err != nil {
		d.close()
		r.opened <- err
		return inFault{err}
	}
	r.session.SetSinks(d.speaker, d.screen)
	r.sinks = closers(d.speaker, d.screen) // the session closes its sources
	r.opened <- nil
	return nil
}

// close closes devices of which nothing was read.
func (d devices) close() {
	for _, device := range closers(d.speaker, d.screen, d.microphone, d.camera) {
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

// release closes the media session and then the sinks, of which the session has let go by then. A sink that blocks holds the session:
// closing it must end that. What blocks even so is left behind: the call ends.
func (r *callRun) release() (err error) {
	released := make(chan struct{})
	go func() {
		defer close(released)
		if r.session != nil {
			_ = r.session.Close() // it closes whatever happens, and errors of sockets are of no use any more
		}
		r.opening.Wait()
	}()
	select {
	case <-released:
	case <-time.After(sessionPatience):
	}
	closed := make(chan error, len(r.sinks))
	for _, sink := range r.sinks {
		go func() { closed <- sink.Close() }()
	}
	late := time.After(devicePatience)
	for range r.sinks {
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
		r.c.log.Warn("a call ended before its media session was closed")
	}
	return err
}
