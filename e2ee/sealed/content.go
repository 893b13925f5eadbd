package sealed

import (
	"sotto/e2ee/ratchet"
	"sotto/e2ee/senderkey"
	"sotto/internal/protofield"
	"sotto/sealedwire"
)

// TypePlaintext is the type of a content that is not encrypted again: a request to send a message anew.
const TypePlaintext uint32 = 8

// Hint says what to do if the message inside cannot be decrypted.
type Hint uint32

const (
	HintDefault    Hint = 0 // show that a message was lost
	HintResendable Hint = 1 // the sender can send it anew; show nothing meanwhile
	HintImplicit   Hint = 2 // never show anything: a receipt, a typing notice
)

// Content is what is sealed:
//
//	1 type    2 sender certificate    3 message    4 content hint (absent for HintDefault)    5 group id (absent if none)
type Content struct {
	// Type is the message's, in the numbers that envelopes use: ratchet.TypeMessage, ratchet.TypePreKeyMessage,
	// senderkey.TypeMessage or TypePlaintext.
	Type    uint32
	Sender  *sealedwire.SenderCertificate
	Message []byte
	Hint    Hint
	Group   []byte
}

// sealedPreKey is what a pre-key message is called in here, and nowhere else.
const sealedPreKey = 1

func (c *Content) encode() ([]byte, error) {
	if _, err := c.sealedType(); err != nil {
		return nil, err
	}
	b := make([]byte, 0, 2+3+len(c.Sender.Bytes())+6+len(c.Message)+6+6+len(c.Group))
	return protofield.Append(b, c.write), nil
}

func (c *Content) sealedType() (uint32, error) {
	switch c.Type {
	case ratchet.TypePreKeyMessage:
		return sealedPreKey, nil
	case ratchet.TypeMessage, senderkey.TypeMessage, TypePlaintext:
		return c.Type, nil
	default:
		return 0, ErrContent
	}
}

// write is for contents with a sealedType.
func (c *Content) write(w *protofield.Writer) {
	typ, _ := c.sealedType()
	w.Varint(1, uint64(typ))
	w.Bytes(2, c.Sender.Bytes())
	w.Bytes(3, c.Message)
	if c.Hint != HintDefault {
		w.Varint(4, uint64(c.Hint))
	}
	if len(c.Group) > 0 {
		w.Bytes(5, c.Group)
	}
}

// parseContent accepts the one encoding that encode gives.
func parseContent(b []byte) (*Content, error) {
	c := new(Content)
	err := protofield.Each(b, func(number int, integer uint64, value []byte) (err error) {
		switch number {
		case 1:
			c.Type = uint32(integer)
			if c.Type == sealedPreKey {
				c.Type = ratchet.TypePreKeyMessage
			}
		case 2:
			c.Sender, err = sealedwire.ParseSenderCertificate(value)
		case 3:
			c.Message = value
		case 4:
			c.Hint = Hint(integer)
		case 5:
			c.Group = value
		}
		return err
	})
	if err != nil || c.Sender == nil {
		return nil, ErrUndecryptable
	}
	if _, err := c.sealedType(); err != nil || !protofield.Same(b, c.write) {
		return nil, ErrUndecryptable
	}
	return c, nil
}
