// Package visible is how text that others wrote reaches a person: as text, and as nothing else.
//
// Sprintf takes a sentence of the program and what others wrote as arguments. In those it makes
// controls, bidirectional and zero-width characters and bytes that are no UTF-8 visible, such as
// <U+001B>, and keeps each on one line. Lines lets a text of several lines through, with every
// line but the first behind Mark, so that none looks like a line of the program. A Text is made
// by these functions only: what has one in its hands can print it.
package visible

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Mark begins a row that goes on with what the row above it says. No line of the program does.
const Mark = "    | "

const (
	maxLine  = 2000 // characters of one argument
	maxMarks = 4    // combining marks on one character: living scripts need no more
)

// Text may be printed.
type Text struct {
	s    string
	fold bool // somebody else's: rows that are too long are broken behind Mark
}

func (t Text) String() string { return t.s }

// Sprintf fills a sentence of the program. Numbers, times and Texts are what they are; everything
// else may be of others, and is made visible.
func Sprintf(format string, args ...any) Text {
	var t Text
	shown := make([]any, len(args))
	for i, arg := range args {
		switch arg := arg.(type) {
		case Text:
			shown[i] = arg.s
			t.fold = t.fold || arg.fold
		case error:
			shown[i] = line(oneLine(arg))
			t.fold = true
		default:
			shown[i] = argument(arg)
		}
	}
	t.s = fmt.Sprintf(format, shown...)
	return t
}

// oneLine puts what errors.Join puts on lines of their own on one.
func oneLine(err error) string {
	return strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; ")
}

func argument(arg any) any {
	switch arg := arg.(type) {
	case nil, time.Duration:
		return arg
	case string:
		return line(arg)
	case fmt.Stringer:
		return line(arg.String())
	}
	switch kind := reflect.TypeOf(arg).Kind(); {
	case kind == reflect.Bool, kind >= reflect.Int && kind <= reflect.Float64:
		return arg
	}
	return line(fmt.Sprint(arg))
}

// Line makes a text visible on one line, and cuts it where it is very long.
func Line(s string) Text { return Text{s: line(s), fold: true} }

// Lines makes a text visible, whole, with each line but the first behind Mark.
func Lines(s string) Text {
	s = strings.ReplaceAll(s, "\r\n", "\n")
	rows := strings.Split(s, "\n")
	for i, row := range rows {
		rows[i] = escape(row, len(row))
	}
	return Text{s: strings.Join(rows, "\n"+Mark), fold: true}
}

// An errorText is an error whose text is visible.
type errorText struct {
	text string
	err  error
}

func (e *errorText) Error() string { return e.text }
func (e *errorText) Unwrap() error { return e.err }

// Error makes an error's text visible, for one that repeats what the other end said.
func Error(err error) error {
	if err == nil || line(err.Error()) == err.Error() {
		return err
	}
	return &errorText{line(err.Error()), err}
}

func line(s string) string { return escape(s, maxLine) }

// escape makes what is not text in s visible, and cuts it behind so many characters.
func escape(s string, most int) string {
	var b strings.Builder
	var before rune // the character before; 0 at the beginning
	marks, count := 0, 0
	for i, size := 0, 0; i < len(s); i += size {
		var r rune
		r, size = utf8.DecodeRuneInString(s[i:])
		if count++; count > most {
			fmt.Fprintf(&b, "<%d more bytes>", len(s)-i)
			break
		}
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, "<0x%02X>", s[i])
			before, marks = 0, 0
			continue
		case r == '\t':
			b.WriteString("    ")
		case unicode.In(r, unicode.Mn, unicode.Me) && shows(r):
			if marks++; before == 0 || marks > maxMarks {
				fmt.Fprintf(&b, "<U+%04X>", r)
				continue
			}
			b.WriteRune(r)
			continue // before stays the base
		case shows(r) || joins(before, r, s[i+size:]):
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, "<U+%04X>", r)
			before, marks = 0, 0
			continue
		}
		before, marks = r, 0
	}
	return b.String()
}

// blank are characters that print, says Unicode, and show nothing (Default_Ignorable_Code_Point).
var blank = &unicode.RangeTable{
	R16: []unicode.Range16{
		{Lo: 0x034f, Hi: 0x034f, Stride: 1}, {Lo: 0x115f, Hi: 0x1160, Stride: 1},
		{Lo: 0x17b4, Hi: 0x17b5, Stride: 1}, {Lo: 0x180b, Hi: 0x180f, Stride: 1},
		{Lo: 0x2800, Hi: 0x2800, Stride: 1}, {Lo: 0x3164, Hi: 0x3164, Stride: 1},
		{Lo: 0xffa0, Hi: 0xffa0, Stride: 1},
	},
	R32: []unicode.Range32{{Lo: 0xe0100, Hi: 0xe01ef, Stride: 1}},
}

// shows tells whether a character is seen as what it is.
func shows(r rune) bool {
	return (unicode.IsPrint(r) || unicode.Is(unicode.Zs, r)) && !unicode.Is(blank, r)
}

// joining are the scripts that spell with joiners (RFC 5892 appendix A.1 and A.2).
var joining = []*unicode.RangeTable{
	unicode.Arabic, unicode.Syriac, unicode.Nko, unicode.Devanagari, unicode.Bengali, unicode.Gurmukhi,
	unicode.Gujarati, unicode.Oriya, unicode.Tamil, unicode.Telugu, unicode.Kannada,
	unicode.Malayalam, unicode.Sinhala, unicode.Myanmar, unicode.Khmer,
}

// joins tells whether r is a joiner between two letters of a script that spells with them, or
// between two pictures that it makes one.
func joins(before, r rune, rest string) bool {
	if r != '\u200c' && r != '\u200d' {
		return false
	}
	after, _ := utf8.DecodeRuneInString(rest)
	if unicode.In(before, joining...) && unicode.In(after, joining...) {
		return true
	}
	picture := func(r rune) bool { return unicode.In(r, unicode.So, unicode.Sk) && r > 0xff }
	return r == '\u200d' && picture(before) && picture(after)
}

// JSON encodes v with every character escaped that a person would not see as what it is.
func JSON(v any) ([]byte, error) {
	encoded, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return EscapeJSON(encoded), nil
}

// EscapeJSON does so to what is encoded. Outside of strings JSON has no such character.
func EscapeJSON(encoded []byte) []byte {
	escaped := make([]byte, 0, len(encoded)+1)
	for _, r := range string(encoded) {
		switch {
		case shows(r), r == '\n':
			escaped = utf8.AppendRune(escaped, r)
		case r <= 0xffff:
			escaped = fmt.Appendf(escaped, `\u%04x`, r)
		default: // a surrogate pair (RFC 8259 section 7)
			r -= 0x10000
			escaped = fmt.Appendf(escaped, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		}
	}
	return escaped
}

// Join puts texts behind one another.
func Join(separator string, texts ...Text) Text {
	var joined Text
	for i, t := range texts {
		if i > 0 {
			joined.s += separator
		}
		joined.s += t.s
		joined.fold = joined.fold || t.fold
	}
	return joined
}
