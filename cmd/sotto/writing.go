package main

import (
	"strings"
	"unicode/utf8"

	"sotto/client"
)

// writing is the line that a person types in "sotto listen", beside the keys that steer calls:
//
//  1. Enter or @ begins one. From there on all keys are text.
//  2. "@bob see you at eight" goes to bob, and so do the lines after it, until another name.
//  3. Enter sends, and the next line begins. Enter on an empty line leaves the writing.
type writing struct {
	out  *output
	send func(to, text string) // must not wait

	open   bool
	to     string
	line   []byte
	escape byte // of a key that sends several bytes: what came of it last
}

const writingHelp = "@NAME and a text writes to somebody, Enter writes on, an empty line stops"

// Keys, as bytes of ASCII.
const (
	keyBackspace = 0x08
	keyClear     = 0x15 // Ctrl-U
	keyEscape    = 0x1b
	keyDelete    = 0x7f
)

// press tells whether the key was for the line.
func (w *writing) press(key byte) bool {
	switch {
	case w == nil:
		return false
	case w.open && w.escapes(key):
	case w.open:
		w.edit(key)
	case key == '@' || isEnter(key):
		w.open = true
		if key == '@' {
			w.line = append(w.line, key)
		}
	default:
		return false
	}
	w.show()
	return true
}

func isEnter(key byte) bool { return key == '\r' || key == '\n' }

// escapes drops keys that send an escape sequence, such as arrows (ECMA-48, 5.4).
func (w *writing) escapes(key byte) bool {
	switch {
	case key == keyEscape:
		w.escape = key
	case w.escape == keyEscape && (key == '[' || key == 'O'):
		w.escape = key
	case w.escape == '[' || w.escape == 'O':
		if key >= 0x40 && key <= 0x7e {
			w.escape = 0
		}
	default:
		w.escape = 0
		return false
	}
	return true
}

func (w *writing) edit(key byte) {
	switch {
	case isEnter(key):
		w.enter()
	case key == keyClear:
		w.line = w.line[:0]
	case key == keyBackspace || key == keyDelete:
		_, size := utf8.DecodeLastRune(w.line)
		w.line = w.line[:len(w.line)-size]
	case key >= ' ' && len(w.line) < client.MaxText:
		w.line = append(w.line, key)
	}
}

// enter sends the line, or leaves if there is none.
func (w *writing) enter() {
	text := strings.TrimSpace(strings.ToValidUTF8(string(w.line), "\uFFFD"))
	w.line = w.line[:0]
	if text == "" {
		w.open = false
		return
	}
	if name, ok := strings.CutPrefix(text, "@"); ok {
		w.to, text, _ = strings.Cut(name, " ")
		text = strings.TrimSpace(text)
	}
	switch {
	case w.to == "":
		w.out.say(nil, "to whom? %s", writingHelp)
	case text != "":
		w.send(w.to, text)
	}
}

// show draws the line, its end if it is longer than the screen.
func (w *writing) show() {
	if !w.open {
		w.out.typing("")
		return
	}
	prompt := "> "
	if w.to != "" {
		prompt = "to " + w.to + "> "
	}
	line := []rune(strings.ToValidUTF8(string(w.line), ""))
	if room := max(10, columnsOf(w.out.stdout)-len(prompt)-2); len(line) > room {
		line = append([]rune("…"), line[len(line)-room:]...)
	}
	w.out.typing(prompt + string(line))
}
