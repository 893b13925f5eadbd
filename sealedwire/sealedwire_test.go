package sealedwire

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"sotto/internal/protofield"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

// library has what libsignal-client 0.103.0 made.
type library struct {
	Expires           int64    `json:"expires_ms"`
	SenderCertificate hexBytes `json:"sender_certificate"`
	SenderIdentity    hexBytes `json:"sender_identity"`
	ServerCertificate hexBytes `json:"server_certificate"`
	TrustRoot         hexBytes `json:"trust_root"`
	V2Received        hexBytes `json:"v2_received"`
	V2Sent            hexBytes `json:"v2_sent"`
}

func loadLibrary(t testing.TB) *library {
	t.Helper()
	b, err := os.ReadFile("testdata/kat.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Library *library `json:"sealed_library"`
	}
	if err := json.Unmarshal(b, &file); err != nil {
		t.Fatal(err)
	}
	return file.Library
}

func issue(t testing.TB) (root *PrivateKey, c *SenderCertificate) {
	t.Helper()
	root, server := GeneratePrivateKey(), GeneratePrivateKey()
	issuer, err := NewIssuer(server, root.Certify(7, server.Public()))
	if err != nil {
		t.Fatal(err)
	}
	sender := Sender{Account: [16]byte{1, 2, 3, 15: 0xff}, Device: 127, Identity: GeneratePrivateKey().Public()}
	if c, err = issuer.Issue(sender, now.Add(time.Hour+time.Microsecond)); err != nil {
		t.Fatal(err)
	}
	return root, c
}

func TestIssue(t *testing.T) {
	root, made := issue(t)
	c, err := ParseSenderCertificate(made.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if c.Sender != made.Sender || !c.Expires.Equal(now.Add(time.Hour)) || c.Server.ID != 7 || c.Server.Key != made.Server.Key {
		t.Error("another certificate came out")
	}
	for _, c := range []*SenderCertificate{made, c} {
		if err := c.Validate(root.Public(), c.Expires); err != nil {
			t.Errorf("at its expiry: %v", err)
		}
		if err := c.Validate(root.Public(), c.Expires.Add(time.Millisecond)); !errors.Is(err, ErrCertificate) {
			t.Errorf("after its expiry: %v", err)
		}
		if err := c.Validate(GeneratePrivateKey().Public(), now); !errors.Is(err, ErrCertificate) {
			t.Errorf("another root: %v", err)
		}
	}
	// A server whose key the root has not signed, with the certificate of one whose key it has.
	other := GeneratePrivateKey()
	if _, err := NewIssuer(other, made.Server); !errors.Is(err, ErrCertificate) {
		t.Errorf("an issuer without its key: %v", err)
	}
	forged, err := (&Issuer{other, made.Server}).Issue(made.Sender, now.Add(time.Hour))
	if err != nil || forged.Validate(root.Public(), now) == nil {
		t.Error("signed by another key", err)
	}
	for name, s := range map[string]Sender{
		"device 0":   {Identity: made.Identity},
		"device 128": {Device: 128, Identity: made.Identity},
		"no key":     {Device: 1},
	} {
		if _, err := (&Issuer{other, other.Certify(1, other.Public())}).Issue(s, now); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeys(t *testing.T) {
	k := GeneratePrivateKey()
	again, err := UnmarshalPrivateKey(k.Marshal())
	if err != nil || again.Public() != k.Public() {
		t.Error("another key", err)
	}
	if _, err := UnmarshalPrivateKey(make([]byte, 31)); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
	if (PublicKey{}).verify(nil, k.sign(nil)) || !k.Public().verify(nil, k.sign(nil)) {
		t.Error("verification")
	}
}

func TestLibrary(t *testing.T) {
	v := loadLibrary(t)
	c, err := ParseSenderCertificate(v.SenderCertificate)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Validate(PublicKey(v.TrustRoot), time.UnixMilli(v.Expires)); err != nil {
		t.Error(err)
	}
	if c.Expires.UnixMilli() != v.Expires || !bytes.Equal(c.Identity[:], v.SenderIdentity) || c.Device != 1 || !bytes.Equal(c.Server.Bytes(), v.ServerCertificate) {
		t.Error("another certificate came out")
	}
	server, err := ParseServerCertificate(v.ServerCertificate)
	if err != nil || !server.Signed(PublicKey(v.TrustRoot)) {
		t.Error("server certificate", err)
	}
	m, err := ParseMulti(v.V2Sent)
	if err != nil || len(m.Recipients) != 1 || !bytes.Equal(m.Received(&m.Recipients[0]), v.V2Received) {
		t.Error("message for many", err)
	}
}

// A telephone number, which other servers' certificates may have.
func TestTelephone(t *testing.T) {
	root, c := issue(t)
	c.telephone = []byte("+14152222222")
	server := GeneratePrivateKey()
	c.Server = root.Certify(1, server.Public())
	c.signature = server.sign(c.content())
	parsed, err := ParseSenderCertificate(envelop(c.content(), c.signature))
	if err != nil || parsed.Validate(root.Public(), now) != nil || parsed.Sender != c.Sender {
		t.Error(err)
	}
}

func TestAlteredCertificate(t *testing.T) {
	root, c := issue(t)
	v := loadLibrary(t)
	sender := func(root PublicKey) func([]byte) error {
		return func(b []byte) error {
			c, err := ParseSenderCertificate(b)
			if err != nil {
				return err
			}
			return c.Validate(root, now)
		}
	}
	server := func(b []byte) error {
		c, err := ParseServerCertificate(b)
		if err == nil && !c.Signed(root.Public()) {
			err = ErrCertificate
		}
		return err
	}
	for name, test := range map[string]struct {
		certificate []byte
		try         func([]byte) error
	}{
		"sender":           {c.Bytes(), sender(root.Public())},
		"server":           {c.Server.Bytes(), server},
		"library's sender": {v.SenderCertificate, sender(PublicKey(v.TrustRoot))},
	} {
		if err := test.try(test.certificate); err != nil {
			t.Fatalf("%s, untouched: %v", name, err)
		}
		altered := bytes.Clone(test.certificate)
		for i := 0; i < 8*len(altered); i += tamperStep {
			altered[i/8] ^= 1 << (i % 8)
			if test.try(altered) == nil {
				t.Errorf("%s: accepted with bit %d of byte %d flipped", name, i%8, i/8)
			}
			altered[i/8] ^= 1 << (i % 8)
		}
		for n := range test.certificate {
			if test.try(test.certificate[:n]) == nil {
				t.Errorf("%s: accepted when cut to %d bytes", name, n)
			}
		}
		for _, more := range [][]byte{{0}, {0x18, 0}, {0x1a, 0}, append([]byte{0x12, 64}, make([]byte, 64)...)} {
			if test.try(append(bytes.Clone(test.certificate), more...)) == nil {
				t.Errorf("%s: accepted with %x behind", name, more)
			}
		}
	}
}

func TestOneEncoding(t *testing.T) {
	_, c := issue(t)
	signed := func(content []byte) []byte { return envelop(content, c.signature) }
	content := c.content()
	uuid := appendUUID(nil, c.Account)
	for name, b := range map[string][]byte{
		"unknown field":   signed(protofield.AppendVarint(bytes.Clone(content), 9, 1)),
		"repeated field":  signed(protofield.AppendBytes(bytes.Clone(content), 6, uuid)),
		"upper case UUID": signed(bytes.Replace(content, uuid, bytes.ToUpper(uuid), 1)),
		"no UUID":         signed(content[:len(content)-2-len(uuid)]),
		"signature first": protofield.AppendBytes(protofield.AppendBytes(nil, 2, c.signature), 1, content),
		"no signature":    protofield.AppendBytes(nil, 1, content),
		"long signature":  envelop(content, append(bytes.Clone(c.signature), 0)),
		"empty":           nil,
	} {
		if _, err := ParseSenderCertificate(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, text := range []string{"", "00000000-0000-0000-0000-00000000000", "00000000000000000000000000000000", "0000000-00000-0000-0000-000000000000",
		"00000000-0000-0000-0000-00000000000g", "00000000-0000-0000-0000-000000000000-"} {
		if _, err := parseUUID([]byte(text)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func multi(t testing.TB) *Multi {
	return &Multi{
		Recipients: []Recipient{
			{Account: [16]byte{1}, Devices: []Device{{1, 16383}, {127, 0}, {2, 5}}, Key: [32]byte{11}, Tag: [16]byte{12}},
			{Account: [16]byte{2}},
			{Account: [16]byte{3}, Devices: []Device{{1, 1}}, Key: [32]byte{31}, Tag: [16]byte{32}},
		},
		Ephemeral: [32]byte{4},
		Body:      []byte("body, which ends in a tag"),
	}
}

func TestMulti(t *testing.T) {
	m := multi(t)
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := ParseMulti(b)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range parsed.Recipients {
		want := m.Recipients[i]
		if r.Account != want.Account || fmt.Sprint(r.Devices) != fmt.Sprint(want.Devices) || r.Key != want.Key || r.Tag != want.Tag {
			t.Errorf("recipient %d is another", i)
		}
	}
	want := append([]byte{0x22, 31}, make([]byte, 31)...)
	want = append(append(want, 32), make([]byte, 15)...)
	want = append(append(want, 4), make([]byte, 31)...)
	want = append(want, m.Body...)
	if got := parsed.Received(&parsed.Recipients[2]); !bytes.Equal(got, want) {
		t.Errorf("received form %x", got)
	}
	for n := range len(b) - len(m.Body) + 16 {
		if _, err := ParseMulti(b[:n]); !errors.Is(err, ErrMalformed) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
}

func TestMultiRefused(t *testing.T) {
	b, err := multi(t).Encode()
	if err != nil {
		t.Fatal(err)
	}
	with := func(at int, v ...byte) []byte {
		b := bytes.Clone(b)
		copy(b[at:], v)
		return b
	}
	twice := multi(t)
	twice.Recipients[1].Account = twice.Recipients[0].Account
	twiceBytes, err := twice.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"received form":       with(0, 0x22),
		"padded count":        append([]byte{0x23, 0x83, 0}, b[2:]...),
		"huge count":          append([]byte{0x23, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}, b[2:]...),
		"more than there are": with(1, 4),
		"another service id":  with(2, 1),
		"device 128":          with(19, 128),
		"device twice":        with(22, 1),
		"15th bit":            with(20, 0xc0),
		"account twice":       twiceBytes,
	} {
		if _, err := ParseMulti(b); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ParseMulti(b); err != nil {
		t.Errorf("untouched: %v", err)
	}
}

// A short message that claims many recipients has no memory made for them.
func TestClaimedRecipientsCostNothing(t *testing.T) {
	claims := append(protowire.AppendVarint([]byte{sentVersion}, 1<<20), make([]byte, 1000)...)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := ParseMulti(claims); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
	runtime.ReadMemStats(&after)
	if made := after.TotalAlloc - before.TotalAlloc; made > 1<<20 {
		t.Errorf("%d bytes were made for a message of %d", made, len(claims))
	}
}

func TestNothingPrinted(t *testing.T) {
	root, c := issue(t)
	m := multi(t)
	var out strings.Builder
	log := slog.New(slog.NewTextHandler(&out, nil))
	for _, v := range []any{root, *root, root.Public(), c, *c, c.Sender, &c.Sender, c.Server, *c.Server, m, *m, m.Recipients[0], &m.Recipients[0], &Issuer{root, c.Server}, Issuer{root, c.Server}} {
		fmt.Fprintf(&out, "%v %+v %#v %s %x %d\n", v, v, v, v, v, v)
		log.Info("x", "v", v)
	}
	for _, b := range [][]byte{root.Marshal(), c.Account[:], c.Identity[:], m.Body} {
		for _, form := range []string{string(b), fmt.Sprintf("%x", b), strings.Trim(fmt.Sprint(b), "[]")} {
			if strings.Contains(out.String(), form) {
				t.Errorf("%q is printed", form)
			}
		}
	}
}

func FuzzSenderCertificate(f *testing.F) {
	v := loadLibrary(f)
	f.Add([]byte(v.SenderCertificate))
	_, c := issue(f)
	f.Add(c.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseSenderCertificate(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(envelop(c.content(), c.signature), b) || !bytes.Equal(c.Bytes(), b) {
			t.Fatal("accepted in another encoding than ours")
		}
		if c.Validate(PublicKey(v.TrustRoot), now) == nil && !bytes.Equal(b, v.SenderCertificate) {
			t.Fatal("an altered certificate is valid")
		}
	})
}

func FuzzServerCertificate(f *testing.F) {
	v := loadLibrary(f)
	f.Add([]byte(v.ServerCertificate))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := ParseServerCertificate(b)
		if err == nil && (!bytes.Equal(envelop(c.content(), c.signature), b) || c.Signed(PublicKey(v.TrustRoot)) && !bytes.Equal(b, v.ServerCertificate)) {
			t.Fatal("accepted in another encoding than ours, or altered")
		}
	})
}

func FuzzMulti(f *testing.F) {
	f.Add([]byte(loadLibrary(f).V2Sent))
	b, err := multi(f).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseMulti(b)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Fatal(err)
			}
			return
		}
		if again, err := m.Encode(); err != nil || !bytes.Equal(again, b) {
			t.Fatal("accepted in another encoding than ours")
		}
		for i := range m.Recipients {
			if len(m.Received(&m.Recipients[i])) != 81+len(m.Body) {
				t.Fatal("received form of another size")
			}
		}
	})
}

func BenchmarkValidate(b *testing.B) {
	root, made := issue(b)
	b.ReportAllocs()
	for b.Loop() {
		c, err := ParseSenderCertificate(made.Bytes())
		if err != nil || c.Validate(root.Public(), now) != nil {
			b.Fatal("invalid")
		}
	}
}

func BenchmarkParseMulti(b *testing.B) {
	m := &Multi{Body: make([]byte, 1000)}
	for i := range 1000 {
		m.Recipients = append(m.Recipients, Recipient{Account: [16]byte{byte(i), byte(i >> 8)}, Devices: []Device{{1, 1}}})
	}
	encoded, err := m.Encode()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseMulti(encoded); err != nil {
			b.Fatal(err)
		}
	}
}
