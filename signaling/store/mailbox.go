package store

import (
	"bytes"
	"encoding/binary"
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
	head, sender, err := p.tallies(e.To, e.From)
	if err != nil {
		return nil, err
	}
	head.last++
	head.tally, sender = head.plus(len(e.Body)), sender.plus(len(e.Body))
	if int(head.count) > limits.Count || int64(head.bytes) > limits.Bytes ||
		int(sender.count) > limits.SenderCount || int64(sender.bytes) > limits.SenderBytes {
		return nil, ErrMailboxFull
	}
	key, mark := envelopeKey(e.To, head.last), seenKey(e.To, e.From, e.ID)
	b := p.db.NewBatchWithSize(envelopeHeader + len(e.Body) + 512)
	b.Set(key, marshalEnvelope(e), nil)
	b.Set(expiryKey(e.Expires, key), nil, nil)
	b.Set(mark, binary.BigEndian.AppendUint64(nil, head.last), nil)
	b.Set(expiryKey(markExpires(e), mark), nil, nil)
	b.Set(keyOf(kindHead, e.To), head.marshal(), nil)
	b.Set(senderKey(e.To, e.From), sender.marshal(nil), nil)
	return p.apply(b)
}

// markExpires is not before the envelope expires: Erase finds it by its mark.
func markExpires(e Envelope) time.Time {
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
	b.Set(expiryKey(markExpires(e), mark), nil, nil)
	return p.applyLater(b)
}

// tallies returns the head of a mailbox and what one sender has in it.
func (p *Pebble) tallies(a Address, from UUID) (h head, sender tally, err error) {
	v, err := p.get(keyOf(kindHead, a))
	if err == nil && v != nil {
		h, err = parseHead(v)
	}
	if err != nil {
		return h, sender, err
	}
	v, err = p.get(senderKey(a, from))
	if err == nil && v != nil {
		sender, err = parseTally(v)
	}
	return h, sender, err
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
	b.Set(mark, make([]byte, 8), nil)
	if _, err := p.remove(b, a, place); err != nil {
		return err
	}
	return p.applyLater(b)
}

// remove takes an envelope out of its mailbox and says whether it was there. The caller holds the device's lock.
func (p *Pebble) remove(b *pebble.Batch, a Address, place uint64) (bool, error) {
	key := envelopeKey(a, place)
	v, err := p.get(key)
	if err != nil || v == nil {
		return false, err
	}
	e, err := parseEnvelope(a, v)
	if err != nil {
		return false, err
	}
	head, sender, err := p.tallies(a, e.From)
	if err != nil {
		return false, err
	}
	head.tally, sender = head.minus(len(e.Body)), sender.minus(len(e.Body))
	b.Delete(key, nil)
	b.Delete(expiryKey(e.Expires, key), nil)
	b.Set(keyOf(kindHead, a), head.marshal(), nil)
	if sender.count == 0 {
		b.Delete(senderKey(a, e.From), nil)
	} else {
		b.Set(senderKey(a, e.From), sender.marshal(nil), nil)
	}
	return true, nil
}

// isKind says whether a key is of a kind, and whole.
func isKind(key []byte, kind byte) bool {
	return len(key) > 1+addressSize && bytes.HasPrefix(key, []byte{kind})
}
