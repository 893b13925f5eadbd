package client

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"time"

	"sotto/e2ee/ratchet"
	"sotto/wire"
)

// Pre-keys are what others start sessions with while this device is away. A one-time key serves one session and is erased with the
// session's first message; the signed and the last-resort key serve many, are replaced every week, and the old ones are kept as long as
// a first message made with them may be under way.

const (
	preKeyBatch    = 50 // one-time keys of each kind the server should hold
	preKeyLow      = 20 // when it has fewer, it gets more
	preKeysKept    = 10 * preKeyBatch
	rotateEvery    = 7 * 24 * time.Hour
	keepReplaced   = 30 * 24 * time.Hour // an envelope waits for so long at most
	lookEvery      = time.Hour           // how often to look, without a reason
	maxLastResorts = 4096                // first messages remembered; more than a mailbox holds
)

const recordPreKeys = "prekeys"

// preKeys is the record of the private halves.
type preKeys struct {
	NextID       uint32
	Unsent       bool      // the newest keys that serve many are not known to be at the server
	Signed       []agedKey // newest last
	LastResort   []agedKey
	OneTime      map[uint32][]byte
	OneTimeKyber map[uint32][]byte
	Seen         []lastResortUse // all uses of the keys above that are last resorts, oldest first
}

type agedKey struct {
	ID       uint32
	Private  []byte
	Created  time.Time
	Replaced time.Time `json:",omitzero"`
}

// lastResortUse is one first message made with a last-resort key. Nothing else tells a repeated one from a new one.
type lastResortUse struct {
	Kyber, Signed uint32
	BaseKey       []byte
}

// newPreKeys makes the first keys, with so many one-time Kyber keys, and what is uploaded of them.
func newPreKeys(identity *ratchet.KeyPair, now time.Time, kyber int) (*preKeys, *wire.PreKeys) {
	k := &preKeys{NextID: 1, OneTime: map[uint32][]byte{}, OneTimeKyber: map[uint32][]byte{}}
	upload := new(wire.PreKeys)
	k.rotate(identity, upload, now)
	k.Unsent = false // registration, or linking, carries them
	k.add(identity, upload, preKeyBatch, kyber)
	return k, upload
}

// rotate replaces the keys that serve many sessions, and forgets those replaced long ago.
func (k *preKeys) rotate(identity *ratchet.KeyPair, upload *wire.PreKeys, now time.Time) {
	k.Signed = k.replace(k.Signed, ratchet.GenerateKeyPair().Marshal(), now)
	k.rotateLastResort(now)
	k.describe(identity, upload)
}

func (k *preKeys) rotateLastResort(now time.Time) {
	k.LastResort = k.replace(k.LastResort, ratchet.GenerateKyberKeyPair().Marshal(), now)
	k.forgetUses()
	k.Unsent = true
}

func (k *preKeys) replace(keys []agedKey, private []byte, now time.Time) []agedKey {
	if n := len(keys); n > 0 {
		keys[n-1].Replaced = now
	}
	keys = slices.DeleteFunc(keys, func(key agedKey) bool {
		return !key.Replaced.IsZero() && now.Sub(key.Replaced) > keepReplaced
	})
	return append(keys, agedKey{ID: k.id(), Private: private, Created: now})
}

// forgetUses forgets the uses of keys that are gone: what was made with those cannot be decrypted again.
func (k *preKeys) forgetUses() {
	k.Seen = slices.DeleteFunc(k.Seen, func(use lastResortUse) bool { return find(k.LastResort, use.Kyber) == nil })
}

// describe fills in the public halves of the newest keys that serve many.
func (k *preKeys) describe(identity *ratchet.KeyPair, upload *wire.PreKeys) {
	signed, last := k.Signed[len(k.Signed)-1], k.LastResort[len(k.LastResort)-1]
	if pair, err := ratchet.UnmarshalKeyPair(signed.Private); err == nil {
		public := pair.Public()
		upload.SignedPreKey = &wire.SignedPreKey{Id: signed.ID, PublicKey: public.Bytes(), Signature: identity.Sign(public.Bytes())}
	}
	if pair, err := ratchet.UnmarshalKyberKeyPair(last.Private); err == nil {
		upload.LastResortKyber = &wire.KyberPreKey{Id: last.ID, PublicKey: pair.Public(), Signature: identity.Sign(pair.Public())}
	}
}

// add makes one-time keys. Some that were uploaded are never used: beyond a number the oldest are forgotten.
func (k *preKeys) add(identity *ratchet.KeyPair, upload *wire.PreKeys, curve, kyber int) {
	for range curve {
		pair, id := ratchet.GenerateKeyPair(), k.id()
		k.OneTime[id] = pair.Marshal()
		public := pair.Public()
		upload.OneTime = append(upload.OneTime, &wire.PreKey{Id: id, PublicKey: public.Bytes()})
	}
	for range kyber {
		pair, id := ratchet.GenerateKyberKeyPair(), k.id()
		k.OneTimeKyber[id] = pair.Marshal()
		upload.OneTimeKyber = append(upload.OneTimeKyber, &wire.KyberPreKey{
			Id: id, PublicKey: pair.Public(), Signature: identity.Sign(pair.Public()),
		})
	}
	forgetOldest(k.OneTime)
	forgetOldest(k.OneTimeKyber)
}

func forgetOldest(keys map[uint32][]byte) {
	if len(keys) <= preKeysKept {
		return
	}
	var ids []uint32
	for id := range keys {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids[:len(ids)-preKeysKept] {
		delete(keys, id)
	}
}

func (k *preKeys) id() uint32 {
	id := k.NextID
	k.NextID++
	return id
}

func find(keys []agedKey, id uint32) []byte {
	for _, key := range keys {
		if key.ID == id {
			return key.Private
		}
	}
	return nil
}

func readPreKeys(t *tx) (*preKeys, error) {
	value, err := t.get(recordPreKeys)
	if err != nil {
		return nil, err
	}
	k := new(preKeys)
	return k, json.Unmarshal(value, k)
}

func (k *preKeys) write(t *tx) error { return putJSON(t, recordPreKeys, k) }

// spend erases what a first message used up.
func (k *preKeys) spend(used *ratchet.Used, now time.Time) {
	if used.OneTime {
		delete(k.OneTime, used.OneTimeID)
	}
	if !used.LastResort {
		delete(k.OneTimeKyber, used.KyberID)
		return
	}
	k.Seen = append(k.Seen, lastResortUse{Kyber: used.KyberID, Signed: used.SignedID, BaseKey: used.BaseKey.Bytes()})

	// A use is remembered as long as its key: what was forgotten could be repeated. Of a flood, keys go with their uses, the oldest
	// first, and a newer one is at the server long before it comes to the newest.
	newest := k.LastResort[len(k.LastResort)-1].ID
	uses := 0
	for _, use := range k.Seen {
		if use.Kyber == newest {
			uses++
		}
	}
	if uses >= maxLastResorts/2 {
		k.rotateLastResort(now)
	}
	for len(k.Seen) > maxLastResorts {
		k.LastResort = slices.Delete(k.LastResort, 0, 1)
		k.forgetUses()
	}
}

// lookup is how a session finds the private halves (ratchet.PreKeys).
type lookup struct{ *preKeys }

func (l lookup) OneTime(id uint32) (*ratchet.KeyPair, error) {
	return curve(l.preKeys.OneTime[id])
}

func (l lookup) Signed(id uint32) (*ratchet.KeyPair, error) {
	return curve(find(l.preKeys.Signed, id))
}

func curve(private []byte) (*ratchet.KeyPair, error) {
	if private == nil {
		return nil, ratchet.ErrNoPreKey
	}
	return ratchet.UnmarshalKeyPair(private)
}

func (l lookup) Kyber(id uint32) (pair *ratchet.KyberKeyPair, lastResort bool, err error) {
	private := l.OneTimeKyber[id]
	if private == nil {
		private, lastResort = find(l.LastResort, id), true
	}
	if private == nil {
		return nil, false, ratchet.ErrNoPreKey
	}
	pair, err = ratchet.UnmarshalKyberKeyPair(private)
	return pair, lastResort, err
}

func (l lookup) LastResortUsed(kyberID, signedID uint32, baseKey ratchet.PublicKey) (bool, error) {
	return slices.ContainsFunc(l.Seen, func(use lastResortUse) bool {
		return use.Kyber == kyberID && use.Signed == signedID && bytes.Equal(use.BaseKey, baseKey.Bytes())
	}), nil
}

// keepReplenished looks after the keys at the server as long as a link lasts: at its beginning, when keys were used up, and now and then.
func (c *Client) keepReplenished(ctx context.Context, l *link) {
	counts := l.welcome.KeyCounts
	for {
		if counts != nil {
			if err := c.replenish(ctx, l, counts); err != nil && ctx.Err() == nil {
				c.log.Warn("pre-keys were not replenished", "error", err)
			}
		}
		select {
		case <-time.After(lookEvery):
		case <-c.keyUsed:
			select {
			case <-time.After(c.timing.keys): // several may be used at once, and the server limits uploads
			case <-ctx.Done():
				return
			}
		case <-ctx.Done():
			return
		}
		// An upload of nothing is answered with what the server holds.
		counts = nil
		if reply, err := l.request(ctx, uploadFrame(new(wire.PreKeys))); err == nil {
			counts = reply.GetKeyCounts()
		}
	}
}

// replenish uploads one-time keys when the server has few, and new keys that serve many when those are old. The private halves are
// stored first: a key that others can use must be known here.
func (c *Client) replenish(ctx context.Context, l *link, counts *wire.KeyCounts) error {
	upload := new(wire.PreKeys)
	something := false
	err := c.changePreKeys(func(k *preKeys) bool {
		if now := time.Now(); now.Sub(k.Signed[len(k.Signed)-1].Created) > rotateEvery {
			k.rotate(c.identity, upload, now)
		} else if k.Unsent {
			k.describe(c.identity, upload)
		}
		k.add(c.identity, upload, missing(counts.GetOneTime()), missing(counts.GetOneTimeKyber()))
		something = upload.SignedPreKey != nil || len(upload.OneTime)+len(upload.OneTimeKyber) > 0
		return something
	})
	if err != nil || !something {
		return err
	}
	if _, err := l.request(ctx, uploadFrame(upload)); err != nil {
		return err
	}
	if upload.LastResortKyber == nil {
		return nil
	}
	return c.changePreKeys(func(k *preKeys) bool {
		if k.LastResort[len(k.LastResort)-1].ID != upload.LastResortKyber.Id {
			return false // it was replaced meanwhile
		}
		k.Unsent = false
		return true
	})
}

func uploadFrame(k *wire.PreKeys) *wire.ClientFrame {
	return &wire.ClientFrame{Body: &wire.ClientFrame_UploadPreKeys{UploadPreKeys: k}}
}

// changePreKeys stores the record if change says that it changed.
func (c *Client) changePreKeys(change func(*preKeys) bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.store.update(func(t *tx) error {
		k, err := readPreKeys(t)
		if err != nil || !change(k) {
			return err
		}
		return k.write(t)
	})
}

func missing(held uint32) int {
	if held >= preKeyLow {
		return 0
	}
	return preKeyBatch - int(held)
}
