package media

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"sotto/media/rtpchain"
	"sotto/media/secure"
)

// A Kind of stream.
type Kind int

const (
	Audio  Kind = iota
	Video       // the camera
	Screen      // a second video stream
)

// Codecs, by their names in RTP (RFC 7587, RFC 7741), and the payload types this end sends them with.
const (
	Opus = "opus"
	VP8  = "VP8"

	opusPayloadType   = 111
	vp8PayloadType    = 96
	vp8RTXPayloadType = 97

	screenPayloadType    = 98
	screenRTXPayloadType = 99

	opusClockRate = 48000
	vp8ClockRate  = 90000
)

// A Stream is what one end announces that it may send.
type Stream struct {
	Kind           Kind
	Codec          string
	PayloadType    uint8
	SSRC           uint32
	RTXPayloadType uint8  // video and screen: retransmissions (RFC 4588)
	RTXSSRC        uint32 // the same
}

// A Description is what the peer must know to connect and to understand what it receives.
type Description struct {
	Ufrag    string // ICE user name fragment (RFC 8839 section 5.4)
	Password string // ICE password
	Streams  []Stream
}

// Keys are the SRTP master keys of a call, one for each direction. They are used in this session and nowhere else: a key that is
// used twice, by a second session or in both directions, protects nothing. Connect erases them.
type Keys struct {
	SendKey, SendSalt       []byte // secure.KeyLen and secure.SaltLen bytes
	ReceiveKey, ReceiveSalt []byte

	// Where the keys of later epochs come from, each direction by itself; they are erased after use. With nil the first key serves for
	// the whole call. They are asked from goroutines of the session, one at a time each, until Close has returned.
	NextSend, NextReceive func() (key, salt []byte, err error)
}

var errKeys = fmt.Errorf("call keys must be two different keys of %d bytes with salts of %d bytes", secure.KeyLen, secure.SaltLen)

func (k Keys) contexts(every time.Duration) (*secure.Sealer, *secure.Opener, error) {
	for _, key := range [][]byte{k.SendKey, k.ReceiveKey} {
		if len(key) != secure.KeyLen {
			return nil, nil, errKeys
		}
	}
	for _, salt := range [][]byte{k.SendSalt, k.ReceiveSalt} {
		if len(salt) != secure.SaltLen {
			return nil, nil, errKeys
		}
	}
	if string(k.SendKey) == string(k.ReceiveKey) {
		return nil, nil, errKeys
	}
	sealer, err := secure.NewSealer(k.SendKey, k.SendSalt, k.NextSend, every)
	if err != nil {
		return nil, nil, err
	}
	opener, err := secure.NewOpener(k.ReceiveKey, k.ReceiveSalt, k.NextReceive)
	return sealer, opener, err
}

func (k Keys) erase() {
	for _, secret := range [][]byte{k.SendKey, k.SendSalt, k.ReceiveKey, k.ReceiveSalt} {
		clear(secret)
	}
}

// localStreams draws SSRCs that differ from one another.
func localStreams(video, screen bool) []Stream {
	used := map[uint32]bool{0: true}
	draw := func() uint32 {
		var random [4]byte
		var ssrc uint32
		for used[ssrc] {
			rand.Read(random[:])
			ssrc = binary.BigEndian.Uint32(random[:])
		}
		used[ssrc] = true
		return ssrc
	}
	streams := []Stream{{Kind: Audio, Codec: Opus, PayloadType: opusPayloadType, SSRC: draw()}}
	if video {
		streams = append(streams, Stream{
			Kind: Video, Codec: VP8, PayloadType: vp8PayloadType, SSRC: draw(), RTXPayloadType: vp8RTXPayloadType, RTXSSRC: draw(),
		})
	}
	if screen {
		streams = append(streams, Stream{
			Kind: Screen, Codec: VP8, PayloadType: screenPayloadType, SSRC: draw(), RTXPayloadType: screenRTXPayloadType, RTXSSRC: draw(),
		})
	}
	return streams
}

// Validate refuses a description this end cannot use. Everything in it was chosen by the peer.
func (d Description) Validate() error {
	if !d.validICE() {
		return errCredentials
	}
	kinds := map[Kind]bool{}
	ssrcs := map[uint32]bool{0: true}
	for _, s := range d.Streams {
		switch {
		case kinds[s.Kind]:
			return errors.New("the peer announces two streams of one kind")
		case s.Kind == Audio && s.Codec != Opus, s.Kind != Audio && s.Codec != VP8, s.Kind < Audio || s.Kind > Screen:
			return errors.New("the peer announces a stream with a codec that is not supported here")
		case s.PayloadType < 96 || s.PayloadType > 127: // dynamic (RFC 3551 section 6), and not mistaken for RTCP
			return errors.New("the peer announces a payload type out of range")
		case ssrcs[s.SSRC]:
			return errors.New("the peer announces a stream without an SSRC of its own")
		}
		kinds[s.Kind], ssrcs[s.SSRC] = true, true
		if s.Kind != Audio {
			if s.RTXPayloadType < 96 || s.RTXPayloadType > 127 || s.RTXPayloadType == s.PayloadType || ssrcs[s.RTXSSRC] {
				return errors.New("the peer announces no usable retransmission stream for its video")
			}
			ssrcs[s.RTXSSRC] = true
		}
	}
	return nil
}

var errCredentials = errors.New("the peer's ICE credentials are malformed")

func (d Description) validICE() bool { return iceString(d.Ufrag, 4) && iceString(d.Password, 22) }

// iceString checks length and alphabet (RFC 8839 section 5.4).
func iceString(s string, shortest int) bool {
	if len(s) < shortest || len(s) > 256 {
		return false
	}
	for _, c := range []byte(s) {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '+' || c == '/') {
			return false
		}
	}
	return true
}

func (d Description) stream(kind Kind) (Stream, bool) {
	for _, s := range d.Streams {
		if s.Kind == kind {
			return s, true
		}
	}
	return Stream{}, false
}

func (s Stream) chain() rtpchain.Stream {
	clock := uint32(opusClockRate)
	if s.Kind != Audio {
		clock = vp8ClockRate
	}
	return rtpchain.Stream{
		SSRC: s.SSRC, PayloadType: s.PayloadType, ClockRate: clock,
		RTXSSRC: s.RTXSSRC, RTXPayloadType: s.RTXPayloadType,
	}
}
