package linking

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"testing"

	"google.golang.org/protobuf/proto"

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

// A vector is one linking as another program must do it. Signatures are made with random bytes: they are given, and verify.
type vector struct {
	Code         string   `json:"code"`
	Slot         hexBytes `json:"slot"`
	Identity     hexBytes `json:"new_identity"`
	Digits       string   `json:"digits"`
	NewDevice    hexBytes `json:"new_device"`
	RequestNonce hexBytes `json:"request_nonce"`
	Request      hexBytes `json:"request"`
	Linked       hexBytes `json:"signed_linked"` // signature [64] || Linked
	ReplyNonce   hexBytes `json:"reply_nonce"`
	Reply        hexBytes `json:"reply"`
	Refused      []struct {
		Comment string   `json:"comment"`
		Request hexBytes `json:"request"`
	} `json:"refused_requests"`
}

func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	raw, err := os.ReadFile(vectorsFile)
	if err != nil {
		t.Fatal(err)
	}
	var v vector
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	c, err := ParseCode(v.Code)
	if err != nil {
		t.Fatal(err)
	}
	if slot := c.Slot(); !bytes.Equal(slot[:], v.Slot) || c.Digits([33]byte(v.Identity)) != v.Digits {
		t.Error("slot or digits differ")
	}
	if got := c.seal(requestInfo, nil, v.NewDevice, [12]byte(v.RequestNonce)); !bytes.Equal(got, v.Request) {
		t.Errorf("request %x", got)
	}
	if got := c.seal(replyInfo, sha256Of(v.Request), v.Linked, [12]byte(v.ReplyNonce)); !bytes.Equal(got, v.Reply) {
		t.Errorf("reply %x", got)
	}
	d, err := c.OpenRequest(v.Request)
	if err != nil || !bytes.Equal(d.IdentityKey, v.Identity) {
		t.Error(d, err)
	}
	l, err := c.OpenReply(v.Request, v.Reply, [33]byte(v.Identity))
	if err != nil || l.Username != "alice" || len(l.Contacts) != 1 {
		t.Error(l, err)
	}
	if len(v.Refused) == 0 {
		t.Error("no vector of what is refused")
	}
	for _, r := range v.Refused {
		if _, err := c.OpenRequest(r.Request); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", r.Comment, err)
		}
	}
}

func writeVectors(t *testing.T) {
	first, second := deviceOf(t, bytes.Repeat([]byte{1}, 32)), deviceOf(t, bytes.Repeat([]byte{2}, 32))
	c := newCode(t, first)
	c.secret = [secretSize]byte(bytes.Repeat([]byte{5}, secretSize))
	d := &wire.NewDevice{IdentityKey: second.identity[:], RegistrationId: 4711, PreKeys: []byte("pre-keys")}
	if _, err := c.SealRequest(d, &second.private); err != nil {
		t.Fatal(err)
	}
	slot := c.Slot()
	v := vector{Code: c.String(), Slot: slot[:], Identity: second.identity[:], Digits: c.Digits(second.identity)}
	v.RequestNonce, v.ReplyNonce = bytes.Repeat([]byte{3}, 12), bytes.Repeat([]byte{4}, 12)
	marshal := func(m proto.Message) []byte {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	v.NewDevice = marshal(d)
	v.Request = c.seal(requestInfo, nil, v.NewDevice, [12]byte(v.RequestNonce))
	v.Linked = signedLinked(c, v.Request, marshal(linked(t, first, second)), first)
	v.Reply = c.seal(replyInfo, sha256Of(v.Request), v.Linked, [12]byte(v.ReplyNonce))
	refuse := func(comment string, request []byte) {
		v.Refused = append(v.Refused, struct {
			Comment string   `json:"comment"`
			Request hexBytes `json:"request"`
		}{comment, request})
	}
	refuse("sealed with the key of the other direction", c.seal(replyInfo, nil, v.NewDevice, [12]byte(v.RequestNonce)))
	refuse("no padding", c.aead(requestInfo).Seal(v.RequestNonce[:12:12], v.RequestNonce, make([]byte, padTo), nil))
	d.PreKeys = []byte("other pre-keys")
	refuse("the signature is for other pre-keys", c.seal(requestInfo, nil, marshal(d), [12]byte(v.RequestNonce)))
	out, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vectorsFile, append(out, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

func signedLinked(c Code, request, linked []byte, by device) []byte {
	slot := c.Slot()
	return append(sign(&by.private, wire.LinkedToSign(c.name, slot[:], request, linked)), linked...)
}

func sha256Of(b []byte) []byte {
	sum := sha256.Sum256(b)
	return sum[:]
}

// FuzzOpen gives arbitrary plaintexts the right seal: whatever opens has what its reader relies on.
func FuzzOpen(f *testing.F) {
	first, second := newDevice(f), newDevice(f)
	c := newCode(f, first)
	d := &wire.NewDevice{IdentityKey: second.identity[:], RegistrationId: 1, PreKeys: []byte("pre-keys")}
	if _, err := c.SealRequest(d, &second.private); err != nil {
		f.Fatal(err)
	}
	for _, m := range []proto.Message{d, linked(f, first, second)} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if d, err := c.OpenRequest(c.seal(requestInfo, nil, b, freshNonce())); err == nil && !bytes.Equal(d.IdentityKey, second.identity[:]) {
			t.Error("somebody else's signature")
		}
		request := []byte("request")
		l, err := c.OpenReply(request, c.seal(replyInfo, sha256Of(request), signedLinked(c, request, b, first), freshNonce()), second.identity)
		if err == nil && (len(l.Account) != accountSize || len(l.IdentityKey) != identityKeySize || l.Device < 2) {
			t.Errorf("accepted %v", l)
		}
		c.OpenRequest(b)
	})
}
