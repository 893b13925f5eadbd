package main

import (
	"context"

	"sotto/client"
)

type contactLine struct {
	Event    string `json:"event"` // "contact"
	Username string `json:"username"`
	Accepted bool   `json:"accepted"`
	Changed  bool   `json:"identity_changed"`
}

func contactsCommand() *command {
	var f clientFlags
	return &command{
		name:    "contacts",
		args:    "[add USER | accept USER]",
		summary: "List whom you know, add somebody, accept a changed key",
		help: `
Whoever writes or calls you is listed; those you added, wrote to or called are accepted. Somebody who is not accepted does not
learn when you got a message, and calls with them go through the relay. A contact whose identity key has changed can be sent
nothing until you accept the new key; compare safety numbers first ("sotto safety USER").

Examples:
  sotto contacts                 list them
  sotto contacts add bob
  sotto contacts accept bob      accept bob's new identity key
`,
		flags: f.define,
		run: func(ctx context.Context, out *output, args []string) error {
			if len(args) > 0 && (len(args) != 2 || args[0] != "add" && args[0] != "accept") {
				return usagef("expected nothing, \"add USER\" or \"accept USER\"")
			}
			c, err := f.open(false)
			if err != nil {
				return err
			}
			defer c.Close()
			switch {
			case len(args) == 0:
				return listContacts(out, c)
			case args[0] == "add":
				if err := connect(ctx, out, c); err != nil {
					return err
				}
				contact, err := c.AddContact(ctx, args[1])
				if err != nil {
					return err
				}
				sayContact(out, contact)
			default:
				if err := connect(ctx, out, c); err != nil {
					return err
				}
				if err := c.AcceptIdentity(ctx, args[1]); err != nil {
					return err
				}
				out.say(map[string]string{"event": "identity_accepted", "username": args[1]}, "the new identity key of %s is accepted", args[1])
			}
			return nil
		},
	}
}

func listContacts(out *output, c *client.Client) error {
	contacts := c.Contacts()
	for _, contact := range contacts {
		sayContact(out, contact)
	}
	if len(contacts) == 0 {
		out.say(nil, "nobody yet; add somebody with: sotto contacts add USER")
	}
	return nil
}

func sayContact(out *output, contact client.Contact) {
	note := "has written or called; not accepted"
	if contact.Accepted {
		note = "accepted"
	}
	if contact.Changed {
		note = "IDENTITY KEY HAS CHANGED: compare safety numbers, then: sotto contacts accept " + contact.String()
	}
	out.say(contactLine{"contact", contact.String(), contact.Accepted, contact.Changed}, "%-20s %s", contact, note)
}
