package media

import "time"

const (
	monitorInterval = 250 * time.Millisecond
	// A peer that sends nothing else sends a report every 500 ms. After two missing ones the path may be dead; it is called interrupted
	// much later, but another path is better looked for now.
	stallAfter  = time.Second
	stallRepeat = 5 * time.Second
)

// monitor looks at what nobody tells, until Close.
func (s *Session) monitor() {
	defer s.done.Done()
	ticker := time.NewTicker(monitorInterval)
	defer ticker.Stop()
	var stalled stall
	for {
		select {
		case <-s.ctx.Done():
			return
		case now := <-ticker.C:
			if heard := s.heardAt.Load(); heard != 0 && stalled.step(now.Sub(time.Unix(0, heard)), now) {
				s.emit(EventStalled)
			}
			if event := s.judge(now); event != 0 {
				s.emit(event)
			}
		}
	}
}

// stall tells when a silence is to be reported.
type stall struct{ reported time.Time }

func (t *stall) step(silence time.Duration, now time.Time) bool {
	if silence < stallAfter {
		t.reported = time.Time{}
		return false
	}
	if !t.reported.IsZero() && now.Sub(t.reported) < stallRepeat {
		return false
	}
	t.reported = now
	return true
}
