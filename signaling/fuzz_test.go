package signaling

import (
	"testing"

	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/proto"

	"sotto/signaling/store"
	"sotto/wire"
)

// FuzzRegistration: a body that passes has fields of the right form, and costs no signature check before.
func FuzzRegistration(f *testing.F) {
	d := newDevice(nil, "alice")
	good, _ := proto.Marshal(d.registration("token"))
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := parseRegistration(body)
		if err != nil {
			return
		}
		if !ValidUsername(r.GetUsername()) || len(r.GetIdentityKey()) != curveKeySize || len(r.GetSignature()) != signatureSize || len(r.GetInvitation()) > 128 {
			t.Errorf("accepted %v", r)
		}
		if len(wire.RegistrationToSign("a", r)) != 22+2+len(r.GetUsername())+1+4+33+32 {
			t.Error("the signed string has another length than its fields")
		}
	})
}

// FuzzFrame: whatever a device sends, it is answered or ignored, and an envelope that passes fits the store.
func FuzzFrame(f *testing.F) {
	s := newServer(Config{Limits: Limits{}.withDefaults()}, nil, nil, defaultTiming)
	d := newDevice(nil, "alice")
	d.account = make([]byte, 16)
	for _, frame := range []*wire.ClientFrame{
		{Id: 1, Body: &wire.ClientFrame_Send{Send: d.envelope(d, 10)}},
		{Body: &wire.ClientFrame_Ack{Ack: &wire.Ack{Sender: d.account, EnvelopeId: d.account}}},
		{Id: 2, Body: &wire.ClientFrame_UploadPreKeys{UploadPreKeys: d.preKeys(1)}},
		{Id: 3, Body: &wire.ClientFrame_FetchBundles{FetchBundles: &wire.FetchBundles{Account: d.account}}},
		{Id: 4, Body: &wire.ClientFrame_SetDeliveryToken{SetDeliveryToken: &wire.SetDeliveryToken{Hash: make([]byte, 32)}}},
		{Id: 5, Body: &wire.ClientFrame_FetchBundles{FetchBundles: &wire.FetchBundles{Account: d.account, DeliveryToken: d.account}}},
		sendSealed(sealed(d, 10), d.account),
		{Id: 6, Body: &wire.ClientFrame_AddDevice{AddDevice: &wire.AddDevice{
			Slot: d.account, Device: &wire.NewDevice{Id: 2, IdentityKey: d.identity[:], RegistrationId: 1}, Reply: d.account,
		}}},
		{Body: &wire.ClientFrame_Ack{Ack: &wire.Ack{EnvelopeId: d.account}}},
		{Body: &wire.ClientFrame_Authenticate{Authenticate: d.identityProof(make([]byte, 32), [32]byte{})}},
	} {
		b, _ := proto.Marshal(frame)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		if a, err := parseAuthenticate(websocket.BinaryMessage, message); err == nil && (len(a.Account) != 16 || a.Device-1 > 126) {
			t.Errorf("accepted %v", a)
		}
		frame, err := parseFrame(websocket.BinaryMessage, message)
		if err != nil {
			return
		}
		fits := func(e store.Envelope) bool {
			return e.To.Device >= 1 && e.To.Device <= 127 && e.Expires.After(e.Accepted) && len(e.Body) <= maxCiphertext+256
		}
		if send := frame.GetSend(); checkEnvelope(send) == nil && !fits(s.stamped(send, d.storeAddress())) {
			t.Errorf("accepted %v", send)
		}
		if m := frame.GetSendSealed(); checkSealed(m) == nil {
			e := s.stamped(m.Envelope, nameless)
			var delivered wire.Envelope
			if proto.Unmarshal(e.Body, &delivered) != nil || !fits(e) || e.From != nameless.Account || len(delivered.Sender) > 0 || delivered.SenderDevice > 0 {
				t.Errorf("accepted %v", m)
			}
		}
		if id, err := parseAck(frame.GetAck()); err == nil && len(frame.GetAck().GetSender()) == 0 && id.from != nameless.Account {
			t.Errorf("%v acknowledges what somebody sent", frame)
		}
		if m := frame.GetAddDevice(); m != nil {
			if n, err := parseAddDevice(m); err == nil && (n.Address.Device < 2 || n.Address.Device > 127 || len(m.Slot) != wire.SlotSize) {
				t.Errorf("accepted %v", m)
			}
		}
		if k := frame.GetUploadPreKeys(); k != nil {
			if keys, err := parsePreKeys(k, d.identity, false); err == nil && len(keys.OneTime) > uploadLimit {
				t.Error("accepted too many keys")
			}
		}
	})
}

// FuzzLinkRequest: a body that passes fits a slot.
func FuzzLinkRequest(f *testing.F) {
	good, _ := proto.Marshal(&wire.LinkRequest{Slot: make([]byte, wire.SlotSize), Blob: []byte("blob")})
	f.Add(good)
	f.Add(good[:10])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, body []byte) {
		if r, err := parseLinkRequest(body); err == nil && (len(r.Slot) != wire.SlotSize || len(r.Blob) == 0 || len(r.Blob) > wire.MaxLinkRequest) {
			t.Errorf("accepted %v", r)
		}
	})
}

func FuzzValidUsername(f *testing.F) {
	for _, s := range []string{"alice", "a.b", "A", "\x00\x00", "é"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if !ValidUsername(name) {
			return
		}
		for _, b := range []byte(name) {
			if b < '-' || b > 'z' || b == '/' {
				t.Errorf("accepted %q", name)
			}
		}
	})
}
