package turnserver

import (
	"context"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/pion/stun/v4"
	"golang.org/x/sys/unix"
)

// TestPollerKeepsItsProcessor: while packets come in quick succession a poller waits without the runtime's knowledge, which stops for the
// garbage collector all the same; when nothing comes any more it gives that up.
func TestPollerKeepsItsProcessor(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 1))
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	p := poller{mayKeep: true}
	if err := p.open(pair[0]); err != nil {
		t.Fatal(err)
	}
	defer p.release()
	p.lapse = time.Hour // only the collector's signals end a wait
	var clock time.Time // stands still, so that all is quick
	packets, lapses := 0, 0
	next := func() {
		if err := p.wait(func() time.Time { return clock }); err != nil {
			t.Fatal(err)
		}
		for _, e := range p.ready {
			switch int(e.Fd) {
			case p.clock:
				p.lapsed()
				lapses++
			case pair[0]:
				var b [8]byte
				if n, err := unix.Read(pair[0], b[:]); err != nil || n != 1 {
					t.Fatalf("read %d bytes: %v", n, err)
				}
				packets++
			}
		}
	}
	send := func() {
		if _, err := unix.Write(pair[1], []byte{1}); err != nil {
			t.Fatal(err)
		}
	}

	for packets < 2 {
		send()
		next()
	}
	if !p.keeps.Load() {
		t.Fatal("it waits as others do although packets come in quick succession")
	}
	collected := make(chan struct{})
	go func() {
		defer close(collected)
		for range 20 {
			runtime.GC()
			send()
		}
	}()
	for packets < 22 {
		next()
	}
	<-collected
	p.lapse = defaultLapse
	p.keep(true)
	for lapses = 0; p.keeps.Load(); next() {
		if lapses > 2 {
			t.Fatal("it does not give up")
		}
	}

	// What comes slowly changes nothing.
	for packets = 0; packets < 3; {
		clock = clock.Add(quick)
		send()
		next()
	}
	if p.keeps.Load() {
		t.Error("it keeps its processor for packets that come slowly")
	}
}

// TestDedicated: a loop has a processor of Go's scheduler more for as long as it is there, keeps it under traffic, and whatever else the program
// does goes on.
func TestDedicated(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	config := Config{UDP: []string{"127.0.0.1:0", "127.0.0.2:0"}, Secrets: [][]byte{testSecret}, AllowPeers: loopback, Dedicated: true, tune: tuning{foreign: elsewhere}}
	var servers []*Server
	for n := range 2 { // the second is not led to think that there are more cores
		s, err := New(config)
		if err != nil {
			t.Fatal(err)
		}
		servers = append(servers, s)
		if got := runtime.GOMAXPROCS(0); got != before*(3+2*n) {
			t.Errorf("GOMAXPROCS is %d with a loop for each of %d cores and %d addresses", got, before, 2*(n+1))
		}
	}
	s := servers[0]
	alice, other := newRawClient(t, s, "alice"), echoPeer(t, "127.0.0.2")
	alice.mustSucceed(stun.MethodAllocate, udpTransport)
	alice.mustSucceed(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(addrPort(other)))
	eventually(t, "a loop keeps its processor", func() bool {
		_, _ = alice.conn.Write([]byte("\x40\x00\x00\x05hello"))
		alice.next()
		return slices.ContainsFunc(s.udp, func(u udpListener) bool { return u.(*loop).keeps.Load() })
	})
	eventually(t, "loops without traffic keep none", func() bool {
		return !slices.ContainsFunc(s.udp, func(u udpListener) bool { return u.(*loop).keeps.Load() })
	})
	for range 2 { // the second time there is nothing to give back
		_ = s.Shutdown(cancelled(t))
	}
	if got := runtime.GOMAXPROCS(0); got != before*3 {
		t.Errorf("after the first of two has ended GOMAXPROCS is %d", got)
	}
	_ = servers[1].Shutdown(cancelled(t))
	if got := runtime.GOMAXPROCS(0); got != before {
		t.Errorf("GOMAXPROCS was %d and is %d", before, got)
	}
}

func cancelled(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}
