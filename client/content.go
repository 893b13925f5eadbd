package client

import (
	"errors"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"sotto/wire"
)

// MaxText is how many bytes a message has at most.
const MaxText = 32 << 10

// Limits of content. The ciphertext of an envelope holds at most 64 KiB.
const (
	padTo          = 160        // bytes; so the length of a message shows in steps only
	padCallTo      = 13 * padTo // so an offer of video is as long as one without, and nearly every step of a call as long as any other
	maxContent     = 48 << 10
	maxReceipts    = 256
	maxUsername    = 32
	maxCandidates  = 32  // in one message
	maxCandidate   = 256 // bytes
	maxDescription = 8 << 10
)

var errContent = errors.New("content is malformed")

// pad appends 0x80 and zeros up to a multiple of size (ISO/IEC 7816-4) that has room for slack
// more.
func pad(b []byte, slack, size int) []byte {
	padded := make([]byte, ((len(b)+slack)/size+1)*size)
	copy(padded, b)
	padded[len(b)] = 0x80
	return padded
}

// slackOf is by how much content could be longer whose sender has the longest name, and all else
// that tells of a sender. Padded for that, what senders of any name say in the same words is of one
// length: sealed, it would tell the server who they are.
func slackOf(content *wire.Content) int {
	return proto.Size(longestSender) - proto.Size(&wire.Content{
		Username: content.Username, DeviceListEpoch: content.DeviceListEpoch,
		DeliveryToken: content.DeliveryToken,
	})
}

var longestSender = &wire.Content{
	Username: strings.Repeat("x", maxUsername), DeviceListEpoch: math.MaxUint32,
	DeliveryToken: make([]byte, wire.DeliveryTokenSize),
}

// unpad takes only what pad can have made, with either size, now or before it counted slack.
func unpad(b []byte) ([]byte, error) {
	if len(b) == 0 || len(b)%padTo != 0 {
		return nil, errContent
	}
	for i := len(b) - 1; i >= max(0, len(b)-padCallTo-proto.Size(longestSender)); i-- {
		switch b[i] {
		case 0:
		case 0x80:
			return b[:i], nil
		default:
			return nil, errContent
		}
	}
	return nil, errContent
}

// sealable is content as the session encrypts it.
func sealable(content *wire.Content) ([]byte, error) {
	b, err := proto.Marshal(content)
	if err != nil {
		return nil, err
	}
	if len(b) > maxContent {
		return nil, errors.New("too long to send")
	}
	if _, call := content.Body.(*wire.Content_Call); call {
		return pad(b, slackOf(content), padCallTo), nil
	}
	return pad(b, slackOf(content), padTo), nil
}

// parseContent checks what a peer's session decrypted to. A body of a later version of the protocol is no error: it is nil.
func parseContent(plaintext []byte) (*wire.Content, error) {
	if len(plaintext) > maxContent+padCallTo {
		return nil, errContent
	}
	b, err := unpad(plaintext)
	if err != nil {
		return nil, err
	}
	content := new(wire.Content)
	if proto.Unmarshal(b, content) != nil || len(content.Id) != 16 || content.Timestamp > maxTimestamp ||
		len(content.Username) > maxUsername {
		return nil, errContent
	}
	switch body := content.Body.(type) {
	case nil:
	case *wire.Content_Text:
		err = checkText(body.Text.GetBody())
	case *wire.Content_Receipt:
		err = checkReceipt(body.Receipt)
	case *wire.Content_Call:
		err = checkCall(body.Call)
	case *wire.Content_MissedCall:
		if len(body.MissedCall.GetCallId()) != 16 || body.MissedCall.GetTimestamp() > maxTimestamp {
			err = errContent
		}
	}
	if err != nil {
		return nil, err
	}
	return content, nil
}

const maxTimestamp = 1 << 52 // milliseconds; safe in arithmetic, and some hundred thousand years off

func checkText(text string) error {
	if len(text) == 0 || len(text) > MaxText || !utf8.ValidString(text) {
		return errContent
	}
	return nil
}

func checkReceipt(r *wire.Receipt) error {
	if len(r.GetMessageIds()) == 0 || len(r.GetMessageIds()) > maxReceipts {
		return errContent
	}
	for _, id := range r.GetMessageIds() {
		if len(id) != 16 {
			return errContent
		}
	}
	return nil
}

// checkCall checks form and sizes. What offers and answers hold is looked at when a call wants them: parseOffer, parseAnswer.
func checkCall(call *wire.CallMessage) error {
	ok := len(call.GetCallId()) == 16
	switch body := call.GetBody().(type) {
	case *wire.CallMessage_Offer:
		ok = ok && len(body.Offer) <= maxDescription
	case *wire.CallMessage_Answer:
		ok = ok && len(body.Answer) <= maxDescription
	case *wire.CallMessage_Candidates:
		list := body.Candidates.GetCandidates()
		ok = ok && len(list) > 0 && len(list) <= maxCandidates
		for _, c := range list {
			ok = ok && len(c) <= maxCandidate
		}
	case *wire.CallMessage_Reveal:
		ok = ok && len(body.Reveal.GetVerification()) == 32
	case *wire.CallMessage_Accept:
		ok = ok && len(body.Accept.GetVerification()) == 32
	case *wire.CallMessage_Path:
		ice := body.Path.GetIce()
		ok = ok && len(ice.GetUfrag()) <= maxCandidate && len(ice.GetPassword()) <= maxCandidate
	}
	if !ok {
		return errContent
	}
	return nil
}

func timestamp(t time.Time) uint64 { return uint64(t.UnixMilli()) }

func fromTimestamp(ms uint64) time.Time { return time.UnixMilli(int64(ms)) }
