package spqr

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	mathrand "math/rand/v2"
	"os"
	"testing"
)

// fromHex is a byte string written in hexadecimal.
type fromHex []byte

func (h *fromHex) UnmarshalJSON(data []byte) error {
	var s string
	if err := json.Unmarshal(data, &s); err != nil {
		return err
	}
	b, err := hex.DecodeString(s)
	*h = b
	return err
}

var kat struct {
	Split struct {
		Ct1          fromHex `json:"ct1"`
		Ct2          fromHex `json:"ct2"`
		Vector       fromHex `json:"ek_vector"`
		Header       fromHex `json:"header"`
		M            fromHex `json:"m"`
		EpochSecret  fromHex `json:"scka_key_epoch_1"`
		Seed         fromHex `json:"seed"`
		SharedSecret fromHex `json:"shared_secret"`
	} `json:"mlkem768_split_derived"`
	Erasure struct {
		Chunks []struct {
			Data  fromHex
			Index uint16
		}
		Message fromHex
	} `json:"erasure_derived"`
	First struct {
		PQKey    fromHex `json:"pq_key"`
		Root     fromHex `json:"spqr_auth_root"`
		MAC      fromHex `json:"spqr_auth_mac"`
		Header   fromHex `json:"spqr_epoch1_header"`
		HeadMAC  fromHex `json:"spqr_epoch1_header_mac"`
		Key1     fromHex `json:"spqr_key_epoch0_index1"`
		NextRoot fromHex `json:"spqr_next_root"`
		Receive  fromHex `json:"spqr_recv_chain"`
		Send     fromHex `json:"spqr_send_chain"`
	} `json:"first_message"`
}

func TestMain(m *testing.M) {
	data, err := os.ReadFile("testdata/kat.json")
	if err != nil {
		panic(err)
	}
	if err := json.Unmarshal(data, &kat); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

func equal(t *testing.T, what string, got, want []byte) {
	t.Helper()
	if len(want) == 0 || !bytes.Equal(got, want) {
		t.Errorf("%s = %x, want %x", what, got, want)
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestErasure(t *testing.T) {
	mul := func(a, b uint16) uint16 { return gfExp[int(gfLog[a])+int(gfLog[b])] }
	for _, c := range [][3]uint16{{2, 0x8000, 0x100b}, {0x1234, 0x5678, 0x6324}, {0xffff, 0xffff, 0x0733}, {3, 7, 9}, {2, 0x8805, 1}} {
		if got := mul(c[0], c[1]); got != c[2] {
			t.Errorf("%04x·%04x = %04x, want %04x", c[0], c[1], got, c[2])
		}
	}
	message := []byte(kat.Erasure.Message)
	for _, c := range kat.Erasure.Chunks {
		got, _ := encoder{message: message, next: c.Index}.advance()
		equal(t, "chunk", got.data[:], c.Data)
	}
	random := mathrand.New(mathrand.NewPCG(1, 2))
	for _, size := range []int{96, 160, 960, 1152} {
		message := make([]byte, size)
		rand.Read(message)
		d := decoder{size: size}
		for !d.complete() {
			c, _ := encoder{message: message, next: uint16(random.IntN(3 * size / chunkSize))}.advance()
			d = d.add(c)
		}
		equal(t, "decoded", d.message(), message)
	}
}

func TestKeyScheduleVectors(t *testing.T) {
	v := &kat.First
	pqKey := (*[32]byte)(v.PQKey)
	auth := newAuthenticator(pqKey)
	equal(t, "authenticator root", auth.root[:], v.Root)
	equal(t, "authenticator MAC key", auth.mac[:], v.MAC)
	equal(t, "header MAC", auth.headerMAC(1, v.Header), v.HeadMAC)
	c := newChains(pqKey, AtoB)
	equal(t, "next root", c.nextRoot[:], v.NextRoot)
	equal(t, "sending chain", c.epochs[0].send.key[:], v.Send)
	equal(t, "receiving chain", c.epochs[0].receive.key[:], v.Receive)
	_, key, _ := c.sendKey(0)
	equal(t, "first key", key[:], v.Key1)
}

// TestInlineVectors are the vectors of the wire description itself: pq_key 0x29 thirty-two times.
func TestInlineVectors(t *testing.T) {
	pqKey := [32]byte(bytes.Repeat([]byte{0x29}, 32))
	auth := newAuthenticator(&pqKey)
	equal(t, "root", auth.root[:], unhex(t, "486eb283e739a2b7baea016d6a70df801616dfbf3f022b77a27cfaa3360348a0"))
	equal(t, "mac", auth.mac[:], unhex(t, "5a368111ae4f8d5d407e4b9a369e67af9e01d9449cf2b5e50cede3f7ab525a1e"))
	var header [headerSize]byte
	for i := range header {
		header[i] = byte(i)
	}
	equal(t, "header MAC", auth.headerMAC(1, header[:]), unhex(t, "66661f0392da7880ca1ab8c1b81599740cf445b7c0ba60c91c05ed2fe8ce7ffe"))
	equal(t, "ciphertext MAC", auth.ciphertextMAC(1, make([]byte, 60), make([]byte, 4)), unhex(t, "b5f26e05010e20f11c03256f007e44a29906de23db0c077c158bc8250f10a742"))
	secret := epochSecret(1, (*[32]byte)(header[:32]))
	equal(t, "epoch secret", secret[:], unhex(t, "52def81f0514130c29c964f889a798b839be4a32d8b79ee273b55af67f4b2eb6"))

	c := newChains(&pqKey, AtoB)
	equal(t, "A→B", c.epochs[0].send.key[:], unhex(t, "d45d5d9ebca8f45f591019cfe4231f37663b50de7c9d419e8eb4dd50f3726384"))
	equal(t, "B→A", c.epochs[0].receive.key[:], unhex(t, "598c199754146d732fe1bf89926833f0ed44b8a5220b662bdf0398c28c4f49ab"))
	for i, want := range []string{"9bcdfae095d09aa8ab367dd231d1d271fe580b555bcc6f64ff079d53d9a9db5d", "6af868be8ea72f8ca3bb819c9623c0c9ffebd6f8503937d8f4fac142ac42a48e"} {
		index, key, err := c.sendKey(0)
		if err != nil || int(index) != i+1 {
			t.Fatalf("index %d, %v", index, err)
		}
		equal(t, "key", key[:], unhex(t, want))
	}
	c.addEpoch((*[32]byte)(bytes.Repeat([]byte{7}, 32)))
	equal(t, "next root", c.nextRoot[:], unhex(t, "9dec96ea0acd7776bc6f13b8a91b4be338e8f6551618dddeb8cdcad7bd0e47bd"))
	_, key, _ := c.sendKey(1)
	equal(t, "key of epoch 1", key[:], unhex(t, "d98893fe758781d8cd76547d3413c2ed3e53de72b2a697ba4ef5b8213db3d8d3"))

	m := message{epoch: 1, index: 7, payload: payloadHdr, chunk: chunk{index: 300, data: [32]byte{1, 2, 3}}}
	want := append(unhex(t, "01010701ac02010203"), make([]byte, 29)...)
	equal(t, "message", m.append(nil), want)
	if got, err := parseMessage(want); err != nil || got != m {
		t.Errorf("parsed %+v, %v", got, err)
	}
}

// receive allows all the work there may be, and takes the message for authentic.
func receive(s *State, message []byte) (*Received, error) {
	work := MaxJump
	r, err := s.Receive(message, &work)
	if err != nil {
		return nil, err
	}
	return r, r.Authenticated()
}

type systemRandom struct{}

func (systemRandom) KeyGen() (seed [64]byte) { rand.Read(seed[:]); return }
func (systemRandom) Encaps() (m [32]byte)    { rand.Read(m[:]); return }

// TestConversation lets two parties talk over a channel that loses and reorders, and stores and reloads both all the time.
func TestConversation(t *testing.T) {
	for name, c := range map[string]struct {
		loss, late float64
		toA        float64 // share of messages that go to A
		messages   int
		epochs     uint64 // at least
	}{
		"alternating": {0, 0, 0.5, 1000, 9},
		"lossy":       {0.3, 0.2, 0.5, 3000, 10},
		"very lossy":  {0.7, 0.3, 0.5, 6000, 5},
		"one-sided":   {0, 0.1, 0.05, 4000, 3},
	} {
		t.Run(name, func(t *testing.T) {
			random := mathrand.New(mathrand.NewPCG(7, 11))
			parties := [2]*State{New([32]byte{1}, AtoB), New([32]byte{1}, BtoA)}
			type sent struct{ message, key []byte }
			var held [2][]sent
			delivered := 0
			deliver := func(to int, s sent) {
				r, err := receive(parties[to], s.message)
				if m, _ := parseMessage(s.message); m.epoch-1 < parties[to].chains.first && errors.Is(err, errEpoch) {
					return // so late that its epoch is forgotten
				}
				if err != nil {
					t.Fatalf("after %d messages: %v", delivered, err)
				}
				if !bytes.Equal(r.Key[:], s.key) {
					t.Fatalf("after %d messages: keys differ", delivered)
				}
				r.Commit()
				delivered++
				if _, err := receive(parties[to], s.message); !errors.Is(err, errKeyGone) {
					t.Fatalf("replayed message: %v", err)
				}
			}
			for i := range c.messages {
				for _, party := range parties {
					party.keepsLittle(t)
				}
				to := 1
				if random.Float64() < c.toA {
					to = 0
				}
				message, key, err := parties[1-to].Send(systemRandom{})
				if err != nil {
					t.Fatal(err)
				}
				switch p := random.Float64(); {
				case p < c.loss:
				case p < c.loss+c.late:
					held[to] = append(held[to], sent{message, key[:]})
				default:
					deliver(to, sent{message, key[:]})
				}
				if len(held[to]) > 5 {
					at := random.IntN(len(held[to]))
					deliver(to, held[to][at])
					held[to] = append(held[to][:at], held[to][at+1:]...)
				}
				if i%7 == 0 {
					for p := range parties {
						var err error
						if parties[p], err = Unmarshal(parties[p].Marshal()); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			if got := parties[0].Epoch(); got < c.epochs {
				t.Errorf("reached epoch %d after %d messages, want %d", got, c.messages, c.epochs)
			}
		})
	}
}

// keepsLittle: secrets of the encapsulation that a state has no use for are erased, and so are the
// keys of epochs before the one that is sent in and the one before it.
func (s *State) keepsLittle(t *testing.T) {
	t.Helper()
	b := &s.braid
	owner := b.state >= keysSampled && b.state <= ekSentCt1Received
	encapsulator := b.state >= ct1Sampled && b.state <= ct1Acknowledged
	if !owner && b.seed != [64]byte{} || !encapsulator && b.m != [32]byte{} {
		t.Fatalf("state %d keeps a key pair's seed or an encapsulation's randomness", b.state)
	}
	if s.chains.first+1 < s.chains.sending {
		t.Fatalf("sending in epoch %d keeps epoch %d", s.chains.sending, s.chains.first)
	}
}

// TestRefusedMessageChangesNothing tampers with every byte of messages of every state.
func TestRefusedMessageChangesNothing(t *testing.T) {
	a, b := New([32]byte{1}, AtoB), New([32]byte{1}, BtoA)
	for range 200 {
		for _, p := range [][2]*State{{a, b}, {b, a}} {
			message, _, err := p[0].Send(systemRandom{})
			if err != nil {
				t.Fatal(err)
			}
			before := p[1].Marshal()
			for i := range message {
				bad := bytes.Clone(message)
				bad[i] ^= 0x81
				receive(p[1], bad) // without Commit, whatever it says
			}
			for i := range message {
				if _, err := receive(p[1], message[:i]); err == nil {
					t.Fatal("truncated message accepted")
				}
			}
			after := p[1].Marshal()
			if !bytes.Equal(before, after) {
				t.Fatal("a message that was not committed changed the state")
			}
			r, err := receive(p[1], message)
			if err != nil {
				t.Fatal(err)
			}
			r.Commit()
		}
	}
	if a.Epoch() < 3 {
		t.Errorf("only epoch %d seen", a.Epoch())
	}
}

// TestForgedChunkIsRefused corrupts one chunk of each kind. The message that completes the forged
// part is refused, for the reason that guards this part, and nothing of it is taken in.
func TestForgedChunkIsRefused(t *testing.T) {
	for kind, want := range map[payload]struct {
		state braidState
		err   error
	}{
		payloadHdr: {noHeaderReceived, errMAC}, payloadEk: {ct1Acknowledged, errKey}, payloadCt2: {ekSentCt1Received, errMAC},
	} {
		a, b := New([32]byte{1}, AtoB), New([32]byte{1}, BtoA)
		forged := false
		var refused error
		var at braidState
		for i := 0; i < 600 && refused == nil; i++ {
			from, to := a, b
			if i%2 == 1 {
				from, to = b, a
			}
			wire, _, err := from.Send(systemRandom{})
			if err != nil {
				t.Fatal(err)
			}
			if m, _ := parseMessage(wire); m.payload == kind && !forged {
				m.chunk.data[5] ^= 1
				wire, forged = m.append(nil), true
			}
			r, err := receive(to, wire)
			if err != nil {
				refused, at = err, to.braid.state
				continue
			}
			r.Commit()
		}
		if !forged || !errors.Is(refused, want.err) || at != want.state {
			t.Errorf("kind %d: forged %v, refused as %v in state %d, want %v in state %d",
				kind, forged, refused, at, want.err, want.state)
		}
	}
}

// TestSendingKeysOfOlderEpochsAreErased: once a message was sent in an epoch, no state holds what
// earlier ones were sent with, and none can be sent in those.
func TestSendingKeysOfOlderEpochsAreErased(t *testing.T) {
	c := newChains(&[32]byte{1}, AtoB)
	for epoch := range uint64(5) {
		if epoch > 0 {
			c.addEpoch(&[32]byte{byte(epoch)})
		}
		if _, _, err := c.sendKey(epoch); err != nil {
			t.Fatal(err)
		}
		for number := c.first; number < epoch; number++ {
			if old := c.at(number); old.send != (chain{}) || !old.sendDone {
				t.Errorf("after a message of epoch %d the sending chain of epoch %d is still there", epoch, number)
			}
			if _, _, err := c.sendKey(number); !errors.Is(err, errEpoch) {
				t.Errorf("a message of epoch %d after one of epoch %d: %v", number, epoch, err)
			}
		}
	}
}

// TestSnapshotsAreApart: a copy of the state is a snapshot, so an epoch that begins in one copy
// shows in no other.
func TestSnapshotsAreApart(t *testing.T) {
	c := newChains(&[32]byte{1}, AtoB)
	for i := range 8 {
		one, other := c, c
		one.addEpoch(&[32]byte{1, byte(i)})
		want := *one.epochs[len(one.epochs)-1]
		other.addEpoch(&[32]byte{2, byte(i)})
		if got := one.epochs[len(one.epochs)-1]; got.send != want.send || got.receive != want.receive {
			t.Fatalf("with %d epochs a copy changed the epoch of another", len(c.epochs))
		}
		c.addEpoch(&[32]byte{3, byte(i)})
	}
}

func TestLimits(t *testing.T) {
	a, b := New([32]byte{1}, AtoB), New([32]byte{1}, BtoA)
	first, firstKey, _ := a.Send(systemRandom{})
	var last []byte
	for range MaxJump - 1 {
		last, _, _ = a.Send(systemRandom{})
	}
	beyond, _, _ := a.Send(systemRandom{})
	if _, err := receive(b, beyond); !errors.Is(err, ErrJump) {
		t.Errorf("jump of %d: %v", MaxJump+1, err)
	}
	r, err := receive(b, last)
	if err != nil {
		t.Fatalf("jump of %d: %v", MaxJump, err)
	}
	r.Commit()
	if got := len(b.chains.epochs[0].skipped); got != maxStore {
		t.Errorf("kept %d keys, want %d", got, maxStore)
	}
	work := 2 * MaxJump
	if _, err := b.Receive(nthMessage(a, MaxJump), &work); !errors.Is(err, ErrJump) {
		t.Errorf("jump of %d with more work allowed: %v", MaxJump+1, err)
	}
	sixth, seventh := nthMessage(b, 6), nthMessage(b, 1)
	work = 5
	if _, err := a.Receive(sixth, &work); !errors.Is(err, ErrJump) || work != 5 {
		t.Errorf("work of 6 with 5 allowed: %v, %d left", err, work)
	}
	work = 10
	if _, err := a.Receive(sixth, &work); err != nil || work != 4 {
		t.Errorf("work of 6 with 10 allowed: %v, %d left", err, work)
	}
	if _, err := a.Receive(seventh, &work); !errors.Is(err, ErrJump) || work != 4 {
		t.Errorf("work of 7 with 4 left: %v, %d left", err, work)
	}
	if _, err := receive(b, first); !errors.Is(err, errKeyGone) {
		t.Errorf("key %x was dropped, got %v", firstKey[:4], err)
	}
	for name, wire := range map[string]string{
		"empty": "", "version 0": "00010100", "epoch 0": "01000100", "index 0": "01010000", "type 7": "01010107", "no chunk": "01010101",
		"trailing byte": "0101010000", "long varint": "0181000100",
	} {
		if _, err := receive(b, unhex(t, wire)); !errors.Is(err, errMessage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// nthMessage sends n messages and returns the last.
func nthMessage(s *State, n int) (message []byte) {
	for range n {
		message, _, _ = s.Send(systemRandom{})
	}
	return message
}

func FuzzReceive(f *testing.F) {
	a, b := New([32]byte{1}, AtoB), New([32]byte{1}, BtoA)
	for range 100 {
		m, _, _ := a.Send(systemRandom{})
		f.Add(m)
		r, _ := receive(b, m)
		r.Commit()
		m, _, _ = b.Send(systemRandom{})
		r, _ = receive(a, m)
		r.Commit()
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := parseMessage(data); err == nil && !bytes.Equal(m.append(nil), data) {
			t.Fatalf("%x has a second encoding", data)
		}
		before := b.Marshal()
		receive(b, data)
		after := b.Marshal()
		if !bytes.Equal(before, after) {
			t.Fatal("state changed")
		}
	})
}

func FuzzUnmarshalState(f *testing.F) {
	a, b := New([32]byte{1}, AtoB), New([32]byte{1}, BtoA)
	for range 100 {
		data := a.Marshal()
		f.Add(data)
		m, _, _ := a.Send(systemRandom{})
		if r, err := receive(b, m); err == nil {
			r.Commit()
		}
		m, _, _ = b.Send(systemRandom{})
		if r, err := receive(a, m); err == nil {
			r.Commit()
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Unmarshal(data)
		if err != nil {
			return
		}
		m, _, err := s.Send(systemRandom{})
		if err != nil {
			return
		}
		receive(s, m)
	})
}

func BenchmarkSendReceive(b *testing.B) {
	alice, bob := New([32]byte{1}, AtoB), New([32]byte{1}, BtoA)
	b.ReportAllocs()
	for b.Loop() {
		m, _, err := alice.Send(systemRandom{})
		if err != nil {
			b.Fatal(err)
		}
		r, err := receive(bob, m)
		if err != nil {
			b.Fatal(err)
		}
		r.Commit()
		alice, bob = bob, alice
	}
}
