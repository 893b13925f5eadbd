package signaling

import (
	"fmt"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"sotto/signaling/store"
)

// quickly makes an account without the cost of its pre-keys.
func (s *testServer) quickly(t testing.TB, username string) *testDevice {
	t.Helper()
	d := newDevice(s, username)
	d.account = randomBytes(16)
	account := store.Account{ID: store.UUID(d.account), Username: username}
	device := store.Device{Address: d.storeAddress(), RegistrationID: 1, IdentityKey: d.identity}
	if err := s.store.CreateAccount(account, device, store.Keys{}, nil, time.Now()); err != nil {
		t.Fatal(err)
	}
	return d
}

func wideOpen(c *Config, _ *timing) {
	l := &c.Limits
	l.Sends, l.Frames = Rate{1 << 30, time.Nanosecond}, Rate{1 << 30, time.Nanosecond}
	l.UnauthenticatedPer = 1 << 20
	l.Mailbox, l.MailboxBytes = 1<<30, 1<<50
}

// BenchmarkSends: 64 devices send 1 kB envelopes, each waiting for Sent before the next. stored: to a device that is not there, so that
// every Sent waits for the disk. straight: to 64 devices that are, and acknowledge.
func BenchmarkSends(b *testing.B) {
	const senders = 64
	for _, present := range []bool{false, true} {
		name := map[bool]string{false: "stored", true: "straight"}[present]
		b.Run(name, func(b *testing.B) {
			s := serve(b, wideOpen)
			var from, to []*testDevice
			for i := range senders {
				from = append(from, s.quickly(b, fmt.Sprint("from", i)))
				to = append(to, s.quickly(b, fmt.Sprint("to", i)))
				from[i].connect(b)
				if present {
					to[i].connect(b)
					go func() {
						for {
							e, err := to[i].receive()
							if err != nil || to[i].acknowledge(e) != nil {
								return
							}
						}
					}()
				}
			}
			work := make(chan struct{}, b.N)
			for range b.N {
				work <- struct{}{}
			}
			close(work)
			b.ResetTimer()
			var all sync.WaitGroup
			for i := range senders {
				all.Go(func() {
					for range work {
						if err := from[i].send(from[i].envelope(to[i], 1000)); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			all.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "sends/s")
		})
	}
}

// BenchmarkIdleLinks reports the memory of an authenticated link on which nothing happens, the benchmark's own end of the connection
// included (a bare socket).
func BenchmarkIdleLinks(b *testing.B) {
	const links = 1000
	for range b.N {
		s := serve(b, wideOpen)
		var devices []*testDevice
		for i := range links {
			devices = append(devices, s.quickly(b, fmt.Sprint("idle", i)))
		}
		before := resident()
		var sockets []net.Conn
		for _, d := range devices {
			if err := d.dial(d.identityProof); err != nil {
				b.Fatal(err)
			}
			sockets = append(sockets, d.conn.NetConn())
			d.conn = nil
		}
		b.ReportMetric(float64(resident()-before)/links, "B/link")
		for _, c := range sockets {
			c.Close()
		}
		s.close(b)
	}
}

// resident is the memory in use by heap and stacks.
func resident() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}
