package client

import (
	"flag"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"sotto/signaling"
)

var manyCalls = flag.Bool("many", false, "1,000 calls in a row and 50 at once")

// used is what this process has taken: goroutines, file descriptors, bytes that are in use.
type used struct {
	goroutines, descriptors int
	heap                    uint64
}

func (u used) String() string {
	return fmt.Sprintf("%d goroutines, %d descriptors, %d kB", u.goroutines, u.descriptors, u.heap>>10)
}

func measure(t *testing.T) (u used) {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("what is open is counted in /proc, which Linux alone has")
	}
	runtime.GC()
	runtime.GC() // what finalizers freed
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	return used{runtime.NumGoroutine(), len(entries), memory.HeapAlloc}
}

// measureAtRest measures once nothing has begun or ended for half a second: what is still ending must not count as what there was.
func measureAtRest(t *testing.T) (u used) {
	t.Helper()
	const looks = 10
	same := 0
	eventually(t, "nothing begins and ends any more", func() bool {
		now := measure(t)
		if now.goroutines == u.goroutines && now.descriptors == u.descriptors {
			same++
		} else {
			same = 0
		}
		u = now
		time.Sleep(50 * time.Millisecond) // until the next look
		return same == looks
	})
	return u
}

// givenBack waits until nothing of the calls runs any more: connections to the relay and timers end a moment later.
func givenBack(t *testing.T, before used) (after used) {
	t.Helper()
	eventually(t, fmt.Sprintf("everything is given back (before: %v)", before), func() bool {
		after = measure(t)
		return after.goroutines <= before.goroutines+2 && after.descriptors <= before.descriptors+2
	})
	return after
}

// verifiedCall is a whole call: both hear each other and see one code.
func verifiedCall(t *testing.T, from, to *person) {
	t.Helper()
	caller, callee := accepted(t, from, to, CallOptions{})
	ours, _ := caller.VerificationCode()
	theirs, _ := callee.VerificationCode()
	if ours == "" || ours != theirs {
		t.Errorf("verification codes %q and %q", ours, theirs)
	}
	if caller.Stats().Undecryptable+callee.Stats().Undecryptable != 0 {
		t.Error("undecryptable packets")
	}
	caller.Hangup()
	awaitEnd(t, caller, Normal)
	awaitEnd(t, callee, Normal)
}

// Calls leave nothing behind in the process. (The tests of this package that run in parallel are not running yet.)
func TestCallsInARow(t *testing.T) {
	n := 5
	if *manyCalls {
		n = 1000
	}
	w := newWorld(t)
	alice, bob := friends(t, w)
	one := func(from, to *person) { // the end of a test also ends what that keeps of a call
		t.Run("call", func(t *testing.T) { verifiedCall(t, from, to) })
	}
	one(alice, bob) // sets up what stays
	before := measureAtRest(t)
	for i := range n {
		if i%2 == 0 {
			one(alice, bob)
		} else {
			one(bob, alice)
		}
		if i%100 == 99 {
			t.Logf("%d calls: %v", i+1, measure(t))
		}
	}
	after := givenBack(t, before)
	t.Logf("%d calls: %v before, %v after", n, before, after)
	littleMore(t, before, after, n)
}

// littleMore fails if more memory is in use than what stays of some calls: notes that each took place, in sessions and lists.
func littleMore(t *testing.T, before, after used, calls int) {
	t.Helper()
	if grown := int64(after.heap) - int64(before.heap); grown > int64(4<<20+calls*2<<10) {
		t.Errorf("%d bytes more are in use", grown)
	}
}

// Many at once, all in one process. While others are looked at a call is on hold, or 100 encoders at once would be a test of the machine.
func TestCallsAtOnce(t *testing.T) {
	n := 3
	if *manyCalls {
		n = 50
	}
	w := newWorld(t, func(cfg *signaling.Config) { // all at one address
		cfg.Limits.Registrations, cfg.Limits.AnonymousPer = signaling.Rate{Burst: 1000, Every: time.Millisecond}, 1000
	})
	var pairs [][2]*person
	for i := range n {
		alice, bob := w.online(fmt.Sprintf("alice%d", i)), w.online(fmt.Sprintf("bob%d", i))
		alice.send(t, bob.Username(), "hi")
		bob.hears(t, "hi")
		bob.send(t, alice.Username(), "hi")
		alice.hears(t, "hi")
		pairs = append(pairs, [2]*person{alice, bob})
	}
	for _, p := range pairs { // sets up what stays
		t.Run("call", func(t *testing.T) { verifiedCall(t, p[0], p[1]) })
	}
	before := measureAtRest(t)
	t.Run("calls at once", func(t *testing.T) { callsAtOnce(t, pairs) })
	after := givenBack(t, before)
	t.Logf("%v before, %v after", before, after)
	littleMore(t, before, after, n)
}

func callsAtOnce(t *testing.T, pairs [][2]*person) {
	type call struct{ caller, callee *end }
	var calls []call
	for _, p := range pairs {
		caller, callee := ring(t, p[0], p[1], CallOptions{})
		if err := callee.Accept(patience(t), callee.media()); err != nil {
			t.Fatal(err)
		}
		hear(t, caller, callee)
		if err := caller.Hold(true); err != nil {
			t.Fatal(err)
		}
		calls = append(calls, call{caller, callee})
	}
	for _, c := range calls { // all are still on
		if err := c.caller.Hold(false); err != nil {
			t.Fatal(err)
		}
		hear(t, c.caller, c.callee)
		if err := c.caller.Hold(true); err != nil {
			t.Fatal(err)
		}
		ours, _ := c.caller.VerificationCode()
		if theirs, _ := c.callee.VerificationCode(); ours == "" || ours != theirs {
			t.Errorf("verification codes %q and %q", ours, theirs)
		}
	}
	t.Logf("%d calls at once: %v", len(calls), measure(t))
	for _, c := range calls {
		c.caller.Hangup()
	}
	for _, c := range calls {
		awaitEnd(t, c.caller, Normal)
		awaitEnd(t, c.callee, Normal)
	}
}
