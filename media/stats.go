package media

import (
	"sync/atomic"
	"time"

	"sotto/media/rtpchain"
	"sotto/media/secure"
)

type counters struct {
	bytesSent, bytesReceived           atomic.Uint64
	undecryptable, replayed, malformed atomic.Uint64
	audioFramesSent                    atomic.Uint64
	audioPacketsSent                   atomic.Uint64
	firstMediaAfter                    atomic.Int64  // nanoseconds, 0: not yet
	connectedAfter                     time.Duration // guarded by Session.mu
}

// videoCounters are those of one stream, at its sender or at its receiver.
type videoCounters struct {
	framesSent, dropped, packetsSent atomic.Uint64
	framesReceived, framesLost       atomic.Uint64
}

// Stats describes a session so far. Times count from Connect.
type Stats struct {
	Cipher          string
	Path            PathStats
	RoundTrip       time.Duration // by RTCP if there are reports, else by ICE
	ConnectedAfter  time.Duration // 0: not yet
	FirstMediaAfter time.Duration // 0: not yet

	BytesSent, BytesReceived uint64 // of SRTP and SRTCP, without IP and UDP
	Undecryptable            uint64 // packets that the keys did not open: an error that users must be told of
	Replayed                 uint64 // packets that came twice, or too late to tell
	SendEpoch, ReceiveEpoch  uint32 // how often each direction's key was changed
	Malformed                uint64 // datagrams that made no sense

	Audio, Video, Screen StreamStats

	Quality Quality

	NacksReceived   uint64 // requests of the peer for lost packets
	Retransmissions uint64 // answers to them
	PLIsSent        uint64
	PLIsReceived    uint64
}

// StreamStats describes both directions of one medium.
type StreamStats struct {
	Codec string // empty if neither end announced one

	FramesSent     uint64
	FramesDropped  uint64        // video: not sent, since the call was held or data was to be saved
	PacketsSent    uint64        // without retransmissions
	RemoteLost     int64         // packets of ours that did not arrive, as the peer reports
	RemoteFraction float64       // the same, of those between its last two reports
	RemoteJitter   time.Duration // as the peer reports

	PacketsReceived uint64
	PacketsLost     uint64 // on the network, before repair
	PacketsRepaired uint64 // of the lost, by retransmission
	NacksSent       uint64
	PayloadReceived uint64 // bytes
	Jitter          time.Duration
	FramesReceived  uint64        // audio: decoded, from their packet or from the copy in the next; video: whole, in order, decodable
	FramesLost      uint64        // video: not delivered
	FramesRepaired  uint64        // audio: of those received, from the copy in the next packet (FEC)
	FramesConcealed uint64        // audio: made up where packets were missing
	PlayoutDelay    time.Duration // audio: what the jitter buffer adds
}

// Loss is the share of the peer's packets that the network lost.
func (s StreamStats) Loss() float64 {
	if s.PacketsReceived+s.PacketsLost == 0 {
		return 0
	}
	return float64(s.PacketsLost) / float64(s.PacketsReceived+s.PacketsLost)
}

// PathStats tells how packets travel.
type PathStats struct {
	Kind                        string  // "direct", "relay", or empty before there is a path
	LocalType, RemoteType       string  // host, srflx, prflx or relay
	Generation                  uint32  // of OpenPath; 0 is the first
	LocalAddress, RemoteAddress Address // not shown unless revealed
}

// An Address prints as a placeholder, so that no log or report gives away where a user is.
type Address struct{ hostPort string }

// String does not show the address.
func (a Address) String() string {
	if a.hostPort == "" {
		return ""
	}
	return "[redacted]"
}

// MarshalText does not show the address.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// Reveal is the address itself, host:port.
func (a Address) Reveal() string { return a.hostPort }

// Stats may be called at any time, also after Close.
func (s *Session) Stats() Stats {
	s.mu.Lock()
	chain, remote := s.chain, s.remote
	stats := Stats{Cipher: secure.Cipher, ConnectedAfter: s.counts.connectedAfter}
	s.mu.Unlock()

	c := &s.counts
	stats.FirstMediaAfter = time.Duration(c.firstMediaAfter.Load())
	stats.BytesSent, stats.BytesReceived = c.bytesSent.Load(), c.bytesReceived.Load()
	stats.Undecryptable, stats.Replayed, stats.Malformed = c.undecryptable.Load(), c.replayed.Load(), c.malformed.Load()

	route := s.current.Load()
	info := route.path.Info()
	stats.RoundTrip = info.RoundTrip
	if info.LocalType != "" {
		stats.Path = PathStats{
			Kind: "direct", Generation: route.generation, LocalType: info.LocalType, RemoteType: info.RemoteType,
			LocalAddress: Address{info.LocalAddress}, RemoteAddress: Address{info.RemoteAddress},
		}
		if info.LocalType == "relay" || info.RemoteType == "relay" {
			stats.Path.Kind = "relay"
		}
	}
	if chain == nil {
		return stats
	}
	stats.SendEpoch, stats.ReceiveEpoch = s.sealer.Epoch(), s.opener.Epoch()
	feedback := chain.Feedback()
	stats.NacksReceived, stats.Retransmissions = feedback.NacksReceived, feedback.Retransmitted
	stats.PLIsSent, stats.PLIsReceived = feedback.PLIsSent, feedback.PLIsReceived

	local := Description{Streams: s.local}
	for kind, stream := range map[Kind]*StreamStats{Audio: &stats.Audio, Video: &stats.Video, Screen: &stats.Screen} {
		if ours, ok := local.stream(kind); ok {
			stats.RoundTrip = max(stats.RoundTrip, stream.sent(ours, chain.Reception(ours.SSRC)))
		}
		if theirs, ok := remote.stream(kind); ok {
			stream.received(theirs, chain.Remote(theirs.SSRC))
		}
	}
	stats.Audio.PacketsSent, stats.Audio.FramesSent = c.audioPacketsSent.Load(), c.audioFramesSent.Load()
	heard := s.audio.stats()
	stats.Audio.FramesReceived, stats.Audio.FramesRepaired = heard.Played+heard.Repaired, heard.Repaired
	stats.Audio.FramesConcealed, stats.Audio.PlayoutDelay = heard.Concealed, heard.Delay
	stats.Video.pictures(&s.camera.counts, &s.video.counts)
	stats.Screen.pictures(&s.screen.counts, &s.screenIn.counts)
	stats.Quality = s.quality.now()
	return stats
}

func (s *StreamStats) pictures(sent, received *videoCounters) {
	s.PacketsSent, s.FramesSent, s.FramesDropped = sent.packetsSent.Load(), sent.framesSent.Load(), sent.dropped.Load()
	s.FramesReceived, s.FramesLost = received.framesReceived.Load(), received.framesLost.Load()
}

func (s *StreamStats) sent(ours Stream, report rtpchain.Reception) (roundTrip time.Duration) {
	s.Codec = ours.Codec
	s.RemoteLost, s.RemoteFraction = report.Lost, report.Fraction
	s.RemoteJitter = time.Duration(report.Jitter) * time.Second / time.Duration(ours.chain().ClockRate)
	return report.RoundTrip
}

func (s *StreamStats) received(theirs Stream, r rtpchain.RemoteStats) {
	s.Codec = theirs.Codec
	s.PacketsReceived, s.PacketsLost, s.PacketsRepaired = r.Packets, r.Lost, r.Repaired
	s.NacksSent, s.PayloadReceived, s.Jitter = r.Nacked, r.Bytes, r.Jitter
}
