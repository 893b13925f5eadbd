package rtpchain

import (
	"time"

	"github.com/pion/interceptor"
	"github.com/pion/rtcp"
	"github.com/pion/rtp"
)

// remote is one incoming stream.
type remote struct {
	stream  Stream
	deliver func(Packet)
	feed    feed
	reader  interceptor.RTPReader
	buffer  [2048]byte

	// Guarded by Chain.mu.
	tracker  tracker
	arrived  uint64 // first arrivals, before repair
	repaired uint64 // arrived by retransmission only
	bytes    uint64
	nacked   uint64
	jitter   jitter
}

// AddRemote announces a stream of the peer; deliver is called by HandleRTP with each packet that was not seen before, in order of
// arrival.
func (c *Chain) AddRemote(s Stream, deliver func(Packet)) {
	r := &remote{stream: s, deliver: deliver}
	r.jitter.clockRate = s.ClockRate
	r.reader = c.chain.BindRemoteStream(s.info(), &r.feed)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.remotes[s.SSRC] = r
	if s.RTXSSRC != 0 {
		c.remotes[s.RTXSSRC] = r
	}
}

// HandleRTP takes one packet in the clear.
func (c *Chain) HandleRTP(b []byte, now time.Time) error {
	packet := &rtp.Packet{}
	if err := packet.Unmarshal(b); err != nil {
		return err
	}
	c.mu.Lock()
	r := c.remotes[packet.SSRC]
	c.mu.Unlock()
	if r == nil {
		return errUnknownStream
	}
	retransmission := r.stream.RTXSSRC != 0 && packet.SSRC == r.stream.RTXSSRC
	if retransmission {
		original, err := unwrapRTX(r.stream, packet)
		if err != nil {
			return err
		}
		packet = original
	} else {
		if packet.PayloadType != r.stream.PayloadType {
			return errUnknownStream
		}
		r.feed.packet = b
		if _, _, err := r.reader.Read(r.buffer[:], nil); err != nil {
			return err
		}
	}

	c.mu.Lock()
	extended, fresh := r.tracker.received(packet.SequenceNumber, now)
	r.bytes += uint64(len(packet.Payload))
	switch {
	case !retransmission:
		r.arrived++
		r.jitter.arrived(packet.Timestamp, now)
	case fresh:
		r.repaired++
	}
	c.mu.Unlock()
	if fresh && len(packet.Payload) > 0 {
		r.deliver(Packet{
			Sequence: extended, Timestamp: packet.Timestamp, Marker: packet.Marker, Payload: packet.Payload, Arrival: now,
		})
	}
	return nil
}

// HandleRTCP takes one compound or reduced-size packet (RFC 5506) in the clear.
func (c *Chain) HandleRTCP(b []byte, now time.Time) error {
	c.feed.packet = b
	buffer := make([]byte, len(b))
	n, attributes, err := c.reader.Read(buffer, nil) // answers NACKs on the way
	if err != nil {
		return err
	}
	packets, err := attributes.GetRTCPPackets(buffer[:n])
	if err != nil {
		return err
	}
	for _, packet := range packets {
		switch packet := packet.(type) {
		case *rtcp.SenderReport:
			c.mu.Lock()
			if r := c.remotes[packet.SSRC]; r != nil && r.stream.RTXSSRC != 0 {
				r.tracker.announced(packet.PacketCount, now)
			}
			c.mu.Unlock()
			c.noteReports(packet.Reports, now)
		case *rtcp.ReceiverReport:
			c.noteReports(packet.Reports, now)
		case *rtcp.TransportLayerNack:
			for _, pair := range packet.Nacks {
				c.nacksReceived.Add(uint64(len(pair.PacketList())))
			}
		case *rtcp.PictureLossIndication:
			c.plisReceived.Add(1)
			c.cfg.OnKeyFrame(packet.MediaSSRC)
		}
	}
	return nil
}
