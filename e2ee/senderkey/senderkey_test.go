package senderkey

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"sotto/e2ee/ratchet"
	"sotto/internal/protofield"
)

var group = DistributionID{0xd1, 0xd1, 15: 0x10}

func newPair(t testing.TB) (*Sender, *Receiver) {
	t.Helper()
	s, r := NewSender(group), NewReceiver(group)
	add(t, r, s)
	return s, r
}

func add(t testing.TB, r *Receiver, s *Sender) {
	t.Helper()
	if err := r.Add(s.Distribution()); err != nil {
		t.Fatal(err)
	}
}

func encrypt(t testing.TB, s *Sender, text string) []byte {
	t.Helper()
	b, err := s.Encrypt([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func expect(t testing.TB, r *Receiver, message []byte, text string) {
	t.Helper()
	got, err := r.Decrypt(message)
	if err != nil || string(got) != text {
		t.Helper()
		t.Fatalf("%q, %v; want %q", got, err, text)
	}
}

// refuse checks that a message is refused with an error, and that nothing changes by it.
func refuse(t testing.TB, r *Receiver, message []byte, want error) {
	t.Helper()
	before := r.Marshal()
	if _, err := r.Decrypt(message); !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
	if !bytes.Equal(before, r.Marshal()) {
		t.Error("a refused message changed the receiver")
	}
}

// skip moves the sender on as if it had sent n messages.
func skip(s *Sender, n int) {
	for range n {
		s.chainKey = chainNext(&s.chainKey)
		s.iteration++
	}
}

type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

type library struct {
	Distribution hexBytes `json:"distribution_message"`
	Messages     []struct {
		Message   hexBytes
		Plaintext string
	}
}

func loadLibrary(t testing.TB) *library {
	t.Helper()
	b, err := os.ReadFile("testdata/kat.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Library *library `json:"senderkey_library"`
	}
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	return file.Library
}

// What libsignal-client 0.103.0 sent.
func TestLibrary(t *testing.T) {
	v := loadLibrary(t)
	if len(v.Messages) != 4 {
		t.Fatalf("%d messages", len(v.Messages))
	}
	id, err := KeyDistribution(v.Distribution)
	if err != nil {
		t.Fatal(err)
	}
	for _, order := range [][]int{{0, 1, 2, 3}, {3, 1, 0, 2}} {
		r := NewReceiver(id)
		if err := r.Add(v.Distribution); err != nil {
			t.Fatal(err)
		}
		for _, i := range order {
			if got, err := MessageDistribution(v.Messages[i].Message); err != nil || got != id {
				t.Error("another distribution id", err)
			}
			expect(t, r, v.Messages[i].Message, v.Messages[i].Plaintext)
			refuse(t, r, v.Messages[i].Message, ErrDuplicate)
		}
	}
}

// With the library's chain our sender makes the library's messages, but for the signature, which is random.
func TestLibrarySender(t *testing.T) {
	v := loadLibrary(t)
	m, err := parseDistribution(v.Distribution)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(m.encode(), v.Distribution) {
		t.Error("the distribution message encodes otherwise")
	}
	s := &Sender{m.distribution, m.chainID, m.iteration, m.chainKey, ratchet.GenerateKeyPair()}
	for _, want := range v.Messages {
		got := encrypt(t, s, want.Plaintext)
		if n := len(got) - 64; !bytes.Equal(got[:n], want.Message[:n]) {
			t.Error("another message")
		}
	}
}

// The message keys of the fact sheet's chain 00 01 ... 1f.
func TestMessageKeys(t *testing.T) {
	var chain [32]byte
	for i := range chain {
		chain[i] = byte(i)
	}
	seed := chainSeed(&chain)
	want := "ed1f5e26325b1399f6a34c76e47ff047" + "d89f10a08215e845ceb4df3fc59c052ad09e01cd499650025ff83df48ed656e6"
	if got := hex.EncodeToString(newMessageKeys(&seed)); got != want {
		t.Errorf("IV and key %s", got)
	}
}

// A group of senders and receivers: of every hundred messages thirty are lost, the others come in any order, some twice, and states are
// stored and read again on the way.
func TestLossReorderDuplicate(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	s, r := newPair(t)
	for round := range 20 {
		type sent struct {
			message []byte
			text    string
		}
		var flight []sent
		for i := range 100 {
			text := fmt.Sprint(round, i)
			flight = append(flight, sent{encrypt(t, s, text), text})
		}
		random.Shuffle(len(flight), func(i, j int) { flight[i], flight[j] = flight[j], flight[i] })
		for i, m := range flight[:70] {
			expect(t, r, m.message, m.text)
			if i%7 == 0 {
				refuse(t, r, flight[random.IntN(i+1)].message, ErrDuplicate)
			}
		}
		var err error
		if r, err = UnmarshalReceiver(r.Marshal()); err != nil {
			t.Fatal(err)
		}
		if s, err = UnmarshalSender(s.Marshal()); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(r.keys[0].skipped); n < 20*30-100 || n > 20*30 {
		t.Errorf("%d seeds are kept", n)
	}
}

func TestJump(t *testing.T) {
	for _, received := range []bool{false, true} {
		s, r := newPair(t)
		if received { // a jump counts from the message after the last
			expect(t, r, encrypt(t, s, "first"), "first")
		}
		early := make([][]byte, 0, 3)
		skip(s, 25_000-2000-1)
		for range 2 { // the last one whose seed is dropped, and the first that is kept
			early = append(early, encrypt(t, s, "early"))
		}
		skip(s, 1999)
		stored := s.Marshal()
		skip(s, 1)
		refuse(t, r, encrypt(t, s, "25,001"), ErrUndecryptable)
		s, err := UnmarshalSender(stored)
		if err != nil {
			t.Fatal(err)
		}
		expect(t, r, encrypt(t, s, "25,000"), "25,000")
		if n := len(r.keys[0].skipped); n != 2000 {
			t.Errorf("%d seeds are kept", n)
		}
		refuse(t, r, early[0], ErrDuplicate)
		expect(t, r, early[1], "early")
		expect(t, r, encrypt(t, s, "next"), "next")
	}
}

// Small jumps add up to no more than 2,000 seeds, the oldest go.
func TestSkippedSeedsBounded(t *testing.T) {
	s, r := newPair(t)
	first := encrypt(t, s, "first")
	second := encrypt(t, s, "second")
	skip(s, 998)
	expect(t, r, encrypt(t, s, "1,000 passed over"), "1,000 passed over")
	skip(s, 1001)
	expect(t, r, encrypt(t, s, "and 1,001"), "and 1,001")
	if n := len(r.keys[0].skipped); n != 2000 {
		t.Errorf("%d seeds are kept", n)
	}
	refuse(t, r, first, ErrDuplicate)
	expect(t, r, second, "second")
}

func TestFiveKeys(t *testing.T) {
	r := NewReceiver(group)
	var senders []*Sender
	for range 6 {
		s := NewSender(group)
		add(t, r, s)
		senders = append(senders, s)
	}
	refuse(t, r, encrypt(t, senders[0], "of the sixth to last key"), ErrUndecryptable)
	for _, s := range senders[1:] {
		expect(t, r, encrypt(t, s, "x"), "x")
	}
	if len(r.keys) != 5 || r.keys[0].chainID != senders[5].chainID {
		t.Error("not the five newest, newest first")
	}
}

func TestRepeatedDistribution(t *testing.T) {
	s := NewSender(group)
	distribution := s.Distribution()
	r := NewReceiver(group)
	for range 3 {
		if err := r.Add(distribution); err != nil {
			t.Fatal(err)
		}
	}
	m := encrypt(t, s, "once")
	expect(t, r, m, "once")
	if err := r.Add(distribution); err != nil { // does not bring the used seed back
		t.Fatal(err)
	}
	refuse(t, r, m, ErrDuplicate)

	// Another key under the same chain id takes its place.
	other := NewSender(group)
	other.chainID = s.chainID
	add(t, r, other)
	if len(r.keys) != 1 {
		t.Errorf("%d keys", len(r.keys))
	}
	refuse(t, r, encrypt(t, s, "old"), ErrUndecryptable)
	expect(t, r, encrypt(t, other, "new"), "new")

	if err := NewReceiver(DistributionID{1}).Add(distribution); !errors.Is(err, ErrBadDistribution) {
		t.Errorf("added to another distribution: %v", err)
	}
}

// Who joins late opens nothing sent before; who left opens nothing under a new key.
func TestJoinAndLeave(t *testing.T) {
	s, early := newPair(t)
	before := encrypt(t, s, "before")
	late := NewReceiver(group)
	add(t, late, s)
	refuse(t, late, before, ErrDuplicate)
	after := encrypt(t, s, "after")
	expect(t, late, after, "after")
	expect(t, early, after, "after")
	expect(t, early, before, "before")

	s = NewSender(group)
	add(t, early, s)
	m := encrypt(t, s, "without the one who left")
	refuse(t, late, m, ErrUndecryptable)
	expect(t, early, m, "without the one who left")
}

func TestExhausted(t *testing.T) {
	s := NewSender(group)
	s.iteration = math.MaxUint32 - 2
	r := NewReceiver(group)
	add(t, r, s)
	m := encrypt(t, s, "last")
	expect(t, r, m, "last")
	if _, err := s.Encrypt(nil); !errors.Is(err, ErrExhausted) {
		t.Error(err)
	}
	again, err := UnmarshalReceiver(r.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	refuse(t, again, m, ErrDuplicate)
}

// A sender may sign what does not decrypt. Nothing is used up by it.
func TestSignedNonsense(t *testing.T) {
	s, r := newPair(t)
	for _, ciphertext := range [][]byte{nil, make([]byte, 15), make([]byte, 16), make([]byte, 160)} {
		m := message{distribution: group, chainID: s.chainID, iteration: 100, ciphertext: ciphertext}
		b := m.encode()
		refuse(t, r, append(b, s.signing.Sign(b)...), ErrUndecryptable)
	}
	expect(t, r, encrypt(t, s, "sense"), "sense")
}

func TestStates(t *testing.T) {
	s, r := newPair(t)
	skip(s, 3)
	expect(t, r, encrypt(t, s, "x"), "x")
	for name, b := range map[string][]byte{"sender": s.Marshal(), "receiver": r.Marshal()} {
		read := func(b []byte) error { _, err := UnmarshalSender(b); return err }
		if name == "receiver" {
			read = func(b []byte) error { _, err := UnmarshalReceiver(b); return err }
		}
		if err := read(b); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for what, b := range map[string][]byte{
			"nothing":         nil,
			"another version": slices.Concat([]byte{stateVersion + 1}, b[1:]),
			"cut":             b[:len(b)-1],
			"extended":        protofield.AppendVarint(bytes.Clone(b), 9, 1),
		} {
			if err := read(b); !errors.Is(err, ErrBadState) {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
	}
	key := r.keys[0]
	key.skipped[0], key.skipped[1] = key.skipped[1], key.skipped[0]
	if _, err := UnmarshalReceiver(r.Marshal()); !errors.Is(err, ErrBadState) {
		t.Errorf("seeds out of order: %v", err)
	}
	key.skipped = nil
	r.keys = []*receivingKey{key, key}
	if _, err := UnmarshalReceiver(r.Marshal()); !errors.Is(err, ErrBadState) {
		t.Errorf("a key twice: %v", err)
	}
}

func TestNothingPrinted(t *testing.T) {
	s, r := newPair(t)
	var out strings.Builder
	log := slog.New(slog.NewTextHandler(&out, nil))
	for _, v := range []any{s, *s, r, *r} {
		fmt.Fprintf(&out, "%v %+v %#v %s %x %d\n", v, v, v, v, v, v)
		log.Info("x", "v", v)
	}
	for _, b := range [][]byte{s.chainKey[:], s.signing.Marshal(), group[:]} {
		for _, form := range []string{string(b), fmt.Sprintf("%x", b), strings.Trim(fmt.Sprint(b), "[]")} {
			if strings.Contains(out.String(), form) {
				t.Errorf("%q is printed", form)
			}
		}
	}
}
