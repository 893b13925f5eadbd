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
	name string
	run  func(*process) (map[string]float64, error)
}

func names() (out []string) {
	for _, s := range scenarios(0) {
		out = append(out, s.name)
	}
	return out
}

func scenarios(sessions int) []scenario {
	return []scenario{
		{"audio", func(p *process) (map[string]float64, error) {
			return saturate(p, "audio", traffic{size: 172, window: 32, burst: 4})
		}},
		{"video", func(p *process) (map[string]float64, error) {
			return saturate(p, "video", traffic{size: 1200, window: 24, burst: 8})
		}},
		{"coalesced", func(p *process) (map[string]float64, error) {
			return saturate(p, "coalesced", traffic{size: 1200, window: 24, burst: 8, joined: true})
		}},
		{"hairpin", func(p *process) (map[string]float64, error) {
			return saturate(p, "hairpin", traffic{size: 172, window: 32, burst: 4, hairpin: true})
		}},
		{"loss-free", lossFree},
		{"latency", latency},
		{"sessions", func(p *process) (map[string]float64, error) { return hold(p, sessions) }},
	}
}

// saturate keeps a window of packets under way for each client, so that the relay always has something to do.
func saturate(p *process, name string, t traffic) (map[string]float64, error) {
	if relayNet != 0 {
		t.window = min(t.window, 24) // ten of them: a veth holds 256 packets
	}
	flows, err := t.open(10)
	if err != nil {
		return nil, err
	}
	defer closeAll(flows)
	const warm, long = 300 * time.Millisecond, 1200 * time.Millisecond
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
		case from.IsZero() && now.Sub(start) > warm:
			from, cpu, before = now, p.cpu(), got
		case !from.IsZero() && now.Sub(from) > long:
			forwards := float64(got - before)
			if lost(flows) > 0 {
				return nil, fmt.Errorf("%d packets were lost", lost(flows))
			}
			return map[string]float64{
				name + ": forwards per relay CPU-second": forwards / (p.cpu() - cpu).Seconds(),
				name + ": forwards/s":                    forwards / now.Sub(from).Seconds(),
			}, nil
		}
	}
}

// lossFree looks for the highest rate at which nothing is lost.
func lossFree(*process) (map[string]float64, error) {
	flows, err := traffic{size: 172}.open(10)
	if err != nil {
		return nil, err
	}
	defer closeAll(flows)
	low, high := 0.0, 400_000.0 // forwards a second
	for high-low > 6_000 {
		rate := (low + high) / 2
		ok, err := paced(flows, rate/2, 400*time.Millisecond)
		if err != nil {
			return nil, err
		}
		if ok {
			low = rate
		} else {
			high = rate
		}
	}
	return map[string]float64{"audio: loss-free maximum, forwards/s": low}, nil
}

// paced sends packets at a rate and says whether all were echoed. A rate that the generator itself cannot keep counts as too much.
func paced(flows []*flow, rate float64, long time.Duration) (bool, error) {
	before := lost(flows)
	start, sent, behind := time.Now(), 0, false
	for {
		elapsed := time.Since(start)
		if elapsed > long {
			break
		}
		due := int(elapsed.Seconds()*rate) - sent
		behind = behind || float64(due) > rate/50
		for i := 0; i < len(flows) && due > 0; i++ {
			n := min(due, 4)
			if err := flows[(sent/4)%len(flows)].send(n); err != nil {
				return false, err
			}
			sent, due = sent+n, due-n
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

// settle waits for what is still under way and writes off the rest.
func settle(flows []*flow) error {
	for quiet, last := time.Now(), arrived(flows); time.Since(quiet) < 300*time.Millisecond; {
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

// latency sends single packets, evenly spaced.
func latency(p *process) (map[string]float64, error) {
	flows, err := traffic{size: 172}.open(10)
	if err != nil {
		return nil, err
	}
	defer closeAll(flows)
	const rate, long = 5000, 2 * time.Second
	var trips []time.Duration
	for _, f := range flows {
		f.trip = func(d time.Duration) { trips = append(trips, d) }
	}
	cpu, start := p.cpu(), time.Now()
	for sent := 0; time.Since(start) < long; {
		if due := int(time.Since(start).Seconds() * rate); due > sent {
			if err := flows[sent%len(flows)].send(1); err != nil {
				return nil, err
			}
			sent++
		}
		for _, f := range flows {
			if err := f.receive(); err != nil {
				return nil, err
			}
		}
	}
	if err := settle(flows); err != nil {
		return nil, err
	}
	if lost(flows) > 0 || len(trips) < rate {
		return nil, fmt.Errorf("%d packets were lost, %d echoed", lost(flows), len(trips))
	}
	slices.Sort(trips)
	at := func(q float64) float64 { return float64(trips[int(q*float64(len(trips)-1))].Nanoseconds()) / 1000 }
	return map[string]float64{
		"latency: p50, µs":               at(0.5),
		"latency: p99, µs":               at(0.99),
		"latency: relay CPU, µs/forward": float64((p.cpu() - cpu).Microseconds()) / float64(2*len(trips)),
	}, nil
}

// hold makes sessions and keeps them.
func hold(p *process, n int) (map[string]float64, error) {
	peer, err := open(othersIP + "250")
	if err != nil {
		return nil, err
	}
	defer peer.close()
	resident, err := p.resident()
	if err != nil {
		return nil, err
	}
	cpu, start := p.cpu(), time.Now()
	for i := range n {
		s, err := allocate(i)
		if err != nil {
			return nil, fmt.Errorf("allocation %d: %w", i+1, err)
		}
		defer s.close()
		if err := s.bind(0x4000, peer.local); err != nil {
			return nil, err
		}
	}
	used, took := p.cpu()-cpu, time.Since(start)
	after, err := p.resident()
	if err != nil {
		return nil, err
	}
	return map[string]float64{
		"sessions: made per relay CPU-second":   float64(n) / used.Seconds(),
		"sessions: made per second":             float64(n) / took.Seconds(),
		"sessions: resident memory of each, kB": (after - resident) / float64(n) / 1000,
	}, nil
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
