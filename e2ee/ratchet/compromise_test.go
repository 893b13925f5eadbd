package ratchet

import (
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	mathrand "math/rand/v2"
	"testing"

	"sotto/e2ee/internal/kdf"
	"sotto/e2ee/spqr"
)

// What somebody learns who steals all that a device keeps: nothing of messages before (forward secrecy), and nothing of those after
// both ratchets have turned (recovery), if he only listens. Double Ratchet specification section 1; docs/protocol.md.

// A sent message, with the secrets that its sender used and forgot.
type sent struct {
	from, to *device
	message  Message
	inner    *signalMessage
	text     string

	chain, seed, pq [32]byte
	keys            messageKeys
	arrived         bool
}

func send(from, to *device, text string) *sent {
	from.t.Helper()
	s := from.record.current
	pq, err := spqr.Unmarshal(s.pq.Marshal())
	if err != nil {
		from.t.Fatal(err)
	}
	m := &sent{from: from, to: to, text: text, chain: s.sending.key, seed: chainSeed(&s.sending.key)}
	if _, m.pq, err = pq.Send(systemRandom{}); err != nil { // the key does not depend on what is random in a message
		from.t.Fatal(err)
	}
	m.keys = newMessageKeys(&m.seed, m.pq[:])
	m.message = from.encrypt(to, text)
	inner := m.message.Bytes
	if m.message.Type == TypePreKeyMessage {
		outer, err := parsePreKeyMessage(inner)
		if err != nil {
			from.t.Fatal(err)
		}
		inner = outer.message
	}
	if m.inner, err = parseSignalMessage(inner); err != nil {
		from.t.Fatal(err)
	}
	if !m.opens(m.seed, m.pq) {
		from.t.Fatal("these are not the message's secrets")
	}
	return m
}

// opens decrypts with what somebody takes for the message's secrets.
func (m *sent) opens(seed, pq [32]byte) bool {
	keys := newMessageKeys(&seed, pq[:])
	mac := keys.mac(m.from.local.Identity.public, m.to.local.Identity.public, m.inner.authenticated)
	if subtle.ConstantTimeCompare(mac[:], m.inner.mac) != 1 {
		return false
	}
	plaintext, err := keys.decrypt(m.inner.ciphertext)
	return err == nil && string(plaintext) == m.text
}

// epoch is the exchange of the post-quantum ratchet that the message's key comes from, the last one completed before it, and index
// the key's place in it.
func (m *sent) epoch() (epoch, index uint64) {
	epoch, size := binary.Uvarint(m.inner.pq[1:])
	index, _ = binary.Uvarint(m.inner.pq[1+size:])
	return epoch - 1, index
}

// stored is all that a device keeps: identity, pre-keys and sessions.
func (d *device) stored() []byte {
	b := append(d.record.Marshal(), d.local.Identity.Marshal()...)
	for _, k := range d.signed {
		b = append(b, k.Marshal()...)
	}
	for _, k := range d.oneTime {
		b = append(b, k.Marshal()...)
	}
	for _, k := range d.kyber {
		b = append(b, k.Marshal()...)
	}
	return b
}

// exposed returns the messages of which stored bytes hold a secret, or something one step before it: every 32 bytes, wherever they
// begin, are tried as each kind of key.
func exposed(stored []byte, messages []*sent) map[*sent]bool {
	secrets := map[[32]byte]*sent{}
	var highest uint32 // of the indices in the post-quantum ratchet
	for _, m := range messages {
		_, index := m.epoch()
		highest = max(highest, uint32(index))
		for _, key := range [][32]byte{m.chain, m.seed, m.pq, [32]byte(m.keys.out[:32]), [32]byte(m.keys.out[32:64])} {
			secrets[key] = m
		}
	}
	found := map[*sent]bool{}
	try := func(key [32]byte) {
		if m := secrets[key]; m != nil {
			found[m] = true
		}
	}
	step := []byte("....Signal PQ Ratchet V1 Chain Next")
	for i := 0; i+32 <= len(stored); i++ {
		key := [32]byte(stored[i:])
		try(key)
		try(chainSeed(&key))
		try(chainNext(&key))
		if underRace && i%32 != 0 {
			continue
		}
		for index := range highest { // a step of the post-quantum ratchet's chains
			var out [64]byte
			binary.BigEndian.PutUint32(step, index+1)
			kdf.HKDF(out[:], nil, key[:], step)
			try([32]byte(out[32:]))
		}
	}
	return found
}

// talk lets two devices send messages over a network that loses one in ten and lets others overtake one in five, and returns all sent.
func talk(random *mathrand.Rand, a, b *device, arrive int) (all []*sent) {
	var late []*sent
	deliver := func(m *sent) {
		m.to.expect(m.from, m.message, m.text)
		m.arrived = true
		arrive--
	}
	from, to := a, b
	for arrive > 0 {
		if random.IntN(6) == 0 && to.record.current != nil {
			from, to = to, from
		}
		m := send(from, to, fmt.Sprint("message ", len(all)))
		all = append(all, m)
		switch p := random.IntN(10); {
		case p < 1: // lost
		case p < 3:
			late = append(late, m)
		default:
			deliver(m)
		}
		if len(late) > 2 {
			deliver(late[0])
			late = late[1:]
		}
	}
	return all
}

// With everything two devices keep, none of 1,000 messages that had arrived decrypts. The seeds kept for messages that were overtaken
// open those: that is what they are for, and they are counted.
func TestPastStaysClosed(t *testing.T) {
	random := mathrand.New(mathrand.NewPCG(3, 11))
	alice, bob := pair(t)
	alice.initiate(bob, true)
	before := alice.stored()
	all := talk(random, alice, bob, 500)
	alice.initiate(bob, true) // the session so far goes to the archive
	all = append(all, talk(random, alice, bob, 500)...)

	for _, thief := range []*device{alice, bob} {
		stored, record := thief.stored(), thief.record.Marshal()
		found := exposed(stored, all)
		arrived, waiting, gone := 0, 0, 0
		for _, m := range all {
			if m.arrived && found[m] {
				t.Errorf("%q has arrived, and its secrets are still there", m.text)
			}
			if m.to != thief {
				continue
			}
			r, err := UnmarshalRecord(record)
			if err != nil {
				t.Fatal(err)
			}
			_, err = r.Decrypt(thief.local, m.from.remote(), m.message.Type, m.message.Bytes, thief, start)
			switch {
			case m.arrived && err == nil:
				t.Errorf("%q decrypts again", m.text)
			case m.arrived:
				arrived++
			case err == nil:
				waiting++
			default:
				gone++
			}
			if m.message.Type == TypePreKeyMessage { // with the pre-keys alone
				if _, err := new(Record).Decrypt(thief.local, m.from.remote(), m.message.Type, m.message.Bytes, thief, start); err == nil {
					t.Errorf("%q decrypts with the pre-keys", m.text)
				}
			}
		}
		t.Logf("of %d bytes: %d messages have arrived, all closed; of those that have not %d decrypt, %d are closed too",
			len(stored), arrived, waiting, gone)
		if arrived < 400 || waiting == 0 {
			t.Errorf("%d arrived, %d waiting: too few to show anything", arrived, waiting)
		}
	}

	// The search finds what is there to be found.
	if found := exposed(before, all); len(found) == 0 {
		t.Error("the record from before the first message opens none")
	}
	if found := exposed(append(bob.stored(), all[10].pq[:]...), all); !found[all[10]] {
		t.Error("a secret in the middle of other bytes is not found")
	}
}

// The exception: a session that began without one-time keys, because a server had handed all out, depends until the first answer on
// keys that are kept for weeks.
func TestFirstMessagesWithoutOneTimeKeys(t *testing.T) {
	for _, oneTime := range []bool{true, false} {
		alice, bob := pair(t)
		alice.initiate(bob, oneTime)
		first := send(alice, bob, "first")
		bob.expect(alice, first.message, "first")
		alice.expect(bob, bob.encrypt(alice, "answer"), "answer")
		second := send(alice, bob, "second")
		bob.expect(alice, second.message, "second")

		stolen := *bob // who steals the pre-keys has no reason to refuse a repetition
		stolen.record, stolen.used = Record{}, nil
		opens := func(m *sent) bool {
			_, err := stolen.record.Decrypt(bob.local, alice.remote(), m.message.Type, m.message.Bytes, &stolen, start)
			return err == nil
		}
		if opens(first) == oneTime {
			t.Errorf("one-time keys %v: the first message opens: %v", oneTime, !oneTime)
		}
		if opens(second) {
			t.Errorf("one-time keys %v: a message after the answer opens", oneTime)
		}
	}
}

// A holder has the stored session of one device from some time on, and sees every message after it, but has none of the randomness
// drawn since. What he can do is what the device does, with randomness of his own.
type holder struct {
	victim  *device
	session *session
	pq      *spqr.State

	at    int    // messages before the theft
	began uint64 // the exchange of the post-quantum ratchet under way at the theft
	knows bool   // that exchange's secret
}

func steal(d *device, at int) *holder {
	r, err := UnmarshalRecord(d.record.Marshal())
	if err != nil {
		d.t.Fatal(err)
	}
	return &holder{victim: d, session: r.current, pq: r.current.pq, at: at, began: r.current.pq.Epoch()}
}

// sees follows the exchange of the post-quantum ratchet, and finds what he can of the message's two secrets.
func (h *holder) sees(m *sent) (seed, pq [32]byte) {
	s := h.session
	if m.from == h.victim {
		if message, key, err := h.pq.Send(systemRandom{}); err == nil && samePlace(message, m.inner.pq) {
			pq = key
		}
		if m.inner.ratchetKey == s.ratchet.public {
			chain := receivingChain{key: s.sending.key, index: s.sending.index}
			seed = seedAt(&chain, m.inner.counter)
		}
		return seed, pq
	}
	work := spqr.MaxJump
	if r, err := h.pq.Receive(m.inner.pq, &work); err == nil {
		pq = r.Key
		if r.Authenticated() == nil {
			r.Commit()
		}
	}
	chain := s.chain(m.inner.ratchetKey)
	if chain == nil { // then perhaps the one that the stolen private key leads to
		chain = &receivingChain{ratchetKey: m.inner.ratchetKey}
		if shared, err := s.ratchet.dh(m.inner.ratchetKey); err == nil {
			_, chain.key = rootStep(&s.root, shared)
		}
	}
	return seedAt(chain, m.inner.counter), pq
}

// samePlace reports whether two messages of the post-quantum ratchet use the same epoch and index.
func samePlace(a, b []byte) bool {
	place := func(b []byte) string {
		_, epoch := binary.Uvarint(b[1:])
		_, index := binary.Uvarint(b[1+epoch:])
		return string(b[:1+epoch+index])
	}
	return place(a) == place(b)
}

func seedAt(chain *receivingChain, counter uint32) (seed [32]byte) {
	work := maxJump
	if a, err := chain.at(counter, &work); err == nil {
		return a.seed
	}
	return seed
}

// Who holds one side's state and listens is shut out by one round trip: the Diffie-Hellman ratchet has turned. Could he break X25519,
// he is shut out once an exchange of the post-quantum ratchet that began after the theft is in use; could he break ML-KEM, by the
// round trip all the same. Thefts are made all along two exchanges, so that each state of the braid is stolen.
func TestFutureCloses(t *testing.T) {
	for _, name := range []string{"initiator", "recipient"} {
		t.Run(name, func(t *testing.T) {
			victim, peer := established(t)
			if name == "recipient" {
				victim, peer = peer, victim
			}
			var holders []*holder
			every := 5
			if underRace {
				every = 17
			}
			for i := range 500 {
				if i < 200 && i%every == 0 {
					holders = append(holders, steal(victim, i))
				}
				from, to := victim, peer
				if i%2 == 1 {
					from, to = peer, victim
				}
				m := send(from, to, fmt.Sprint("message ", i))
				to.expect(from, m.message, m.text)
				for _, h := range holders {
					h.check(t, m, i)
				}
			}
			known := 0
			for _, h := range holders {
				if h.knows {
					known++
				}
				if now := victim.record.current.pq.Epoch(); now < h.began+3 {
					t.Errorf("theft at %d: only %d exchanges since", h.at, now-h.began)
				}
			}
			t.Logf("the exchange under way was known in %d thefts of %d", known, len(holders))
			if known == 0 || known == len(holders) {
				t.Error("the thefts are all of one kind")
			}
		})
	}
}

// check tests what a holder reads of the i-th message of a strictly alternating conversation that the victim begins.
func (h *holder) check(t *testing.T, m *sent, i int) {
	t.Helper()
	seed, pq := h.sees(m)
	reads, withX25519, withMLKEM := m.opens(seed, pq), pq == m.pq, seed == m.seed

	// He reads on in the victim's chain, and one message of the peer's; the victim's next has a new ratchet key.
	turned := i >= h.at+2-h.at%2
	if reads == turned || withMLKEM == turned {
		t.Fatalf("theft at %d: message %d opens: %v; with ML-KEM broken: %v", h.at, i, reads, withMLKEM)
	}
	switch epoch, _ := m.epoch(); {
	case epoch < h.began && !withX25519:
		t.Fatalf("theft at %d: message %d is of an exchange before it, and does not open with X25519 broken", h.at, i)
	case epoch > h.began && withX25519:
		t.Fatalf("theft at %d: message %d is of an exchange that began after it, and opens with X25519 broken", h.at, i)
	case epoch == h.began:
		h.knows = withX25519
	}
}
