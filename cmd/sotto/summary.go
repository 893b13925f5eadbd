package main

import (
	"fmt"
	"slices"
	"time"

	"sotto/client"
	"sotto/internal/visible"
	"sotto/media"
)

type callLine struct {
	// Event is "calling", "ringing", "accepted", "connected", "first_media", "verified", "interrupted", "undecryptable", "deaf", "held",
	// "resumed", "poor", "good", "screen" or "no_screen".
	Event string `json:"event"`
	Peer  string `json:"peer"`
	Path  string `json:"path,omitempty"`
	Code  string `json:"verification_code,omitempty"`
}

type peerStateLine struct {
	Event  string `json:"event"` // "peer_state"
	Peer   string `json:"peer"`
	Muted  bool   `json:"muted"`
	Held   bool   `json:"held"`
	Video  bool   `json:"video"`
	Screen bool   `json:"screen"`
}

type progressLine struct {
	Event     string  `json:"event"` // "progress"
	Peer      string  `json:"peer"`
	Seconds   float64 `json:"seconds"`
	Path      string  `json:"path"`
	RoundTrip float64 `json:"round_trip_ms"`
	Loss      float64 `json:"loss"`
}

type summaryLine struct {
	Event     string       `json:"event"` // "summary"
	Peer      string       `json:"peer"`
	Reason    string       `json:"reason"`
	Seconds   float64      `json:"seconds"` // from accept
	Cipher    string       `json:"cipher,omitempty"`
	Path      string       `json:"path,omitempty"`
	Code      string       `json:"verification_code,omitempty"`
	RoundTrip float64      `json:"round_trip_ms"`
	SetUp     float64      `json:"connect_to_media_ms"`
	Sent      uint64       `json:"bytes_sent"`
	Received  uint64       `json:"bytes_received"`
	Audio     streamFields `json:"audio"`
	Video     streamFields `json:"video"`
	Screen    streamFields `json:"screen"`
	Recorded  []string     `json:"recorded,omitempty"`
}

type streamFields struct {
	Codec     string  `json:"codec,omitempty"`
	Sent      uint64  `json:"frames_sent"`
	Received  uint64  `json:"frames_received"`
	Concealed uint64  `json:"frames_concealed"`
	Lost      uint64  `json:"frames_lost"`
	Loss      float64 `json:"packet_loss"`
	Jitter    float64 `json:"jitter_ms"`
}

// summarize says how the call was. One that came and was not taken is told of as missed, to people.
func (d *display) summarize(ended client.Ended) {
	call, peer := d.entry.call, d.entry.peer
	var recorded []string
	if d.tracks != nil {
		recorded = d.tracks.files()
	}
	s := call.Stats()
	code, _ := call.VerificationCode()
	line := summaryLine{
		Event: "summary", Peer: peer, Reason: ended.Reason.String(),
		Cipher: s.Cipher, Path: s.Path.Kind, Code: code, RoundTrip: milliseconds(s.RoundTrip),
		SetUp: milliseconds(s.FirstMediaAfter), Sent: s.BytesSent, Received: s.BytesReceived,
		Audio: fields(s.Audio), Video: fields(s.Video), Screen: fields(s.Screen), Recorded: recorded,
	}
	if d.accepted.IsZero() {
		line.Cipher, line.Path, line.Recorded = "", "", nil
		missed := call.Incoming() && (ended.Reason == client.Cancelled || ended.Reason == client.Timeout)
		if d.out.json || !missed {
			d.say(line, "call with %s: %s", peer, ended.Reason)
		}
		return
	}
	duration := time.Since(d.accepted)
	line.Seconds = duration.Seconds()
	text := []visible.Text{
		visible.Sprintf("call with %s: %s after %s", peer, ended.Reason, clock(duration)),
		visible.Sprintf("  %-12s %s, %s, code %s", "private by", s.Cipher, pathWords(s.Path.Kind), line.Code),
		visible.Sprintf("  %-12s round trip %.1f ms, %.1f %% of packets lost, jitter %.1f ms",
			"network", line.RoundTrip, 100*s.Audio.Loss(), line.Audio.Jitter),
		visible.Sprintf("  %-12s %d frames sent, %d heard, %d of them concealed",
			"audio", s.Audio.FramesSent, s.Audio.FramesReceived, s.Audio.FramesConcealed),
	}
	text = append(text, slices.Concat(pictures("video", s.Video), pictures("screen", s.Screen))...)
	for _, file := range recorded {
		text = append(text, visible.Sprintf("  %-12s %s", "recorded", file))
	}
	d.say(line, "%s", visible.Join("\n", text...))
}

func fields(s media.StreamStats) streamFields {
	return streamFields{s.Codec, s.FramesSent, s.FramesReceived, s.FramesConcealed, s.FramesLost, s.Loss(), milliseconds(s.Jitter)}
}

// pictures is a line about a stream that had any.
func pictures(name string, s media.StreamStats) []visible.Text {
	if s.FramesSent+s.FramesReceived == 0 {
		return nil
	}
	return []visible.Text{visible.Sprintf("  %-12s %d frames sent, %d seen, %d lost",
		name, s.FramesSent, s.FramesReceived, s.FramesLost)}
}

func pathWords(kind string) string {
	switch kind {
	case "relay":
		return "through the relay"
	case "direct":
		return "directly"
	}
	return "no path yet"
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func clock(d time.Duration) string {
	return fmt.Sprintf("%02d:%02d", int(d.Minutes()), int(d.Seconds())%60)
}
