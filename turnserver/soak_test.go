package turnserver

import (
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/stun/v4"

	"sotto/turncred"
)

var (
	soakTime        = flag.Duration("soak", 3*time.Second, "how long the soak test sends: 10m in the long form")
	soakAllocations = flag.Int("soak-allocations", 500, "through how many allocations: 10000 in the long form")
)

// testSoak: many allocations with a channel each, in a relay of its own process, which all send and hear an echo at a modest rate, refresh and bind again, for as
// long as asked. Nothing is lost, the relay's memory stays flat, and when they are over, half by their clients' word and half by time, no port, descriptor,
// goroutine, account or entry of the driver's map is left.
//
//	go test ./turnserver -run 'TestBehaviour/.*/soak' -v -timeout 40m -soak 10m -soak-allocations 10000
//	go test ./turnserver -run 'TestOffload$' -v -timeout 40m -soak 10m -soak-allocations 10000
func testSoak(t *testing.T, plane string) {
	const peers, perSecond = 8, 2500 // echoes of all allocations
	count := *soakAllocations
	p := startProcess(t, plane, "127.0.0.1:0", func(c *Config) {
		c.MaxAllocations, c.MaxPerUser, c.MaxPerAddress = count, count, count
		c.RelayPorts = PortRange{20_000, uint16(20_000 + count + count/10)}
		c.UserPackets, c.AddressPackets = 1_000_000, 1_000_000 // so that there are accounts
	})
	interval := max(time.Second*time.Duration(count)/perSecond, 200*time.Millisecond)
	reach := func(i int) *soaker {
		conn, err := world.dialFrom(byte(10+i%200), p.at) // of each address the relay answers 64 strangers at once
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		c := &soaker{rawClient: rawClient{t: t, conn: conn}, number: uint32(i)}
		c.username, c.password = turncred.Mint(testSecret, fmt.Sprint("user", i%100), turncred.MaxTTL, time.Now())
		if !c.until(stun.MethodAllocate, udpTransport, lifetime(600)) {
			t.Fatalf("allocation %d fails", i)
		}
		return c
	}
	reach(0).until(stun.MethodRefresh, lifetime(0))
	eventually(t, "the first is gone", func() bool { s := p.status(t); return s.Allocations+s.Accounts == 0 })
	before := p.status(t)

	var echoes []netip.AddrPort
	for range peers {
		echoes = append(echoes, addrPort(echoPeer(t, "127.0.0.2")))
	}

	var clients []*soaker
	for i := range count {
		c := reach(i)
		if c.peer = echoes[i%peers]; !c.until(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(c.peer)) {
			t.Fatalf("channel %d fails", i)
		}
		clients = append(clients, c)
	}
	began := time.Now()
	end := began.Add(*soakTime)
	var all sync.WaitGroup
	var sent, lost atomic.Int64
	for i, c := range clients {
		all.Go(func() { c.soak(began.Add(interval*time.Duration(i)/time.Duration(count)), interval, end, &sent, &lost) })
	}
	show := func(when string) status {
		s := p.status(t)
		t.Logf("%s: %d allocations, resident %d kB, heap %d kB, %d goroutines, %d descriptors, %d flows, %d by the driver; %d echoes, %d lost", when,
			s.Allocations, s.Resident>>10, s.Heap>>10, s.Goroutines, s.Descriptors, s.Flows, s.Driver, sent.Load()-lost.Load(), lost.Load())
		return s
	}
	time.Sleep(*soakTime / 10)
	first := show("after a tenth")
	for range 4 {
		time.Sleep(*soakTime / 5)
		show(time.Since(began).Round(time.Second).String())
	}
	all.Wait()
	last := show("at the end")
	if lost.Load() > 0 || sent.Load() < int64(count) {
		t.Errorf("of %d echoes %d are lost", sent.Load(), lost.Load())
	}
	flat := last.Heap <= first.Heap+first.Heap/20+1<<20
	if !underRace { // whose own memory grows
		flat = flat && last.Resident <= first.Resident+first.Resident/20+4<<20
	}
	if !flat || last.Allocations != count || last.Goroutines > first.Goroutines || last.Descriptors > first.Descriptors {
		t.Errorf("it grows: %+v, then %+v", first, last)
	}
	if world.offloads && last.Driver == 0 {
		t.Error("the driver carried nothing")
	}

	for i, c := range clients { // 0: at once; else it expires
		if !c.until(stun.MethodRefresh, lifetime(uint32(i%2))) {
			t.Errorf("allocation %d does not end", i)
		}
	}
	eventually(t, "all allocations, accounts, descriptors and goroutines are gone", func() bool {
		s := p.status(t)
		return s.Allocations+s.Accounts+s.Flows == 0 && s.Descriptors <= before.Descriptors && s.Goroutines <= before.Goroutines
	})
	show("afterwards")
}

// soaker is a client with one packet under way at a time.
type soaker struct {
	rawClient
	peer   netip.AddrPort
	number uint32
}

// until asks until there is an answer, which must be a success.
func (c *soaker) until(method stun.Method, attrs ...stun.Setter) bool {
	for range 10 {
		m := c.request(method, attrs...)
		switch code := codeOf(m); {
		case code == 0:
			return true
		case code == 437 && method != stun.MethodAllocate: // what ended it was heard before
			return true
		case code != -1:
			c.t.Errorf("%v: code %d", method, code)
			return false
		}
	}
	return false
}

func (c *soaker) soak(next time.Time, interval time.Duration, end time.Time, sent, lost *atomic.Int64) {
	refresh := time.Now().Add(3*time.Minute + rand.N(time.Minute))
	packet, buf := binary.BigEndian.AppendUint32([]byte{0x40, 0, 0, 172}, c.number), make([]byte, 2000)
	packet = append(packet, make([]byte, 172-4)...)
	for n := uint32(0); next.Before(end); next, n = next.Add(interval), n+1 {
		time.Sleep(time.Until(next))
		if time.Now().After(refresh) {
			refresh = refresh.Add(4 * time.Minute)
			if !c.until(stun.MethodRefresh, lifetime(600)) || !c.until(stun.MethodChannelBind, channelAttr(0x4000), peerAttr(c.peer)) {
				c.t.Error("a refresh fails")
			}
		}
		binary.BigEndian.PutUint32(packet[8:], n)
		_, _ = c.conn.Write(packet)
		sent.Add(1)
		_ = c.conn.SetReadDeadline(time.Now().Add(3 * time.Second))
		if got, err := c.conn.Read(buf); err != nil || got < len(packet) || string(buf[:len(packet)]) != string(packet) {
			lost.Add(1)
		}
	}
}
