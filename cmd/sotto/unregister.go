package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	"sotto/client"
)

func unregisterCommand() *command {
	var f clientFlags
	var yes bool
	return &command{
		name:    "unregister",
		summary: "Delete your account, on the server and here",
		help: `
Deletes the account at its server, with all that waits there for it, and then its keys, contacts and
messages on this device. Nobody can take its name again, you included. Only the account's first
device can do it; the others hear of it when they connect, and there this command removes what is
left.

Contacts are not told: what they send is refused. To remove a device and keep the account, see
"sotto devices".

Examples:
  sotto unregister --as alice          asks for the name
  sotto unregister --as bot --yes      for scripts
`,
		flags: func(flags *pflag.FlagSet) {
			f.define(flags)
			flags.BoolVar(&yes, "yes", false, "delete without asking")
		},
		run: func(ctx context.Context, out *output, args []string) error {
			if err := exactly(0, args, "no argument (the account is named by --as)"); err != nil {
				return err
			}
			return unregister(ctx, out, &f, yes)
		},
	}
}

func unregister(ctx context.Context, out *output, f *clientFlags, yes bool) error {
	directory, err := f.account.find()
	if err != nil {
		return err
	}
	options, err := f.options(out, directory, false)
	if err != nil {
		return err
	}
	// Not by way of another process, which would go on with it.
	opened, err := client.Open(directory, options)
	if err != nil {
		return err
	}
	c := &session{Client: opened, directory: directory, events: opened.Events()}
	defer c.Close()
	username, server := c.Username(), c.Server()
	question := "This deletes your account at " + server + " and all that this device " +
		"keeps of it; nobody can take its name again."
	if err := confirmByName(ctx, out, yes, username, question); err != nil {
		return err
	}
	err = connect(ctx, out, c)
	if err != nil && !errors.Is(err, client.ErrAccountDeleted) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := c.DeleteAccount(ctx); err != nil {
		return err
	}
	// And at last the directory, if it is empty.
	for _, name := range []string{rememberedCA, "socket", ""} {
		_ = os.Remove(filepath.Join(directory, name))
	}
	line := map[string]string{
		"event": "unregistered", "username": username, "server": server,
	}
	return out.say(line, "the account of %s at %s is deleted, and its keys here are erased",
		username, server)
}
