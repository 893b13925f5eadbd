package media

import (
	"os"
	"runtime"
	"sync"
	"testing"
	"time"
)

// Sessions one after another, and 50 at once, each with sound that is heard: afterwards there are as many goroutines and descriptors as
// before, and no more memory than pools keep.
func TestManySessions(t *testing.T) {
	inARow, atOnce := 5, 5
	if *long {
		inARow, atOnce = 1000, 50
	}
	call := func(t *testing.T) {
		p := newPair(t, Config{Loopback: true}, Config{Loopback: true})
		p.connect(t)
		ears := [2]heard{}
		for i, s := range []*Session{p.caller, p.callee} {
			s.microphone.encoder = newCanned() // 100 encoders at once would be a test of the machine
			s.SetSinks(&ears[i], nil)
			if err := s.StartSending(&tone{n: 1 << 30}, nil); err != nil {
				t.Error(err)
			}
		}
		for i := range ears {
			deadline := time.Now().Add(60 * time.Second)
			for _, loud := ears[i].counts(); loud < 10 && time.Now().Before(deadline); _, loud = ears[i].counts() {
				time.Sleep(5 * time.Millisecond)
			}
			if _, loud := ears[i].counts(); loud < 10 {
				t.Errorf("%d frames were heard", loud)
			}
		}
		p.caller.Close()
		p.callee.Close()
	}
	one := func() { t.Run("call", call) } // its end also ends what the test itself keeps of it
	one()                                 // what is made once
	goroutines, descriptors, memory := usage(t)
	begin := time.Now()
	for range inARow {
		one()
	}
	t.Logf("%d in a row: %v each", inARow, (time.Since(begin) / time.Duration(inARow)).Round(time.Millisecond))
	var calls sync.WaitGroup
	for range atOnce {
		calls.Go(one)
	}
	calls.Wait()
	eventually(t, 10*time.Second, "goroutines and descriptors as before", func() bool {
		g, d, _ := usage(t)
		return g <= goroutines && d <= descriptors
	})
	_, _, after := usage(t)
	t.Logf("%d goroutines, %d descriptors; heap %d kB, then %d kB", goroutines, descriptors, memory/1024, after/1024)
	if growth := int64(after) - int64(memory); *long && growth > 8<<20 {
		t.Errorf("the heap has grown by %d kB", growth/1024)
	}
}

func usage(t *testing.T) (goroutines, descriptors int, heap uint64) {
	t.Helper()
	runtime.GC()
	if entries, err := os.ReadDir("/proc/self/fd"); err == nil { // where there is such a directory
		descriptors = len(entries)
	}
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return runtime.NumGoroutine(), descriptors, stats.HeapAlloc
}
