package store

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"time"

	"github.com/cockroachdb/pebble/v2"
)

func (p *Pebble) Put(e Envelope, limits Limits) (wait func() error, err error) {
	defer p.device(e.To)()
	seen, err := p.Seen(e)
	if err != nil {
		return nil, err
	}
	if seen { // perhaps a moment ago: the log is synced in order, so an empty record after it waits for it
		return p.Check, nil
	}
	if device, err := p.get(keyOf(kindDevice, e.To)); err != nil || device == nil { // removed, perhaps a moment ago
		return nil, cmp.Or(err, ErrNotFound)
	}
	head, err := p.head(e.To)
	if err != nil {
		return nil, err
	}
	total, sender := head.total(), head.of(e.From)
	total.add(1, len(e.Body))
	if !limits.allow(total, *sender, shareOf(e.From)) {
		return nil, ErrMailboxFull
	}
	sender.add(1, len(e.Body))
	head.last++
	key, mark := envelopeKey(e.To, head.last), seenKey(e.To, e.From, e.ID)
	b := p.db.NewBatchWithSize(envelopeHeader + len(e.Body) + 512)
	b.Set(key, marshalEnvelope(e), nil)
	b.Set(expiryKey(e.Expires, key), nil, nil)
	b.Set(mark, binary.BigEndian.AppendUint64(nil, head.last), nil)
	b.Set(expiryKey(waitingMarkExpires(e), mark), nil, nil)
	b.Set(keyOf(kindHead, e.To), head.marshal(), nil)
	return p.apply(b)
}

// allow says whether a mailbox may become as full as total, when its newest sender had this much in it before and may have one part in
// share of what is left free.
func (l Limits) allow(total, sender tally, share int64) bool {
	free, freeBytes := int64(l.Count)-int64(total.count), l.Bytes-int64(total.bytes)
	return free >= 0 && freeBytes >= 0 && int64(sender.count) <= free/share && int64(sender.bytes) <= freeBytes/share
}

// shareOf is what Limits grants a sender.
func shareOf(from UUID) int64 {
	if from == (UUID{}) {
		return 1
	}
	return 4
}

// waitingMarkExpires is when the mark of an envelope in the mailbox goes. Not before the envelope does: Erase finds it by its mark.
func waitingMarkExpires(e Envelope) time.Time {
	if horizon := e.Accepted.Add(Horizon); horizon.After(e.Expires) {
		return horizon
	}
	return e.Expires
}

func (p *Pebble) Seen(e Envelope) (bool, error) {
	v, err := p.get(seenKey(e.To, e.From, e.ID))
	return v != nil, err
}

func (p *Pebble) MarkDelivered(e Envelope) error {
	mark := seenKey(e.To, e.From, e.ID)
	b := p.db.NewBatch()
	b.Set(mark, make([]byte, 8), nil)
	b.Set(expiryKey(e.Accepted.Add(Horizon), mark), nil, nil)
	return p.applyLater(b)
}

// head returns the head of a mailbox, empty if there was none yet.
func (p *Pebble) head(a Address) (head, error) {
	v, err := p.get(keyOf(kindHead, a))
	if err != nil || v == nil {
		return head{}, err
	}
	return parseHead(v)
}

func (p *Pebble) Mailbox(a Address, after uint64, limit int, now time.Time) (list []Stored, next uint64, err error) {
	next = after
	prefix := keyOf(kindEnvelope, a)
	err = p.each(prefix, envelopeKey(a, after+1), func(key, value []byte) (bool, error) {
		e, err := parseEnvelope(a, value)
		if err != nil {
			return false, err
		}
		next = beUint64(key[1+addressSize:])
		if e.Expires.After(now) {
			list = append(list, Stored{e, next})
		}
		return len(list) < limit, nil
	})
	return list, next, err
}

func (p *Pebble) Erase(a Address, from UUID, id [16]byte) error {
	defer p.device(a)()
	mark := seenKey(a, from, id)
	v, err := p.get(mark)
	if err != nil {
		return err
	}
	place := beUint64(v)
	if place == 0 {
		return nil
	}
	b := p.db.NewBatch()
	e, err := p.remove(b, a, place)
	if errors.Is(err, ErrNotFound) { // it has expired
		return nil
	}
	if err != nil {
		return err
	}
	b.Set(mark, make([]byte, 8), nil)
	b.Delete(expiryKey(waitingMarkExpires(e), mark), nil)
	b.Set(expiryKey(e.Accepted.Add(Horizon), mark), nil, nil)
	return p.applyLater(b)
}

// remove takes an envelope out of its mailbox. Error: ErrNotFound. The caller holds the device's lock.
func (p *Pebble) remove(b *pebble.Batch, a Address, place uint64) (e Envelope, err error) {
	key := envelopeKey(a, place)
	v, err := p.get(key)
	if err != nil {
		return e, err
	}
	if v == nil {
		return e, ErrNotFound
	}
	if e, err = parseEnvelope(a, v); err != nil {
		return e, err
	}
	head, err := p.head(a)
	if err != nil {
		return e, err
	}
	head.of(e.From).add(-1, -len(e.Body))
	b.Delete(key, nil)
	b.Delete(expiryKey(e.Expires, key), nil)
	b.Set(keyOf(kindHead, a), head.marshal(), nil)
	return e, nil
}

// isKind says whether a key is of a kind, and whole.
func isKind(key []byte, kind byte) bool {
	return len(key) > 1+addressSize && bytes.HasPrefix(key, []byte{kind})
}
