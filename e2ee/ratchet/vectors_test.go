package ratchet

import (
	"bytes"
	"crypto/mlkem"
	"crypto/mlkem/mlkemtest"
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"
)

func fromHex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func wantHex(t testing.TB, what string, got []byte, want string) {
	t.Helper()
	if hex.EncodeToString(got) != want {
		t.Errorf("%s: got %x, want %s", what, got, want)
	}
}

func loadJSON(t testing.TB, file string, v any) {
	t.Helper()
	b, err := os.ReadFile("testdata/" + file)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}

func counting(from, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(from + i)
	}
	return b
}

func TestHandshakeKDF(t *testing.T) {
	h := deriveHandshake(append(bytes.Repeat([]byte{0xff}, 32), counting(0, 160)...))
	wantHex(t, "root", h.root[:], "687cc8e7ad60f72bf24fc2a3a84817227bf915f399a9cc42cf2536f430205101")
	wantHex(t, "chain", h.chain[:], "aaf732bff22e2baa9db1614ed0231d3caa1d7b1cf2d0a15e90b6cc51c8b39b5f")
	wantHex(t, "pq", h.pq[:], "e7acf277eb73cecb28b9b93bf454a5b53af2e8dfb22f96a90b2e9ea2170be05e")
}

func TestRatchetArithmetic(t *testing.T) {
	a, err := UnmarshalKeyPair(bytes.Repeat([]byte{0x11}, 32))
	if err != nil {
		t.Fatal(err)
	}
	b, err := UnmarshalKeyPair(bytes.Repeat([]byte{0x22}, 32))
	if err != nil {
		t.Fatal(err)
	}
	wantHex(t, "public", a.Public().Bytes(), "057b4e909bbe7ffe44c465a220037d608ee35897d31ef972f07f74892cb0f73f13")
	wantHex(t, "public", b.Public().Bytes(), "050faa684ed28867b97f4a6a2dee5df8ce974e76b7018e3f22a1c4cf2678570f20")
	shared, err := a.Agree(b.Public())
	if err != nil {
		t.Fatal(err)
	}
	wantHex(t, "shared", shared, "9e004098efc091d4ec2663b4e9f5cfd4d7064571690b4bea97ab146ab9f35056")

	key := [32]byte(counting(0, 32))
	root, chain := rootStep(&key, shared)
	wantHex(t, "root", root[:], "86a8d68d0bea213bc7616c86a3cfa4eb4cfa967f4a103975dbe29a8348957fb3")
	wantHex(t, "chain", chain[:], "e028e4c751bfeb436bdf885e09e06657da7cd0e4ac161b7928f387518e96389d")
	if !bytes.Equal(shared, make([]byte, 32)) {
		t.Error("the shared secret was not cleared")
	}

	seed, next := chainSeed(&key), chainNext(&key)
	wantHex(t, "seed", seed[:], "9b4c8120a4823a95f47cde17a244f4507244ee6e3957d1fab9fa29b44d3829b7")
	wantHex(t, "next", next[:], "4304c22c84a53755ab08ead8d97a8d429be5efa480682d7ad1da27f73e1fbe1d")
	wantHex(t, "message keys without salt", keyBytes(&seed, nil),
		"86268814b41f5fd154659f26873660e3dbc8b205155c3b59b8570b015d773c0c"+
			"dea51fa5beca2618971c4292647b81e83f2b4edd03e0d292a87ec66e0163abdb"+"21cfd5b9956a1631f6b7b5b5bdf7b791")
	wantHex(t, "message keys", keyBytes(&seed, bytes.Repeat([]byte{0x33}, 32)),
		"4f38a5c00dd1a42964342422194108224fed3781be3295d6759ace6c0fca4cd0"+
			"fd74e08186b57969a20d87a02cb3f660eeefc6ff1238e26bb37bd118402a5f7d"+"a3b3861ac93c989330a4d81877d095ca")
}

func TestSignatureVector(t *testing.T) {
	public, err := ParsePublicKey(fromHex(t, "05120f0fa07515072d3d6285674272380a54711eece1bef2a7a62073d2ad505918"))
	if err != nil {
		t.Fatal(err)
	}
	signature := fromHex(t, "20a2f909fe11e298a9493af36cdfc4416906abdbd3bfd592941671b244d4d034"+
		"cc00d647c88a04187d4853de8886e0c5b8c9fd1dcd25cd992264d57ddbcb4a8e")
	if !public.Verify(bytes.Repeat([]byte{1}, 33), signature) {
		t.Error("the library's signature is refused")
	}
}

func loadKAT(t testing.TB) map[string]map[string]string {
	var raw map[string]json.RawMessage
	loadJSON(t, "kat.json", &raw)
	out := map[string]map[string]string{}
	for _, name := range []string{"kyber1024_derived", "pqxdh_and_first_message_derived"} {
		var m map[string]string
		if err := json.Unmarshal(raw[name], &m); err != nil || len(m) == 0 {
			t.Fatal(name, err)
		}
		out[name] = m
	}
	return out
}

// fixedRandom hands out what a test prepared, by purpose and in order. Having none left is a failure.
type fixedRandom struct {
	t                          testing.TB
	base, ratchet, encapsulate [][]byte
	spqrKeyGen, spqrEncaps     [][]byte
}

func (r *fixedRandom) take(list *[][]byte) []byte {
	if len(*list) == 0 {
		r.t.Fatal("more randomness is used than was recorded")
	}
	b := (*list)[0]
	*list = (*list)[1:]
	return b
}

func (r *fixedRandom) BaseKey() [32]byte    { return [32]byte(r.take(&r.base)) }
func (r *fixedRandom) RatchetKey() [32]byte { return [32]byte(r.take(&r.ratchet)) }
func (r *fixedRandom) KeyGen() [64]byte     { return [64]byte(r.take(&r.spqrKeyGen)) }
func (r *fixedRandom) Encaps() [32]byte     { return [32]byte(r.take(&r.spqrEncaps)) }

func (r *fixedRandom) Encapsulate(key *mlkem.EncapsulationKey1024) (shared, ciphertext []byte) {
	shared, ciphertext, err := mlkemtest.Encapsulate1024(key, r.take(&r.encapsulate))
	if err != nil {
		r.t.Fatal(err)
	}
	return shared, ciphertext
}

func TestKyberVector(t *testing.T) {
	v := loadKAT(t)["kyber1024_derived"]
	pair, err := UnmarshalKyberKeyPair(fromHex(t, v["fips203_seed"]))
	if err != nil {
		t.Fatal(err)
	}
	wantHex(t, "public", pair.Public(), v["public"])
	wantHex(t, "private", pair.Marshal(), v["fips203_seed"])
	secret, ciphertext, err := kyberEncapsulate(pair.Public(), &fixedRandom{t: t, encapsulate: [][]byte{fromHex(t, v["m"])}})
	if err != nil {
		t.Fatal(err)
	}
	wantHex(t, "ciphertext", ciphertext, v["ciphertext"])
	wantHex(t, "secret", secret, v["kyber_shared_secret"])
	if secret, err = pair.decapsulate(ciphertext); err != nil {
		t.Fatal(err)
	}
	wantHex(t, "decapsulated", secret, v["kyber_shared_secret"])
}

// Every intermediate value of one handshake and its first message.
func TestHandshakeVector(t *testing.T) {
	v := loadKAT(t)["pqxdh_and_first_message_derived"]
	c := loadConversation(t, v["transcript"])
	base, err := UnmarshalKeyPair(c.Entropy.BaseKey[0])
	if err != nil {
		t.Fatal(err)
	}
	wantHex(t, "base private", base.Marshal(), v["base_private_clamped"])
	wantHex(t, "base public", base.Public().Bytes(), v["base_public"])
	local, b := c.local(t), c.bundle(t)
	for name, a := range map[string]agreement{
		"dh1": {local.Identity, b.SignedKey}, "dh2": {base, b.Identity}, "dh3": {base, b.SignedKey}, "dh4": {base, b.OneTime.Key},
	} {
		shared, err := a.private.Agree(a.public)
		if err != nil {
			t.Fatal(err)
		}
		wantHex(t, name, shared, v[name])
	}
	random := &fixedRandom{t: t, base: c.Entropy.BaseKey, encapsulate: c.Entropy.KyberEncaps, ratchet: c.Entropy.RatchetKeys}
	secret, _, err := kyberEncapsulate(b.KyberKey, &fixedRandom{t: t, encapsulate: c.Entropy.KyberEncaps})
	if err != nil {
		t.Fatal(err)
	}
	wantHex(t, "kem secret", secret, v["kem_ss"])
	local.Random = random
	s, err := startInitiator(&local, b, start)
	if err != nil {
		t.Fatal(err)
	}
	wantHex(t, "base key sent", s.pending.baseKey.Bytes(), v["base_public"])
	wantHex(t, "receiving chain", s.receiving[0].key[:], v["chain_key"])
	wantHex(t, "root after the first step", s.root[:], v["root_key_after_first_step"])
	wantHex(t, "ratchet key", s.ratchet.public.Bytes(), v["first_ratchet_public"])
	wantHex(t, "sending chain", s.sending.key[:], v["sending_chain_key"])
	seed, next := chainSeed(&s.sending.key), chainNext(&s.sending.key)
	wantHex(t, "seed", seed[:], v["message0_seed"])
	wantHex(t, "next chain key", next[:], v["next_sending_chain_key"])
	wantHex(t, "message keys", keyBytes(&seed, fromHex(t, v["spqr_key_epoch0_index1"])),
		v["message0_cipher_key"]+v["message0_mac_key"]+v["message0_iv"])
}

func keyBytes(seed *[32]byte, salt []byte) []byte {
	keys := newMessageKeys(seed, salt)
	return keys.out[:]
}
