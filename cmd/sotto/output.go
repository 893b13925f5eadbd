package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	"golang.org/x/term"
)

// output is what a command says: sentences for people, or with --json one object a line. A terminal also gets a live line
// that is rewritten in place and steps aside for everything else.
type output struct {
	json     bool
	terminal bool // stdout is one: colour and a live line make sense

	mu     sync.Mutex
	stdout io.Writer
	stderr io.Writer
	live   bool // a live line is on the screen
}

func newOutput(stdout, stderr io.Writer, asJSON bool) *output {
	o := &output{json: asJSON, stdout: stdout, stderr: stderr}
	if f, ok := stdout.(*os.File); ok && !asJSON {
		o.terminal = term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
	}
	return o
}

// colour reports whether escape sequences are welcome (https://no-color.org).
func (o *output) colour() bool { return o.terminal && os.Getenv("NO_COLOR") == "" }

// say prints text for people, or event for scripts. An event is a struct or map; nil says nothing to scripts. The error is for those who
// must know that it was printed.
func (o *output) say(event any, format string, args ...any) (err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.clear()
	switch {
	case !o.json:
		_, err = fmt.Fprintf(o.stdout, format+"\n", args...)
	case event != nil:
		err = json.NewEncoder(o.stdout).Encode(event)
	}
	if err != nil {
		return fmt.Errorf("cannot print: %w", err)
	}
	return nil
}

// do lets write print what is more than a sentence or an event.
func (o *output) do(write func(io.Writer)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.clear()
	write(o.stdout)
}

// progress is the live line on a terminal, an event for scripts, and nothing in a plain file.
func (o *output) progress(event any, format string, args ...any) {
	if o.json {
		o.say(event, "")
		return
	}
	if !o.terminal {
		return // a file would fill up with lines that nobody rewrites
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	line := fmt.Sprintf(format, args...)
	if width, _, err := term.GetSize(int(os.Stdout.Fd())); err == nil && width > 0 {
		line = truncate(line, width-1)
	}
	fmt.Fprint(o.stdout, "\r\x1b[K"+line)
	o.live = true
}

func (o *output) clearLive() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.clear()
}

func (o *output) clear() {
	if o.live {
		fmt.Fprint(o.stdout, "\r\x1b[K")
		o.live = false
	}
}

// fail says why the command ends without success.
func (o *output) fail(command string, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.clear()
	if o.json {
		json.NewEncoder(o.stderr).Encode(map[string]string{"event": "error", "command": command, "error": err.Error()})
		return
	}
	fmt.Fprintf(o.stderr, "sotto %s: %s\n", command, strings.TrimSpace(err.Error()))
}

func truncate(line string, width int) string {
	if runes := []rune(line); len(runes) > width {
		return string(runes[:width])
	}
	return line
}
