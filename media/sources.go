package media

import (
	"context"
	"io"
	"sync"
)

// Silence is an AudioSource for an end that has no microphone open: its packets look like any others.
type Silence struct{}

func (Silence) ReadFrame(pcm []int16) error {
	clear(pcm)
	return nil
}

// A slot holds a source that can be exchanged while it is read. There is one reader.
type slot[T any] struct {
	mu      sync.Mutex
	source  T
	turn    int           // counts the exchanges, so that sources need not be compared
	filled  bool          // there is a source
	changed chan struct{} // closed at the next exchange
	closed  bool
}

// put exchanges the source and returns the one that is to be closed, which ends a ReadFrame that blocks. A device may take its time to
// close, or never do, so no lock of the session's may be held then.
func (s *slot[T]) put(source T, filled bool) (unused T) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.turn++
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
	if s.closed {
		return source
	}
	unused, s.source, s.filled = s.source, source, filled
	return unused
}

// take waits for a source. It reports false when the context ends.
func (s *slot[T]) take(ctx context.Context) (source T, turn int, ok bool) {
	for ctx.Err() == nil {
		s.mu.Lock()
		if s.filled {
			defer s.mu.Unlock()
			return s.source, s.turn, true
		}
		if s.changed == nil {
			s.changed = make(chan struct{})
		}
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
	return source, 0, false
}

// now is the source there is, or none.
func (s *slot[T]) now() T {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.source
}

// ended takes out a source that has no more, to be closed, and reports whether it was still the one.
func (s *slot[T]) ended(turn int) (last T, was bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.turn != turn || !s.filled {
		return last, false
	}
	return s.empty(), true
}

// close closes the source. No other is taken from now on.
func (s *slot[T]) close() {
	s.mu.Lock()
	s.closed = true
	last := s.empty()
	s.mu.Unlock()
	closeSource(last)
}

func (s *slot[T]) empty() (last T) {
	var none T
	last, s.source, s.filled = s.source, none, false
	return last
}

func closeSource(source any) {
	if closer, ok := source.(io.Closer); ok {
		_ = closer.Close() // it may have been closed by its owner
	}
}
