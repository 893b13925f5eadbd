// Package vp8 carries encoded VP8 frames in RTP packets (RFC 7741) without looking into them: a frame that is delivered has exactly
// the bytes that were sent, and frames are delivered in order and only if they can be decoded.
package vp8

import (
	"github.com/pion/rtp/codecs"
)

// A Packetizer cuts frames into RTP payloads, numbering them with 15-bit picture ids (RFC 7741 section 4.2).
type Packetizer struct {
	payloader codecs.VP8Payloader
	size      uint16
}

// NewPacketizer makes payloads of at most size bytes.
func NewPacketizer(size uint16) *Packetizer {
	return &Packetizer{payloader: codecs.VP8Payloader{EnablePictureID: true}, size: size}
}

// Packetize returns the payloads of one frame; the last one's packet carries the marker.
func (p *Packetizer) Packetize(frame []byte) [][]byte {
	return p.payloader.Payload(p.size, frame)
}

// IsKey tells a key frame by the first byte of its frame tag (RFC 6386 section 9.1).
func IsKey(frame []byte) bool { return len(frame) > 0 && frame[0]&1 == 0 }
