// Package opus encodes and decodes speech as Opus (RFC 6716): 48 kHz, mono, packets of 20 ms.
//
// It is the one seam to the codec underneath, gopus, which is pure Go: no other package of the call path knows it.
//
//   - Packets have one constant size, unless asked otherwise: the sizes of packets that vary with the speech tell a listener on the wire what was said,
//     encrypted or not (RFC 6562). For the same reason there is no discontinuous transmission.
//   - Each packet carries a coarse copy of the frame before it (in-band FEC, RFC 6716 section 2.1.7), so that a single loss is
//     repaired by the packet that follows.
//   - A packet from the network is bounded before it is decoded, and a panic of the decoder becomes an error.
//
// Encoders and decoders keep state between packets: one of each for each direction of a call, each used by one goroutine.
package opus

import (
	"errors"
	"fmt"

	"github.com/thesyncim/gopus"
)

const (
	SampleRate   = 48000
	FrameSamples = 960  // 20 ms: what Encode takes
	MaxSamples   = 5760 // 120 ms: the longest packet there is (RFC 6716 section 3.2)
	MaxPacket    = 1275 // bytes; the longest frame there is (RFC 6716 section 3.2.1)
)

// Tuning. The codec's own default complexity is 9; at 32 kb/s speech is coded over the full band, and a fifth of the bits go to FEC.
const (
	DefaultBitrate = 32000 // bits a second: 80 bytes a packet
	complexity     = 9
	expectedLoss   = 10 // percent; tells the encoder how much FEC is worth
)

// Config chooses how to encode. Its zero value is what calls use.
type Config struct {
	Bitrate  int  // bits a second, 6000 to 128000; 0 means 32000
	Variable bool // packets of as many bytes as the sound needs, which tell a listener on the wire what it is; Bitrate on average
}

// An Encoder turns frames into packets.
type Encoder struct {
	codec  *gopus.Encoder
	packet [MaxPacket]byte
}

// NewEncoder returns an encoder that makes packets of Bitrate/400 bytes, all of them, unless they may vary.
func NewEncoder(cfg Config) (*Encoder, error) {
	if cfg.Bitrate == 0 {
		cfg.Bitrate = DefaultBitrate
	}
	if cfg.Bitrate < 6000 || cfg.Bitrate > 128000 {
		return nil, fmt.Errorf("opus bit rate %d is not between 6000 and 128000", cfg.Bitrate)
	}
	codec, err := gopus.NewEncoder(gopus.EncoderConfig{SampleRate: SampleRate, Channels: 1, Application: gopus.ApplicationVoIP})
	if err != nil {
		return nil, fmt.Errorf("opus encoder: %w", err)
	}
	codec.SetDTX(false)
	mode := gopus.BitrateModeCBR
	if cfg.Variable {
		mode = gopus.BitrateModeVBR
	}
	err = errors.Join(
		codec.SetFrameSize(FrameSamples),
		codec.SetBitrate(cfg.Bitrate),
		codec.SetBitrateMode(mode),
		codec.SetComplexity(complexity),
		codec.SetSignal(gopus.SignalVoice),
		codec.SetInBandFEC(gopus.InBandFECEnabled),
		codec.SetPacketLoss(expectedLoss),
	)
	if err != nil {
		return nil, fmt.Errorf("opus encoder: %w", err)
	}
	return &Encoder{codec: codec}, nil
}

// SetBitrate changes the rate from the next packet on.
func (e *Encoder) SetBitrate(bitrate int) error { return e.codec.SetBitrate(bitrate) }

// Encode returns the packet for one frame of FrameSamples samples. The packet is valid until the next call.
func (e *Encoder) Encode(pcm []int16) ([]byte, error) {
	n, err := e.codec.EncodeInt16(pcm, e.packet[:])
	if err != nil {
		return nil, fmt.Errorf("opus encode: %w", err)
	}
	return e.packet[:n], nil
}

// Lookahead is how many samples the decoded sound lags behind the encoded one. Ogg calls it the pre-skip (RFC 7845 section 4.2).
func (e *Encoder) Lookahead() int { return e.codec.Lookahead() }

// A Decoder turns packets into samples, one after another in the order they were encoded.
type Decoder struct {
	codec   *gopus.Decoder
	scratch [MaxSamples]float32
}

func NewDecoder() (*Decoder, error) {
	codec, err := gopus.NewDecoder(gopus.DefaultDecoderConfig(SampleRate, 1))
	if err != nil {
		return nil, fmt.Errorf("opus decoder: %w", err)
	}
	return &Decoder{codec: codec}, nil
}

// Decode decodes a packet into pcm, which has room for Samples(packet) samples, and returns how many it wrote. A stereo packet
// comes out as mono.
func (d *Decoder) Decode(packet []byte, pcm []int16) (n int, err error) {
	defer recovered(&err)
	if err := fits(packet, pcm); err != nil {
		return 0, err
	}
	n, err = d.codec.DecodeInt16(packet, pcm)
	if err != nil {
		return 0, fmt.Errorf("opus decode: %w", err)
	}
	return n, nil
}

// DecodeFEC fills pcm with the frame that was lost just before packet next, from the copy of it in next. Decode next afterwards.
// Ask HasFEC first: without a copy the frame is concealed.
func (d *Decoder) DecodeFEC(next []byte, pcm []int16) (err error) {
	defer recovered(&err)
	if err := fits(next, pcm); err != nil {
		return err
	}
	n, err := d.codec.DecodeWithFEC(next, d.scratch[:len(pcm)], true)
	if err == nil && n != len(pcm) {
		err = fmt.Errorf("%d samples, not %d", n, len(pcm))
	}
	if err != nil {
		return fmt.Errorf("opus decode FEC: %w", err)
	}
	for i, s := range d.scratch[:n] {
		pcm[i] = int16(max(-32768, min(32767, s*32768)))
	}
	return nil
}

// Conceal fills pcm, whose length is a multiple of 2.5 ms and at most MaxSamples, with sound that hides a lost packet: the voice goes
// on for a moment and fades.
func (d *Decoder) Conceal(pcm []int16) (err error) {
	defer recovered(&err)
	n, err := d.codec.DecodeInt16(nil, pcm)
	if err == nil && n != len(pcm) {
		err = fmt.Errorf("%d samples, not %d", n, len(pcm))
	}
	if err != nil {
		return fmt.Errorf("opus conceal: %w", err)
	}
	return nil
}

// Samples is the duration of a packet in samples at 48 kHz, or 0 if it is none (RFC 6716 section 3.1).
func Samples(packet []byte) int {
	if len(packet) == 0 {
		return 0
	}
	var frame int // samples in one frame, by the configuration number
	switch config := packet[0] >> 3; {
	case config < 12: // SILK: 10, 20, 40, 60 ms
		frame = [4]int{480, 960, 1920, 2880}[config&3]
	case config < 16: // hybrid: 10, 20 ms
		frame = [2]int{480, 960}[config&1]
	default: // CELT: 2.5, 5, 10, 20 ms
		frame = 120 << (config & 3)
	}
	count := 1
	switch packet[0] & 3 {
	case 1, 2:
		count = 2
	case 3:
		if len(packet) < 2 {
			return 0
		}
		count = int(packet[1] & 63)
	}
	if frame*count > MaxSamples {
		return 0
	}
	return frame * count
}

// HasFEC reports whether the packet carries a copy of the frame before it.
func HasFEC(packet []byte) bool { return Samples(packet) > 0 && gopus.PacketHasLBRR(packet) }

var errPacket = errors.New("this is no Opus packet")

// fits refuses what is no packet or too long for pcm, before the codec works on it.
func fits(packet []byte, pcm []int16) error {
	n := Samples(packet)
	if n == 0 || len(packet) > MaxSamples/120*MaxPacket {
		return errPacket
	}
	if n > len(pcm) {
		return fmt.Errorf("an Opus packet of %d samples does not fit %d", n, len(pcm))
	}
	return nil
}

// recovered turns a panic of the codec on bytes from the network into an error.
func recovered(err *error) {
	if recover() != nil {
		*err = errPacket
	}
}
