package visible

import (
	"bytes"
	"io"
	"regexp"
)

// A Writer takes whole lines that a library composed, a logger's for instance, and makes what is
// not text in them visible. Only line feeds stay what they are.
type Writer struct{ W io.Writer }

func (w Writer) Write(p []byte) (int, error) {
	rows := bytes.Split(p, []byte("\n"))
	for i, row := range rows {
		rows[i] = []byte(escape(string(row), len(row)))
	}
	if _, err := w.W.Write(bytes.Join(rows, []byte("\n"))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// A JSONWriter does so for lines of JSON.
type JSONWriter struct{ W io.Writer }

func (w JSONWriter) Write(p []byte) (int, error) {
	if _, err := w.W.Write(EscapeJSON(p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// A ColourWriter is a Writer that also lets colours through (ECMA-48 section 8.3.117, SGR).
type ColourWriter struct{ W io.Writer }

var colour = regexp.MustCompile("\x1b\\[[0-9;]*m")

func (w ColourWriter) Write(p []byte) (int, error) {
	var shown bytes.Buffer
	plain, from := Writer{&shown}, 0
	for _, at := range colour.FindAllIndex(p, -1) {
		plain.Write(p[from:at[0]])
		shown.Write(p[at[0]:at[1]])
		from = at[1]
	}
	plain.Write(p[from:])
	if _, err := w.W.Write(shown.Bytes()); err != nil {
		return 0, err
	}
	return len(p), nil
}
