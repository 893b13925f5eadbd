package rtpchain

import (
	"time"

	"github.com/pion/rtcp"
)

// Reception is what the peer's last report says of a stream of ours (RFC 3550 section 6.4).
type Reception struct {
	Lost      int64         // packets, since the beginning
	Fraction  float64       // lost, of those sent between the last two reports
	Jitter    uint32        // in units of the stream's clock
	RoundTrip time.Duration // from our report to theirs; 0 if unknown
}

// RemoteStats counts one stream of the peer.
type RemoteStats struct {
	Packets  uint64 // arrived, without retransmissions
	Bytes    uint64 // of payload, with retransmissions
	Lost     uint64 // never arrived, or only by retransmission
	Repaired uint64 // of the lost, by retransmission
	Nacked   uint64 // requests sent, counting each number each time
	Jitter   time.Duration
}

// Remote counts what was received of a stream.
func (c *Chain) Remote(ssrc uint32) RemoteStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.remotes[ssrc]
	if r == nil {
		return RemoteStats{}
	}
	stats := RemoteStats{Packets: r.arrived, Bytes: r.bytes, Repaired: r.repaired, Nacked: r.nacked, Jitter: r.jitter.value()}
	if expected := r.tracker.expected(); expected > r.arrived {
		stats.Lost = expected - r.arrived
	}
	return stats
}

// Reception is the peer's view of a stream of ours.
func (c *Chain) Reception(ssrc uint32) Reception {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.reports[ssrc]
}

// FeedbackStats counts requests that crossed.
type FeedbackStats struct {
	NacksReceived, Retransmitted uint64
	PLIsSent, PLIsReceived       uint64
}

// Feedback counts them for all streams.
func (c *Chain) Feedback() FeedbackStats {
	return FeedbackStats{
		NacksReceived: c.nacksReceived.Load(), Retransmitted: c.retransmitted.Load(),
		PLIsSent: c.plisSent.Load(), PLIsReceived: c.plisReceived.Load(),
	}
}

func (c *Chain) noteReports(reports []rtcp.ReceptionReport, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, report := range reports {
		if _, ok := c.reports[report.SSRC]; !ok {
			continue // no stream of ours
		}
		lost := int64(report.TotalLost)
		if lost&(1<<23) != 0 { // a signed 24-bit number
			lost -= 1 << 24
		}
		note := Reception{Lost: lost, Fraction: float64(report.FractionLost) / 256, Jitter: report.Jitter}
		if report.LastSenderReport != 0 {
			elapsed := middleNTP(now) - report.LastSenderReport - report.Delay
			if elapsed < 1<<20 { // 16 s; more is a clock that was set
				note.RoundTrip = time.Duration(elapsed) * time.Second / (1 << 16)
			}
		}
		c.reports[report.SSRC] = note
	}
}

// middleNTP is the middle 32 bits of an NTP time stamp: 16.16 seconds (RFC 3550 section 4).
func middleNTP(t time.Time) uint32 {
	const since1900 = 2208988800
	seconds := uint64(t.Unix()) + since1900
	fraction := uint64(t.Nanosecond()) << 16 / uint64(time.Second)
	return uint32(seconds<<16 | fraction)
}

// jitter is the interarrival jitter of RFC 3550 section 6.4.1.
type jitter struct {
	clockRate uint32
	started   bool
	timestamp uint32
	arrival   time.Time
	estimate  float64 // seconds
}

func (j *jitter) arrived(timestamp uint32, now time.Time) {
	if j.started && timestamp != j.timestamp { // packets of one video frame leave together
		sent := float64(int32(timestamp-j.timestamp)) / float64(j.clockRate)
		difference := now.Sub(j.arrival).Seconds() - sent
		if difference < 0 {
			difference = -difference
		}
		j.estimate += (difference - j.estimate) / 16
	}
	if !j.started || timestamp != j.timestamp {
		j.started, j.timestamp, j.arrival = true, timestamp, now
	}
}

func (j *jitter) value() time.Duration { return time.Duration(j.estimate * float64(time.Second)) }
