package demo

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// A painter writes the report for people, in colour or plain.
type painter struct {
	w      io.Writer
	colour bool
}

func (p painter) paint(code, text string) string {
	if !p.colour {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (p painter) bold(text string) string  { return p.paint("1", text) }
func (p painter) dim(text string) string   { return p.paint("2", text) }
func (p painter) green(text string) string { return p.paint("32", text) }
func (p painter) red(text string) string   { return p.paint("1;31", text) }

func (p painter) line(format string, args ...any) { fmt.Fprintf(p.w, format+"\n", args...) }

// Render prints the report behind the steps, which were printed when they happened.
func (r *Report) Render(w io.Writer, colour bool) {
	p := painter{w, colour}
	r.renderCall(p)
	r.renderViews(p)
	r.renderClaims(p)
	p.line("")
	p.line("%s", p.bold("To listen to and look at, in "+r.Folder))
	for _, f := range r.Files {
		p.line("  %-28s %s", f.Name, p.dim(f.What))
	}
	p.line("")
	if failed := len(r.Failed()); failed > 0 {
		p.line("%s", p.red(fmt.Sprintf("%d of %d claims do not hold.", failed, len(r.Claims))))
		return
	}
	p.line("%s", p.green(fmt.Sprintf("All %d claims hold.", len(r.Claims))))
}

// Render prints a step as it happens.
func (s Step) Render(w io.Writer, colour bool) {
	p := painter{w, colour}
	p.line("%s  %s %s", p.dim(fmt.Sprintf("%7.3f s", s.At)), p.bold(pad(s.Who, 11)), s.What)
}

func (r *Report) renderCall(p painter) {
	c := r.Call
	p.line("")
	p.line("%s", p.bold("The call"))
	p.line("  %-18s %s, a key for each direction; the server and the relay have none", "cipher", c.Cipher)
	p.line("  %-18s %s", "path", both(c.Path))
	p.line("  %-18s %s", "verification code", both(c.VerificationCode))
	p.line("  %-18s ring %s, accept to media %s, call to media %s", "set-up", ms(c.RingAfter), ms(c.AcceptToMedia), ms(c.CallToMedia))
	p.line("  %-18s %s", "round trip", ms(c.RoundTrip))
	rows := [][]string{{""}, {"packets lost"}, {"audio frames sent, heard (concealed)"}, {"similarity of said and heard (ESTOI)"},
		{"the same, to what the listener said"}, {"video frames sent, seen, identical"}}
	for _, d := range r.Directions {
		for i, cell := range []string{
			d.From + " → " + d.To,
			fmt.Sprintf("%.1f %%", 100*d.Loss),
			fmt.Sprintf("%d, %d (%d)", d.AudioSent, d.AudioHeard, d.AudioConcealed),
			fmt.Sprintf("%.3f of 1", d.Similarity),
			fmt.Sprintf("%.3f of 1", d.Wrong),
			fmt.Sprintf("%d, %d, %d", d.VideoSent, d.VideoReceived, d.VideoIdentical),
		} {
			rows[i] = append(rows[i], cell)
		}
	}
	p.line("")
	p.table(rows)
}

func (r *Report) renderViews(p painter) {
	p.line("")
	p.line("%s", p.bold("Who saw what")+p.dim(", counted on every byte that passed"))
	s, l, a, b := r.Server, r.Relay, r.Directions[0], r.Directions[1]
	rows := [][]string{
		{"", "the server saw", "the relay saw", "the ends saw"},
		{
			"traffic", fmt.Sprintf("%s, %d connections", size(s.Bytes), s.Connections),
			fmt.Sprintf("%s, %s datagrams", size(l.Bytes), thousands(l.Datagrams)), "all of it",
		},
		{"messages, call set-up", fmt.Sprintf("%d envelopes, %d with a sender", s.Envelopes, s.Named), "–", "2 messages, 1 call"},
		{"voice", "–", fmt.Sprintf("%s sealed packets,", thousands(l.MediaPackets)), thousands(a.AudioHeard+b.AudioHeard) + " audio frames"},
		{"pictures", "–", "voice or pictures", thousands(a.VideoReceived+b.VideoReceived) + " video frames"},
		{"sealed bytes look like", noise(s.SealedEntropy), noise(l.SealedEntropy), "speech and pictures"},
		{"can tell", "addresses, to whom, when", "addresses, when, how much", "everything"},
	}
	for _, kind := range kinds {
		rows = append(rows, []string{"found: " + kind, count(r.Search.Server[kind]), count(r.Search.Relay[kind]), count(r.Search.Ends[kind])})
	}
	p.table(rows)
	p.line("%s", p.dim(fmt.Sprintf(
		`  Found is what a search for %s pieces of what was written, said and shown finds at any offset. It does find:
  of pieces slipped into the same bytes on purpose, one of each kind, %d of %d; and at the ends what arrived there.`,
		thousands(r.Search.Patterns), r.Search.plantedFound(), len(kinds))))
}

func (r *Report) renderClaims(p painter) {
	p.line("")
	p.line("%s", p.bold("What was claimed"))
	for _, c := range r.Claims {
		mark := p.green("✓")
		if !c.Holds {
			mark = p.red("✗")
		}
		p.line("  %s %s  %s", mark, c.Claim, p.dim(c.Detail))
	}
}

// table aligns columns; the first row is the heading.
func (p painter) table(rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for n, row := range rows {
		var b strings.Builder
		for i, cell := range row {
			b.WriteString("  " + pad(cell, widths[i]))
		}
		line := strings.TrimRight(b.String(), " ")
		if n == 0 {
			line = p.bold(line)
		}
		p.line("%s", line)
	}
}

func pad(text string, width int) string {
	return text + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(text)))
}

// both says what alice's and bob's end say, once if they agree.
func both(values []string) string {
	if values[0] == values[1] {
		return values[0] + " at both ends"
	}
	return fmt.Sprintf("%s at alice, %s at bob", values[0], values[1])
}

func ms(s Seconds) string {
	if s < 0.01 {
		return fmt.Sprintf("%.1f ms", float64(s)*1000)
	}
	return fmt.Sprintf("%.0f ms", float64(s)*1000)
}

func size(bytes int) string {
	switch {
	case bytes < 10_000:
		return thousands(bytes) + " bytes"
	case bytes < 10_000_000:
		return thousands(bytes/1000) + " kB"
	}
	return thousands(bytes/1_000_000) + " MB"
}

func thousands(n int) string {
	text := fmt.Sprint(n)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}

func noise(bits float64) string {
	if bits == 0 {
		return "–"
	}
	return fmt.Sprintf("noise, %.2f of 8 bits/byte", bits)
}

func count(n int) string {
	if n == 0 {
		return "nothing"
	}
	return thousands(n) + " matches"
}
