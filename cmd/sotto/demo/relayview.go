package demo

import (
	"encoding/binary"

	"github.com/pion/stun/v4"
)

// What a relay can tell about a datagram without keys: whether it is TURN's own business, an ICE check between the ends,
// or media, of which only the RTP header is clear (RFC 3711, RFC 7714).

type relayView struct {
	datagrams int
	bytes     int
	checks    int // STUN between the ends
	media     int // SRTP and SRTCP packets
	sealed    [256]int
}

func (v *relayView) add(datagram []byte) {
	v.datagrams++
	v.bytes += len(datagram)
	payload := relayed(datagram)
	switch {
	case len(payload) == 0:
	case stun.IsMessage(payload):
		v.checks++
	case len(payload) > 12 && payload[0]>>6 == 2: // version 2 (RFC 7983 section 7)
		v.media++
		for _, b := range payload[rtpHeaderLength(payload):] {
			v.sealed[b]++
		}
	}
}

// relayed returns what a datagram between client and relay carries for the peer, nil when it carries nothing: ChannelData
// (RFC 8656 section 12.4), or the DATA attribute of a Send or Data indication (section 11).
func relayed(datagram []byte) []byte {
	if len(datagram) >= 4 && datagram[0]>>6 == 1 {
		length := int(binary.BigEndian.Uint16(datagram[2:]))
		return datagram[4:min(4+length, len(datagram))]
	}
	if !stun.IsMessage(datagram) {
		return nil
	}
	message := &stun.Message{Raw: datagram}
	if message.Decode() != nil || message.Type.Class != stun.ClassIndication {
		return nil
	}
	data, _ := message.Get(stun.AttrData)
	return data
}

// rtpHeaderLength is what stays clear of an RTP or RTCP packet: RFC 3550 section 5.1, and 8 bytes of RTCP (RFC 3711 section 3.4).
func rtpHeaderLength(packet []byte) int {
	if kind := packet[1]; kind >= 192 && kind <= 223 {
		return 8
	}
	length := 12 + 4*int(packet[0]&0x0f)
	if packet[0]&0x10 != 0 && len(packet) >= length+4 { // header extension
		length += 4 + 4*int(binary.BigEndian.Uint16(packet[length+2:]))
	}
	return min(length, len(packet))
}
