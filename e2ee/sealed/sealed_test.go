package sealed

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"sotto/e2ee/gcmsiv"
	"sotto/e2ee/ratchet"
	"sotto/e2ee/senderkey"
	"sotto/sealedwire"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// world is a server with its root, a sender with a certificate, and recipients.
type world struct {
	root    *sealedwire.PrivateKey
	issuer  *sealedwire.Issuer
	alice   *ratchet.KeyPair
	bob     *ratchet.KeyPair
	carol   *ratchet.KeyPair
	content *Content
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{
		root:  sealedwire.GeneratePrivateKey(),
		alice: ratchet.GenerateKeyPair(), bob: ratchet.GenerateKeyPair(), carol: ratchet.GenerateKeyPair(),
	}
	server := sealedwire.GeneratePrivateKey()
	var err error
	if w.issuer, err = sealedwire.NewIssuer(server, w.root.Certify(1, server.Public())); err != nil {
		t.Fatal(err)
	}
	w.content = &Content{
		Type: senderkey.TypeMessage, Sender: w.certify(t, w.alice, now.Add(time.Hour)), Message: []byte("message"),
		Hint: HintResendable, Group: []byte("group"),
	}
	return w
}

func (w *world) certify(t testing.TB, identity *ratchet.KeyPair, expires time.Time) *sealedwire.SenderCertificate {
	t.Helper()
	c, err := w.issuer.Issue(sealedwire.Sender{
		Account: [16]byte{1, 2, 3}, Device: 4, Identity: sealedwire.PublicKey(identity.Public().Bytes()),
	}, expires)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// seal1 and seal2 make a message from alice for bob; the second one is for carol, too.
func (w *world) seal1(t testing.TB, c *Content) []byte {
	t.Helper()
	b, err := Seal(w.alice, w.bob.Public(), c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (w *world) recipients() []Recipient {
	return []Recipient{
		{Account: [16]byte{0xb}, Identity: w.bob.Public(), Devices: []sealedwire.Device{{ID: 1, RegistrationID: 77}, {ID: 2, RegistrationID: 16383}}},
		{Account: [16]byte{0xd}}, // excluded
		{Account: [16]byte{0xc}, Identity: w.carol.Public(), Devices: []sealedwire.Device{{ID: 127, RegistrationID: 1}}},
	}
}

func (w *world) seal2(t testing.TB, c *Content) (bob, carol []byte) {
	t.Helper()
	sent, err := SealMany(w.alice, w.recipients(), c)
	if err != nil {
		t.Fatal(err)
	}
	m, err := sealedwire.ParseMulti(sent)
	if err != nil {
		t.Fatal(err)
	}
	return m.Received(&m.Recipients[0]), m.Received(&m.Recipients[2])
}

func (w *world) expect(t testing.TB, who *ratchet.KeyPair, b []byte, want *Content) {
	t.Helper()
	c, err := Open(who, w.root.Public(), b, now)
	if err != nil {
		t.Fatal(err)
	}
	if c.Type != want.Type || !bytes.Equal(c.Message, want.Message) || c.Hint != want.Hint || !bytes.Equal(c.Group, want.Group) ||
		c.Sender.Sender != want.Sender.Sender || !c.Sender.Expires.Equal(want.Sender.Expires) {
		t.Error("another content came out")
	}
}

func TestRoundTrip(t *testing.T) {
	w := newWorld(t)
	for _, c := range []*Content{
		w.content,
		{Type: ratchet.TypePreKeyMessage, Sender: w.content.Sender, Message: bytes.Repeat([]byte{1}, 5000)},
		{Type: ratchet.TypeMessage, Sender: w.content.Sender, Hint: HintImplicit},
	} {
		w.expect(t, w.bob, w.seal1(t, c), c)
		bob, carol := w.seal2(t, c)
		w.expect(t, w.bob, bob, c)
		w.expect(t, w.carol, carol, c)
	}
	plain := &Content{Type: TypePlaintext, Sender: w.content.Sender, Message: []byte("again, please")}
	w.expect(t, w.bob, w.seal1(t, plain), plain)
}

type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

type library struct {
	Expires           int64    `json:"expires_ms"`
	RecipientPrivate  hexBytes `json:"recipient_private"`
	RecipientPublic   hexBytes `json:"recipient_public"`
	SenderCertificate hexBytes `json:"sender_certificate"`
	SenderIdentity    hexBytes `json:"sender_identity"`
	ServerCertificate hexBytes `json:"server_certificate"`
	TrustRoot         hexBytes `json:"trust_root"`
	V1Content         hexBytes `json:"v1_content"`
	V1Message         hexBytes `json:"v1_message"`
	V2Content         hexBytes `json:"v2_content"`
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

// Messages and certificates made by libsignal-client 0.103.0.
func TestLibrary(t *testing.T) {
	v := loadLibrary(t)
	local, err := ratchet.UnmarshalKeyPair(v.RecipientPrivate)
	if err != nil || !bytes.Equal(local.Public().Bytes(), v.RecipientPublic) {
		t.Fatal("recipient's key", err)
	}
	root, expires := sealedwire.PublicKey(v.TrustRoot), time.UnixMilli(v.Expires)
	for name, test := range map[string]struct {
		message, content []byte
		typ              uint32
	}{
		"version 1": {v.V1Message, v.V1Content, ratchet.TypePreKeyMessage},
		"version 2": {v.V2Received, v.V2Content, senderkey.TypeMessage},
	} {
		c, err := Open(local, root, test.message, expires)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		encoded, err := c.encode()
		if err != nil || !bytes.Equal(encoded, test.content) || c.Type != test.typ {
			t.Errorf("%s: another content came out", name)
		}
		if !bytes.Equal(c.Sender.Identity[:], v.SenderIdentity) || !bytes.Equal(c.Sender.Bytes(), v.SenderCertificate) ||
			!bytes.Equal(c.Sender.Server.Bytes(), v.ServerCertificate) || !c.Sender.Expires.Equal(expires) {
			t.Errorf("%s: another sender came out", name)
		}
		if _, err := Open(local, root, test.message, expires.Add(time.Millisecond)); !errors.Is(err, sealedwire.ErrCertificate) {
			t.Errorf("%s, a millisecond too late: %v", name, err)
		}
	}
	m, err := sealedwire.ParseMulti(v.V2Sent)
	if err != nil || len(m.Recipients) != 1 {
		t.Fatal("sent form", err)
	}
	if !bytes.Equal(m.Received(&m.Recipients[0]), v.V2Received) {
		t.Error("cut up otherwise than by the library")
	}
	if again, err := m.Encode(); err != nil || !bytes.Equal(again, v.V2Sent) {
		t.Error("sent form encodes otherwise", err)
	}
}

// With the library's M, which its recipient recovers, all of its message but the tag comes out of sealMany again. The tag needs the
// sender's private key, which is not among the vectors; Open has checked it.
func TestLibrarySealMany(t *testing.T) {
	v := loadLibrary(t)
	local, err := ratchet.UnmarshalKeyPair(v.RecipientPrivate)
	if err != nil {
		t.Fatal(err)
	}
	multi, err := sealedwire.ParseMulti(v.V2Sent)
	if err != nil {
		t.Fatal(err)
	}
	received, err := ratchet.ParsePublicKey(append([]byte{5}, multi.Ephemeral[:]...))
	if err != nil {
		t.Fatal(err)
	}
	pad, err := keyPad(local, received, received, local.Public())
	if err != nil {
		t.Fatal(err)
	}
	var m [32]byte
	for i := range m {
		m[i] = multi.Recipients[0].Key[i] ^ pad[i]
	}
	w := newWorld(t)
	sent, err := sealMany(w.alice, []Recipient{{multi.Recipients[0].Account, local.Public(), multi.Recipients[0].Devices}}, w.content, &m)
	if err != nil {
		t.Fatal(err)
	}
	again, err := sealedwire.ParseMulti(sent)
	if err != nil || again.Ephemeral != multi.Ephemeral || again.Recipients[0].Key != multi.Recipients[0].Key {
		t.Error("another ephemeral or encrypted key", err)
	}
	if !bytes.Equal(gcmsiv.Seal(bodyKey(&m), new([12]byte), v.V2Content, nil), multi.Body) {
		t.Error("another body")
	}
}

// tamper flips every bit, cuts at every place and extends.
func tamper(t *testing.T, message []byte, try func([]byte) error) {
	t.Helper()
	altered := bytes.Clone(message)
	for i := 0; i < 8*len(message); i += tamperStep {
		altered[i/8] ^= 1 << (i % 8)
		if try(altered) == nil {
			t.Errorf("accepted with bit %d of byte %d flipped", i%8, i/8)
		}
		altered[i/8] ^= 1 << (i % 8)
	}
	for n := range message {
		if n%tamperStep != 0 {
			continue
		}
		if try(message[:n]) == nil {
			t.Errorf("accepted when cut to %d of %d bytes", n, len(message))
		}
		if try(message[n:]) == nil && n > 0 {
			t.Errorf("accepted without its first %d bytes", n)
		}
	}
	for _, more := range [][]byte{{0}, {0x08, 1}, {0x28, 1}, {0x32, 0}, {0x7a, 0}, make([]byte, 16)} {
		if try(append(bytes.Clone(message), more...)) == nil {
			t.Errorf("accepted with %x behind", more)
		}
	}
}

func TestAltered(t *testing.T) {
	w := newWorld(t)
	bob, _ := w.seal2(t, w.content)
	v := loadLibrary(t)
	recipient, err := ratchet.UnmarshalKeyPair(v.RecipientPrivate)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		message []byte
		local   *ratchet.KeyPair
		root    sealedwire.PublicKey
	}{
		"version 1":           {w.seal1(t, w.content), w.bob, w.root.Public()},
		"version 2":           {bob, w.bob, w.root.Public()},
		"library's version 1": {v.V1Message, recipient, sealedwire.PublicKey(v.TrustRoot)},
		"library's version 2": {v.V2Received, recipient, sealedwire.PublicKey(v.TrustRoot)},
	} {
		t.Run(name, func(t *testing.T) {
			tamper(t, test.message, func(b []byte) error {
				_, err := Open(test.local, test.root, b, now)
				if err != nil && !errors.Is(err, ErrUndecryptable) {
					t.Errorf("says more than that it cannot be opened: %v", err)
				}
				return err
			})
			if _, err := Open(test.local, test.root, test.message, now); err != nil {
				t.Errorf("the untouched message: %v", err)
			}
		})
	}
}

// In a message for many as it is sent, the sender's words to the server can be changed on the way there: which devices to deliver to.
// Nothing that reaches a recipient can.
func TestAlteredSent(t *testing.T) {
	w := newWorld(t)
	sent, err := SealMany(w.alice, w.recipients(), w.content)
	if err != nil {
		t.Fatal(err)
	}
	original, err := sealedwire.ParseMulti(sent)
	if err != nil {
		t.Fatal(err)
	}
	genuine := [][]byte{original.Received(&original.Recipients[0]), original.Received(&original.Recipients[2])}
	tamper(t, sent, func(b []byte) error {
		m, err := sealedwire.ParseMulti(b)
		if err != nil {
			return err
		}
		for i := range m.Recipients {
			if len(m.Recipients[i].Devices) == 0 {
				continue
			}
			received := m.Received(&m.Recipients[i])
			if slices.ContainsFunc(genuine, func(g []byte) bool { return bytes.Equal(g, received) }) {
				continue
			}
			for _, who := range []*ratchet.KeyPair{w.bob, w.carol} {
				if _, err := Open(who, w.root.Public(), received, now); err == nil {
					return nil
				}
			}
		}
		return ErrUndecryptable
	})
}

func TestRefused(t *testing.T) {
	w := newWorld(t)
	bob2, carol2 := w.seal2(t, w.content)
	otherRoot := sealedwire.GeneratePrivateKey()
	expired := *w.content
	expired.Sender = w.certify(t, w.alice, now.Add(-time.Second))
	expired2, _ := w.seal2(t, &expired)
	for name, test := range map[string]struct {
		message []byte
		local   *ratchet.KeyPair
		root    sealedwire.PublicKey
		want    error
	}{
		"another recipient":                 {w.seal1(t, w.content), w.carol, w.root.Public(), ErrUndecryptable},
		"another recipient of version 2":    {bob2, w.carol, w.root.Public(), ErrUndecryptable},
		"another recipient's part":          {carol2, w.bob, w.root.Public(), ErrUndecryptable},
		"the sender":                        {w.seal1(t, w.content), w.alice, w.root.Public(), ErrUndecryptable},
		"another root":                      {w.seal1(t, w.content), w.bob, otherRoot.Public(), sealedwire.ErrCertificate},
		"another root, version 2":           {bob2, w.bob, otherRoot.Public(), sealedwire.ErrCertificate},
		"an expired certificate":            {w.seal1(t, &expired), w.bob, w.root.Public(), sealedwire.ErrCertificate},
		"an expired certificate, version 2": {expired2, w.bob, w.root.Public(), sealedwire.ErrCertificate},
		"nothing":                           {nil, w.bob, w.root.Public(), ErrUndecryptable},
		"sent form":                         {[]byte{0x23}, w.bob, w.root.Public(), ErrUndecryptable},
	} {
		if _, err := Open(test.local, test.root, test.message, now); !errors.Is(err, test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Mallory seals with her own key what says that it comes from alice, with alice's real certificate.
func TestImpersonation(t *testing.T) {
	w := newWorld(t)
	mallory := ratchet.GenerateKeyPair()
	if _, err := Seal(mallory, w.bob.Public(), w.content); !errors.Is(err, ErrSender) {
		t.Errorf("sealed with another's certificate: %v", err)
	}
	if _, err := SealMany(mallory, w.recipients(), w.content); !errors.Is(err, ErrSender) {
		t.Errorf("sealed for many with another's certificate: %v", err)
	}

	// Version 1, past that check.
	plaintext, err := w.content.encode()
	if err != nil {
		t.Fatal(err)
	}
	ephemeral := ratchet.GenerateKeyPair()
	outer, err := outerKeys(ephemeral, w.bob.Public(), w.bob.Public(), ephemeral.Public())
	if err != nil {
		t.Fatal(err)
	}
	for _, claimed := range []*ratchet.KeyPair{mallory, w.alice} {
		m := message1{ephemeral: ephemeral.Public(), static: outer.seal(claimed.Public().Bytes())}
		inner, err := innerKeys(mallory, w.bob.Public(), outer, m.static)
		if err != nil {
			t.Fatal(err)
		}
		m.content = inner.seal(plaintext)
		if _, err := Open(w.bob, w.root.Public(), m.encode(), now); !errors.Is(err, ErrUndecryptable) {
			t.Errorf("opened: %v", err)
		}
	}

	// Version 2: carol, who knows M, makes another message for bob under the same M and ephemeral key, but cannot make the tag for it.
	m := [32]byte{9}
	sent, err := sealMany(w.alice, w.recipients(), w.content, &m)
	if err != nil {
		t.Fatal(err)
	}
	multi, err := sealedwire.ParseMulti(sent)
	if err != nil {
		t.Fatal(err)
	}
	genuine := multi.Received(&multi.Recipients[0])
	w.expect(t, w.bob, genuine, w.content)
	other := [32]byte{8}
	pad, err := keyPad(ephemeralPair(&other), w.bob.Public(), ephemeralPair(&other).Public(), w.bob.Public())
	if err != nil {
		t.Fatal(err)
	}
	forged := *multi
	forged.Ephemeral = [32]byte(ephemeralPair(&other).Public().Bytes()[1:])
	forged.Body = gcmsiv.Seal(bodyKey(&other), new([12]byte), plaintext, nil)
	entry := multi.Recipients[0]
	for i := range entry.Key {
		entry.Key[i] = other[i] ^ pad[i]
	}
	if _, err := Open(w.bob, w.root.Public(), forged.Received(&entry), now); !errors.Is(err, ErrUndecryptable) {
		t.Errorf("another M under the genuine tag: %v", err)
	}

	// An ephemeral key that does not follow from M, though all else is as its sender makes it.
	strange := ephemeral.Public()
	if pad, err = keyPad(ephemeral, w.bob.Public(), strange, w.bob.Public()); err != nil {
		t.Fatal(err)
	}
	forged = *multi
	forged.Ephemeral = [32]byte(strange.Bytes()[1:])
	for i := range entry.Key {
		entry.Key[i] = m[i] ^ pad[i]
	}
	from, to := w.alice.Public(), w.bob.Public()
	tag, err := senderTag(w.alice, to, strange, entry.Key[:], from, to)
	if err != nil {
		t.Fatal(err)
	}
	entry.Tag = [16]byte(tag)
	_, err = Open(w.bob, w.root.Public(), forged.Received(&entry), now)
	if !errors.Is(err, ErrUndecryptable) {
		t.Errorf("another ephemeral key: %v", err)
	}

	// What the tag does not cover is the body. Plain text, which nothing else protects, is refused for that reason.
	plain := *w.content
	plain.Type = TypePlaintext
	if _, err := SealMany(w.alice, w.recipients(), &plain); !errors.Is(err, ErrContent) {
		t.Errorf("plain text sealed for many: %v", err)
	}
	if plaintext, err = plain.encode(); err != nil {
		t.Fatal(err)
	}
	forged = *multi
	forged.Body = gcmsiv.Seal(bodyKey(&m), new([12]byte), plaintext, nil)
	if _, err := Open(w.bob, w.root.Public(), forged.Received(&multi.Recipients[0]), now); !errors.Is(err, ErrUndecryptable) {
		t.Errorf("plain text of another recipient's making: %v", err)
	}
}

func TestBadInput(t *testing.T) {
	w := newWorld(t)
	zero, err := ratchet.ParsePublicKey(append([]byte{5}, make([]byte, 32)...)) // a point of small order: every secret would be zero
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]ratchet.PublicKey{"no key": {}, "small order": zero} {
		if _, err := Seal(w.alice, key, w.content); !errors.Is(err, ErrRecipient) {
			t.Errorf("%s: %v", name, err)
		}
		r := Recipient{Account: [16]byte{1}, Identity: key, Devices: []sealedwire.Device{{ID: 1}}}
		if _, err := SealMany(w.alice, []Recipient{r}, w.content); !errors.Is(err, ErrRecipient) {
			t.Errorf("%s, version 2: %v", name, err)
		}
	}
	for _, d := range []sealedwire.Device{{ID: 0}, {ID: 128}, {ID: 1, RegistrationID: 1 << 14}} {
		r := Recipient{Account: [16]byte{1}, Identity: w.bob.Public(), Devices: []sealedwire.Device{d}}
		if _, err := SealMany(w.alice, []Recipient{r}, w.content); !errors.Is(err, ErrRecipient) {
			t.Errorf("device %d: %v", d.ID, err)
		}
	}
	unknown := *w.content
	unknown.Type = 1 // what a pre-key message is called inside only
	if _, err := Seal(w.alice, w.bob.Public(), &unknown); !errors.Is(err, ErrContent) {
		t.Errorf("unknown type: %v", err)
	}
	m := message1{ephemeral: zero, static: make([]byte, 43), content: make([]byte, 10)}
	if _, err := Open(w.bob, w.root.Public(), m.encode(), now); !errors.Is(err, ErrUndecryptable) {
		t.Errorf("ephemeral key of small order: %v", err)
	}
	if _, err := Seal(w.alice, w.bob.Public(), &Content{Type: ratchet.TypeMessage}); !errors.Is(err, ErrSender) {
		t.Errorf("no certificate: %v", err)
	}
}

func TestNothingPrinted(t *testing.T) {
	w := newWorld(t)
	var out strings.Builder
	log := slog.New(slog.NewTextHandler(&out, nil))
	recipient := w.recipients()[0]
	for _, v := range []any{w.content, *w.content, recipient, &recipient, w.content.Sender, w.content.Sender.Sender, w.root, *w.root, w.root.Public()} {
		fmt.Fprintf(&out, "%v %+v %#v %s %x %d\n", v, v, v, v, v, v)
		log.Info("x", "v", v)
	}
	for _, secret := range []string{"message", "67726f7570", "group", "01020300", hex.EncodeToString(w.root.Marshal()), fmt.Sprint(w.root.Marshal()[:4])[1:12]} {
		if strings.Contains(out.String(), secret) {
			t.Errorf("%q is printed", secret)
		}
	}
}
