package main

import (
	"bufio"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/term"
)

// An origin is where a command was given: its standard streams, working directory and environment.
// They are this process's, or those of another one, which has handed its command over (share.go).
type origin struct {
	stdin     *os.File
	stdout    *os.File // nil if it is no file
	stderr    *os.File
	directory string // empty for this process's
	environ   []string
	typed     request
	holder    *holder // that the command was handed over to; nil if it was not
}

func ownOrigin() *origin {
	return &origin{stdin: os.Stdin, stderr: os.Stderr, environ: os.Environ()}
}

// file is the name of a file as this process has to open it.
func (o *origin) file(name string) string {
	if name == "" || o.directory == "" || filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(o.directory, name)
}

func (o *origin) getenv(name string) (value string) {
	for _, entry := range o.environ {
		if n, v, ok := strings.Cut(entry, "="); ok && n == name {
			value = v
		}
	}
	return value
}

// asks tells whether there is somebody to ask.
func (o *origin) asks() bool { return term.IsTerminal(int(o.stdin.Fd())) }

// input reads standard input until ctx ends. What is not asked for stays there: this process may go
// on when the command is over.
func (o *origin) input(ctx context.Context) io.Reader { return untilDone(ctx, o.stdin) }

// confirm asks a question that is answered with yes or no.
func (o *output) confirm(ctx context.Context, format string, args ...any) bool {
	o.prompt(format+" [y/N] ", args...)
	line := bufio.NewReader(io.LimitReader(o.from.input(ctx), 4096))
	answer, _ := line.ReadString('\n')
	answer = strings.ToLower(strings.TrimSpace(answer))
	return answer == "y" || answer == "yes"
}
