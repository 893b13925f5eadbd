package media

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"
)

func goodDescription() Description {
	return Description{
		Ufrag: "abcd", Password: strings.Repeat("p", 22),
		Streams: []Stream{
			{Kind: Audio, Codec: Opus, PayloadType: 111, SSRC: 1},
			{Kind: Video, Codec: VP8, PayloadType: 96, SSRC: 2, RTXPayloadType: 97, RTXSSRC: 3},
			{Kind: Screen, Codec: VP8, PayloadType: 98, SSRC: 4, RTXPayloadType: 99, RTXSSRC: 5},
		},
	}
}

func TestDescriptionOfThePeerIsChecked(t *testing.T) {
	if err := goodDescription().Validate(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Description){
		"no ufrag":                  func(d *Description) { d.Ufrag = "" },
		"long ufrag":                func(d *Description) { d.Ufrag = strings.Repeat("a", 257) },
		"short password":            func(d *Description) { d.Password = strings.Repeat("p", 21) },
		"line break":                func(d *Description) { d.Ufrag = "ab\r\ncd" },
		"two screens":               func(d *Description) { d.Streams[0], d.Streams[1].Kind = d.Streams[2], Screen },
		"screen with audio's codec": func(d *Description) { d.Streams[2].Codec = Opus },
		"screen without RTX":        func(d *Description) { d.Streams[2].RTXSSRC = 0 },
		"screen with video's SSRC":  func(d *Description) { d.Streams[2].SSRC = 2 },
		"a fourth stream": func(d *Description) {
			d.Streams = append(d.Streams, Stream{Kind: Screen + 1, Codec: VP8, PayloadType: 100, SSRC: 9, RTXPayloadType: 101, RTXSSRC: 10})
		},
		"two audio streams":         func(d *Description) { d.Streams[1] = d.Streams[0] },
		"unknown kind":              func(d *Description) { d.Streams[0].Kind = 7 },
		"unknown codec":             func(d *Description) { d.Streams[0].Codec = "PCMU" },
		"codec of the other kind":   func(d *Description) { d.Streams[0].Codec = VP8 },
		"payload type like RTCP":    func(d *Description) { d.Streams[0].PayloadType = 72 },
		"payload type out of range": func(d *Description) { d.Streams[0].PayloadType = 128 },
		"no SSRC":                   func(d *Description) { d.Streams[0].SSRC = 0 },
		"same SSRC":                 func(d *Description) { d.Streams[1].SSRC = 1 },
		"same SSRC for RTX":         func(d *Description) { d.Streams[1].RTXSSRC = 2 },
		"no RTX":                    func(d *Description) { d.Streams[1].RTXPayloadType, d.Streams[1].RTXSSRC = 0, 0 },
		"RTX with the payload type": func(d *Description) { d.Streams[1].RTXPayloadType = 96 },
	} {
		d := goodDescription()
		spoil(&d)
		if d.Validate() == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestKeysAreChecked(t *testing.T) {
	good, _ := testKeys()
	if _, _, err := good.contexts(0); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*Keys){
		"none":                       func(k *Keys) { *k = Keys{} },
		"short key":                  func(k *Keys) { k.SendKey = k.SendKey[:31] },
		"long salt":                  func(k *Keys) { k.ReceiveSalt = make([]byte, 14) },
		"one key in both directions": func(k *Keys) { k.ReceiveKey = bytes.Clone(k.SendKey) },
	} {
		keys := good
		spoil(&keys)
		if _, _, err := keys.contexts(0); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// Who connects has given the keys away: nothing of them is left where they came from.
func TestKeysAreErased(t *testing.T) {
	keys, _ := testKeys()
	var sessions [2]*Session
	for i := range sessions {
		s, err := NewSession(Config{Loopback: true})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		sessions[i] = s
	}
	if err := sessions[0].Connect(sessions[1].Local(), keys); err != nil {
		t.Fatal(err)
	}
	secrets := slices.Concat(keys.SendKey, keys.SendSalt, keys.ReceiveKey, keys.ReceiveSalt)
	if !bytes.Equal(secrets, make([]byte, len(secrets))) {
		t.Error("keys are left")
	}
}

func FuzzDescription(f *testing.F) {
	f.Add("abcd", strings.Repeat("p", 22), uint8(111), uint32(1), uint8(96), uint32(2), uint8(97), uint32(3))
	f.Add("a b", "", uint8(0), uint32(0), uint8(255), uint32(0), uint8(72), uint32(0))
	f.Fuzz(func(t *testing.T, ufrag, password string, audio uint8, audioSSRC uint32, video uint8, videoSSRC uint32, rtx uint8, rtxSSRC uint32) {
		d := Description{Ufrag: ufrag, Password: password, Streams: []Stream{
			{Kind: Audio, Codec: Opus, PayloadType: audio, SSRC: audioSSRC},
			{Kind: Video, Codec: VP8, PayloadType: video, SSRC: videoSSRC, RTXPayloadType: rtx, RTXSSRC: rtxSSRC},
		}}
		if d.Validate() != nil {
			return
		}
		if strings.ContainsAny(ufrag+password, " \r\n\x00:") || audioSSRC == videoSSRC || videoSSRC == rtxSSRC || audioSSRC == 0 ||
			audio < 96 || video < 96 || rtx < 96 || video == rtx {
			t.Errorf("accepted %+v", d)
		}
	})
}

func TestFramesAreDueWithoutDrift(t *testing.T) {
	start := time.Unix(1000, 0)
	due := start
	for i := range 1000 { // each frame a little late
		due = nextDue(due, start.Add(time.Duration(i)*FrameLength+3*time.Millisecond))
	}
	if want := start.Add(1000 * FrameLength); !due.Equal(want) {
		t.Errorf("drifted by %v", due.Sub(want))
	}
	now := due.Add(5 * time.Second) // the machine slept
	if due = nextDue(due, now); !due.Equal(now) {
		t.Errorf("%v of frames would leave in a burst", now.Sub(due))
	}
}

func TestStepsOutOfOrder(t *testing.T) {
	s, err := NewSession(Config{Loopback: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.StartSending(&tone{n: 1}, nil); err == nil {
		t.Error("sending before Connect")
	}
	keys, _ := testKeys()
	if err := s.Connect(Description{}, keys); err == nil {
		t.Error("connected to nobody")
	}
	if err := s.Connect(goodDescription(), Keys{}); err == nil {
		t.Error("connected without keys")
	}
	if err := s.Connect(goodDescription(), keys); err != nil {
		t.Error(err)
	}
	if err := s.Connect(goodDescription(), keys); err == nil {
		t.Error("connected twice with one key")
	}
	if err := s.StartSending(nil, newPictures(1, 1, time.Second)); err == nil {
		t.Error("sending video that was not announced")
	}
	if err := s.AddRemoteCandidate("1 1 udp 1 example.org 5000 typ host"); err == nil {
		t.Error("a name was taken for a candidate")
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := s.Connect(goodDescription(), keys); err == nil {
		t.Error("connected after Close")
	}
	s.SetSinks(&heard{}, &seen{})
	s.Stats()
}
