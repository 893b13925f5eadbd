package playout

import (
	"slices"
	"time"
)

const (
	window = 500             // packets: ten seconds
	jump   = 2 * time.Second // no network does this: the sender's clock has jumped
)

// delays remembers how late the packets of the last ten seconds came: arrival less timestamp, from an unknown zero.
type delays struct {
	ring   [window]time.Duration
	count  int
	sorted [window]time.Duration
	fresh  bool // sorted is up to date
}

func (d *delays) add(delay time.Duration) {
	if off := delay - d.least(); d.count > 0 && (off > jump || off < -jump) {
		d.count = 0
	}
	d.ring[d.count%window] = delay
	d.count++
	d.fresh = false
}

func (d *delays) sort() []time.Duration {
	n := min(d.count, window)
	if !d.fresh {
		copy(d.sorted[:n], d.ring[:n])
		slices.Sort(d.sorted[:n])
		d.fresh = true
	}
	return d.sorted[:n]
}

// least is the delay of the fastest packet, the zero that delays are counted from.
func (d *delays) least() time.Duration {
	if d.count == 0 {
		return 0
	}
	return d.sort()[0]
}

// within is the delay, beyond the least, that the given share of the packets kept.
func (d *delays) within(share float64) time.Duration {
	if d.count == 0 {
		return 0
	}
	sorted := d.sort()
	return sorted[int(share*float64(len(sorted)-1))] - sorted[0]
}

// target is the delay to play with.
func (b *Buffer) target() time.Duration {
	least := floor
	if b.loss > lossy {
		least += frameTime
	}
	return min(max(b.delays.within(onTime), least), ceiling)
}

// lost enters one frame, lost or not, into the share of lost ones.
func (b *Buffer) lost(n float64) { b.loss += lossSmoothing * (n - b.loss) }

// duration of so many samples.
func duration(samples int64) time.Duration {
	return time.Duration(samples) * (time.Second / 16000) / 3 // at 48 kHz; days of it fit
}

// Stats returns the counts so far.
func (b *Buffer) Stats() Stats {
	s := b.stats
	s.Target = b.target()
	if !b.epoch.IsZero() && !b.waiting {
		s.Delay = b.delay + frameTime + duration(int64(len(b.ready))) // that of the frame before next
	}
	return s
}
