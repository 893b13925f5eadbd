package client

import (
	"testing"
	"time"
)

// bothWays runs a benchmark with sealed sender and without.
func bothWays(b *testing.B, run func(b *testing.B, alice, bob *person)) {
	for _, sealed := range []bool{true, false} {
		b.Run(map[bool]string{true: "sealed", false: "identified"}[sealed], func(b *testing.B) {
			alice, bob := friends(b, newWorld(b))
			if !sealed {
				alice.noSealing()
				bob.noSealing()
			}
			run(b, alice, bob)
		})
	}
}

// How long it takes from one end's decision to the other's hearing, through a real server and two disks.
func BenchmarkMessage(b *testing.B) { bothWays(b, benchmarkMessage) }

func benchmarkMessage(b *testing.B, alice, bob *person) {
	for b.Loop() {
		if _, err := alice.Send(b.Context(), "bob", "hello"); err != nil {
			b.Fatal(err)
		}
		bob.hears(b, "hello")
	}
}

// From the accept to the first authenticated packet at both ends, and from the call to the ringing.
func BenchmarkCall(b *testing.B) { bothWays(b, benchmarkCall) }

func benchmarkCall(b *testing.B, alice, bob *person) {
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
