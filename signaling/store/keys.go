package store

import (
	"cmp"
	"slices"

	"github.com/cockroachdb/pebble/v2"
)

// Kinds of one-time keys.
const (
	curve = 0
	kyber = 1
)

func (p *Pebble) AddKeys(a Address, k Keys, limit int) (Counts, error) {
	counts, wait, err := p.addKeys(a, k, limit)
	if err != nil {
		return Counts{}, err
	}
	return counts, wait()
}

func (p *Pebble) addKeys(a Address, k Keys, limit int) (Counts, func() error, error) {
	defer p.device(a)()
	var state keyState
	if err := p.getJSON(keyOf(kindKeyState, a), &state); err != nil {
		return Counts{}, nil, err
	}
	b := p.db.NewBatch()
	state.add(b, a, k, limit)
	b.Set(keyOf(kindKeyState, a), mustJSON(state), nil)
	wait, err := p.apply(b)
	return state.counts(), wait, err
}

// add puts the one-time keys that are new and have room into the batch. An ID at or below the highest one came before: this is a
// repeated upload, and the key may have been handed out meanwhile.
func (s *keyState) add(b *pebble.Batch, a Address, k Keys, limit int) {
	if k.Signed != nil {
		s.Signed = k.Signed
	}
	if k.LastResort != nil {
		s.LastResort = k.LastResort
	}
	for kind, keys := range [2][]OneTimeKey{curve: k.OneTime, kyber: k.OneTimeKyber} {
		keys = slices.Clone(keys)
		slices.SortFunc(keys, func(x, y OneTimeKey) int { return cmp.Compare(x.ID, y.ID) })
		for _, key := range keys {
			if key.ID <= s.Highest[kind] || s.Left[kind] >= limit {
				continue
			}
			b.Set(oneTimeKey(a, byte(kind), key.ID), key.Data, nil)
			s.Highest[kind] = key.ID
			s.Left[kind]++
		}
	}
}

func (s *keyState) counts() Counts { return Counts{s.Left[curve], s.Left[kyber]} }

func (p *Pebble) KeyCounts(a Address) (Counts, error) {
	var state keyState
	err := p.getJSON(keyOf(kindKeyState, a), &state)
	return state.counts(), err
}

func (p *Pebble) TakeKeys(a Address) (Taken, error) {
	taken, wait, err := p.takeKeys(a)
	if err != nil || wait == nil {
		return taken, err
	}
	return taken, wait() // before anyone sees the keys: after a crash they must not be there again
}

func (p *Pebble) takeKeys(a Address) (Taken, func() error, error) {
	defer p.device(a)()
	device, err := p.Device(a)
	if err != nil {
		return Taken{}, nil, err
	}
	var state keyState
	if err := p.getJSON(keyOf(kindKeyState, a), &state); err != nil {
		return Taken{}, nil, err
	}
	taken := Taken{Device: device, Signed: state.Signed}
	b := p.db.NewBatch()
	for kind, into := range [2]*[]byte{curve: &taken.OneTime, kyber: &taken.Kyber} {
		prefix := append(keyOf(kindOneTime, a), byte(kind))
		err := p.each(prefix, prefix, func(key, value []byte) (bool, error) {
			*into = append([]byte{}, value...)
			state.Left[kind]--
			return false, b.Delete(key, nil)
		})
		if err != nil {
			return Taken{}, nil, err
		}
	}
	if taken.Kyber == nil {
		taken.Kyber, taken.LastResort = state.LastResort, true
	}
	if b.Empty() {
		return taken, nil, b.Close()
	}
	b.Set(keyOf(kindKeyState, a), mustJSON(state), nil)
	wait, err := p.apply(b)
	return taken, wait, err
}
