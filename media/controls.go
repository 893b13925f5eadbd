package media

import "errors"

var errNoStream = errors.New("this session did not announce such a stream")

// SetMuted puts silence in the place of what the microphone hears, from the moment it returns: packets of the same size go on, so that
// only the peer can tell.
func (s *Session) SetMuted(muted bool) {
	s.microphone.mu.Lock()
	defer s.microphone.mu.Unlock()
	s.microphone.muted = muted
}

// SetHeld stops sound and pictures in both directions: nothing is sent but reports and connectivity checks, nothing is played, and what
// the sources yield meanwhile is dropped. Whoever watches the network can tell. Pictures go on with the next key frame.
func (s *Session) SetHeld(held bool) {
	s.microphone.mu.Lock()
	s.microphone.held = held
	s.microphone.mu.Unlock()
	s.audio.setHeld(held)
	for _, sender := range []*videoSender{s.camera, s.screen} {
		sender.held.Store(held)
	}
	for _, receiver := range []*videoReceiver{s.video, s.screenIn} {
		receiver.setHeld(held)
	}
}

// SetMicrophone goes over to another source of sound without a gap, and closes the one before; with nil nothing is sent (Silence keeps
// the packets going). The source belongs to the session from here on, which closes it also if this fails.
func (s *Session) SetMicrophone(source AudioSource) error {
	return exchange(s, source, nil, s.microphone.begin)
}

// SetCamera turns the camera on, exchanges or with nil closes it, like SetMicrophone. The session must have announced video.
func (s *Session) SetCamera(source VideoSource) error {
	return exchange(s, source, announced(s.cfg.Video), s.camera.begin)
}

// SetScreen does the same for the second video stream.
func (s *Session) SetScreen(source VideoSource) error {
	return exchange(s, source, announced(s.cfg.Screen), s.screen.begin)
}

func announced(yes bool) error {
	if !yes {
		return errNoStream
	}
	return nil
}

func exchange[T any](s *Session, source T, err error, begin func(T) T) error {
	s.mu.Lock()
	unused := source
	switch {
	case err != nil:
	case s.state != sending:
		err = errNotStarted
	default:
		unused = begin(source)
	}
	s.mu.Unlock()
	closeSource(unused)
	return err
}

// SetScreenSink shows the peer's second video stream, as SetSinks does the first.
func (s *Session) SetScreenSink(sink VideoSink) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != closed {
		s.accept()
		s.screenIn.setSink(sink)
	}
}

// SetLowData keeps what this end sends to 300 kb/s in all: sound takes half the bits, a video source is asked for less if it has a
// SetBitrate method, and frames that do not fit are dropped up to a key frame.
func (s *Session) SetLowData(low bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lowData.Store(low)
	for _, v := range []*videoSender{s.camera, s.screen} {
		if source := v.source.now(); source != nil {
			v.tell(source)
		}
	}
}
