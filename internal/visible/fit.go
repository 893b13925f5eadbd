package visible

import (
	"strings"
	"unicode"
)

// Fit is the text in rows of at most so many columns, where somebody else's words are in it: a
// terminal that broke a long row would begin another with words of their choice. 0 is no limit.
func (t Text) Fit(columns int) string {
	if !t.fold || columns <= 2*len(Mark) {
		return t.s
	}
	var rows []string
	for row := range strings.SplitSeq(t.s, "\n") {
		for {
			head, rest := split(row, columns)
			rows = append(rows, head)
			if rest == "" {
				break
			}
			row = Mark + rest
		}
	}
	return strings.Join(rows, "\n")
}

// Cut is the first row of the text, as far as it has room.
func (t Text) Cut(columns int) string {
	row, _, _ := strings.Cut(t.s, "\n")
	return row[:fitting(row, columns)]
}

// split takes a row's beginning that fits, up to a space if there is one in its second half.
func split(row string, columns int) (head, rest string) {
	end := fitting(row, columns)
	if end == len(row) {
		return row, ""
	}
	if space := strings.LastIndexByte(row[:end], ' '); space > end/2 {
		return row[:space], row[space+1:]
	}
	return row[:end], row[end:]
}

// fitting is how many bytes of a row have room.
func fitting(row string, columns int) int {
	used := 0
	for i, r := range row {
		used += width(r)
		if used > columns {
			return i
		}
	}
	return len(row)
}

// width is how many columns a character takes at most. What may be wide counts as wide.
func width(r rune) int {
	switch {
	case unicode.In(r, unicode.Mn, unicode.Me):
		return 0
	case r >= 0x1100:
		return 2
	}
	return 1
}
