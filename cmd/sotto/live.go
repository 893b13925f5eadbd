package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"sotto/client"
)

// A display is how one call is shown: lines of what happens, a line that lives while it runs, and a summary when it is over.
type display struct {
	out    *output
	board  *board // nil: nobody presses keys
	entry  *boardCall
	tracks *tracks // nil for a call that is not taken
	agent  *agent  // which is told what is shown; nil: none

	began, accepted time.Time
	lastProgress    time.Time
	code            *client.Verified // of an incoming call, until it is accepted
	path            string           // that was shown last
	connected       bool             // there was one
	held, shared    bool
	peerState       client.PeerState
	failed          error // what ended the call from here
}

// follow shows a call until it has ended. limit hangs it up so long after it was accepted; 0 does not. When ctx or the agent ends it is
// hung up as well. The keys of b, which may be nil, steer it. The error is what ended the call from here.
func follow(ctx context.Context, out *output, b *board, entry *boardCall, limit time.Duration, t *tracks) (client.Ended, error) {
	defer b.add(entry)()
	d := &display{out: out, board: b, entry: entry, tracks: t, began: time.Now()}
	if t != nil {
		d.agent = t.agent
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	call, gone, interrupt := entry.call, d.agent.ended(), ctx.Done()
	var overdue <-chan time.Time
	for {
		select {
		case event, ok := <-call.Events():
			if !ok {
				return client.Ended{Reason: client.Failed}, client.ErrCallEnded
			}
			b.note(entry, event)
			if ended, ok := event.(client.Ended); ok {
				d.showDamages()
				d.summarize(ended)
				return ended, d.failed
			}
			if _, ok := event.(client.Accepted); ok && limit > 0 {
				overdue = time.After(limit)
			}
			d.show(event)
		case <-tick.C:
			d.share()
			d.showDamages()
			d.progress()
		case <-gone:
			gone = nil
			call.Hangup()
		case <-overdue:
			if !d.connected {
				d.failed = fmt.Errorf("there was no network path to %s", entry.peer)
			}
			call.Hangup()
		case <-interrupt:
			interrupt = nil
			call.Hangup()
		}
	}
}

// say prints a line, and tells an agent.
func (d *display) say(line any, format string, args ...any) {
	d.out.say(line, format, args...)
	d.agent.tell(line)
}

// show says what happened.
func (d *display) show(event client.CallEvent) {
	call, peer := d.entry.call, d.entry.peer
	switch event := event.(type) {
	case client.Ringing:
		d.say(callLine{Event: "ringing", Peer: peer}, "%s's device rings", peer)
	case client.Accepted:
		d.accepted = time.Now()
		d.say(callLine{Event: "accepted", Peer: peer}, "accepted")
		if d.board != nil {
			d.out.say(nil, "%s", keyHelp)
		}
		if d.code != nil {
			d.show(*d.code)
		}
	case client.Verified:
		if call.Incoming() && d.accepted.IsZero() {
			d.code = &event // of no use to anybody if the call is not taken
			return
		}
		d.say(callLine{Event: "verified", Peer: peer, Code: event.Code},
			"verification code %s: nobody is in between if %s sees the same", event.Code, peer)
	case client.NoPath:
		d.showNoPath(event)
	case client.Connected:
		d.connected = true
		if event.Path != d.path { // another path of the same kind is nothing that anybody would notice
			d.path = event.Path
			d.say(callLine{Event: "connected", Peer: peer, Path: event.Path}, "connected, %s", pathWords(event.Path))
		}
	case client.FirstMedia:
		d.say(callLine{Event: "first_media", Peer: peer}, "%s can be heard", peer)
	case client.Interrupted:
		d.path = ""
		d.say(callLine{Event: "interrupted", Peer: peer}, "nothing arrives; waiting for the network")
	case client.MediaUndecryptable:
		if event.Deaf {
			d.say(callLine{Event: "deaf", Peer: peer}, "NOTHING THAT ARRIVES CAN BE DECRYPTED: %s is not heard; somebody tampers, or a device is broken", peer)
		} else {
			d.say(callLine{Event: "undecryptable", Peer: peer},
				"PACKETS ARRIVE THAT THIS CALL'S KEYS DO NOT OPEN: somebody tampers, or a device is broken")
		}
		if d.agent != nil && event.Deaf { // not for a packet that anybody may have sent
			d.failed = event.Err
			d.agent.deafen()
			call.Hangup()
		}
	case client.Held:
		d.held = true
		d.say(callLine{Event: "held", Peer: peer}, "the call with %s is on hold", peer)
	case client.Resumed:
		d.held = false
		d.say(callLine{Event: "resumed", Peer: peer}, "back in the call with %s", peer)
	case client.QualityChanged:
		if event.Poor {
			d.say(callLine{Event: "poor", Peer: peer}, "the connection with %s is poor", peer)
		} else {
			d.say(callLine{Event: "good", Peer: peer}, "the connection with %s is good again", peer)
		}
	case client.PeerState:
		d.showPeerState(event)
	case client.SourceEnded:
		d.say(sourceEndedLine{"source_ended", peer, event.Device}, "%s", endedWords[event.Device])
	case client.DeviceFailed:
		if event.Device == "screen" {
			d.shared, d.tracks.screen = false, nil
		}
		d.say(deviceFailedLine{"device_failed", d.entry.peer, event.Device, event.Err.Error()}, "your %s fails, and the call goes on without: %s", event.Device, event.Err)
	}
}

type damageLine struct {
	Event  string  `json:"event"` // "media_damaged"
	Peer   string  `json:"peer"`
	File   string  `json:"file"`
	Error  string  `json:"error"`
	Offset int64   `json:"offset"` // in bytes
	At     float64 `json:"at_seconds"`
	Ends   bool    `json:"ends"` // nothing behind it can be played
}

// showDamages says where a file could not be played.
func (d *display) showDamages() {
	if d.tracks == nil {
		return
	}
	for _, found := range d.tracks.newDamages() {
		d.say(damageLine{"media_damaged", d.entry.peer, found.Name, found.What, found.Offset, found.At.Seconds(), found.Ends},
			"%s", found)
	}
}

type sourceEndedLine struct {
	Event  string `json:"event"` // "source_ended"
	Peer   string `json:"peer"`
	Device string `json:"device"` // "microphone", "camera" or "screen"
}

var endedWords = map[string]string{
	"microphone": "your sound is over; silence is sent",
	"camera":     "your video is over; its last picture stays",
	"screen":     "what you share is over; its last picture stays",
}

type noPathLine struct {
	Event  string         `json:"event"` // "no_path"
	Peer   string         `json:"peer"`
	Relays []relayFailure `json:"relays"`
}

type relayFailure struct {
	URL   string `json:"url"`
	Error string `json:"error"`
}

// showNoPath says that nothing can be heard yet, and which relays do not help.
func (d *display) showNoPath(event client.NoPath) {
	line := noPathLine{Event: "no_path", Peer: d.entry.peer, Relays: []relayFailure{}}
	text := fmt.Sprintf("no network path to %s yet; looking on", d.entry.peer)
	for _, relay := range event.Relays {
		line.Relays = append(line.Relays, relayFailure{relay.URL, relay.Err.Error()})
		text += fmt.Sprintf("\n  relay %q: %v", relay.URL, relay.Err)
	}
	d.say(line, "%s", text)
}

type deviceFailedLine struct {
	Event  string `json:"event"` // "device_failed"
	Peer   string `json:"peer"`
	Device string `json:"device"` // "microphone", "camera", "speaker", "display" or "screen"
	Error  string `json:"error"`
}

// share shares the screen, if there is one, once: as soon as that can be, of which no event tells.
func (d *display) share() {
	switch call := d.entry.call; {
	case d.shared || d.tracks == nil || d.tracks.screen == nil || d.accepted.IsZero():
	case !call.Video():
		d.shared = true
		d.say(callLine{Event: "no_screen", Peer: d.entry.peer}, "no screen is shared: %s called without pictures", d.entry.peer)
	case d.tracks.share(call) == nil:
		d.shared = true
		d.say(callLine{Event: "screen", Peer: d.entry.peer}, "your screen is shared with %s", d.entry.peer)
	}
}

// showPeerState says what the other end has changed.
func (d *display) showPeerState(is client.PeerState) {
	was, peer := d.peerState, d.entry.peer
	d.peerState = is
	line := peerStateLine{"peer_state", peer, is.Muted, is.Held, is.Video, is.Screen}
	d.agent.tell(line)
	if d.out.json {
		d.out.say(line, "")
		return
	}
	for _, change := range []struct {
		was, is bool
		on, off string
	}{
		{was.Muted, is.Muted, "is muted", "is not muted any more"},
		{was.Held, is.Held, "has put the call on hold", "is back"},
		{was.Video, is.Video, "shows video", "shows no video any more"},
		{was.Screen, is.Screen, "shares a screen", "shares no screen any more"},
	} {
		switch {
		case change.is && !change.was:
			d.out.say(nil, "%s %s", peer, change.on)
		case change.was && !change.is:
			d.out.say(nil, "%s %s", peer, change.off)
		}
	}
}

// progress is the line that lives. Of several calls the one that is being had has it.
func (d *display) progress() {
	call, peer := d.entry.call, d.entry.peer
	if d.accepted.IsZero() {
		if !call.Incoming() {
			d.out.progress(nil, "calling %s  %s  (Ctrl-C gives up)", peer, clock(time.Since(d.began)))
		}
		return
	}
	stats := call.Stats()
	if stats.Path.Kind == "" || d.out.json && time.Since(d.lastProgress) < time.Second || !d.out.json && d.held && !d.board.has(d.entry) {
		return
	}
	d.lastProgress = time.Now()
	since, loss, roundTrip := time.Since(d.accepted), stats.Audio.Loss(), milliseconds(stats.RoundTrip)
	d.out.progress(progressLine{"progress", peer, since.Seconds(), stats.Path.Kind, roundTrip, loss},
		"%s  %s%s  loss %.1f %%  round trip %.1f ms  %s  (%s)",
		peer, clock(since), d.states(), 100*loss, roundTrip, pathWords(stats.Path.Kind), d.board.hint())
}

// states are what is not as it is at the beginning of a call, at both ends.
func (d *display) states() string {
	muted, video, lowData := d.board.own(d.entry)
	is := d.peerState
	return states("you", muted, d.held, video, d.shared && d.entry.call.Video(), lowData) +
		states(d.entry.peer, is.Muted, is.Held, is.Video, is.Screen, false)
}

func states(who string, muted, held, video, screen, lowData bool) string {
	var words []string
	for _, state := range []struct {
		on   bool
		word string
	}{{muted, "muted"}, {held, "on hold"}, {video, "video"}, {screen, "screen"}, {lowData, "low data"}} {
		if state.on {
			words = append(words, state.word)
		}
	}
	if words == nil {
		return ""
	}
	return "  " + who + ": " + strings.Join(words, ", ")
}
