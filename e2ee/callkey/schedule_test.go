package callkey

import (
	"bytes"
	"fmt"
	"slices"
	"testing"
)

func testInputs() inputs {
	in := inputs{
		kemSecret: new([32]byte), offerSecret: new([32]byte), answerSecret: new([32]byte), call: testCall(),
		offer: make([]byte, 1400), answer: make([]byte, 1300),
	}
	for i := range 32 {
		in.kemSecret[i], in.offerSecret[i], in.answerSecret[i] = byte(i), byte(100+i), byte(200+i)
	}
	for i := range in.offer {
		in.offer[i] = byte(i * 7)
	}
	for i := range in.answer {
		in.answer[i] = byte(i * 11)
	}
	return in
}

func (in inputs) clone() inputs {
	kem, offer, answer := *in.kemSecret, *in.offerSecret, *in.answerSecret
	in.kemSecret, in.offerSecret, in.answerSecret = &kem, &offer, &answer
	in.offer, in.answer = bytes.Clone(in.offer), bytes.Clone(in.answer)
	return in
}

// TestEveryInputCounts alters and strips every byte of everything the keys are derived from. Nothing that is altered leaves any key
// as it was, and no two alterations lead to the same keys.
func TestEveryInputCounts(t *testing.T) {
	base := testInputs()
	seen := map[[32]byte]string{}
	check := func(what string, in inputs) {
		t.Helper()
		s := derive(in)
		for part, secret := range map[string]*[32]byte{"caller": s.caller.secret, "callee": s.callee.secret, "code": s.code} {
			if other, ok := seen[*secret]; ok {
				t.Errorf("%s: the secret for %s is that of %s", what, part, other)
			}
			seen[*secret] = what + ", " + part
		}
	}
	check("unaltered", base)
	for _, field := range []struct {
		name  string
		bytes func(in *inputs) []byte
	}{
		{"KEM secret", func(in *inputs) []byte { return in.kemSecret[:] }},
		{"offer secret", func(in *inputs) []byte { return in.offerSecret[:] }},
		{"answer secret", func(in *inputs) []byte { return in.answerSecret[:] }},
		{"call id", func(in *inputs) []byte { return in.call.ID[:] }},
		{"caller's account", func(in *inputs) []byte { return in.call.Caller.Account[:] }},
		{"callee's account", func(in *inputs) []byte { return in.call.Callee.Account[:] }},
		{"caller's identity", func(in *inputs) []byte { return in.call.Caller.Identity[:] }},
		{"callee's identity", func(in *inputs) []byte { return in.call.Callee.Identity[:] }},
		{"offer", func(in *inputs) []byte { return in.offer }},
		{"answer", func(in *inputs) []byte { return in.answer }},
	} {
		for i := range field.bytes(&base) {
			for _, mask := range []byte{0x01, 0x80} {
				in := base.clone()
				field.bytes(&in)[i] ^= mask
				check(fmt.Sprintf("%s, byte %d ^ %#x", field.name, i, mask), in)
			}
		}
		in := base.clone()
		clear(field.bytes(&in))
		check(field.name+" stripped", in)
	}
	for bit := range 8 {
		in := base.clone()
		in.call.Caller.Device ^= 1 << bit
		check(fmt.Sprintf("caller's device, bit %d", bit), in)
		in = base.clone()
		in.call.Callee.Device ^= 1 << bit
		check(fmt.Sprintf("callee's device, bit %d", bit), in)
	}

	// What is shorter, longer or elsewhere, though the bytes in a row might be the same.
	in := base.clone()
	in.offer = in.offer[:len(in.offer)-1]
	check("offer shortened", in)
	in = base.clone()
	in.offer = append(in.offer, 0)
	check("offer lengthened", in)
	in = base.clone()
	in.offer = nil
	check("no offer", in)
	in = base.clone()
	in.answer = nil
	check("no answer", in)
	in = base.clone()
	in.answer = slices.Insert(in.answer, 0, in.offer[len(in.offer)-1])
	in.offer = in.offer[:len(in.offer)-1]
	check("a byte moved from offer to answer", in)
	in = base.clone()
	in.offer, in.answer = in.answer, in.offer
	check("offer and answer exchanged", in)
	in = base.clone()
	in.call.Caller, in.call.Callee = in.call.Callee, in.call.Caller
	check("caller and callee exchanged", in)
	in = base.clone()
	in.call.Caller.Identity, in.call.Callee.Identity = in.call.Callee.Identity, in.call.Caller.Identity
	check("identities exchanged", in)
	in = base.clone()
	in.offerSecret, in.answerSecret = in.answerSecret, in.offerSecret
	check("secrets exchanged", in)
	in = base.clone()
	in.kemSecret, in.offerSecret = in.offerSecret, in.kemSecret
	check("KEM and offer secret exchanged", in)
}

// FuzzTranscript looks for two different pairs of offer and answer with one transcript.
func FuzzTranscript(f *testing.F) {
	f.Add([]byte("offer"), []byte("answer"), []byte("offera"), []byte("nswer"))
	f.Add([]byte{}, []byte{0, 0, 0, 0}, []byte{0, 0, 0, 0}, []byte{})
	f.Fuzz(func(t *testing.T, offer, answer, offer2, answer2 []byte) {
		a, b := inputs{offer: offer, answer: answer}, inputs{offer: offer2, answer: answer2}
		same := bytes.Equal(offer, offer2) && bytes.Equal(answer, answer2)
		if bytes.Equal(a.transcript(), b.transcript()) != same {
			t.Error("two exchanges have one transcript, or one has two")
		}
	})
}
