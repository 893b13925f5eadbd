package callkey

import (
	"bytes"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/mlkem"
	"crypto/mlkem/mlkemtest"
	"crypto/sha256"
	"crypto/sha3"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"testing"

	"sotto/wire"
)

var update = flag.Bool("update", false, "write testdata/vectors.json anew")

const vectorsFile = "testdata/vectors.json"

// hexBytes are written in hexadecimal.
type hexBytes []byte

func (b hexBytes) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, b), nil }
func (b *hexBytes) UnmarshalText(text []byte) (err error) {
	*b, err = hex.DecodeString(string(text))
	return err
}

type vectorParty struct {
	Account  hexBytes `json:"account"`
	Device   uint8    `json:"device"`
	Identity hexBytes `json:"identity"`
}

type vectorEpoch struct {
	SRTPKey  hexBytes `json:"srtp_key"`
	SRTPSalt hexBytes `json:"srtp_salt"`
	SFrame   hexBytes `json:"sframe_base_key"`
}

// A vector is one call. Offer and answer are the bytes as sent; what is in them is not repeated.
type vector struct {
	Comment          string        `json:"comment"`
	CallID           hexBytes      `json:"call_id"`
	Caller           vectorParty   `json:"caller"`
	Callee           vectorParty   `json:"callee"`
	KEMSeed          hexBytes      `json:"kem_seed"`             // the caller's, 32 bytes
	EncapsMLKEM      hexBytes      `json:"encaps_mlkem_m"`       // the callee's randomness m (FIPS 203 algorithm 17)
	EncapsX25519     hexBytes      `json:"encaps_x25519_secret"` // the callee's ephemeral key
	Reveal           hexBytes      `json:"reveal"`               // the caller's part of the verification code
	AcceptReveal     hexBytes      `json:"accept_reveal"`        // the callee's
	Offer            hexBytes      `json:"offer"`
	Answer           hexBytes      `json:"answer"`
	KEMSecret        hexBytes      `json:"kem_secret"`
	Transcript       hexBytes      `json:"transcript"`
	FromCaller       []vectorEpoch `json:"from_caller"` // epochs 0, 1, 2
	FromCallee       []vectorEpoch `json:"from_callee"`
	VerificationCode string        `json:"verification_code"`
}

func (v vector) call() Call {
	party := func(p vectorParty) Party { return Party{[16]byte(p.Account), p.Device, [33]byte(p.Identity)} }
	return Call{[16]byte(v.CallID), party(v.Caller), party(v.Callee)}
}

// TestVectors derives the written-down keys at both ends. With -update it writes the file: do that only for a new version of the
// labels, since other implementations rely on it.
func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	file, err := os.ReadFile(vectorsFile)
	if err != nil {
		t.Fatal(err)
	}
	var vectors []vector
	if err := json.Unmarshal(file, &vectors); err != nil {
		t.Fatal(err)
	}
	if len(vectors) < 3 {
		t.Fatalf("%d vectors", len(vectors))
	}
	for _, v := range vectors {
		t.Run(v.Comment, func(t *testing.T) {
			if got := (inputs{call: v.call(), offer: v.Offer, answer: v.Answer}).transcript(); !bytes.Equal(got, v.Transcript) {
				t.Errorf("transcript %x, want %x", got, v.Transcript)
			}
			caller, err := newCaller((*[32]byte)(bytes.Clone(v.KEMSeed)), offerSecret(t, v), (*[32]byte)(bytes.Clone(v.Reveal)))
			if err != nil {
				t.Fatal(err)
			}
			callerKeys, err := caller.Keys(v.call(), v.Offer, v.Answer)
			if err != nil {
				t.Fatal(err)
			}
			calleeKeys, err := v.callee(t).Keys(v.call(), v.Answer)
			if err != nil {
				t.Fatal(err)
			}
			for epoch := range 3 {
				for _, c := range []struct {
					name    string
					send    *SendChain
					receive *ReceiveChain
					want    vectorEpoch
				}{
					{"from caller", callerKeys.Send, calleeKeys.Receive, v.FromCaller[epoch]},
					{"from callee", calleeKeys.Send, callerKeys.Receive, v.FromCallee[epoch]},
				} {
					if got := takeEpoch(t, c.send); !got.equal(c.want) {
						t.Errorf("%s, epoch %d, sending: %x", c.name, epoch, got)
					}
					if got := takeEpoch(t, (*SendChain)(c.receive)); !got.equal(c.want) {
						t.Errorf("%s, epoch %d, receiving: %x", c.name, epoch, got)
					}
				}
			}
			for _, end := range []struct {
				keys     *Keys
				revealed []byte
			}{{callerKeys, v.AcceptReveal}, {calleeKeys, v.Reveal}} {
				if got, err := end.keys.VerificationCode(end.revealed); err != nil || got != v.VerificationCode {
					t.Errorf("verification code %q (%v), want %q", got, err, v.VerificationCode)
				}
			}
		})
		t.Run(v.Comment+", the encapsulation step by step", func(t *testing.T) {
			ciphertext, secret := encapsulateByHand(t, v)
			if got := mustAnswer(t, v).KemCiphertext; !bytes.Equal(got, ciphertext) {
				t.Errorf("ciphertext %x", ciphertext)
			}
			if !bytes.Equal(secret, v.KEMSecret) {
				t.Errorf("secret %x, want %x", secret, v.KEMSecret)
			}
			if got, err := decapsulate((*[32]byte)(v.KEMSeed), ciphertext); err != nil || !bytes.Equal(got[:], v.KEMSecret) {
				t.Errorf("decapsulated %x (%v), want %x", got, err, v.KEMSecret)
			}
		})
	}
}

// encapsulateByHand is X-Wing (draft-connolly-cfrg-xwing-kem section 5.4) and HPKE's export (RFC 9180 sections 5.1 and 5.3) from
// their primitives, with the vector's randomness: what crypto/hpke does, spelt out for other implementations.
func encapsulateByHand(t *testing.T, v vector) (ciphertext, secret []byte) {
	t.Helper()
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	caller, err := newCaller((*[32]byte)(bytes.Clone(v.KEMSeed)), random32(), random32())
	must(err)
	encapsulation, err := mlkem.NewEncapsulationKey768(caller.public[:mlkem.EncapsulationKeySize768])
	must(err)
	peer, err := ecdh.X25519().NewPublicKey(caller.public[mlkem.EncapsulationKeySize768:])
	must(err)
	ephemeral, err := ecdh.X25519().NewPrivateKey(v.EncapsX25519)
	must(err)

	secretM, ciphertextM, err := mlkemtest.Encapsulate768(encapsulation, v.EncapsMLKEM)
	must(err)
	secretX, err := ephemeral.ECDH(peer)
	must(err)
	ciphertextX := ephemeral.PublicKey().Bytes()
	shared := sha3.Sum256(join(secretM, secretX, ciphertextX, peer.Bytes(), []byte(`\.//^\`)))

	suite := []byte("HPKE\x64\x7a\x00\x01\xff\xff") // X-Wing, HKDF-SHA256, export-only
	extract := func(salt []byte, label string, ikm []byte) []byte {
		prk, err := hkdf.Extract(sha256.New, join([]byte("HPKE-v1"), suite, []byte(label), ikm), salt)
		must(err)
		return prk
	}
	expand := func(prk []byte, label string, info []byte) []byte {
		out, err := hkdf.Expand(sha256.New, prk, string(join([]byte{0, 32}, []byte("HPKE-v1"), suite, []byte(label), info)), 32)
		must(err)
		return out
	}
	pskIDHash := extract(nil, "psk_id_hash", nil)
	infoHash := extract(nil, "info_hash", []byte(labelKEM))
	exporter := expand(extract(shared[:], "secret", nil), "exp", join([]byte{0}, pskIDHash, infoHash))
	return join(ciphertextM, ciphertextX), expand(exporter, "sec", []byte(labelKEM))
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func takeEpoch(t *testing.T, c *SendChain) vectorEpoch {
	t.Helper()
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
	return vectorEpoch{key, salt, frames}
}

func (e vectorEpoch) equal(o vectorEpoch) bool {
	return bytes.Equal(e.SRTPKey, o.SRTPKey) && bytes.Equal(e.SRTPSalt, o.SRTPSalt) && bytes.Equal(e.SFrame, o.SFrame)
}

func offerSecret(t *testing.T, v vector) *[32]byte {
	t.Helper()
	o, err := parseOffer(v.Offer)
	if err != nil {
		t.Fatal(err)
	}
	return (*[32]byte)(o.Secret)
}

func mustAnswer(t *testing.T, v vector) *wire.Answer {
	t.Helper()
	a, err := parseAnswer(v.Answer)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// callee is the end that made the vector's answer.
func (v vector) callee(t *testing.T) *Callee {
	t.Helper()
	a, offer := mustAnswer(t, v), []byte(v.Offer)
	return &Callee{
		offer:      &offer,
		kemSecret:  (*[32]byte)(bytes.Clone(v.KEMSecret)),
		ciphertext: a.KemCiphertext,
		secret:     (*[32]byte)(a.Secret),
		reveal:     (*[32]byte)(bytes.Clone(v.AcceptReveal)),
	}
}

// writeVectors makes three calls whose random values are hashes of their names.
func writeVectors(t *testing.T) {
	bare := func(*wire.Offer, *wire.Answer) {}
	full := func(o *wire.Offer, a *wire.Answer) {
		o.Ice = &wire.IceParameters{Ufrag: "sYkd", Password: "ajlfdgflkjhgwekrtuzi"}
		a.Ice = &wire.IceParameters{Ufrag: "oPqR", Password: "mnbvcxylkjhgfdsapoiu"}
		o.Timestamp = 1_795_000_000_000
		o.Streams = []*wire.Stream{
			{Kind: wire.Stream_AUDIO, Codec: "opus", PayloadType: 111, Ssrc: 0x11223344},
			{Kind: wire.Stream_VIDEO, Codec: "VP8", PayloadType: 96, Ssrc: 0x55667788, RtxPayloadType: 97, RtxSsrc: 0x99aabbcc},
		}
		a.Streams = []*wire.Stream{{Kind: wire.Stream_AUDIO, Codec: "opus", PayloadType: 111, Ssrc: 0xddeeff00}}
	}
	unknown := func(o *wire.Offer, a *wire.Answer) {
		full(o, a)
		o.ProtoReflect().SetUnknown([]byte{0xf8, 0x07, 0x01}) // field 127, varint 1: of a later version, and bound all the same
	}
	var vectors []vector
	for _, c := range []struct {
		comment        string
		caller, callee uint8
		fill           func(*wire.Offer, *wire.Answer)
	}{
		{"key agreement fields only", 1, 1, bare},
		{"audio and video offered, audio answered", 1, 127, full},
		{"an offer with a field of a later version", 2, 3, unknown},
	} {
		random := func(what string) []byte {
			h := sha256.Sum256([]byte(c.comment + ": " + what))
			return h[:]
		}
		identity := func(what string) []byte {
			key, err := ecdh.X25519().NewPrivateKey(random(what))
			if err != nil {
				t.Fatal(err)
			}
			return append([]byte{5}, key.PublicKey().Bytes()...)
		}
		v := vector{
			Comment:      c.comment,
			CallID:       random("call id")[:16],
			Caller:       vectorParty{random("caller")[:16], c.caller, identity("caller's identity")},
			Callee:       vectorParty{random("callee")[:16], c.callee, identity("callee's identity")},
			KEMSeed:      random("KEM seed"),
			EncapsMLKEM:  random("ML-KEM m"),
			EncapsX25519: random("X25519 ephemeral"),
			Reveal:       random("reveal"),
			AcceptReveal: random("accept reveal"),
		}
		caller, err := newCaller((*[32]byte)(bytes.Clone(v.KEMSeed)), (*[32]byte)(random("offer secret")), (*[32]byte)(bytes.Clone(v.Reveal)))
		if err != nil {
			t.Fatal(err)
		}
		var offer wire.Offer
		var answer wire.Answer
		caller.Fill(&offer)
		answer.KemCiphertext, v.KEMSecret = encapsulateByHand(t, v)
		answer.Secret, answer.Commitment = random("answer secret"), commit(labelCalleePart, v.AcceptReveal)
		c.fill(&offer, &answer)
		v.Offer, v.Answer = marshal(t, &offer), marshal(t, &answer)
		v.Transcript = inputs{call: v.call(), offer: v.Offer, answer: v.Answer}.transcript()
		keys, err := caller.Keys(v.call(), v.Offer, v.Answer)
		if err != nil {
			t.Fatal(err)
		}
		if v.VerificationCode, err = keys.VerificationCode(v.AcceptReveal); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			v.FromCaller = append(v.FromCaller, takeEpoch(t, keys.Send))
			v.FromCallee = append(v.FromCallee, takeEpoch(t, (*SendChain)(keys.Receive)))
		}
		vectors = append(vectors, v)
	}
	b, err := json.MarshalIndent(vectors, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vectorsFile, append(b, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}
