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

// put exchanges the source and closes the one before, which ends a ReadFrame that blocks.
func (s *slot[T]) put(source T, filled bool) {
	s.mu.Lock()
	before := s.source
	if s.closed {
		before = source
	} else {
		s.source, s.filled = source, filled
	}
	s.turn++
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
	s.mu.Unlock()
	closeSource(before)
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

// ended takes a source out that has no more, and reports whether it was still the one.
func (s *slot[T]) ended(turn int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.turn != turn || !s.filled {
		return false
	}
	s.empty()
	return true
}

// close closes the source, and every one that is put later.
func (s *slot[T]) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.empty()
}

func (s *slot[T]) empty() {
	var none T
	closeSource(s.source)
	s.source, s.filled = none, false
}

func closeSource(source any) {
	if closer, ok := source.(io.Closer); ok {
		_ = closer.Close() // it may have been closed by its owner
	}
}
