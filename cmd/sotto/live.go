package main

import (
	"context"
	"fmt"
	"time"

	"sotto/client"
	"sotto/media"
)

// How a call is shown: a line that lives while it runs, and a summary when it is over.

type callLine struct {
	Event string `json:"event"` // "ringing", "accepted", "connected", "first_media", "verified", "interrupted", "undecryptable", "held", "resumed", "poor", "good"
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

// follow shows a call until it has ended. limit hangs it up so long after it was accepted; 0 does not. When ctx or the agent ends it is
// hung up as well. The keys of b, which may be nil, steer it. The error is what ended the call from here.
func follow(ctx context.Context, out *output, b *board, entry *boardCall, limit time.Duration, t *tracks) (client.Ended, error) {
	call, peer := entry.call, entry.peer
	defer b.add(entry)()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var accepted, lastLine time.Time
	began := time.Now()
	var overdue <-chan time.Time
	interrupt := ctx.Done()
	var state client.PeerState
	var failed error
	var program *agent
	if t != nil {
		program = t.agent
	}
	gone := program.ended()
	say := func(line any, format string, args ...any) {
		out.say(line, format, args...)
		program.tell(line)
	}
	for {
		select {
		case event, ok := <-call.Events():
			if !ok {
				return client.Ended{Reason: client.Failed}, client.ErrCallEnded
			}
			b.note(entry, event)
			switch event := event.(type) {
			case client.Accepted:
				accepted = time.Now()
				if limit > 0 {
					overdue = time.After(limit)
				}
				say(callLine{Event: "accepted", Peer: peer}, "accepted")
				if b != nil {
					out.say(nil, keyHelp)
				}
			case client.PeerState:
				showPeerState(out, peer, state, event)
				program.tell(peerState(peer, event))
				state = event
			case client.Ended:
				summarize(say, call, peer, event, accepted, t)
				return event, failed
			case client.MediaUndecryptable:
				showCallEvent(say, peer, event)
				if program != nil {
					failed = event.Err
					program.deafen()
					call.Hangup()
				}
			default:
				showCallEvent(say, peer, event)
			}
		case <-tick.C:
			if accepted.IsZero() {
				if !call.Incoming() {
					out.progress(nil, "calling %s  %s  (Ctrl-C gives up)", peer, clock(time.Since(began)))
				}
				continue
			}
			stats := call.Stats()
			if stats.Path.Kind == "" || out.json && time.Since(lastLine) < time.Second {
				continue
			}
			lastLine = time.Now()
			showProgress(out, stats, peer, time.Since(accepted))
		case <-gone:
			gone = nil
			call.Hangup()
		case <-overdue:
			call.Hangup()
		case <-interrupt:
			interrupt = nil
			call.Hangup()
		}
	}
}

// A sayer is output.say, and perhaps tells an agent too.
type sayer func(line any, format string, args ...any)

// showCallEvent prints what is no more than that.
func showCallEvent(say sayer, peer string, event client.CallEvent) {
	switch event := event.(type) {
	case client.Ringing:
		say(callLine{Event: "ringing", Peer: peer}, "%s's device rings", peer)
	case client.Connected:
		say(callLine{Event: "connected", Peer: peer, Path: event.Path}, "connected, %s", pathWords(event.Path))
	case client.FirstMedia:
		say(callLine{Event: "first_media", Peer: peer}, "%s can be heard", peer)
	case client.Verified:
		say(callLine{Event: "verified", Peer: peer, Code: event.Code}, "verification code %s: nobody is in between if %s sees the same", event.Code, peer)
	case client.Interrupted:
		say(callLine{Event: "interrupted", Peer: peer}, "nothing arrives; waiting for the network")
	case client.MediaUndecryptable:
		say(callLine{Event: "undecryptable", Peer: peer}, "PACKETS ARRIVE THAT THIS CALL'S KEYS DO NOT OPEN: somebody tampers, or a device is broken")
	case client.Held:
		say(callLine{Event: "held", Peer: peer}, "the call with %s is on hold", peer)
	case client.Resumed:
		say(callLine{Event: "resumed", Peer: peer}, "back in the call with %s", peer)
	case client.QualityChanged:
		if event.Poor {
			say(callLine{Event: "poor", Peer: peer}, "the connection with %s is poor", peer)
		} else {
			say(callLine{Event: "good", Peer: peer}, "the connection with %s is good again", peer)
		}
	case client.DeviceFailed:
		say(linkLine{"device_failed", event.Err.Error()}, "the camera cannot be opened: %s", event.Err)
	}
}

func peerState(peer string, is client.PeerState) peerStateLine {
	return peerStateLine{"peer_state", peer, is.Muted, is.Held, is.Video, is.Screen}
}

// showPeerState says what the other end has changed.
func showPeerState(out *output, peer string, was, is client.PeerState) {
	if out.json {
		out.say(peerState(peer, is), "")
		return
	}
	for _, change := range []struct {
		was, is bool
		on, off string
	}{
		{was.Muted, is.Muted, "%s is muted", "%s can be heard again"},
		{was.Held, is.Held, "%s has put the call on hold", "%s is back"},
		{was.Video, is.Video, "%s shows video", "%s shows no video any more"},
		{was.Screen, is.Screen, "%s shares a screen", "%s shares no screen any more"},
	} {
		switch {
		case change.is && !change.was:
			out.say(nil, change.on, peer)
		case change.was && !change.is:
			out.say(nil, change.off, peer)
		}
	}
}

func showProgress(out *output, stats media.Stats, peer string, since time.Duration) {
	loss := stats.Audio.Loss()
	roundTrip := milliseconds(stats.RoundTrip)
	out.progress(progressLine{"progress", peer, since.Seconds(), stats.Path.Kind, roundTrip, loss},
		"%s  %s  loss %.1f %%  round trip %.1f ms  %s  (Ctrl-C hangs up)", peer, clock(since), 100*loss, roundTrip, pathWords(stats.Path.Kind))
}

func summarize(say sayer, call *client.Call, peer string, ended client.Ended, accepted time.Time, t *tracks) {
	var recorded []string
	if t != nil {
		recorded = t.files()
	}
	s := call.Stats()
	code, _ := call.VerificationCode()
	line := summaryLine{
		Event: "summary", Peer: peer, Reason: ended.Reason.String(),
		Cipher: s.Cipher, Path: s.Path.Kind, Code: code, RoundTrip: milliseconds(s.RoundTrip),
		SetUp: milliseconds(s.FirstMediaAfter), Sent: s.BytesSent, Received: s.BytesReceived,
		Audio: fields(s.Audio), Video: fields(s.Video), Recorded: recorded,
	}
	if accepted.IsZero() {
		line.Cipher, line.Path, line.Recorded = "", "", nil
		say(line, "call with %s: %s", peer, ended.Reason)
		return
	}
	duration := time.Since(accepted)
	line.Seconds = duration.Seconds()
	text := fmt.Sprintf("call with %s: %s after %s\n", peer, ended.Reason, clock(duration))
	text += fmt.Sprintf("  %-12s %s, %s, code %s\n", "private by", s.Cipher, pathWords(s.Path.Kind), line.Code)
	text += fmt.Sprintf("  %-12s round trip %.1f ms, %.1f %% of packets lost, jitter %.1f ms\n", "network", line.RoundTrip, 100*s.Audio.Loss(), line.Audio.Jitter)
	text += fmt.Sprintf("  %-12s %d frames sent, %d heard, %d of them concealed", "audio", s.Audio.FramesSent, s.Audio.FramesReceived, s.Audio.FramesConcealed)
	if s.Video.FramesSent+s.Video.FramesReceived > 0 {
		text += fmt.Sprintf("\n  %-12s %d frames sent, %d seen, %d lost", "video", s.Video.FramesSent, s.Video.FramesReceived, s.Video.FramesLost)
	}
	for _, file := range recorded {
		text += fmt.Sprintf("\n  %-12s %s", "recorded", file)
	}
	say(line, "%s", text)
}

func fields(s media.StreamStats) streamFields {
	return streamFields{s.Codec, s.FramesSent, s.FramesReceived, s.FramesConcealed, s.FramesLost, s.Loss(), milliseconds(s.Jitter)}
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
