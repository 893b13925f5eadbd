package store

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"time"
)

// Keys in the engine. Numbers are big endian, so that the engine's order is theirs. address = account [16] || device [1].
//
//	a username                     → account [16]
//	c account [16]                 → conditions as JSON; none for an account like any other
//	d address                      → Device as JSON
//	g hash [32]                    → nothing: the name, or the id, of an account that was deleted
//	i hash [32]                    → invitation as JSON
//	k address                      → keyState as JSON
//	l account [16]                 → device list as JSON; none as long as device 1 has been alone
//	o address kind [1] id [4]      → one-time key; kind 0 curve, 1 Kyber
//	h address                      → mailbox head: last place [8], then for each sender with something in the mailbox from [16] count [4]
//	                                 bytes [8]; stays when the mailbox is empty
//	m address place [8]            → from [16] id [16] accepted [8] expires [8] body
//	n address                      → the highest number of a link that the device has told [8]
//	r address                      → a device was removed, and its bytes are still in the files;
//	                                 of device 0: the account was deleted
//	s address mark [16]            → seen: place [8], 0 when not (or no longer) in the mailbox
//	t account [16]                 → SHA-256 of its delivery token [32]
//	x expires [8] key              → what to delete then: a key of kind i, m or s
//
// The mark is SHA-256(from || id) cut to 16 bytes: id is random, so a mark names no sender to whoever reads it. No other key names a
// sender either: the engine keeps bounds of keys in its manifest, which Scrub does not rewrite.
const (
	kindAccount    = 'a'
	kindConditions = 'c'
	kindDevice     = 'd'
	kindGone       = 'g'
	kindInvitation = 'i'
	kindKeyState   = 'k'
	kindOneTime    = 'o'
	kindList       = 'l'
	kindLinks      = 'n'
	kindRemoved    = 'r'
	kindHead       = 'h'
	kindEnvelope   = 'm'
	kindSeen       = 's'
	kindToken      = 't'
	kindExpiry     = 'x'
)

const addressSize = 17

func keyOf(kind byte, a Address) []byte {
	k := make([]byte, 0, 64)
	k = append(k, kind)
	k = append(k, a.Account[:]...)
	return append(k, a.Device)
}

func accountKey(username string) []byte { return append([]byte{kindAccount}, username...) }

func invitationKey(hash [32]byte) []byte { return append([]byte{kindInvitation}, hash[:]...) }

func tokenKey(account UUID) []byte { return append([]byte{kindToken}, account[:]...) }

func conditionsKey(account UUID) []byte { return append([]byte{kindConditions}, account[:]...) }

// goneName and goneID are where a deleted account has left its hashes. That of the name hides it
// from who happens to read it, not from who guesses names.
func goneName(username string) []byte {
	return goneKey("Sotto deleted name v1\x00", []byte(username))
}

func goneID(account UUID) []byte { return goneKey("Sotto deleted account v1\x00", account[:]) }

func goneKey(label string, what []byte) []byte {
	hash := sha256.Sum256(append([]byte(label), what...))
	return append([]byte{kindGone}, hash[:]...)
}

func listKey(account UUID) []byte { return append([]byte{kindList}, account[:]...) }

func oneTimeKey(a Address, kind byte, id uint32) []byte {
	return binary.BigEndian.AppendUint32(append(keyOf(kindOneTime, a), kind), id)
}

func envelopeKey(a Address, place uint64) []byte {
	return binary.BigEndian.AppendUint64(keyOf(kindEnvelope, a), place)
}

func seenKey(a Address, from UUID, id [16]byte) []byte {
	mark := sha256.Sum256(append(from[:], id[:]...))
	return append(keyOf(kindSeen, a), mark[:16]...)
}

func expiryKey(at time.Time, key []byte) []byte {
	k := make([]byte, 0, 9+len(key))
	k = append(k, kindExpiry)
	k = binary.BigEndian.AppendUint64(k, millis(at))
	return append(k, key...)
}

// addressIn reads the address of a key that begins with its kind and one.
func addressIn(key []byte) Address {
	return Address{Account: UUID(key[1:17]), Device: key[17]}
}

// upperBound is the first key after all that begin with prefix.
func upperBound(prefix []byte) []byte {
	end := append([]byte(nil), prefix...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i]++; end[i] != 0 {
			return end[:i+1]
		}
	}
	return nil
}

func millis(t time.Time) uint64 { return uint64(max(t.UnixMilli(), 0)) }

// deviceRecord is the form of a Device on disk.
type deviceRecord struct {
	RegistrationID uint32
	IdentityKey    []byte
}

type invitationRecord struct {
	Uses    int
	Expires int64 // Unix milliseconds
}

// keyState is what is known of a device's pre-keys beside the one-time keys themselves.
type keyState struct {
	Signed     []byte
	LastResort []byte
	Left       [2]int    // one-time keys left, by kind
	Highest    [2]uint32 // the highest ID ever added, by kind
}

// tally counts envelopes and their bytes.
type tally struct {
	count uint32
	bytes uint64
}

func (t *tally) add(count int, bytes int) {
	t.count += uint32(count)
	t.bytes += uint64(bytes)
}

// head is a mailbox's last place and what is in it, by sender.
type head struct {
	last    uint64
	senders []senderTally
}

type senderTally struct {
	from UUID
	tally
}

func (h *head) total() (t tally) {
	for _, s := range h.senders {
		t.add(int(s.count), int(s.bytes))
	}
	return t
}

// of returns the tally of a sender, which is added if there is none.
func (h *head) of(from UUID) *tally {
	for i := range h.senders {
		if h.senders[i].from == from {
			return &h.senders[i].tally
		}
	}
	h.senders = append(h.senders, senderTally{from: from})
	return &h.senders[len(h.senders)-1].tally
}

const senderTallySize = 16 + 4 + 8

// marshal leaves out senders that have nothing in the mailbox.
func (h *head) marshal() []byte {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 8+senderTallySize*len(h.senders)), h.last)
	for _, s := range h.senders {
		if s.count == 0 {
			continue
		}
		b = append(b, s.from[:]...)
		b = binary.BigEndian.AppendUint32(b, s.count)
		b = binary.BigEndian.AppendUint64(b, s.bytes)
	}
	return b
}

func parseHead(b []byte) (h head, err error) {
	if len(b)%senderTallySize != 8 {
		return h, errDamaged
	}
	h.last, b = binary.BigEndian.Uint64(b), b[8:]
	for ; len(b) > 0; b = b[senderTallySize:] {
		h.senders = append(h.senders, senderTally{UUID(b[:16]), tally{binary.BigEndian.Uint32(b[16:]), binary.BigEndian.Uint64(b[20:])}})
	}
	return h, nil
}

const envelopeHeader = 16 + 16 + 8 + 8

func marshalEnvelope(e Envelope) []byte {
	b := make([]byte, 0, envelopeHeader+len(e.Body))
	b = append(b, e.From[:]...)
	b = append(b, e.ID[:]...)
	b = binary.BigEndian.AppendUint64(b, millis(e.Accepted))
	b = binary.BigEndian.AppendUint64(b, millis(e.Expires))
	return append(b, e.Body...)
}

// parseEnvelope copies b.
func parseEnvelope(to Address, b []byte) (Envelope, error) {
	if len(b) < envelopeHeader {
		return Envelope{}, errDamaged
	}
	return Envelope{
		To:       to,
		From:     UUID(b[:16]),
		ID:       [16]byte(b[16:32]),
		Accepted: time.UnixMilli(int64(binary.BigEndian.Uint64(b[32:]))),
		Expires:  time.UnixMilli(int64(binary.BigEndian.Uint64(b[40:]))),
		Body:     append([]byte(nil), b[envelopeHeader:]...),
	}, nil
}

var errDamaged = fmt.Errorf("the store holds a damaged record")

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // our own structs of numbers and bytes
	}
	return b
}
