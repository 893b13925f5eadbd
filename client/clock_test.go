package client

import (
	"testing"
	"time"

	"sotto/wire"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func TestClockCorrection(t *testing.T) {
	for _, test := range []struct {
		name              string
		local             time.Time
		ahead             time.Duration
		correction, doubt time.Duration
	}{
		{"the same", noon, 0, 0, 0},
		{"half a minute", noon, -30 * time.Second, -30 * time.Second, 0},
		{"some minutes", noon, -3 * time.Minute, -3 * time.Minute, -3 * time.Minute},
		{"nine back: a withheld offer would be fresh again", noon, -9 * time.Minute, 0, -9 * time.Minute},
		{"nine ahead: none would be", noon, 9 * time.Minute, 0, 9 * time.Minute},
		{"a year ahead", noon, 365 * 24 * time.Hour, 0, 365 * 24 * time.Hour},
		{"a device without a clock", time.Unix(0, 0), 56 * 365 * 24 * time.Hour, 56 * 365 * 24 * time.Hour, 0},
	} {
		k := &clock{}
		doubt := k.follow(test.local.Add(test.ahead), test.local)
		if correction := time.Duration(k.correction.Load()); correction != test.correction || doubt != test.doubt {
			t.Errorf("%s: corrected by %s, doubt %s", test.name, correction, doubt)
		}
	}
}

// At each link the server says its time again.
func TestServerTimeDoesNotGoBack(t *testing.T) {
	k := &clock{}
	step := func(after, ahead, correction, doubt time.Duration) {
		t.Helper()
		local := noon.Add(after)
		told := k.follow(local.Add(ahead), local)
		if c := time.Duration(k.correction.Load()); c != correction || told != doubt {
			t.Errorf("after %s, %s ahead: corrected by %s, told %s; want %s and %s", after, ahead, c, told, correction, doubt)
		}
	}
	const m = time.Minute
	step(0, 2*m, 2*m, 2*m)
	step(1*m, 2*m+time.Second, 2*m+time.Second, 0) // told once
	step(2*m, 3*m/2, 3*m/2, 0)                     // clocks drift
	step(3*m, -3*m, 0, -3*m)                       // back by more than four minutes
	step(4*m, -3*m, 0, 0)
	step(5*m, 3*m/2, 3*m/2, 3*m/2)
	step(6*m, 0, 0, 0)                   // back by more than a minute
	step(7*m, 3*m, 3*m, 3*m)             // ahead it may go
	step(24*60*m, -20*time.Second, 0, 0) // as if the server's clock was set right
	step(24*60*m, 3*m, 3*m, 3*m)         // told again
}

func TestAgeByEitherClock(t *testing.T) {
	k := &clock{}
	k.follow(noon.Add(4*time.Minute), noon)
	for sent, want := range map[time.Duration]time.Duration{
		-10 * time.Second:              10 * time.Second,
		4*time.Minute - 10*time.Second: 10 * time.Second,
		-10 * time.Minute:              10 * time.Minute,
		10 * time.Minute:               -6 * time.Minute,
	} {
		if age := k.age(noon.Add(sent), noon); age != want {
			t.Errorf("sent %s from now: %s old, want %s", sent, age, want)
		}
	}
}

// A server that lies about the time to one end keeps no call from ringing, and is told of.
func TestCallsRingWhateverTheServersClock(t *testing.T) {
	t.Parallel()
	for _, ahead := range []time.Duration{-9 * time.Minute, 4 * time.Minute, 9 * time.Minute} {
		t.Run(ahead.String(), func(t *testing.T) {
			w := newWorld(t)
			alice := w.online("alice")
			s := spied(t, w)
			s.alter = func(f *wire.ServerFrame) *wire.ServerFrame {
				if welcome := f.GetWelcome(); welcome != nil {
					welcome.ServerTime = uint64(int64(welcome.ServerTime) + ahead.Milliseconds())
				}
				return f
			}
			bob := w.register("bob")
			if err := bob.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			up := expect[LinkUp](t, bob)
			if (up.ClockDoubt - ahead).Abs() > time.Minute/2 {
				t.Errorf("told of %s, want %s", up.ClockDoubt, ahead)
			}
			caller, callee := ring(t, alice, bob, CallOptions{})
			if err := callee.Decline(); err != nil {
				t.Fatal(err)
			}
			awaitEnd(t, caller, Declined)
		})
	}
}
