// Sotto is private messages and calls in one binary: the server, the relay and a client for the terminal.
//
//	sotto demo                                  the whole system in one process, a real call, a report
//	sotto serve, turn, invite, admin            run a server, or the relay alone
//	sotto register, link, devices, unregister   an account and its devices
//	sotto contacts, safety                      whom it trusts
//	sotto send, listen, call                    messages and calls
//
// Exit codes: 0 done, 1 failed, 2 the command line is wrong. What failed is one sentence on standard error, saying what to do.
// The first SIGINT or SIGTERM ends a command in order, the second kills it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/pflag"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // from here a second signal has its default effect: it kills
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// A command is one word after "sotto".
type command struct {
	name    string
	args    string // what the usage line shows behind the flags
	summary string // one line for the list
	help    string // what it does, and examples to copy
	flags   func(*pflag.FlagSet)
	handed  bool              // it may run in the process that has the account open (share.go)
	text    bool              // what follows the first argument is text, and holds no flags
	line    []string          // what stood behind the name, for settings that are read again
	given   map[string]string // what came of that, by flag
	run     func(ctx context.Context, out *output, args []string) error
}

// commands lists them in the order a newcomer meets them. Every call makes fresh ones: their flags are not shared.
func commands() []*command {
	return []*command{
		demoCommand(),
		serveCommand(), inviteCommand(), adminCommand(), turnCommand(),
		registerCommand(), unregisterCommand(), linkCommand(), devicesCommand(),
		contactsCommand(), safetyCommand(),
		sendCommand(), listenCommand(), callCommand(),
		versionCommand(),
	}
}

// usageError is a command line that makes no sense, as opposed to one that did not work out.
type usageError struct{ error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// run finds the command, fills its flags from the command line, the environment and the configuration file, and runs it.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 0 || args[0] == "help" && len(args) == 1 || args[0] == "-h" || args[0] == "--help" {
		newOutput(stdout, stderr, false).draw(func(w io.Writer) { io.WriteString(w, overview()) })
		if len(args) == 0 {
			return exitUsage
		}
		return exitDone
	}
	if args[0] == "--version" {
		args = []string{"version"}
	}
	if args[0] == "help" {
		args = []string{args[1], "--help"}
	}
	cmd := find(args[0])
	if cmd == nil {
		newOutput(stdout, stderr, false).warn(nil, "sotto: there is no command %q; \"sotto help\" lists them", args[0])
		return exitUsage
	}

	cmd.line = args[1:]
	s, err := settings(cmd, os.LookupEnv)
	out := newOutput(stdout, stderr, s.json)
	switch {
	case errors.Is(err, pflag.ErrHelp):
		out.draw(func(w io.Writer) { io.WriteString(w, cmd.usage(s.flags)) })
		return exitDone
	case err != nil:
		return cmd.failed(out, err)
	}
	out.from.typed = newRequest(cmd, s)
	return cmd.finish(ctx, out, s.args)
}

// finish runs the command, and returns the exit code.
func (c *command) finish(ctx context.Context, out *output, args []string) int {
	err := c.run(ctx, out, args)
	out.clearLive()
	if err == nil {
		return exitDone
	}
	return c.failed(out, err)
}

// failed says why, unless the process has done so that the command was handed over to.
func (c *command) failed(out *output, err error) int {
	if handed := (handedOver{}); errors.As(err, &handed) {
		return handed.exit
	}
	out.fail(c.name, explain(err))
	if errors.As(err, new(usageError)) {
		return exitUsage
	}
	return exitFailed
}

func find(name string) *command {
	for _, cmd := range commands() {
		if cmd.name == name {
			return cmd
		}
	}
	return nil
}

func overview() string {
	var b strings.Builder
	b.WriteString(`Sotto: private messages and calls. Keys live on the devices; the server and the relay carry what they cannot read.

  sotto demo          see all of it: a server, a relay and a real call, in this terminal

Commands:
`)
	for _, cmd := range commands() {
		fmt.Fprintf(&b, "  %-10s %s\n", cmd.name, cmd.summary)
	}
	b.WriteString(`
"sotto COMMAND --help" explains one, with examples. Every flag can be set in a file (--config FILE, lines of
"name = value") and in the environment (SOTTO_NAME); --json prints one JSON object a line, for scripts.
`)
	return b.String()
}

func (c *command) usage(flags *pflag.FlagSet) string {
	line := "sotto " + c.name
	if c.args != "" {
		line += " " + c.args
	}
	return fmt.Sprintf("%s\n\nUsage: %s [flags]\n\n%s\nFlags:\n%s",
		c.summary, line, strings.TrimLeft(c.help, "\n"), flags.FlagUsagesWrapped(100))
}

// self is how the user started this program, for commands to copy.
func self() string {
	if path, err := os.Executable(); err == nil && strings.Contains(path, "go-build") {
		return "go run ./cmd/sotto"
	}
	return "sotto"
}

// exactly checks the number of words behind the flags; what names them for the sentence, for instance "a user name".
func exactly(n int, args []string, what string) error {
	switch {
	case len(args) < n:
		return usagef("%s is missing; see --help", what)
	case len(args) > n:
		return usagef("%q is too much; expected only %s", args[n], what)
	}
	return nil
}
