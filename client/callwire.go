package client

import (
	"crypto/sha256"
	"errors"

	"google.golang.org/protobuf/proto"

	"sotto/client/callflow"
	"sotto/e2ee/callkey"
	"sotto/media"
	"sotto/wire"
)

var (
	errOffer  = errors.New("the call's offer is malformed")
	errAnswer = errors.New("the call's answer is malformed")
)

// fromCallMessage is what the flow gets of a message, but for an offer; nil if it is of a later version of the protocol.
func fromCallMessage(m *wire.CallMessage) callflow.Message {
	switch body := m.GetBody().(type) {
	case *wire.CallMessage_Ringing:
		return callflow.Ringing{}
	case *wire.CallMessage_Answer:
		return callflow.Answer{Body: string(body.Answer)}
	case *wire.CallMessage_Reveal:
		return callflow.Reveal{Verification: string(body.Reveal.GetVerification())}
	case *wire.CallMessage_Accept:
		return callflow.Accept{Verification: string(body.Accept.GetVerification())}
	case *wire.CallMessage_Confirm:
		return callflow.Confirm{}
	case *wire.CallMessage_Candidates:
		return callflow.Candidates{Generation: body.Candidates.GetGeneration(), List: body.Candidates.GetCandidates()}
	case *wire.CallMessage_MediaState:
		s := body.MediaState
		return callflow.MediaState{
			Sequence: s.GetSequence(),
			Media:    callflow.Media{Muted: s.GetMuted(), Held: s.GetHeld(), Video: s.GetVideo(), Screen: s.GetScreen()},
		}
	case *wire.CallMessage_Path:
		ice := body.Path.GetIce()
		return callflow.Path{Generation: body.Path.GetGeneration(), Ufrag: ice.GetUfrag(), Password: ice.GetPassword()}
	case *wire.CallMessage_Hangup:
		return callflow.Hangup{Reason: body.Hangup.GetReason()}
	}
	return nil
}

// parseOffer checks an offer's bytes before anything is made of them.
func parseOffer(b []byte) (*wire.Offer, media.Description, error) {
	offer := new(wire.Offer)
	if proto.Unmarshal(b, offer) != nil || len(offer.KemPublicKey) != callkey.KEMPublicKeySize ||
		len(offer.Secret) != callkey.SecretSize || len(offer.Commitment) != 32 || len(offer.DeviceList) != sha256.Size ||
		offer.Timestamp > maxTimestamp {
		return nil, media.Description{}, errOffer
	}
	description, err := fromWire(offer.Ice, offer.Streams)
	if err != nil {
		return nil, media.Description{}, errOffer
	}
	return offer, description, nil
}

// parseAnswer checks an answer's bytes before anything is made of them.
func parseAnswer(b []byte) (*wire.Answer, media.Description, error) {
	answer := new(wire.Answer)
	if proto.Unmarshal(b, answer) != nil || len(answer.KemCiphertext) != callkey.KEMCiphertextSize ||
		len(answer.Secret) != callkey.SecretSize || len(answer.Commitment) != 32 || len(answer.DeviceList) != sha256.Size {
		return nil, media.Description{}, errAnswer
	}
	description, err := fromWire(answer.Ice, answer.Streams)
	if err != nil {
		return nil, media.Description{}, errAnswer
	}
	return answer, description, nil
}

func toWire(d media.Description) (*wire.IceParameters, []*wire.Stream) {
	var streams []*wire.Stream
	for _, s := range d.Streams {
		kind := wire.Stream_AUDIO
		switch s.Kind {
		case media.Video:
			kind = wire.Stream_VIDEO
		case media.Screen:
			kind = wire.Stream_SCREEN
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
	if len(streams) == 0 || len(streams) > 3 {
		return d, errors.New("a description has one to three streams")
	}
	for _, s := range streams {
		kind := media.Audio
		switch s.GetKind() {
		case wire.Stream_AUDIO:
		case wire.Stream_VIDEO:
			kind = media.Video
		case wire.Stream_SCREEN:
			kind = media.Screen
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
