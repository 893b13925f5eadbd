package main

import (
	"context"
	"time"

	"github.com/spf13/pflag"
)

func inviteCommand() *command {
	var data string
	var uses int
	var ttl time.Duration
	return &command{
		name:    "invite",
		summary: "Ask a running server for an invitation",
		help: `
Registration needs an invitation, unless the server was started with --open. This asks the server that runs on the data
directory for one; whoever may write to the directory may invite.

Examples:
  sotto invite                          for one person, good for a week
  sotto invite --uses 30 --ttl 48h      for a class, good for two days
  sotto invite --data /var/lib/sotto
`,
		flags: func(flags *pflag.FlagSet) {
			flags.StringVar(&data, "data", "", "the server's data `DIR` (default $XDG_DATA_HOME/sotto-server, or ~/.local/share/sotto-server)")
			flags.IntVar(&uses, "uses", 1, "how many accounts it admits")
			flags.DurationVar(&ttl, "ttl", 7*24*time.Hour, "how long it is good for")
		},
		run: func(ctx context.Context, out *output, args []string) error {
			if err := exactly(0, args, "no argument"); err != nil {
				return err
			}
			if uses < 1 || ttl <= 0 {
				return usagef("--uses must be at least 1 and --ttl more than nothing")
			}
			directory, err := serverData(data)
			if err != nil {
				return err
			}
			made, err := askForInvitation(ctx, directory, ttl, uses)
			if err != nil {
				return err
			}
			out.say(made, "%s", made.Token)
			return nil
		},
	}
}
