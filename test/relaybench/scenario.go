//go:build linux

package main

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// scenario is one measurement of a relay that has just started.
type scenario struct {
	name  string
	wire  bool   // between namespaces
	share string // of its processor that the relay has: half, a quarter or, if empty, all
	run   func(*process) ([]figure, error)
}

const (
	half    = "half"
	quarter = "quarter"
)

type figure struct {
	name  string
	value float64
}

// The figures that goals are about.
const (
	audioPerCPU     = "audio: forwards per CPU-second"
	videoPerCPU     = "video: forwards per CPU-second"
	coalescedPerCPU = "coalesced video: forwards per CPU-second"
	hairpinPerCPU   = "hairpin: forwards per CPU-second"
	lossFreeRate    = "audio: loss-free forwards/s"
	latencyMedian   = "10k packets/s: round trip p50, µs"
	latencyTail     = "10k packets/s: round trip p99, µs"
	latencyCPU      = "10k packets/s: CPU per forward, µs"
	sessionsPerCPU  = "sessions: made per CPU-second"
	sessionMemory   = "sessions: resident memory of each, kB"
	sessionSlab     = "sessions: with kernel slab, kB"
	wireCPU         = "wire, 40k packets/s: CPU per forward, µs"
	wireLossFree    = "wire: loss-free forwards/s"
	wirePerCPU      = "wire: forwards per CPU-second at that rate"
)

func names() (out []string) {
	for _, s := range scenarios(config{}) {
		out = append(out, s.name)
	}
	return out
}

func scenarios(c config) []scenario {
	long, probe := 1200*time.Millisecond, 400*time.Millisecond
	if c.brief {
		long, probe = 100*time.Millisecond, 20*time.Millisecond
	}
	audio := traffic{size: 172, window: 32, burst: 4}
	video := traffic{size: 1200, window: 24, burst: 8}
	joined, hairpin := video, audio
	joined.joined, hairpin.hairpin = true, true
	saturated := func(name string, t traffic) func(*process) ([]figure, error) {
		return func(p *process) ([]figure, error) { return saturate(p, name, t, long) }
	}
	return []scenario{
		{"audio", false, half, saturated(audioPerCPU, audio)},
		{"video", false, half, saturated(videoPerCPU, video)},
		{"coalesced", false, half, saturated(coalescedPerCPU, joined)},
		{"hairpin", false, half, saturated(hairpinPerCPU, hairpin)},
		{"loss-free", false, half, func(p *process) ([]figure, error) {
			rate, _, err := lossFree(p, probe)
			return []figure{{lossFreeRate, rate}}, err
		}},
		{"latency", false, "", func(p *process) ([]figure, error) {
			trips, cpu, err := echoes(p, 10_000, 2*long)
			if err != nil {
				return nil, err
			}
			slices.Sort(trips)
			at := func(q float64) float64 { return float64(trips[int(q*float64(len(trips)-1))].Nanoseconds()) / 1000 }
			return []figure{{latencyMedian, at(0.5)}, {latencyTail, at(0.99)}, {latencyCPU, cpu}}, nil
		}},
		{"sessions", false, "", func(p *process) ([]figure, error) { return hold(p, c.sessions) }},
		{"wire-load", true, "", func(p *process) ([]figure, error) {
			_, cpu, err := echoes(p, 40_000, long)
			return []figure{{wireCPU, cpu}}, err
		}},
		{"wire-loss-free", true, quarter, func(p *process) ([]figure, error) {
			rate, perCPU, err := lossFree(p, probe)
			return []figure{{wireLossFree, rate}, {wirePerCPU, perCPU}}, err
		}},
	}
}

// suits says whether a relay can be measured so: the driver has no part in loopback, coturn with one socket for all refuses (400) itself as a peer and a peer of two
// clients, and the bare forwarder has no allocations.
func (s scenario) suits(r relay) bool {
	switch r.role {
	case asOffload:
		return s.wire
	case asMultiplexed:
		return s.name != "hairpin" && s.name != "sessions"
	case asBare:
		return s.name != "hairpin" && s.name != "sessions"
	}
	return true
}

// saturate keeps a window of packets under way for each client, so that the relay always has something to do.
func saturate(p *process, name string, t traffic, long time.Duration) ([]figure, error) {
	flows, err := t.open(p, 10)
	if err != nil {
		return nil, err
	}
	defer closeAll(flows)
	var from time.Time
	var cpu time.Duration
	var before uint64
	progress, last := time.Now(), uint64(0)
	for start := time.Now(); ; {
		for _, f := range flows {
			for f.room() >= t.burst {
				if err := f.send(t.burst); err != nil {
					return nil, err
				}
			}
			if err := f.receive(); err != nil {
				return nil, err
			}
		}
		now, got := time.Now(), arrived(flows)
		switch {
		case got != last:
			progress, last = now, got
		case now.Sub(progress) > 500*time.Millisecond:
			return nil, errors.New("packets were lost: nothing comes any more")
		}
		switch {
		case from.IsZero() && now.Sub(start) > long/4:
			from, cpu, before = now, p.cpu(), got
		case !from.IsZero() && now.Sub(from) > long:
			if lost(flows) > 0 {
				return nil, fmt.Errorf("%d packets were lost", lost(flows))
			}
			return []figure{{name, float64(got-before) / (p.cpu() - cpu).Seconds()}}, nil
		}
	}
}

// lossFree looks for the highest rate at which nothing is lost, in one of two attempts, and what the relay forwards for each CPU-second then.
func lossFree(p *process, probe time.Duration) (rate, perCPU float64, err error) {
	flows, err := traffic{size: 172}.open(p, 10)
	if err != nil {
		return 0, 0, err
	}
	defer closeAll(flows)
	for low, high := 0.0, 640_000.0; high-low > 3_000; { // forwards a second
		middle := (low + high) / 2
		for attempt := 1; ; attempt++ {
			cpu, before := p.cpu(), arrived(flows)
			ok, err := paced(flows, middle/2, probe, 4)
			if err != nil {
				return 0, 0, err
			}
			if ok {
				low, rate = middle, middle
				perCPU = float64(arrived(flows)-before) / (p.cpu() - cpu).Seconds()
				break
			}
			if attempt == 2 {
				high = middle
				break
			}
		}
	}
	return rate, perCPU, nil
}

// paced sends packets at a rate, a few at a time, and says whether all were echoed. A rate that the generator itself cannot keep counts as too much.
func paced(flows []*flow, rate float64, long time.Duration, few int) (bool, error) {
	before := lost(flows)
	start, sent, turn, behind := time.Now(), 0, 0, false
	for {
		elapsed := time.Since(start)
		if elapsed > long {
			break
		}
		due := int(elapsed.Seconds()*rate) - sent
		behind = behind || float64(due) > rate/50
		for i := 0; i < len(flows) && due > 0; i++ {
			n := min(due, few)
			if err := flows[turn%len(flows)].send(n); err != nil {
				return false, err
			}
			sent, due, turn = sent+n, due-n, turn+1
		}
		for _, f := range flows {
			if err := f.receive(); err != nil {
				return false, err
			}
		}
	}
	if err := settle(flows); err != nil {
		return false, err
	}
	return lost(flows) == before && !behind, nil
}

// echoes sends single packets, evenly spaced, and says how long each was under way and what a forward costs the relay, in microseconds.
func echoes(p *process, rate float64, long time.Duration) (trips []time.Duration, cpu float64, err error) {
	flows, err := traffic{size: 172}.open(p, 10)
	if err != nil {
		return nil, 0, err
	}
	defer closeAll(flows)
	for _, f := range flows {
		f.trip = func(d time.Duration) { trips = append(trips, d) }
	}
	before := p.cpu()
	if _, err := paced(flows, rate, long, 1); err != nil {
		return nil, 0, err
	}
	if sent := int(rate * long.Seconds()); len(trips) < sent/4 {
		return nil, 0, fmt.Errorf("of %d packets %d came back", sent, len(trips))
	}
	return trips, float64((p.cpu() - before).Microseconds()) / float64(2*len(trips)), nil
}

// settle waits for what is still under way and writes off the rest.
func settle(flows []*flow) error {
	for quiet, last := time.Now(), arrived(flows); time.Since(quiet) < 100*time.Millisecond; {
		for _, f := range flows {
			if err := f.receive(); err != nil {
				return err
			}
		}
		if got := arrived(flows); got != last {
			quiet, last = time.Now(), got
		}
	}
	for _, f := range flows {
		f.writeOff()
	}
	return nil
}

// hold makes sessions and keeps them.
func hold(p *process, n int) ([]figure, error) {
	peer, err := open(othersIP+"250", 0)
	if err != nil {
		return nil, err
	}
	defer peer.close()
	sockets := make([]*socket, n) // made before memory is looked at: they are the generator's
	for i := range sockets {
		if sockets[i], err = dial(fmt.Sprint(othersIP, 1+i%200), listen); err != nil {
			return nil, err
		}
		defer sockets[i].close()
	}
	resident, err := p.resident()
	if err != nil {
		return nil, err
	}
	kernel, err := slab()
	if err != nil {
		return nil, err
	}
	cpu := p.cpu()
	for i, conn := range sockets {
		s, err := conn.allocate(i)
		if err != nil {
			return nil, fmt.Errorf("allocation %d: %w", i+1, err)
		}
		if err := s.bind(number, peer.local); err != nil {
			return nil, err
		}
	}
	used := p.cpu() - cpu
	residentAfter, err := p.resident()
	if err != nil {
		return nil, err
	}
	kernelAfter, err := slab()
	each := func(bytes float64) float64 { return bytes / float64(n) / 1000 }
	return []figure{
		{sessionsPerCPU, float64(n) / used.Seconds()},
		{sessionMemory, each(residentAfter - resident)},
		{sessionSlab, each(residentAfter - resident + kernelAfter - kernel)},
	}, err
}

func arrived(flows []*flow) (n uint64) {
	for _, f := range flows {
		n += f.arrived
	}
	return n
}

func lost(flows []*flow) (n uint64) {
	for _, f := range flows {
		n += f.lost
	}
	return n
}

func closeAll(flows []*flow) {
	for _, f := range flows {
		for _, s := range f.sockets {
			_ = unix.Close(s.fd)
		}
	}
}
