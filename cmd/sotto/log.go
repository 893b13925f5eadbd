package main

import (
	"context"
	"log/slog"
	"slices"
	"strings"

	"sotto/internal/visible"
)

// logger is for operators: a line of "key=value", or of JSON with --json, on standard error.
func (o *output) logger(verbose bool) *slog.Logger {
	options := &slog.HandlerOptions{Level: logLevel(verbose)}
	if o.json {
		return slog.New(slog.NewJSONHandler(visible.JSONWriter{W: errorLines{o}}, options))
	}
	return slog.New(slog.NewTextHandler(visible.Writer{W: errorLines{o}}, options))
}

// personsLogger is for who reads the sentences of a command: with --json it is logger.
func (o *output) personsLogger(verbose bool) *slog.Logger {
	if o.json {
		return o.logger(verbose)
	}
	return slog.New(sentences{out: o, level: logLevel(verbose)})
}

func logLevel(verbose bool) slog.Level {
	if verbose {
		return slog.LevelDebug
	}
	return slog.LevelWarn
}

// errorLines writes to standard error between sentences.
type errorLines struct{ o *output }

func (w errorLines) Write(p []byte) (int, error) {
	w.o.mu.Lock()
	defer w.o.mu.Unlock()
	w.o.clear()
	return w.o.stderr.Write(p)
}

// sentences makes one of each record.
type sentences struct {
	out   *output
	level slog.Level
	attrs []slog.Attr
}

func (s sentences) Enabled(_ context.Context, level slog.Level) bool { return level >= s.level }

func (s sentences) WithAttrs(attrs []slog.Attr) slog.Handler {
	s.attrs = append(slices.Clip(s.attrs), attrs...)
	return s
}

func (s sentences) WithGroup(string) slog.Handler { return s } // nobody groups

func (s sentences) Handle(_ context.Context, record slog.Record) error {
	var notes []visible.Text
	note := func(a slog.Attr) bool {
		notes = append(notes, visible.Sprintf("%s %s", a.Key, visible.Line(a.Value.Resolve().String())))
		return true
	}
	for _, a := range s.attrs {
		note(a)
	}
	record.Attrs(note)
	kind, more := strings.ToLower(record.Level.String()), visible.Text{}
	if notes != nil {
		more = visible.Sprintf(" (%s)", visible.Join(", ", notes...))
	}
	s.out.warn(nil, "sotto: %s: %s%s", kind, record.Message, more)
	return nil
}
