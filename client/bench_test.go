package client

import (
	"testing"
	"time"
)

// How long it takes from one end's decision to the other's hearing, through a real server and two disks.
func BenchmarkMessage(b *testing.B) {
	w := newWorld(b)
	alice, bob := friends(b, w)
	for b.Loop() {
		if _, err := alice.Send(b.Context(), "bob", "hello"); err != nil {
			b.Fatal(err)
		}
		bob.hears(b, "hello")
	}
}

// From the accept to the first authenticated packet at both ends, and from the call to the ringing.
func BenchmarkCall(b *testing.B) {
	w := newWorld(b)
	alice, bob := friends(b, w)
	var ringing, media time.Duration
	for b.Loop() {
		start := time.Now()
		caller, callee := ring(b, alice, bob, CallOptions{})
		ringing += time.Since(start)
		start = time.Now()
		if err := callee.Accept(patience(b), callee.media()); err != nil {
			b.Fatal(err)
		}
		awaitEvent[FirstMedia](b, caller)
		awaitEvent[FirstMedia](b, callee)
		media += time.Since(start)
		caller.Hangup()
		awaitEnd(b, caller, Normal)
		awaitEnd(b, callee, Normal)
	}
	b.ReportMetric(float64(ringing.Milliseconds())/float64(b.N), "ms/call-to-ringing")
	b.ReportMetric(float64(media.Milliseconds())/float64(b.N), "ms/accept-to-media")
	b.ReportMetric(0, "ns/op")
}
