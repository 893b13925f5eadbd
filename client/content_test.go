package client

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/protobuf/proto"

	"sotto/client/callflow"
	"sotto/e2ee/callkey"
	"sotto/e2ee/ratchet"
	"sotto/media"
	"sotto/wire"
)

func TestPadding(t *testing.T) {
	for _, size := range []int{160, 2080} {
		for n := range 2500 {
			b := bytes.Repeat([]byte{0x80}, n)
			padded := pad(b, 0, size)
			if len(padded)%size != 0 || len(padded) <= n || len(padded) > n+size {
				t.Fatalf("%d bytes become %d", n, len(padded))
			}
			if back, err := unpad(padded); err != nil || !bytes.Equal(back, b) {
				t.Fatalf("%d bytes: %v", n, err)
			}
		}
	}
	for name, b := range map[string][]byte{
		"empty":           {},
		"not a multiple":  append(bytes.Repeat([]byte{0}, 160), 0x80),
		"only zeros":      make([]byte, 160),
		"a block too far": append(pad(nil, 0, 2080), make([]byte, 160)...),
		"other byte":      append(make([]byte, 159), 1),
	} {
		if _, err := unpad(b); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// A golden, so that the format does not change unnoticed.
func TestContentGolden(t *testing.T) {
	golden := "0a1007070707070707070707070707070707" + "1080d095ffbc31" + "1a070a0568656c6c6f" + "3205616c696365" + "80"
	b, err := hex.DecodeString(golden + strings.Repeat("00", 160-len(golden)/2))
	if err != nil {
		t.Fatal(err)
	}
	content, err := parseContent(b)
	if err != nil {
		t.Fatal(err)
	}
	want := &wire.Content{
		Id: bytes.Repeat([]byte{7}, 16), Timestamp: 1_700_000_000_000, Username: "alice",
		Body: &wire.Content_Text{Text: &wire.Text{Body: "hello"}},
	}
	if !proto.Equal(content, want) {
		t.Errorf("content is %v, want %v", content, want)
	}
	made, err := sealable(want)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := parseContent(made); err != nil || !proto.Equal(again, want) || len(made) != 160 {
		t.Errorf("made %d bytes: %v, %v", len(made), again, err)
	}
}

func TestContentLimits(t *testing.T) {
	good := func() *wire.Content {
		return &wire.Content{Id: randomBytes(16), Timestamp: timestamp(time.Now()), Username: "alice"}
	}
	call := func(m *wire.CallMessage) *wire.Content {
		c := good()
		m.CallId = randomBytes(16)
		c.Body = &wire.Content_Call{Call: m}
		return c
	}
	for _, test := range []struct {
		name    string
		ok      bool
		content func() *wire.Content
	}{
		{"no body", true, good},
		{"short id", false, func() *wire.Content { c := good(); c.Id = c.Id[1:]; return c }},
		{"huge time", false, func() *wire.Content { c := good(); c.Timestamp = 1 << 60; return c }},
		{"long name", false, func() *wire.Content { c := good(); c.Username = strings.Repeat("a", 33); return c }},
		{"empty text", false, func() *wire.Content {
			c := good()
			c.Body = &wire.Content_Text{Text: &wire.Text{}}
			return c
		}},
		{"empty receipt", false, func() *wire.Content {
			c := good()
			c.Body = &wire.Content_Receipt{Receipt: &wire.Receipt{}}
			return c
		}},
		{"short receipt id", false, func() *wire.Content {
			c := good()
			c.Body = &wire.Content_Receipt{Receipt: &wire.Receipt{MessageIds: [][]byte{{1}}}}
			return c
		}},
		{"too many receipts", false, func() *wire.Content {
			c := good()
			c.Body = &wire.Content_Receipt{Receipt: &wire.Receipt{MessageIds: make([][]byte, 257)}}
			return c
		}},
		{"call without a body", true, func() *wire.Content { return call(&wire.CallMessage{}) }},
		{"too many candidates", false, func() *wire.Content {
			return call(&wire.CallMessage{Body: &wire.CallMessage_Candidates{Candidates: &wire.Candidates{Candidates: make([]string, 33)}}})
		}},
		{"long candidate", false, func() *wire.Content {
			return call(&wire.CallMessage{Body: &wire.CallMessage_Candidates{
				Candidates: &wire.Candidates{Candidates: []string{strings.Repeat("x", 257)}}}})
		}},
		{"short reveal", false, func() *wire.Content {
			return call(&wire.CallMessage{Body: &wire.CallMessage_Reveal{Reveal: &wire.Reveal{Verification: []byte{1}}}})
		}},
		{"long path", false, func() *wire.Content {
			return call(&wire.CallMessage{Body: &wire.CallMessage_Path{
				Path: &wire.Path{Generation: 1, Ice: &wire.IceParameters{Ufrag: strings.Repeat("x", 257)}}}})
		}},
		{"missed call", true, func() *wire.Content {
			c := good()
			c.Body = &wire.Content_MissedCall{MissedCall: &wire.MissedCall{CallId: randomBytes(16)}}
			return c
		}},
		{"missed call without an id", false, func() *wire.Content {
			c := good()
			c.Body = &wire.Content_MissedCall{MissedCall: &wire.MissedCall{CallId: randomBytes(15)}}
			return c
		}},
		{"huge offer", false, func() *wire.Content {
			return call(&wire.CallMessage{Body: &wire.CallMessage_Offer{Offer: make([]byte, maxDescription+1)}})
		}},
	} {
		b, err := proto.Marshal(test.content())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseContent(pad(b, 0, padTo)); (err == nil) != test.ok {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

// A body of a later version is not an error: its fields are unknown to this one.
func TestContentOfALaterVersion(t *testing.T) {
	b, err := proto.Marshal(&wire.Content{Id: randomBytes(16)})
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, 0xa2, 0x06, 0x01, 0x00) // field 100
	content, err := parseContent(pad(b, 0, padTo))
	if err != nil || content.Body != nil {
		t.Errorf("content %v, error %v", content, err)
	}
}

func FuzzContent(f *testing.F) {
	for _, body := range []*wire.Content{
		{Id: make([]byte, 16), Username: "alice", Body: &wire.Content_Text{Text: &wire.Text{Body: "hello"}}},
		{Id: make([]byte, 16), Body: &wire.Content_Receipt{Receipt: &wire.Receipt{MessageIds: [][]byte{make([]byte, 16)}}}},
		{Id: make([]byte, 16), Body: &wire.Content_Call{Call: &wire.CallMessage{CallId: make([]byte, 16),
			Body: &wire.CallMessage_Candidates{Candidates: &wire.Candidates{Candidates: []string{"1 1 udp 1 192.0.2.1 9 typ host"}}}}}},
		{Id: make([]byte, 16), Body: &wire.Content_Call{Call: &wire.CallMessage{CallId: make([]byte, 16),
			Body: &wire.CallMessage_Path{Path: &wire.Path{Generation: 1, Ice: &wire.IceParameters{Ufrag: "abcd"}}}}}},
		{Id: make([]byte, 16), Body: &wire.Content_MissedCall{MissedCall: &wire.MissedCall{CallId: make([]byte, 16)}}},
	} {
		b, err := sealable(body)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		content, err := parseContent(b)
		if err != nil {
			return
		}
		if len(content.Id) != 16 || len(content.GetText().GetBody()) > MaxText || len(content.GetReceipt().GetMessageIds()) > maxReceipts ||
			len(content.GetCall().GetCandidates().GetCandidates()) > maxCandidates || len(content.GetCall().GetOffer()) > maxDescription {
			t.Errorf("accepted beyond the limits")
		}
		callNamed(content)
		if path, ok := fromCallMessage(content.GetCall()).(callflow.Path); ok && len(path.Ufrag) > maxCandidate {
			t.Errorf("accepted beyond the limits")
		}
	})
}

func testDescription() media.Description {
	return media.Description{
		Ufrag: "abcd", Password: strings.Repeat("p", 22),
		Streams: []media.Stream{
			{Kind: media.Audio, Codec: media.Opus, PayloadType: 111, SSRC: 1},
			{Kind: media.Video, Codec: media.VP8, PayloadType: 96, SSRC: 2, RTXPayloadType: 97, RTXSSRC: 3},
		},
	}
}

func FuzzOffer(f *testing.F) {
	offer := &wire.Offer{Timestamp: timestamp(time.Now()), DeviceList: make([]byte, 32)}
	offer.Ice, offer.Streams = toWire(testDescription())
	caller, err := callkey.NewCaller()
	if err != nil {
		f.Fatal(err)
	}
	caller.Fill(offer)
	b, err := proto.Marshal(offer)
	if err != nil {
		f.Fatal(err)
	}
	if _, _, err := parseOffer(b); err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, d, err := parseOffer(b); err == nil && d.Validate() != nil {
			t.Error("an offer with an unusable description was accepted")
		}
	})
}

func FuzzAnswer(f *testing.F) {
	answer := &wire.Answer{KemCiphertext: make([]byte, callkey.KEMCiphertextSize), Secret: make([]byte, 32), Commitment: make([]byte, 32), DeviceList: make([]byte, 32)}
	answer.Ice, answer.Streams = toWire(testDescription())
	b, err := proto.Marshal(answer)
	if err != nil {
		f.Fatal(err)
	}
	if _, _, err := parseAnswer(b); err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, d, err := parseAnswer(b); err == nil && d.Validate() != nil {
			t.Error("an answer with an unusable description was accepted")
		}
	})
}

// fuzzedClient is a client in memory that reaches no server.
func fuzzedClient(f *testing.F) *Client {
	disk := newMemDisk()
	s, err := newStore("DIR", disk, make([]byte, 32))
	if err != nil {
		f.Fatal(err)
	}
	server, err := parseServer("http://127.0.0.1:1", false)
	if err != nil {
		f.Fatal(err)
	}
	a, err := draft(s, server, "alice", "")
	if err != nil {
		f.Fatal(err)
	}
	a.Account, a.Device = uuid.New(), firstDevice
	c, err := newClient(s, a, Options{})
	if err != nil {
		f.Fatal(err)
	}
	return c
}

// Whatever a server delivers, and whoever it says sent it, is dropped without harm.
func FuzzEnvelope(f *testing.F) {
	c := fuzzedClient(f)
	root, _ := testIssuer(f)
	c.sealing.Root = root[:]
	known := &contact{Account: uuid.New(), Identity: ratchet.GenerateKeyPair().Public().Bytes()}
	c.contacts[known.Account] = known
	f.Add(true, uint32(3), []byte{0x44, 8, 1})
	f.Add(false, uint32(2), []byte{0x44})
	f.Add(false, uint32(6), []byte{0x11, 10, 0})
	f.Fuzz(func(t *testing.T, stranger bool, kind uint32, ciphertext []byte) {
		sender := known.Account
		if stranger {
			sender = uuid.New()
		}
		e := &wire.Envelope{Id: randomBytes(16), Sender: sender[:], SenderDevice: firstDevice, Recipient: c.account.Account[:], RecipientDevice: firstDevice,
			Type: kind, Ciphertext: ciphertext}
		if err := c.take(t.Context(), e); err != nil {
			t.Error(err)
		}
		if len(c.contacts) != 1 || len(c.inbox.unshown) != 0 {
			t.Error("something came of it")
		}
	})
}

func FuzzBundle(f *testing.F) {
	key := append([]byte{5}, make([]byte, 32)...)
	b, err := proto.Marshal(&wire.Bundle{
		IdentityKey: key, OneTime: &wire.PreKey{Id: 1, PublicKey: key}, SignedPreKey: &wire.SignedPreKey{Id: 2, PublicKey: key},
		Kyber: &wire.KyberPreKey{Id: 3},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		bundle := new(wire.Bundle)
		if proto.Unmarshal(b, bundle) != nil {
			return
		}
		parsed, err := parseBundle(bundle)
		if err == nil && (parsed.Identity.IsZero() || parsed.SignedKey.IsZero() || parsed.OneTime != nil && parsed.OneTime.Key.IsZero()) {
			t.Error("a bundle without keys was accepted")
		}
	})
}
