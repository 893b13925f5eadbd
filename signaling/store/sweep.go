package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

// sweepStep bounds what one step of a sweep holds in memory.
const sweepStep = 1000

func (p *Pebble) Sweep(ctx context.Context, now time.Time) (int, error) {
	envelopes := 0
	for {
		due, err := p.due(now)
		if err != nil || len(due) == 0 {
			return envelopes, err
		}
		for _, entry := range due {
			if err := ctx.Err(); err != nil {
				return envelopes, err
			}
			was, err := p.expire(entry)
			if err != nil {
				return envelopes, err
			}
			if was {
				envelopes++
			}
		}
	}
}

// due returns the next entries of the expiry index.
func (p *Pebble) due(now time.Time) (list [][]byte, err error) {
	prefix := []byte{kindExpiry}
	end := millis(now)
	err = p.each(prefix, prefix, func(key, _ []byte) (bool, error) {
		if beUint64(key[1:]) > end {
			return false, nil
		}
		list = append(list, append([]byte(nil), key...))
		return len(list) < sweepStep, nil
	})
	return list, err
}

// expire deletes what an entry of the index points to, and the entry. It says whether that was an envelope.
func (p *Pebble) expire(entry []byte) (envelope bool, err error) {
	b := p.db.NewBatch()
	key := entry[9:]
	switch {
	case isKind(key, kindEnvelope):
		a := addressIn(key)
		defer p.device(a)()
		_, err := p.remove(b, a, beUint64(key[1+addressSize:]))
		if err != nil && !errors.Is(err, ErrNotFound) {
			return false, err
		}
		envelope = err == nil
	case isKind(key, kindInvitation):
		p.names.Lock()
		defer p.names.Unlock()
		b.Delete(key, nil)
	default:
		b.Delete(key, nil)
	}
	b.Delete(entry, nil)
	return envelope, p.applyLater(b)
}

// Scrub first writes out the newest table, which ends the log that fed it, then rewrites every file
// whose range holds envelopes, or the heads of mailboxes, which name senders, so that deleted ones
// are dropped; eraser deletes the old files, and Scrub waits for that. Its cost is that of
// rewriting what still waits. What else was erased of devices that were removed goes by itself: see
// scrubRemoved.
func (p *Pebble) Scrub(ctx context.Context) error {
	marks, err := p.removed()
	if err != nil {
		return err
	}
	old, err := p.files()
	if err != nil {
		return err
	}
	if err := p.db.Flush(); err != nil {
		return err
	}
	for _, kind := range []byte{kindEnvelope, kindHead} {
		prefix := []byte{kind}
		if err := p.db.Compact(ctx, prefix, upperBound(prefix), false); err != nil {
			return err
		}
	}
	if err := p.scrubRemoved(ctx, marks); err != nil {
		return err
	}
	if err := p.awaitErased(ctx, old); err != nil {
		return err
	}
	return p.db.LogData(nil, pebble.Sync)
}

// awaitErased waits until of the files that there were, and of those that were made since, none is
// left but what the store consists of. The engine deletes obsolete files in a goroutine of its own,
// some time after Flush and Compact have returned, and keeps those that somebody reads.
func (p *Pebble) awaitErased(ctx context.Context, old map[string]bool) error {
	made, err := p.files()
	if err != nil {
		return err
	}
	maps.Copy(old, made)
	tick := time.NewTicker(erasedPause)
	defer tick.Stop()
	for {
		left, err := p.obsolete(old)
		if err != nil || !left {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

const erasedPause = 2 * time.Millisecond

// files are the tables and logs in the directory.
func (p *Pebble) files() (map[string]bool, error) {
	names, err := p.fsys.List(p.dir)
	files := map[string]bool{}
	for _, name := range names {
		if strings.HasSuffix(name, ".sst") || strings.HasSuffix(name, ".log") {
			files[name] = true
		}
	}
	return files, err
}

// obsolete reports whether some of old are there still although the store does not need them:
// tables that are in no level, and logs but the newest.
func (p *Pebble) obsolete(old map[string]bool) (bool, error) {
	now, err := p.files()
	if err != nil {
		return false, err
	}
	levels, err := p.db.SSTables()
	if err != nil {
		return false, err
	}
	newest := ""
	for name := range now {
		if strings.HasSuffix(name, ".log") {
			newest = slices.MaxFunc([]string{newest, name}, func(a, b string) int { // numbers
				return cmp.Or(cmp.Compare(len(a), len(b)), strings.Compare(a, b))
			})
		}
	}
	live := map[string]bool{newest: true}
	for _, tables := range levels {
		for _, table := range tables {
			live[fmt.Sprintf("%06d.sst", table.BackingSSTNum)] = true
		}
	}
	for name := range now {
		if old[name] && !live[name] {
			return true, nil
		}
	}
	return false, nil
}
