package rtpchain

import (
	"encoding/binary"
	"errors"

	"github.com/pion/rtp"
)

// osnLen is the original sequence number that precedes the payload of a retransmission (RFC 4588 section 4).
const osnLen = 2

var errRTX = errors.New("retransmission packet is malformed")

// wrapRTX makes the retransmission of a packet. The header carries no extensions: a transport-wide number would count the same
// packet twice.
func wrapRTX(s Stream, sequence uint16, header *rtp.Header, payload []byte) (*rtp.Header, []byte) {
	wrapped := make([]byte, osnLen+len(payload))
	binary.BigEndian.PutUint16(wrapped, header.SequenceNumber)
	copy(wrapped[osnLen:], payload)
	return &rtp.Header{
		Version: 2, Marker: header.Marker, PayloadType: s.RTXPayloadType,
		SequenceNumber: sequence, Timestamp: header.Timestamp, SSRC: s.RTXSSRC,
	}, wrapped
}

// unwrapRTX gives back the packet that was lost.
func unwrapRTX(s Stream, packet *rtp.Packet) (*rtp.Packet, error) {
	if packet.PayloadType != s.RTXPayloadType || packet.SSRC != s.RTXSSRC || len(packet.Payload) < osnLen {
		return nil, errRTX
	}
	return &rtp.Packet{
		Header: rtp.Header{
			Version: 2, Marker: packet.Marker, PayloadType: s.PayloadType,
			SequenceNumber: binary.BigEndian.Uint16(packet.Payload), Timestamp: packet.Timestamp, SSRC: s.SSRC,
		},
		Payload: packet.Payload[osnLen:],
	}, nil
}
