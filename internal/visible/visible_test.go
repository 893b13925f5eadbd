package visible

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

func TestLine(t *testing.T) {
	for _, c := range []struct{ given, want string }{
		{"Grüße, 你好, שלום, مرحبا", "Grüße, 你好, שלום, مرحبا"},
		{"a\u00a0b", "a\u00a0b"},
		{"\x1b[31m\a\x7f\u009b", "<U+001B>[31m<U+0007><U+007F><U+009B>"},
		{"a\nb\r\nc\u0085d\u2028e\u2029", "a<U+000A>b<U+000D><U+000A>c<U+0085>d<U+2028>e<U+2029>"},
		{"a\tb", "a    b"},
		{"\u202eab\u2066\u061c\u200e\u200b\ufeff\u00ad\u2060", "<U+202E>ab<U+2066><U+061C><U+200E><U+200B><U+FEFF><U+00AD><U+2060>"},
		{"\U000e0041\u3164\u115f\u034f\U000e0101", "<U+E0041><U+3164><U+115F><U+034F><U+E0101>"},
		{"a\xff\xc0b\xed\xa0\x80", "a<0xFF><0xC0>b<0xED><0xA0><0x80>"},
		{"\ufffd", "\ufffd"},
		{"👩\u200d🚀 ❤\ufe0f\u200d🔥", "👩\u200d🚀 ❤\ufe0f\u200d🔥"},
		{"می\u200cخواهم क्\u200dष", "می\u200cخواهم क्\u200dष"},
		{"b\u200do\u200cb", "b<U+200D>o<U+200C>b"},
		{"\u0301a", "<U+0301>a"},
		{"e\u0301\u0302\u0303\u0304\u0305", "e\u0301\u0302\u0303\u0304<U+0305>"},
		{strings.Repeat("x", maxLine+5), strings.Repeat("x", maxLine) + "<5 more bytes>"},
	} {
		if got := Line(c.given).String(); got != c.want {
			t.Errorf("%q becomes %q, want %q", c.given, got, c.want)
		}
	}
}

func TestLines(t *testing.T) {
	got := Sprintf("%s: %s", "bob\n", Lines("a\r\n12:00  carol: b\n\x1b\n")).String()
	want := "bob<U+000A>: a\n    | 12:00  carol: b\n    | <U+001B>\n    | "
	if got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestSprintf(t *testing.T) {
	joined := fmt.Errorf("%w, wrapped", errors.Join(errors.New("a\x1b"), errors.New("b")))
	got := Sprintf("%s|%q|%d|%.1f|%v|%s|%v|%s", "x\n", "\x1b", 5, 1.25, true, 3*time.Second, []string{"\n"}, joined).String()
	want := `x<U+000A>|"<U+001B>"|5|1.2|true|3s|[<U+000A>]|a<U+001B>; b, wrapped`
	if got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// TestFit: what a terminal would put at the beginning of a row is behind the mark.
func TestFit(t *testing.T) {
	text := Sprintf("%s: %s", "bob", Lines(strings.Repeat(" ", 35)+"12:00  carol: yes"+strings.Repeat("宽", 60)))
	for i, row := range strings.Split(text.Fit(40), "\n") {
		if i > 0 && !strings.HasPrefix(row, Mark) {
			t.Errorf("a row without a mark: %q", row)
		}
		columns := 0
		for _, r := range row {
			columns += width(r)
		}
		if columns > 40 {
			t.Errorf("a row of %d columns: %q", columns, row)
		}
	}
	if ours := Sprintf("%s", strings.Repeat("x", 50)); ours.Fit(40) != ours.String() {
		t.Error("what a person may want to copy is broken")
	}
	if failure := Sprintf("%s", errors.New(strings.Repeat("x", 50))); failure.Fit(40) == failure.String() {
		t.Error("an error, which may be the server's, is not broken")
	}
}

func TestJSON(t *testing.T) {
	given := "\x1b\x7f\u009b\u202e\u200b\U000e0041\n\"宽"
	encoded, err := JSON(map[string]string{"text": given})
	if want := `{"text":"\u001b\u007f\u009b\u202e\u200b\udb40\udc41\n\"宽"}`; err != nil || string(encoded) != want {
		t.Errorf("%s %v, want %s", encoded, err, want)
	}
	var decoded map[string]string
	if err := json.Unmarshal(encoded, &decoded); err != nil || decoded["text"] != given {
		t.Errorf("%q %v", decoded, err)
	}
}

func TestWriters(t *testing.T) {
	var out bytes.Buffer
	fmt.Fprint(Writer{&out}, "a\x7f\nb\x1b[1m\xff\n")
	fmt.Fprint(ColourWriter{&out}, "\x1b[1ma\x1b[2J\x1b[0m\n")
	fmt.Fprint(JSONWriter{&out}, "{\"a\":\"\u0085\"}\n")
	want := "a<U+007F>\nb<U+001B>[1m<0xFF>\n\x1b[1ma<U+001B>[2J\x1b[0m\n{\"a\":\"\\u0085\"}\n"
	if out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}

func FuzzLine(f *testing.F) {
	f.Add("a\u0301\xff\u202e", 20)
	f.Fuzz(func(t *testing.T, s string, columns int) {
		for _, text := range []Text{Line(s), Lines(s), Sprintf("%s", errors.New(s))} {
			for _, r := range text.Fit(columns) {
				if !utf8.ValidRune(r) || r != '\n' && !shows(r) && r != '\u200c' && r != '\u200d' || unicode.IsControl(r) && r != '\n' {
					t.Errorf("%U of %q is shown", r, s)
				}
			}
		}
	})
}
