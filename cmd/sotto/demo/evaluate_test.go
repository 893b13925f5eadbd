package demo

import (
	"bytes"
	"strings"
	"testing"

	"sotto/client"
)

// goodRun is a run in which everything is as claimed.
func goodRun() *run {
	direction := Direction{
		Message: "hello", messageRead: "hello", Similarity: 0.95, Wrong: 0.1,
		VideoSent: 250, VideoReceived: 250, VideoIdentical: 250,
	}
	all := map[string]int{"messages": 2, "call parameters": 2, "speech": 2, "video": 2}
	a, b := direction, direction
	a.From, a.To, b.From, b.To = "alice", "bob", "bob", "alice"
	ended := client.Ended{Reason: client.Normal}
	return &run{
		alice: &person{ended: ended}, bob: &person{ended: ended},
		report: &Report{
			Directions: []Direction{a, b},
			Call: Call{
				Cipher: "AEAD_AES_256_GCM", Path: []string{"relay", "relay"},
				VerificationCode: []string{"418 205", "418 205"}, SafetyNumber: []string{"1 2 3 4", "1 2 3 4"},
			},
			Server: ServerView{Envelopes: 11, Named: 1}, Relay: RelayView{MediaPackets: 4000},
			Search: Search{Server: map[string]int{}, Relay: map[string]int{}, Ends: all, Planted: all},
		},
	}
}

// TestClaimsBite shows that each claim fails when what it claims is not so: a demo that cannot fail shows nothing.
func TestClaimsBite(t *testing.T) {
	good := goodRun()
	good.judge()
	if failed := good.report.Failed(); len(failed) != 0 {
		t.Fatalf("claims fail in a good run: %v", failed)
	}
	for _, test := range []struct {
		claim string
		spoil func(*run)
	}{
		{"the messages were read as they were written", func(r *run) { r.report.Directions[1].messageRead = "hullo" }},
		{"the media was sealed with AES-256-GCM", func(r *run) { r.report.Call.Cipher = "NULL" }},
		{"the media took the path asked for", func(r *run) { r.report.Call.Path[1] = "direct" }},
		{"both ends show one verification code", func(r *run) { r.report.Call.VerificationCode[1] = "418 206" }},
		{"both ends show one verification code", func(r *run) { r.report.Call.VerificationCode = []string{"", ""} }},
		{"both ends have one safety number", func(r *run) { r.report.Call.SafetyNumber[0] = "1 2 3 5" }},
		{"bob heard what alice said", func(r *run) { r.report.Directions[0].Similarity = 0.6 }},
		{"bob heard what alice said", func(r *run) { r.report.Directions[0].Wrong = 0.9 }},
		{"alice saw every picture of bob, byte for byte", func(r *run) { r.report.Directions[1].VideoIdentical-- }},
		{"alice saw every picture of bob, byte for byte", func(r *run) { r.report.Directions[1].VideoSent = 0 }},
		{"every packet opened", func(r *run) { r.report.Directions[0].Undecryptable = 1 }},
		{"the server could read nothing", func(r *run) { r.report.Search.Server["messages"] = 1 }},
		{"the server could read nothing", func(r *run) { r.report.Server.Envelopes = 0 }},
		{"the server was told a sender for the first message alone", func(r *run) { r.report.Server.Named = 2 }},
		{"the relay could read nothing", func(r *run) { r.report.Search.Relay["speech"] = 1 }},
		{"the relay could read nothing", func(r *run) { r.report.Relay.MediaPackets = 0 }},
		{"the search finds what is planted", func(r *run) { r.report.Search.Planted = map[string]int{"video": 1} }},
		{"the search finds what the ends hold", func(r *run) { r.report.Search.Ends = map[string]int{"video": 1} }},
		{"the call ended at both ends", func(r *run) { r.bob.ended.Reason = client.Failed }},
	} {
		r := goodRun()
		test.spoil(r)
		r.judge()
		failed := r.report.Failed()
		if len(failed) != 1 || failed[0].Claim != test.claim {
			t.Errorf("spoilt %q, but these fail: %v", test.claim, failed)
		}
	}
}

// TestBusyMachine: where sound came too late the failure says so, and stays one.
func TestBusyMachine(t *testing.T) {
	for concealed, busy := range map[int]bool{0: false, 2: false, 30: true} {
		r := goodRun()
		d := &r.report.Directions[0]
		d.Similarity, d.AudioHeard, d.AudioConcealed = 0.769, 150, concealed
		r.judge()
		failed := r.report.Failed()
		if len(failed) != 1 || strings.Contains(failed[0].Detail, "too busy") != busy {
			t.Errorf("%d frames concealed: %v", concealed, failed)
		}
	}
}

// TestRender looks at the report as a person and as a terminal see it.
func TestRender(t *testing.T) {
	r := goodRun()
	r.judge()
	var plain, colour bytes.Buffer
	r.report.Render(&plain, false)
	r.report.Render(&colour, true)
	for _, want := range []string{"418 205 at both ends", "11 envelopes, 1 with a sender", "250, 250, 250", "All 16 claims hold."} {
		if !strings.Contains(plain.String(), want) {
			t.Errorf("the report does not say %q:\n%s", want, plain.String())
		}
	}
	if strings.Contains(plain.String(), "\x1b") || !strings.Contains(colour.String(), "\x1b[32m") {
		t.Error("colour where it should not be, or none where it should")
	}
	r.report.Claims[0].Holds = false
	plain.Reset()
	r.report.Render(&plain, false)
	if !strings.Contains(plain.String(), "1 of 16 claims do not hold.") {
		t.Errorf("a failure is not said:\n%s", plain.String())
	}
}
