package main

import (
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/term"

	"sotto/internal/visible"
)

// output is what a command says: sentences for people, or with --json one object a line. A terminal
// also gets a live line that is rewritten in place and steps aside for everything else. All that is
// printed goes through here, and what others wrote is made visible on the way (package visible).
type output struct {
	json     bool
	terminal bool // stdout is one: colour and a live line make sense

	mu     sync.Mutex
	stdout io.Writer
	stderr io.Writer
	live   bool   // a live line is on the screen
	typed  string // by a person at the moment; it is the live line then
	from   *origin
}

func newOutput(stdout, stderr io.Writer, asJSON bool) *output {
	o := &output{json: asJSON, stdout: stdout, stderr: stderr}
	return o.at(ownOrigin())
}

// at says where the command was given.
func (o *output) at(from *origin) *output {
	o.from = from
	o.from.stdout, _ = o.stdout.(*os.File)
	o.terminal = !o.json && columnsOf(o.stdout) > 0 && from.getenv("TERM") != "dumb"
	return o
}

// colour reports whether escape sequences are welcome (https://no-color.org).
func (o *output) colour() bool { return o.terminal && o.from.getenv("NO_COLOR") == "" }

// say prints a sentence for people, or event for scripts. An event is a struct or map; nil says
// nothing to scripts. The error is for those who must know that it was printed.
func (o *output) say(event any, format string, args ...any) (err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.clear()
	defer o.drawTyped()
	switch {
	case !o.json:
		err = printText(o.stdout, visible.Sprintf(format, args...))
	case event != nil:
		err = printJSON(o.stdout, event)
	}
	if err != nil {
		return fmt.Errorf("cannot print: %w", err)
	}
	return nil
}

// draw lets write print what is more than a sentence or an event, in colours.
func (o *output) draw(write func(io.Writer)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.clear()
	defer o.drawTyped()
	if o.json {
		write(visible.JSONWriter{W: o.stdout})
	} else {
		write(visible.ColourWriter{W: o.stdout})
	}
}

// prompt puts a question to the person at the terminal. The answer stands behind it.
func (o *output) prompt(format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.clear()
	fmt.Fprint(o.stderr, visible.Sprintf(format, args...).Fit(columnsOf(o.stderr)))
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
	if o.typed != "" {
		return
	}
	fmt.Fprint(o.stdout, "\r\x1b[K"+visible.Sprintf(format, args...).Cut(columnsOf(o.stdout)-1))
	o.live = true
}

// typing shows what a person types, until that is empty.
func (o *output) typing(line string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.clear()
	o.typed = line
	o.drawTyped()
}

func (o *output) drawTyped() {
	if o.typed != "" {
		fmt.Fprint(o.stdout, visible.Sprintf("%s", o.typed).Cut(columnsOf(o.stdout)-1))
		o.live = true
	}
}

// bell rings where a person sits.
func (o *output) bell() {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.terminal {
		fmt.Fprint(o.stdout, "\a")
	}
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
	o.warn(map[string]string{"event": "error", "command": command, "error": err.Error()}, "sotto %s: %s", command, err)
}

// warn is say on standard error.
func (o *output) warn(event any, format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.clear()
	defer o.drawTyped()
	if o.json {
		_ = printJSON(o.stderr, event)
	} else {
		_ = printText(o.stderr, visible.Sprintf(format, args...))
	}
}

func printText(w io.Writer, text visible.Text) error {
	_, err := io.WriteString(w, text.Fit(columnsOf(w))+"\n")
	return err
}

func printJSON(w io.Writer, event any) error {
	line, err := visible.JSON(event)
	if err == nil {
		_, err = w.Write(append(line, '\n'))
	}
	return err
}

// columnsOf is how wide a terminal is, 80 if it does not say, and 0 if w is none.
func columnsOf(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) {
		return 0
	}
	if width, _, err := term.GetSize(int(f.Fd())); err == nil && width > 0 {
		return width
	}
	return 80
}
