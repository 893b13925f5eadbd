package linking

import (
	"strings"
	"testing"
)

func TestParseCode(t *testing.T) {
	const secret = "ABCD-EFGH-IJKL-MNOP-QRST-UVWX-YZ23-4567-ABCD-EFGH-IJKL-4567"
	const good = "https://chat.example#" + secret
	for _, c := range []struct{ in, want string }{
		{good, good},
		{" " + good + "\n", good},
		{"https://chat.example/#" + secret, good},
		{"https://chat.example#" + strings.ToLower(secret), good},
		{"https://chat.example#" + strings.ReplaceAll(secret, "-", ""), good},
		{"https://chat.example#" + strings.ReplaceAll(secret, "-", " "), good},
		{"https://chat.example:8443#" + secret, "https://chat.example:8443#" + secret},
		{"http://127.0.0.1:8080#" + secret, "http://127.0.0.1:8080#" + secret},
		{"https://[::1]:8080#" + secret, "https://[::1]:8080#" + secret},
		{"https://chat.example/sotto#" + secret, "https://chat.example/sotto#" + secret},

		{"", ""},
		{secret, ""},
		{"https://chat.example", ""},
		{"#" + secret, ""},
		{"chat.example#" + secret, ""},
		{"ftp://chat.example#" + secret, ""},
		{"https://user@chat.example#" + secret, ""},
		{"https://chat.example?q#" + secret, ""},
		{"https://a b#" + secret, ""},
		{"https://#" + secret, ""},
		{good + "A", ""},
		{"https://chat.example#ABCD-EFGH-IJKL-MNOP-QRST-UVWX-YZ23-4567", ""},
		{good[:len(good)-1], ""},
		{good[:len(good)-1] + "=", ""},
		{good[:len(good)-1] + "1", ""},
		{good[:len(good)-4] + "\n4567", ""},
		{good + "#" + secret, ""},
		{"https://" + strings.Repeat("a.", 600) + "a#" + secret, ""},
	} {
		got, err := ParseCode(c.in)
		if (err == nil) != (c.want != "") || err == nil && got.String() != c.want {
			t.Errorf("ParseCode(%q) = %v, %v; want %q", c.in, got, err, c.want)
		}
	}
	first := newDevice(t)
	if a, b := newCode(t, first), newCode(t, first); a.secret == b.secret || a.first != b.first {
		t.Error("two codes of one device have a secret in common, or not the device")
	}
}

// FuzzParseCode: what parses is shown in one form, which parses to the same.
func FuzzParseCode(f *testing.F) {
	f.Add("https://chat.example#ABCD-EFGH-IJKL-MNOP-QRST-UVWX-YZ23-4567-ABCD-EFGH-IJKL-4567")
	f.Add("http://[::1]:1/a%20b/#abcdefghijklmnopqrstuvwxyz234567abcdefghijklmnop")
	f.Add("https://a//#ABCD")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseCode(text)
		if err != nil {
			return
		}
		if again, err := ParseCode(c.String()); err != nil || again != c {
			t.Errorf("%q is shown as %q, which gives %v, %v", text, c, again, err)
		}
	})
}
