package linking

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"sotto/wire"
)

// A device is the key pair of one.
type device struct {
	private  [32]byte
	identity [33]byte
}

func newDevice(t testing.TB) device {
	t.Helper()
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return deviceOf(t, key.Bytes())
}

func deviceOf(t testing.TB, private []byte) device {
	t.Helper()
	key, err := ecdh.X25519().NewPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return device{[32]byte(private), [33]byte(append([]byte{identityKeyType}, key.PublicKey().Bytes()...))}
}

const server = "https://chat.example:8443"

func newCode(t testing.TB, first device) Code {
	t.Helper()
	c, err := NewCode(server, first.identity)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// shown is the code as the other device has it.
func shown(t testing.TB, c Code) Code {
	t.Helper()
	parsed, err := ParseCode(c.String())
	if err != nil || parsed != c {
		t.Fatalf("%q: %v, %v", c.String(), parsed, err)
	}
	return parsed
}

var account = bytes.Repeat([]byte{0xac}, accountSize)

func list(epoch uint32, devices ...device) *wire.DeviceList {
	l := &wire.DeviceList{Account: account, Epoch: epoch}
	for i, d := range devices {
		l.Devices = append(l.Devices, &wire.DeviceList_Device{Id: uint32(i + 1), IdentityKey: d.identity[:]})
		l.LastId = uint32(i + 1)
	}
	return l
}

func signedList(t testing.TB, by device, l *wire.DeviceList) *wire.SignedDeviceList {
	t.Helper()
	s, err := SignList(server, &by.private, l)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func linked(t testing.TB, first, second device) *wire.Linked {
	return &wire.Linked{
		Account:       account,
		Username:      "alice",
		Device:        2,
		IdentityKey:   first.identity[:],
		DeviceList:    signedList(t, first, list(1, first, second)),
		DeliveryToken: bytes.Repeat([]byte{7}, wire.DeliveryTokenSize),
		Contacts: []*wire.LinkedContact{
			{Account: bytes.Repeat([]byte{0xb0}, accountSize), Username: "bob", IdentityKey: second.identity[:], Verified: true, DeviceListEpoch: 3},
		},
	}
}

// The main job: a code goes from screen to keyboard, keys one way, the account the other way.
func TestLinking(t *testing.T) {
	first, second := newDevice(t), newDevice(t)
	code := newCode(t, first)
	typed := shown(t, code)
	if typed.Slot() != code.Slot() || typed.Server() != server {
		t.Fatal("the two do not meet")
	}

	asks := &wire.NewDevice{IdentityKey: second.identity[:], RegistrationId: 4711, PreKeys: []byte("pre-keys")}
	request, err := typed.SealRequest(asks, &second.private)
	if err != nil {
		t.Fatal(err)
	}
	got, err := code.OpenRequest(request)
	if err != nil || !proto.Equal(got, asks) {
		t.Fatal(got, err)
	}
	if a, b := code.Digits([33]byte(got.IdentityKey)), typed.Digits(second.identity); a != b || len(a) != len("12345 67890") {
		t.Errorf("digits %q and %q", a, b)
	}

	answer := linked(t, first, second)
	reply, err := code.SealReply(request, answer, &first.private)
	if err != nil {
		t.Fatal(err)
	}
	account, err := typed.OpenReply(request, reply, second.identity)
	if err != nil || !proto.Equal(account, answer) {
		t.Fatal(account, err)
	}
	for _, blob := range [][]byte{request, reply} {
		if n := len(blob) - 12 - 16; n%padTo != 0 {
			t.Errorf("a blob shows the length of what is in it: %d", n)
		}
		if bytes.Contains(blob, second.identity[1:]) || bytes.Contains(blob, []byte("alice")) {
			t.Error("a blob shows what is in it")
		}
	}
}

// TestBlobsFitOnceAndOnly: neither another code, nor the other direction, nor another request, nor a changed bit.
func TestBlobsFitOnceAndOnly(t *testing.T) {
	first, second := newDevice(t), newDevice(t)
	code, other := newCode(t, first), newCode(t, first)
	asks := &wire.NewDevice{IdentityKey: second.identity[:], RegistrationId: 1, PreKeys: []byte("pre-keys")}
	seal := func() []byte {
		b, err := code.SealRequest(asks, &second.private)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	request, again := seal(), seal()
	reply, err := code.SealReply(request, linked(t, first, second), &first.private)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", what, err)
		}
	}
	_, err = other.OpenRequest(request)
	refused("another code's request", err)
	_, err = code.OpenRequest(reply)
	refused("a reply as a request", err)
	_, err = other.OpenReply(request, reply, second.identity)
	refused("another code's reply", err)
	_, err = code.OpenReply(request, request, second.identity)
	refused("a request as its reply", err)
	_, err = code.OpenReply(again, reply, second.identity)
	refused("the reply to another request", err)
	for i := range request {
		request[i] ^= 1
		if _, err := code.OpenRequest(request); err == nil {
			t.Fatalf("byte %d of a request may change", i)
		}
		request[i] ^= 1
	}
	for n := range 40 {
		_, err = code.OpenRequest(request[:n])
		refused("a piece of a request", err)
		_, err = code.OpenReply(request, reply[:n], second.identity)
		refused("a piece of a reply", err)
	}
}

// TestRequestsRefused are sealed with the right secret, by somebody who saw the code or whose program is wrong.
func TestRequestsRefused(t *testing.T) {
	first, second, third := newDevice(t), newDevice(t), newDevice(t)
	code := newCode(t, first)
	good := func() *wire.NewDevice {
		return &wire.NewDevice{IdentityKey: second.identity[:], RegistrationId: 1, PreKeys: []byte("pre-keys")}
	}
	elsewhere := code
	elsewhere.name = "other.example"
	for _, c := range []struct {
		name   string
		signer Code
		change func(*wire.NewDevice) // after it was signed
	}{
		{"signed for another server", elsewhere, func(*wire.NewDevice) {}},
		{"signed for another slot", newCode(t, first), func(*wire.NewDevice) {}},
		{"other pre-keys", code, func(d *wire.NewDevice) { d.PreKeys = []byte("others") }},
		{"another identity key", code, func(d *wire.NewDevice) { d.IdentityKey = third.identity[:] }},
		{"no identity key", code, func(d *wire.NewDevice) { d.IdentityKey = nil }},
		{"an identity key of another type", code, func(d *wire.NewDevice) {
			d.IdentityKey = append([]byte{6}, second.identity[1:]...)
		}},
		{"no signature", code, func(d *wire.NewDevice) { d.Signature = nil }},
		{"an id", code, func(d *wire.NewDevice) { d.Id = 2 }},
		{"another registration id", code, func(d *wire.NewDevice) { d.RegistrationId = 2 }},
		{"registration id 0", code, func(d *wire.NewDevice) { d.RegistrationId = 0 }},
	} {
		d := good()
		if _, err := c.signer.SealRequest(d, &second.private); err != nil {
			t.Fatal(err)
		}
		c.change(d)
		if _, err := code.OpenRequest(sealed(code, requestInfo, nil, d)); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := code.OpenRequest(code.seal(requestInfo, nil, []byte{0xff}, freshNonce())); !errors.Is(err, ErrRefused) {
		t.Errorf("no protobuf: %v", err)
	}
	big := good()
	big.PreKeys = make([]byte, wire.MaxLinkRequest)
	if _, err := code.SealRequest(big, &second.private); !errors.Is(err, errTooLarge) {
		t.Errorf("too many pre-keys: %v", err)
	}
}

func sealed(c Code, info string, data []byte, m proto.Message) []byte {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	return c.seal(info, data, b, freshNonce())
}

func TestRepliesRefused(t *testing.T) {
	first, second, third := newDevice(t), newDevice(t), newDevice(t)
	code := newCode(t, first)
	request := []byte("the request")
	open := func(l *wire.Linked) error {
		reply, err := code.SealReply(request, l, &first.private)
		if err != nil {
			t.Fatal(err)
		}
		_, err = code.OpenReply(request, reply, second.identity)
		return err
	}
	nameless := linked(t, first, second)
	nameless.Contacts[0].Username = "" // somebody whose name the server has not confirmed
	for _, good := range []*wire.Linked{linked(t, first, second), nameless} {
		if err := open(good); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name   string
		change func(*wire.Linked)
	}{
		{"another account", func(l *wire.Linked) { l.Account = make([]byte, 16) }},
		{"another account's identity", func(l *wire.Linked) { l.IdentityKey = third.identity[:] }},
		{"a list signed by somebody else", func(l *wire.Linked) { l.DeviceList = signedList(t, second, list(1, first, second)) }},
		{"a list without us", func(l *wire.Linked) { l.DeviceList = signedList(t, first, list(1, first)) }},
		{"a list with somebody else in our place", func(l *wire.Linked) { l.DeviceList = signedList(t, first, list(1, first, third)) }},
		{"another's place for us", func(l *wire.Linked) { l.Device = 3; l.DeviceList = signedList(t, first, list(1, first, second, third)) }},
		{"the first device's place", func(l *wire.Linked) { l.Device = 1 }},
		{"no list", func(l *wire.Linked) { l.DeviceList = nil }},
		{"no name", func(l *wire.Linked) { l.Username = "" }},
		{"a token of 15 bytes", func(l *wire.Linked) { l.DeliveryToken = make([]byte, 15) }},
		{"a contact without a key", func(l *wire.Linked) { l.Contacts[0].IdentityKey = nil }},
		{"a contact twice", func(l *wire.Linked) { l.Contacts = append(l.Contacts, l.Contacts[0]) }},
	} {
		l := linked(t, first, second)
		c.change(l)
		if err := open(l); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	// Even somebody who asks with the first device's own key does not become device 1.
	l := linked(t, first, second)
	l.Device = 1
	reply, err := code.SealReply(request, l, &first.private)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := code.OpenReply(request, reply, first.identity); !errors.Is(err, ErrRefused) {
		t.Errorf("device 1 under its own key: %v", err)
	}
	big := linked(t, first, second)
	big.Username = strings.Repeat("a", wire.MaxLinkReply)
	if _, err := code.SealReply(request, big, &first.private); !errors.Is(err, errTooLarge) {
		t.Errorf("too many contacts: %v", err)
	}
}

// TestThiefOfTheCode: somebody knows the code, and the server is theirs. They cannot answer in the first device's place: neither with an
// account of their own, nor with the true one and contacts of theirs, nor with what the first device has answered to somebody else.
func TestThiefOfTheCode(t *testing.T) {
	first, second, thief := newDevice(t), newDevice(t), newDevice(t)
	code := newCode(t, first)
	seen := shown(t, code)
	request, err := seen.SealRequest(&wire.NewDevice{IdentityKey: second.identity[:], RegistrationId: 1}, &second.private)
	if err != nil {
		t.Fatal(err)
	}
	stolen, err := seen.SealRequest(&wire.NewDevice{IdentityKey: thief.identity[:], RegistrationId: 1}, &thief.private)
	if err != nil {
		t.Fatal(err)
	}
	theirs, tampered := linked(t, thief, second), linked(t, first, second)
	tampered.Contacts[0].IdentityKey = thief.identity[:]
	truly, err := code.SealReply(stolen, linked(t, first, thief), &first.private)
	if err != nil {
		t.Fatal(err)
	}
	answered, err := seen.open(replyInfo, sha256Of(stolen), truly)
	if err != nil {
		t.Fatal("who knows the code cannot read: the test proves nothing")
	}
	signed := func(l *wire.Linked) []byte {
		reply, err := seen.SealReply(request, l, &thief.private)
		if err != nil {
			t.Fatal(err)
		}
		return reply
	}
	for name, reply := range map[string][]byte{
		"an account of theirs":                signed(theirs),
		"the account with contacts of theirs": signed(tampered),
		"an unsigned answer":                  sealed(seen, replyInfo, sha256Of(request), linked(t, first, second)),
		"what somebody else was answered":     seen.seal(replyInfo, sha256Of(request), answered, freshNonce()),
	} {
		if l, err := seen.OpenReply(request, reply, second.identity); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v, %v", name, l, err)
		}
	}
	if code.Digits(thief.identity) == code.Digits(second.identity) {
		t.Error("two devices have the same digits")
	}
}

func TestLists(t *testing.T) {
	first, second := newDevice(t), newDevice(t)
	signed := signedList(t, first, list(7, first, second))
	l, err := OpenList("CHAT.example", account, first.identity[:], signed)
	if err != nil || l.Epoch != 7 || !bytes.Equal(l.IdentityOf(2), second.identity[:]) || l.IdentityOf(3) != nil {
		t.Fatal(l, err)
	}
	forged := proto.CloneOf(signed)
	forged.List[len(forged.List)-1] ^= 1
	for _, c := range []struct {
		name, server string
		account      []byte
		identity     [33]byte
		signed       *wire.SignedDeviceList
	}{
		{"another server", "other.example", account, first.identity, signed},
		{"another account", server, make([]byte, 16), first.identity, signed},
		{"another identity", server, account, second.identity, signed},
		{"changed", server, account, first.identity, forged},
		{"empty", server, account, first.identity, &wire.SignedDeviceList{}},
		{"absent", server, account, first.identity, nil},
		{"signed by device 2", server, account, second.identity, signedList(t, second, list(7, first, second))},
	} {
		if _, err := OpenList(c.server, c.account, c.identity[:], c.signed); !errors.Is(err, ErrRefused) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if _, err := SignList(server, &first.private, list(0, first)); err == nil {
		t.Error("epoch 0 was signed")
	}
}
