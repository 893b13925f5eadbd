package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/pflag"

	"sotto/client"
	"sotto/wire"
)

func registerCommand() *command {
	var f clientFlags
	var server, invitation string
	return &command{
		name:    "register",
		args:    "USER",
		summary: "Make an account on a server",
		help: `
Makes keys on this device and an account with the name USER on the server. The account lives in a directory, encrypted; by
default $XDG_DATA_HOME/sotto/USER, opened by the key file in it. Keep a copy: nobody can restore it.

Examples:
  sotto register alice --server https://sotto.example --invitation pFSwTLXQsN1Tg1g_uY3za4hduCM
  sotto register alice --server http://127.0.0.1:8080 --invitation pFSwTLXQsN1Tg1g_uY3za4hduCM
      a server on this machine
  SOTTO_INVITATION=pFSwTLXQsN1Tg1g_uY3za4hduCM sotto register alice --server https://sotto.example --passphrase-file -
      opened by a passphrase; the invitation is not in the shell's history
`,
		flags: func(flags *pflag.FlagSet) {
			flags.StringVar(&server, "server", "http://127.0.0.1:8080", "the server's `URL`")
			flags.StringVar(&invitation, "invitation", "", "the `TOKEN` you were given (not needed where anyone may register)")
			f.define(flags)
		},
		run: func(ctx context.Context, out *output, args []string) error {
			if err := exactly(1, args, "a user name"); err != nil {
				return err
			}
			directory, err := f.account.make(args[0])
			if err != nil {
				return err
			}
			options, err := f.options(out, directory, true)
			if err != nil {
				return err
			}
			c, err := client.Register(ctx, directory, client.RegisterOptions{
				Options: options, Server: server, Username: args[0], Invitation: strings.TrimSpace(invitation),
			})
			if refusal := (*client.ServerError)(nil); invitation == "" && errors.As(err, &refusal) && refusal.Code == wire.Error_FORBIDDEN {
				return fmt.Errorf("%w Whoever runs it makes one (sotto invite), and you give it with --invitation", err)
			}
			if err != nil {
				return err
			}
			defer c.Close()
			f.remember(out, directory)
			out.say(map[string]string{"event": "registered", "username": args[0], "server": server, "directory": directory},
				"%s is registered at %s; the account is in %s: keep a copy, nobody can restore it", args[0], server, directory)
			return nil
		},
	}
}
