package media

import (
	"sync"
	"time"
)

// Quality is how good the connection is, of both directions the worse.
type Quality struct {
	Poor      bool
	Loss      float64       // share of packets, before repair
	RoundTrip time.Duration // 0: unknown
	Jitter    time.Duration
}

// It takes a while of bad figures to call a connection poor, and a longer one of better figures to call it good again, so that it does
// not change with every gust. From 400 ms on people begin to talk at the same time (ITU-T G.114).
const (
	poorLoss, goodLoss           = 0.05, 0.02
	poorRoundTrip, goodRoundTrip = 400 * time.Millisecond, 300 * time.Millisecond
	poorJitter, goodJitter       = 60 * time.Millisecond, 30 * time.Millisecond
	poorAfter, goodAfter         = 2 * time.Second, 5 * time.Second

	lossWindow = 8 // measurements, 2 s
)

// qualityWatch judges measurements, a plain function of what it is told and when.
type qualityWatch struct {
	mu      sync.Mutex
	quality Quality
	since   time.Time // the figures have spoken for a change; zero if they do not
	counts  [lossWindow][2]uint64
	next    int
}

// received takes the counts of packets since the beginning and returns the share that was lost lately.
func (q *qualityWatch) received(arrived, lost uint64) float64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	before := q.counts[q.next]
	q.counts[q.next] = [2]uint64{arrived, lost}
	q.next = (q.next + 1) % lossWindow
	arrived -= min(arrived, before[0])
	lost -= min(lost, before[1]) // what was missing may have come since
	if arrived+lost == 0 {
		return 0
	}
	return float64(lost) / float64(arrived+lost)
}

// step takes a measurement and returns what is to be reported, 0 if nothing.
func (q *qualityWatch) step(loss float64, roundTrip, jitter time.Duration, now time.Time) Event {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.quality.Loss, q.quality.RoundTrip, q.quality.Jitter = loss, roundTrip, jitter
	change, after := loss > poorLoss || roundTrip > poorRoundTrip || jitter > poorJitter, poorAfter
	if q.quality.Poor {
		change, after = loss < goodLoss && roundTrip < goodRoundTrip && jitter < goodJitter, goodAfter
	}
	switch {
	case !change:
		q.since = time.Time{}
	case q.since.IsZero():
		q.since = now
	case now.Sub(q.since) >= after:
		q.since, q.quality.Poor = time.Time{}, !q.quality.Poor
		if q.quality.Poor {
			return EventQualityPoor
		}
		return EventQualityGood
	}
	return 0
}

func (q *qualityWatch) now() Quality {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.quality
}

// judge measures the connection.
func (s *Session) judge(now time.Time) Event {
	stats := s.Stats()
	var arrived, lost uint64
	remote := 0.0
	for _, stream := range []StreamStats{stats.Audio, stats.Video, stats.Screen} {
		arrived, lost = arrived+stream.PacketsReceived, lost+stream.PacketsLost
		remote = max(remote, stream.RemoteFraction)
	}
	loss := max(remote, s.quality.received(arrived, lost))
	return s.quality.step(loss, stats.RoundTrip, max(stats.Audio.Jitter, stats.Audio.RemoteJitter), now)
}
