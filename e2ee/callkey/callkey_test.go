package callkey

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"testing/cryptotest"

	"google.golang.org/protobuf/proto"

	"sotto/wire"
)

// testCall is a call between two devices.
func testCall() Call {
	call := Call{ID: [16]byte{0: 0xca, 15: 0x11}}
	call.Caller = Party{Account: [16]byte{1, 2, 3}, Device: 1, Identity: [33]byte{5, 0xaa}}
	call.Callee = Party{Account: [16]byte{4, 5, 6}, Device: 127, Identity: [33]byte{5, 0xbb}}
	return call
}

func makeOffer(t testing.TB, c *Caller) []byte {
	offer := &wire.Offer{Ice: &wire.IceParameters{Ufrag: "abcd", Password: "0123456789abcdefghijkl"}, Timestamp: 1_795_000_000_000}
	c.Fill(offer)
	return marshal(t, offer)
}

func makeAnswer(t testing.TB, c *Callee) []byte {
	answer := &wire.Answer{Ice: &wire.IceParameters{Ufrag: "efgh", Password: "lkjihgfedcba9876543210"}}
	c.Fill(answer)
	return marshal(t, answer)
}

func marshal(t testing.TB, m proto.Message) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// agree runs one key agreement between honest ends.
func agree(t testing.TB, call Call) (caller, callee *Keys) {
	t.Helper()
	a, err := NewCaller()
	if err != nil {
		t.Fatal(err)
	}
	offer := makeOffer(t, a)
	b, err := NewCallee(offer)
	if err != nil {
		t.Fatal(err)
	}
	answer := makeAnswer(t, b)
	callee, err = b.Keys(call, answer)
	if err != nil {
		t.Fatal(err)
	}
	caller, err = a.Keys(call, offer, answer)
	if err != nil {
		t.Fatal(err)
	}
	return caller, callee
}

// sendFlow is the keys of the next epoch in one string.
func sendFlow(t testing.TB, c *SendChain) string {
	k, err := c.Next()
	if err != nil {
		t.Fatal(err)
	}
	key, salt, err := k.SRTP()
	if err != nil {
		t.Fatal(err)
	}
	frames, err := k.SFrame()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d %x %x %x", k.Epoch(), key, salt, frames)
}

func receiveFlow(t testing.TB, c *ReceiveChain) string {
	return sendFlow(t, (*SendChain)(c))
}

func TestBothEndsAgree(t *testing.T) {
	caller, callee := agree(t, testCall())
	seen := map[string]bool{}
	for epoch := range 5 {
		for _, ends := range [][2]*Keys{{caller, callee}, {callee, caller}} {
			k, err := ends[0].Send.Next()
			if err != nil {
				t.Fatal(err)
			}
			r, err := ends[1].Receive.Next()
			if err != nil {
				t.Fatal(err)
			}
			if k.Epoch() != uint32(epoch) || r.Epoch() != uint32(epoch) {
				t.Fatalf("epochs %d and %d, want %d", k.Epoch(), r.Epoch(), epoch)
			}
			key, salt, err1 := k.SRTP()
			key2, salt2, err2 := r.SRTP()
			frames, err3 := k.SFrame()
			frames2, err4 := r.SFrame()
			if err := errors.Join(err1, err2, err3, err4); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(key, key2) || !bytes.Equal(salt, salt2) || !bytes.Equal(frames, frames2) {
				t.Fatalf("epoch %d: the receiver's keys are not the sender's", epoch)
			}
			if len(key) != 32 || len(salt) != 12 || len(frames) != 32 {
				t.Fatalf("sizes %d, %d, %d", len(key), len(salt), len(frames))
			}
			for _, b := range [][]byte{key, salt, frames} {
				if seen[string(b)] {
					t.Fatalf("epoch %d: a key serves twice", epoch)
				}
				seen[string(b)] = true
			}
		}
	}
	code, err := callee.VerificationCode(caller.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	if own, err := caller.VerificationCode(callee.Reveal()); err != nil || own != code {
		t.Fatalf("codes %q and %q (%v)", code, own, err)
	}
	if _, err := caller.VerificationCode(caller.Reveal()); !errors.Is(err, ErrTampered) {
		t.Errorf("the caller's own part, sent back: %v", err)
	}
}

func TestCallsShareNothing(t *testing.T) {
	a, _ := agree(t, testCall())
	b, _ := agree(t, testCall())
	if sendFlow(t, a.Send) == sendFlow(t, b.Send) {
		t.Error("two calls have the same keys")
	}
}

// TestHandedOutOnce shows that no key can be given to a second context.
func TestHandedOutOnce(t *testing.T) {
	keys, _ := agree(t, testCall())
	send, _ := keys.Send.Next()
	receive, _ := keys.Receive.Next()
	for round, want := range []error{nil, errTaken, errTaken} {
		_, _, err1 := send.SRTP()
		_, _, err2 := receive.SRTP()
		_, err3 := send.SFrame()
		_, err4 := receive.SFrame()
		for _, err := range []error{err1, err2, err3, err4} {
			if !errors.Is(err, want) {
				t.Errorf("round %d: %v, want %v", round, err, want)
			}
		}
	}
}

// A call that ended before its answer came leaves no secret of its offer in memory.
func TestEraseOfACaller(t *testing.T) {
	c, err := NewCaller()
	if err != nil {
		t.Fatal(err)
	}
	seed, secret, reveal := c.seed, c.secret, c.reveal
	c.Erase()
	for name, left := range map[string]*[32]byte{"seed": seed, "secret": secret, "reveal": reveal} {
		if *left != [32]byte{} {
			t.Errorf("the %s is still there", name)
		}
	}
}

func TestErase(t *testing.T) {
	keys, _ := agree(t, testCall())
	reveal := keys.Reveal()
	secret := keys.Send.c.secret
	keys.Erase()
	keys.Erase()
	if *secret != [32]byte{} {
		t.Error("a chain's secret is still in memory")
	}
	if _, err := keys.Send.Next(); !errors.Is(err, errErased) {
		t.Errorf("send: %v", err)
	}
	if _, err := keys.Receive.Next(); !errors.Is(err, errErased) {
		t.Errorf("receive: %v", err)
	}
	if _, err := keys.VerificationCode(reveal); !errors.Is(err, errErased) {
		t.Errorf("code: %v", err)
	}
}

// TestNextSRTP shows that both ends' sources of keys for rekeying agree, epoch by epoch, and that Erase ends them while they are in use.
func TestNextSRTP(t *testing.T) {
	caller, callee := agree(t, testCall())
	seen := map[string]bool{}
	for range 5 {
		key, salt, err := caller.Send.NextSRTP()
		if err != nil {
			t.Fatal(err)
		}
		key2, salt2, err := callee.Receive.NextSRTP()
		if err != nil || !bytes.Equal(key, key2) || !bytes.Equal(salt, salt2) || len(key) != 32 || len(salt) != 12 {
			t.Fatalf("the ends differ, or %v", err)
		}
		seen[string(key)] = true
	}
	if len(seen) != 5 {
		t.Error("a key came twice")
	}
	ended := make(chan error)
	go func() {
		for {
			if _, _, err := caller.Send.NextSRTP(); err != nil {
				ended <- err
				return
			}
		}
	}()
	caller.Erase()
	if err := <-ended; !errors.Is(err, errErased) {
		t.Error(err)
	}
}

// TestChainForgets shows that an epoch's secret is overwritten when the next begins.
func TestChainForgets(t *testing.T) {
	keys, _ := agree(t, testCall())
	old := keys.Send.c.secret
	if _, err := keys.Send.Next(); err != nil {
		t.Fatal(err)
	}
	if *old != [32]byte{} {
		t.Error("the secret of epoch 0 is still in memory")
	}
}

// TestDerivedOnce shows that one offer is answered once and one answer is derived once.
func TestDerivedOnce(t *testing.T) {
	a, _ := NewCaller()
	offer := makeOffer(t, a)
	b, _ := NewCallee(offer)
	answer := makeAnswer(t, b)
	if _, err := b.Keys(testCall(), answer); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Keys(testCall(), answer); !errors.Is(err, errUsed) {
		t.Errorf("callee: %v", err)
	}
	other, _ := NewCallee(offer)
	seed := a.seed
	if _, err := a.Keys(testCall(), offer, makeAnswer(t, other)); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Keys(testCall(), offer, answer); !errors.Is(err, errUsed) {
		t.Errorf("caller: %v", err)
	}
	if *seed != [32]byte{} {
		t.Error("the encapsulation's private key is still in memory")
	}
}

func TestRefused(t *testing.T) {
	lowOrder := func(o *wire.Offer) { clear(o.KemPublicKey[KEMPublicKeySize-32:]) } // X25519 key whose every secret is zero
	for name, alter := range map[string]func(o *wire.Offer){
		"no key":           func(o *wire.Offer) { o.KemPublicKey = nil },
		"long key":         func(o *wire.Offer) { o.KemPublicKey = append(o.KemPublicKey, 0) },
		"key not reduced":  func(o *wire.Offer) { o.KemPublicKey[0], o.KemPublicKey[1] = 0xff, 0xff }, // FIPS 203 section 7.2
		"low order key":    lowOrder,
		"no secret":        func(o *wire.Offer) { o.Secret = nil },
		"short secret":     func(o *wire.Offer) { o.Secret = o.Secret[1:] },
		"no commitment":    func(o *wire.Offer) { o.Commitment = nil },
		"short commitment": func(o *wire.Offer) { o.Commitment = o.Commitment[1:] },
	} {
		caller, _ := NewCaller()
		offer := &wire.Offer{}
		caller.Fill(offer)
		alter(offer)
		if _, err := NewCallee(marshal(t, offer)); !errors.Is(err, errOffer) {
			t.Errorf("offer with %s: %v", name, err)
		}
	}
	for name, alter := range map[string]func(a *wire.Answer){
		"no ciphertext":    func(a *wire.Answer) { a.KemCiphertext = nil },
		"short ciphertext": func(a *wire.Answer) { a.KemCiphertext = a.KemCiphertext[1:] },
		"low order point":  func(a *wire.Answer) { clear(a.KemCiphertext[KEMCiphertextSize-32:]) },
		"no secret":        func(a *wire.Answer) { a.Secret = nil },
		"no commitment":    func(a *wire.Answer) { a.Commitment = nil },
		"short commitment": func(a *wire.Answer) { a.Commitment = a.Commitment[1:] },
	} {
		caller, _ := NewCaller()
		offer := makeOffer(t, caller)
		callee, err := NewCallee(offer)
		if err != nil {
			t.Fatal(err)
		}
		answer := &wire.Answer{}
		callee.Fill(answer)
		alter(answer)
		if _, err := caller.Keys(testCall(), offer, marshal(t, answer)); !errors.Is(err, errAnswer) {
			t.Errorf("caller, answer with %s: %v", name, err)
		}
		if _, err := callee.Keys(testCall(), marshal(t, answer)); !errors.Is(err, errAnswer) {
			t.Errorf("callee, answer with %s: %v", name, err)
		}
	}
	one, _ := NewCaller()
	two, _ := NewCaller()
	callee, _ := NewCallee(makeOffer(t, two))
	if _, err := one.Keys(testCall(), makeOffer(t, two), makeAnswer(t, callee)); !errors.Is(err, errOffer) {
		t.Errorf("another call's offer: %v", err)
	}
}

// TestAnswerAltered changes each byte of an answer on its way. The caller refuses it or has other keys, and the codes differ.
func TestAnswerAltered(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 1) // two codes of six digits are alike by chance, but not in this run
	seed, secret, reveal := random32(), random32(), random32()
	again := func() *Caller {
		s, x, r := *seed, *secret, *reveal
		c, err := newCaller(&s, &x, &r)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	offer := makeOffer(t, again())
	callee, err := NewCallee(offer)
	if err != nil {
		t.Fatal(err)
	}
	answer := makeAnswer(t, callee)
	keys, err := callee.Keys(testCall(), answer)
	if err != nil {
		t.Fatal(err)
	}
	send, receive := sendFlow(t, keys.Send), receiveFlow(t, keys.Receive)
	revealed := keys.Reveal()
	code, err := keys.VerificationCode(reveal[:])
	if err != nil {
		t.Fatal(err)
	}
	refused := 0
	for i := range answer {
		altered := bytes.Clone(answer)
		altered[i] ^= 1
		k, err := again().Keys(testCall(), offer, altered)
		if err != nil {
			refused++
			continue
		}
		if receiveFlow(t, k.Receive) == send || sendFlow(t, k.Send) == receive {
			t.Errorf("byte %d of the answer: a direction's keys are unchanged", i)
		}
		if other, err := k.VerificationCode(revealed); err == nil && other == code {
			t.Errorf("byte %d of the answer: code %q again", i, other)
		} else if err != nil && !errors.Is(err, ErrTampered) {
			t.Error(err)
		}
	}
	if refused > 40 {
		t.Errorf("%d of %d alterations made the answer unreadable; the rest must be shown by its keys", refused, len(answer))
	}
}

func TestReveal(t *testing.T) {
	caller, callee := agree(t, testCall())
	for _, ends := range [][2]*Keys{{caller, callee}, {callee, caller}} {
		from, to := ends[0], ends[1]
		if _, err := to.VerificationCode(nil); !errors.Is(err, ErrTampered) {
			t.Errorf("nothing revealed: %v", err)
		}
		for i := range 8 * SecretSize {
			reveal := from.Reveal()
			reveal[i/8] ^= 1 << (i % 8)
			if _, err := to.VerificationCode(reveal); !errors.Is(err, ErrTampered) {
				t.Errorf("bit %d altered: %v", i, err)
			}
		}
		for _, reveal := range [][]byte{from.Reveal()[1:], append(from.Reveal(), 0)} {
			if _, err := to.VerificationCode(reveal); !errors.Is(err, ErrTampered) {
				t.Errorf("%d bytes revealed: %v", len(reveal), err)
			}
		}
	}
}

// TestManInTheMiddle has an attacker who holds both sessions. It takes the caller's call, places one of its own, and passes on all
// it can, the secrets and the verification values among it. The codes differ; passing on the commitment too, it cannot open it to
// the callee in a call whose offer it did not make.
func TestManInTheMiddle(t *testing.T) {
	cryptotest.SetGlobalRandom(t, 2)
	caller, _ := NewCaller()
	offer := makeOffer(t, caller)
	var passed wire.Offer
	if err := proto.Unmarshal(offer, &passed); err != nil {
		t.Fatal(err)
	}

	forged, _ := NewCaller()
	forged.Fill(&passed) // its own key pair, so that it knows the keys; its own commitment, so that it can open it
	var o wire.Offer
	if err := proto.Unmarshal(offer, &o); err != nil {
		t.Fatal(err)
	}
	passed.Secret, *forged.secret = o.Secret, [32]byte(o.Secret)
	forgedOffer := marshal(t, &passed)
	callee, err := NewCallee(forgedOffer)
	if err != nil {
		t.Fatal(err)
	}
	answer := makeAnswer(t, callee)
	calleeKeys, err := callee.Keys(testCall(), answer)
	if err != nil {
		t.Fatal(err)
	}
	forgedKeys, err := forged.Keys(testCall(), forgedOffer, answer)
	if err != nil {
		t.Fatal(err)
	}

	middle, err := NewCallee(offer)
	if err != nil {
		t.Fatal(err)
	}
	var a wire.Answer
	if err := proto.Unmarshal(answer, &a); err != nil {
		t.Fatal(err)
	}
	*middle.reveal = [32]byte(calleeKeys.Reveal()) // at best, for a callee that accepts before the caller's offer is answered
	callerKeys, err := caller.Keys(testCall(), offer, makeAnswer(t, middle))
	if err != nil {
		t.Fatal(err)
	}

	seenByCaller, err := callerKeys.VerificationCode(calleeKeys.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := calleeKeys.VerificationCode(callerKeys.Reveal()); !errors.Is(err, ErrTampered) {
		t.Errorf("the caller's reveal, passed on: %v", err)
	}
	seenByCallee, err := calleeKeys.VerificationCode(forgedKeys.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	if seenByCaller == seenByCallee {
		t.Errorf("both see %s", seenByCaller)
	}
}

// TestNothingPrinted formats and logs every type, alone and inside other structs, and looks for the secrets in what comes out.
func TestNothingPrinted(t *testing.T) {
	caller, _ := NewCaller()
	offer := makeOffer(t, caller)
	callee, _ := NewCallee(offer)
	b, _ := NewCallee(offer)
	answer := makeAnswer(t, b)
	keys, err := b.Keys(testCall(), answer)
	if err != nil {
		t.Fatal(err)
	}
	send, _ := keys.Send.Next()
	receive, _ := keys.Receive.Next()
	var log bytes.Buffer
	print := func(v any, verbs ...string) {
		for _, verb := range verbs {
			fmt.Fprintf(&log, verb+"\n", v)
		}
		slog.New(slog.NewTextHandler(&log, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "v", v)
	}
	type nested struct{ inner any } // formatted without the methods of what is in it
	for _, pointer := range []any{caller, callee, keys, keys.Send, keys.Receive, send, receive} {
		print(pointer, "%v", "%+v", "%#v", "%s", "%x", "%X", "%d", "%q")
		print(nested{pointer}, "%v", "%+v", "%#v", "%s", "%x", "%X", "%d", "%q")
		value := reflect.ValueOf(pointer).Elem().Interface()
		print(value, "%v", "%+v", "%#v", "%s", "%x", "%X", "%d", "%q")
		print(nested{value}, "%v", "%+v", "%#v", "%x", "%X", "%d")
	}
	text := strings.ToLower(log.String())
	secrets := map[string][]byte{
		"seed": caller.seed[:], "secret": caller.secret[:], "reveal": caller.reveal[:], "KEM secret": callee.kemSecret[:],
		"answer secret": callee.secret[:], "verification": callee.reveal[:], "code": keys.code[:], "send chain": keys.Send.c.secret[:],
		"receive chain": keys.Receive.c.secret[:], "SRTP key": send.m.srtp[:], "SRTP salt": send.m.salt[:12],
		"SFrame key": receive.m.sframe[:],
	}
	for name, secret := range secrets {
		part := secret[4:8] // four bytes in a row are no accident
		for _, form := range []string{
			hex.EncodeToString(part),
			fmt.Sprintf("%d %d %d %d", part[0], part[1], part[2], part[3]),
			strings.TrimSuffix(strings.TrimPrefix(fmt.Sprintf("%#v", part), "[]byte{"), "}"),
			fmt.Sprintf("%d,%d,%d,%d", part[0], part[1], part[2], part[3]),
		} {
			if strings.Contains(text, form) {
				t.Errorf("%s is printed as %s", name, form)
			}
		}
	}
}

func FuzzOffer(f *testing.F) {
	caller, _ := NewCaller()
	f.Add(makeOffer(f, caller))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, offer []byte) {
		callee, err := NewCallee(offer)
		if err != nil {
			return
		}
		if _, err := callee.Keys(testCall(), makeAnswer(t, callee)); err != nil {
			t.Errorf("an offer that was taken cannot be answered: %v", err)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	caller, _ := NewCaller()
	offer := makeOffer(f, caller)
	callee, _ := NewCallee(offer)
	f.Add(makeAnswer(f, callee))
	f.Add([]byte{})
	seed, secret, reveal := *caller.seed, *caller.secret, *caller.reveal
	f.Fuzz(func(t *testing.T, answer []byte) {
		s, x, r := seed, secret, reveal
		caller, err := newCaller(&s, &x, &r)
		if err != nil {
			t.Fatal(err)
		}
		keys, err := caller.Keys(testCall(), offer, answer)
		if (keys == nil) == (err == nil) {
			t.Error("keys and an error, or neither")
		}
	})
}

// BenchmarkSetup is the work of one call at each end.
func BenchmarkSetup(b *testing.B) {
	call := testCall()
	b.Run("offer", func(b *testing.B) {
		for b.Loop() {
			c, _ := NewCaller()
			makeOffer(b, c)
		}
	})
	caller, _ := NewCaller()
	offer := makeOffer(b, caller)
	b.Run("answer", func(b *testing.B) {
		for b.Loop() {
			c, _ := NewCallee(offer)
			if _, err := c.Keys(call, makeAnswer(b, c)); err != nil {
				b.Fatal(err)
			}
		}
	})
	callee, _ := NewCallee(offer)
	answer := makeAnswer(b, callee)
	seed, secret, reveal := *caller.seed, *caller.secret, *caller.reveal
	b.Run("caller keys", func(b *testing.B) {
		for b.Loop() {
			s, x, r := seed, secret, reveal
			c := &Caller{seed: &s, secret: &x, reveal: &r, public: caller.public}
			if _, err := c.Keys(call, offer, answer); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("rekey", func(b *testing.B) {
		keys, _ := agree(b, call)
		for b.Loop() {
			if _, err := keys.Send.Next(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
