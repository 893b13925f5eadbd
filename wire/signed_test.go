package wire

import (
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"testing"
)

// The goldens of docs/protocol.md: another client must arrive at these bytes.
func TestSignedStrings(t *testing.T) {
	registration := &Registration{
		Username:       "alice",
		Invitation:     "not covered",
		RegistrationId: 0x1234,
		IdentityKey:    append([]byte{5}, bytes.Repeat([]byte{0xaa}, 32)...),
		PreKeys:        []byte("pre-keys"),
	}
	var binding [ChannelBindingSize]byte
	binding[0] = 0xcb
	for _, c := range []struct {
		name string
		got  []byte
		want string
	}{
		{"registration", RegistrationToSign("chat.example", registration),
			hex.EncodeToString([]byte("Sotto registration v1\x00chat.example\x00alice\x00")) +
				"00001234" + "05aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" +
				"6e48a618ffcb72db5e55e46f5d0cb7e96110a75b2249bbd7a449f15acd9507d0"},
		{"authentication", AuthenticationToSign("chat.example", bytes.Repeat([]byte{1}, NonceSize), bytes.Repeat([]byte{2}, 16), 1, binding),
			hex.EncodeToString([]byte("Sotto authenticate v1\x00chat.example\x00")) +
				"0101010101010101010101010101010101010101010101010101010101010101" +
				"02020202020202020202020202020202" + "01" +
				"cb00000000000000000000000000000000000000000000000000000000000000"},
		{"device list", DeviceListToSign("chat.example", []byte{1, 2}),
			hex.EncodeToString([]byte("Sotto device list v1\x00chat.example\x00")) + "0102"},
		{"new device", NewDeviceToSign("chat.example", bytes.Repeat([]byte{3}, SlotSize), &NewDevice{
			Id: 2, RegistrationId: 0x1234, IdentityKey: registration.IdentityKey, PreKeys: registration.PreKeys,
		}),
			hex.EncodeToString([]byte("Sotto new device v1\x00chat.example\x00")) +
				"03030303030303030303030303030303" + "00001234" + "05aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" +
				"6e48a618ffcb72db5e55e46f5d0cb7e96110a75b2249bbd7a449f15acd9507d0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := hex.EncodeToString(c.got); got != c.want {
				t.Errorf("got  %s\nwant %s", got, c.want)
			}
		})
	}
}

func TestServerName(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"https://Chat.Example.:8443/v1", "chat.example"},
		{"Chat.Example:443", "chat.example"},
		{"localhost", "localhost"},
		{"http://127.0.0.1:8080", "127.0.0.1"},
		{"[::1]:8080", "::1"},
		{"[0:0::1]", "::1"},
		{"::1", "::1"},
		{"https://[2001:DB8::1]/", "2001:db8::1"},
		{"::ffff:192.0.2.1", "192.0.2.1"},
		{"xn--bcher-kva.example", "xn--bcher-kva.example"},
		{"bücher.example", ""},
		{"a b", ""},
		{"a\x00b", ""},
		{"a..b", ""},
		{"fe80::1%eth0", ""},
		{"", ""},
		{"https://", ""},
		{"://", ""},
	} {
		got, err := ServerName(c.in)
		if got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("ServerName(%q) = %q, %v; want %q", c.in, got, err, c.want)
		}
	}
}

func TestChannelBindingNeedsTLS13(t *testing.T) {
	if _, err := ChannelBinding(&tls.ConnectionState{Version: tls.VersionTLS12}); err == nil {
		t.Error("TLS 1.2 accepted")
	}
	if b, err := ChannelBinding(nil); err != nil || b != [ChannelBindingSize]byte{} {
		t.Errorf("a plain link binds to %x, %v; want zeros", b, err)
	}
}

// FuzzServerName: a name in its one form stays as it is, and holds nothing that could end its place in a signed string.
func FuzzServerName(f *testing.F) {
	for _, s := range []string{"https://chat.example:1/", "[::1]:1", "::1", "a.b.", "a\x00b", "http://[fe80::1%25eth0]/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		name, err := ServerName(s)
		if err != nil {
			return
		}
		if again, err := ServerName(name); err != nil || again != name {
			t.Errorf("%q gives %q, which gives %q, %v", s, name, again, err)
		}
		if bytes.ContainsAny([]byte(name), "\x00/ ") {
			t.Errorf("%q gives %q", s, name)
		}
	})
}
