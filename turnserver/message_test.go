package turnserver

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/pion/stun/v4"

	"sotto/turncred"
)

// The vectors of RFC 5769: a request signed with a short-term credential (section 2.1), responses with an IPv4 and an IPv6 address (2.2, 2.3), and a
// request signed with the long-term credential of a user whose name is in Japanese (2.4).
const (
	vectorShortTerm = "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74002400046e0001ff80290008932ff9b151263b36" +
		"000600096576746a3a68367659202020000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf"
	vectorIPv4 = "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000080001a147e112a643" +
		"000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96"
	vectorIPv6 = "010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9" +
		"00080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c"
	vectorLongTerm = "000100602112a44278ad3433c6ad72c029da412e00060012e3839ee38388e383aae38383e382afe382b90000" +
		"0015001c662f2f3439396b39353464364f4c33346f4c394653547679363473410014000b6578616d706c652e6f72670000080014" +
		"f67024656dd64a3e02b8e0712e85c9a28ca89666"
)

func TestRFC5769Requests(t *testing.T) {
	const username = "\u30de\u30c8\u30ea\u30c3\u30af\u30b9"
	for name, v := range map[string]struct {
		vector     string
		key, wrong []byte
	}{
		"short-term credential": {vectorShortTerm, []byte("VOkJxbRl1RmTxUk/WvJxBt"), []byte("VOkJxbRl1RmTxUk/WvJxBT")},
		"long-term credential":  {vectorLongTerm, turncred.Key(username, "example.org", "TheMatrIX"), turncred.Key(username, "example.org", "TheMatrix")},
	} {
		m, ok := parse(unhex(t, v.vector))
		if !ok || m.method != stun.MethodBinding || m.class != stun.ClassRequest {
			t.Fatalf("%s: %v, %v", name, m, ok)
		}
		if !m.authentic(v.key) {
			t.Errorf("%s: the signature is not recognized", name)
		}
		if m.authentic(v.wrong) {
			t.Errorf("%s: a wrong password is accepted", name)
		}
	}
}

func TestRFC5769Responses(t *testing.T) {
	for vector, want := range map[string]string{vectorIPv4: "192.0.2.1:32853", vectorIPv6: "[2001:db8:1234:5678:11:2233:4455:6677]:32853"} {
		b := unhex(t, vector)
		if kind, authenticated := parseReply(b); kind != stun.BindingSuccess || !authenticated {
			t.Errorf("%v, authenticated: %v", kind, authenticated)
		}
		if _, ok := parse(b); ok {
			t.Error("a client's response is taken")
		}
		at := headerSize + 4 + 12 // behind SOFTWARE
		size := int(binary.BigEndian.Uint16(b[at+2:]))
		if got, ok := xorAddress(b[at+4:at+4+size], b[8:headerSize]); !ok || got.String() != want {
			t.Errorf("%v, want %s", got, want)
		}
	}
}

func unhex(t *testing.T, s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestParseRefuses what pion would have had to doubt.
func TestParseRefuses(t *testing.T) {
	build := func(setters ...stun.Setter) []byte {
		m, err := stun.Build(append([]stun.Setter{stun.TransactionID}, setters...)...)
		if err != nil {
			t.Fatal(err)
		}
		return m.Raw
	}
	request := func(m stun.Method) stun.Setter { return stun.NewType(m, stun.ClassRequest) }
	indication := func(m stun.Method) stun.Setter { return stun.NewType(m, stun.ClassIndication) }
	attr := func(t stun.AttrType, v string) stun.Setter { return stun.RawAttribute{Type: t, Value: []byte(v)} }
	signed := stun.MessageIntegrity("key")
	data := attr(stun.AttrData, "data")
	broken := build(stun.BindingRequest, stun.Fingerprint)
	broken[len(broken)-1] ^= 1
	long := build(stun.BindingRequest)
	binary.BigEndian.PutUint16(long[2:], 65516)
	for name, b := range map[string][]byte{
		"nothing":                          {},
		"half a header":                    build(stun.BindingRequest)[:12],
		"a length beyond the end":          long,
		"something after the end":          append(build(stun.BindingRequest), 0, 0, 0, 0),
		"a wrong fingerprint":              broken,
		"a response":                       build(stun.BindingSuccess),
		"a method of RFC 6062":             build(request(stun.MethodConnect), peer("9.9.9.9:1"), signed),
		"another method of RFC 6062":       build(request(stun.MethodConnectionBind), signed),
		"an unknown method":                build(request(0xabc)),
		"an empty peer":                    build(request(stun.MethodCreatePermission), attr(stun.AttrXORPeerAddress, ""), signed),
		"a peer of no family":              build(request(stun.MethodCreatePermission), attr(stun.AttrXORPeerAddress, "\x00\x03\x00\x01abcd"), signed),
		"an IPv6 peer of four bytes":       build(request(stun.MethodCreatePermission), attr(stun.AttrXORPeerAddress, "\x00\x02\x00\x01abcd"), signed),
		"an indication without peer":       build(indication(stun.MethodSend), data),
		"an indication with an empty peer": build(indication(stun.MethodSend), attr(stun.AttrXORPeerAddress, ""), data), // kills pion/turn v3
		"an indication without data":       build(indication(stun.MethodSend), peer("9.9.9.9:1")),
		"an indication of something else":  build(indication(stun.MethodAllocate), udpTransport),
		"a short lifetime attribute":       build(request(stun.MethodRefresh), attr(stun.AttrLifetime, "abc")),
		"a short signature":                build(request(stun.MethodRefresh), attr(stun.AttrMessageIntegrity, "abcd")),
		"a user name beyond all measure":   build(request(stun.MethodRefresh), attr(stun.AttrUsername, strings.Repeat("x", 509))),
	} {
		if m, ok := parse(b); ok {
			t.Errorf("%s: parsed as %v", name, m)
		}
	}
	good := build(request(stun.MethodCreatePermission), peer("9.9.9.9:1"), peer("[::ffff:10.0.0.1]:2"), signed, stun.Fingerprint)
	m, ok := parse(good)
	if !ok || len(m.peers) != 2 || m.peers[1] != netip.MustParseAddrPort("10.0.0.1:2") {
		t.Errorf("a good request: %v, %v", m, ok)
	}
	// What nobody has signed does not count.
	m, ok = parse(build(request(stun.MethodCreatePermission), peer("9.9.9.9:1"), signed, peer("8.8.8.8:1"), attr(0x7f00, "x"), stun.Fingerprint))
	if !ok || len(m.peers) != 1 || len(m.unknown) != 0 {
		t.Errorf("attributes after the signature: %v, %v", m, ok)
	}
	m, ok = parse(build(request(stun.MethodAllocate), udpTransport, attr(0x7f00, "x"), attr(0xff00, "x"), attr(stun.AttrDontFragment, ""), signed))
	if !ok || len(m.unknown) != 2 {
		t.Errorf("attributes that must be understood: %v, %v", m.unknown, ok)
	}
	if _, ok := parse(build(indication(stun.MethodSend), peer("9.9.9.9:1"), data, attr(0x7f00, "x"))); ok {
		t.Error("an indication with an attribute that must be understood")
	}
}
