package client

import (
	"errors"
	"time"

	"google.golang.org/protobuf/proto"

	"sotto/e2ee/callkey"
	"sotto/media"
	"sotto/wire"
)

// maxOfferAge is how old an offer may be, by clocks that servers keep together, and how far in the future.
const maxOfferAge = 60 * time.Second

var (
	errOffer  = errors.New("the call's offer is malformed")
	errStale  = errors.New("the call's offer is too old")
	errAnswer = errors.New("the call's answer is malformed")
)

// parseOffer checks an offer's bytes before anything is made of them.
func parseOffer(b []byte, now time.Time) (media.Description, error) {
	offer := new(wire.Offer)
	if proto.Unmarshal(b, offer) != nil || len(offer.KemPublicKey) != callkey.KEMPublicKeySize ||
		len(offer.Secret) != callkey.SecretSize || len(offer.Commitment) != 32 || offer.Timestamp > maxTimestamp {
		return media.Description{}, errOffer
	}
	if age := now.Sub(fromTimestamp(offer.Timestamp)); age > maxOfferAge || age < -maxOfferAge {
		return media.Description{}, errStale
	}
	description, err := fromWire(offer.Ice, offer.Streams)
	if err != nil {
		return media.Description{}, errOffer
	}
	return description, nil
}

// parseAnswer checks an answer's bytes before anything is made of them.
func parseAnswer(b []byte) (media.Description, error) {
	answer := new(wire.Answer)
	if proto.Unmarshal(b, answer) != nil || len(answer.KemCiphertext) != callkey.KEMCiphertextSize ||
		len(answer.Secret) != callkey.SecretSize || len(answer.Commitment) != 32 {
		return media.Description{}, errAnswer
	}
	description, err := fromWire(answer.Ice, answer.Streams)
	if err != nil {
		return media.Description{}, errAnswer
	}
	return description, nil
}

func toWire(d media.Description) (*wire.IceParameters, []*wire.Stream) {
	var streams []*wire.Stream
	for _, s := range d.Streams {
		kind := wire.Stream_AUDIO
		if s.Kind == media.Video {
			kind = wire.Stream_VIDEO
		}
		streams = append(streams, &wire.Stream{
			Kind: kind, Codec: s.Codec, PayloadType: uint32(s.PayloadType), Ssrc: s.SSRC,
			RtxPayloadType: uint32(s.RTXPayloadType), RtxSsrc: s.RTXSSRC,
		})
	}
	return &wire.IceParameters{Ufrag: d.Ufrag, Password: d.Password}, streams
}

func fromWire(ice *wire.IceParameters, streams []*wire.Stream) (media.Description, error) {
	d := media.Description{Ufrag: ice.GetUfrag(), Password: ice.GetPassword()}
	if len(streams) == 0 || len(streams) > 2 {
		return d, errors.New("a description has one or two streams")
	}
	for _, s := range streams {
		kind := media.Audio
		switch s.GetKind() {
		case wire.Stream_AUDIO:
		case wire.Stream_VIDEO:
			kind = media.Video
		default:
			return d, errors.New("unknown kind of stream")
		}
		if s.GetPayloadType() > 127 || s.GetRtxPayloadType() > 127 {
			return d, errors.New("payload type out of range")
		}
		d.Streams = append(d.Streams, media.Stream{
			Kind: kind, Codec: s.GetCodec(), PayloadType: uint8(s.GetPayloadType()), SSRC: s.GetSsrc(),
			RTXPayloadType: uint8(s.GetRtxPayloadType()), RTXSSRC: s.GetRtxSsrc(),
		})
	}
	return d, d.Validate()
}

func hasVideo(streams []media.Stream) bool {
	for _, s := range streams {
		if s.Kind == media.Video {
			return true
		}
	}
	return false
}
