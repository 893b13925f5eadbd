package media

import (
	"testing"
	"time"
)

func TestCallOnLoopback(t *testing.T) {
	p := newPair(t, Config{Loopback: true, Video: true}, Config{Loopback: true, Video: true})
	p.connect(t)

	var ear heard
	var eye seen
	p.callee.SetSinks(&ear, &eye)
	source := newPictures(60, 30, 20*time.Millisecond)
	if err := p.caller.StartSending(&tone{n: 100}, source); err != nil {
		t.Fatal(err)
	}
	if err := p.callee.StartSending(&tone{n: 100}, nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "all frames seen", func() bool { return len(eye.all()) == 60 })
	eventually(t, 10*time.Second, "the tone heard", func() bool { _, loud := ear.counts(); return loud >= 50 })
	if same := source.identical(eye.all()); same != 60 {
		t.Errorf("%d of 60 frames arrived as they were", same)
	}
	<-p.caller.FirstMedia()
	<-p.callee.FirstMedia()
	<-p.caller.Connected()

	eventually(t, 5*time.Second, "reports from the peer", func() bool { return p.caller.Stats().Video.FramesSent == 60 && p.caller.Stats().RoundTrip > 0 })
	stats := p.callee.Stats()
	if stats.Path.Kind != "direct" || stats.Path.LocalType != "host" || stats.Cipher != "AEAD_AES_256_GCM" {
		t.Errorf("path %+v, cipher %q", stats.Path, stats.Cipher)
	}
	if stats.Path.LocalAddress.String() != "[redacted]" || stats.Path.LocalAddress.Reveal() == "" {
		t.Errorf("address shows as %q", stats.Path.LocalAddress)
	}
	if stats.Undecryptable+stats.Replayed+stats.Malformed != 0 || stats.Video.FramesLost != 0 {
		t.Errorf("stats %+v", stats)
	}
	p.callerSeal.check(t)
	p.calleeSeal.check(t)
}

func TestNothingLeavesBeforeAcceptAndNothingIsPlayedBeforeSinks(t *testing.T) {
	t.Parallel()
	p := newPair(t, Config{Loopback: true, Video: true}, Config{Loopback: true, Video: true})
	p.connect(t)
	<-p.caller.Connected()
	<-p.callee.Connected()
	var ear heard
	p.caller.SetSinks(&ear, nil)
	// The caller has accepted, the callee has not: longer than any report interval nothing of the callee's leaves.
	if err := p.caller.StartSending(&tone{n: 1000}, newPictures(200, 10, 10*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "the callee receives", func() bool { return p.callee.Stats().Audio.PacketsReceived > 50 })
	if sent := p.callee.Stats().BytesSent; sent != 0 {
		t.Errorf("%d bytes left before the callee accepted", sent)
	}
	if played := p.callee.Stats().Audio.FramesReceived; played != 0 {
		t.Errorf("%d frames played without a sink", played)
	}
	var eye seen
	p.callee.SetSinks(nil, &eye)
	eventually(t, 5*time.Second, "pictures that came early", func() bool { return len(eye.all()) > 20 && eye.all()[0].PTS == 0 })
}

// What an eavesdropper sees: datagrams of at most 1200 bytes, all those of the voice equally long, one every 20 ms.
func TestShapeOnTheWire(t *testing.T) {
	t.Parallel()
	p := newPair(t, Config{Loopback: true, Video: true}, Config{Loopback: true})
	record := &recorder{}
	p.recorded = record
	p.connect(t)
	var eye seen
	p.callee.SetSinks(nil, &eye)
	begin := time.Now()
	if err := p.caller.StartSending(&tone{n: 50}, newPictures(40, 10, 10*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "the call", func() bool {
		return p.callee.Stats().Audio.PacketsReceived == 50 && len(eye.all()) == 40
	})
	if took := time.Since(begin); took < 49*FrameLength {
		t.Errorf("one second of sound took %v: it left in a burst", took)
	}
	record.mu.Lock()
	defer record.mu.Unlock()
	voice, longest := map[int]int{}, 0
	for _, datagram := range record.datagrams {
		longest = max(longest, len(datagram))
		if datagram[1]&0x7f == opusPayloadType {
			voice[len(datagram)]++
		}
	}
	if len(voice) != 1 {
		t.Errorf("lengths of voice packets: %v", voice)
	}
	if longest > maxDatagram || longest < maxDatagram*9/10 {
		t.Errorf("the longest datagram has %d bytes", longest)
	}
}
