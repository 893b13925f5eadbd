package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"sotto/client"
)

type contactLine struct {
	Event    string `json:"event"` // "contact"
	Username string `json:"username"`
	Accepted bool   `json:"accepted"`
	Changed  bool   `json:"identity_changed"`
	Verified bool   `json:"verified"`
	Sealed   bool   `json:"sealed"`
	Blocked  bool   `json:"blocked"`
	Claims   string `json:"calls_themselves,omitempty"` // another name than Username
}

func contactsCommand() *command {
	var f clientFlags
	var number string
	return &command{
		name:    "contacts",
		handed:  true,
		args:    "[add | accept | remove | block | unblock USER | rename USER NAME | accept-server]",
		summary: "List whom you know, add, remove or block somebody, accept a changed key",
		help: `
Whoever writes or calls you is listed; those you added, wrote to or called are accepted. Somebody who is not accepted does not
learn when you got a message, and calls with them go through the relay until you accept the call. A contact whose identity key has changed can be sent
nothing until you accept the new key. That shows the new safety number: compare it with what "sotto safety" shows the contact, in
person or over a call in which you know the voice.

Each message says whose it is. Where that is another name than the one that you wrote to, the server
may have given you somebody else: nothing is sent, and nothing shown, until you rename or remove them.

"Sealed" are contacts to whom messages and calls go without your name on them: the server does not learn who writes. It begins with
the first thing they send you after they accepted you. Who is removed is forgotten, with everything not yet read or sent, and cannot
write to you that way any more.

Calls of people who are not accepted ring where there is no other call, and less and less often. Who
is blocked reaches you no more: what arrives while they are is dropped unread, and they do not ring.
They are not told. But their messages go out under their name from then on, as those to people who
removed them do, and are not told as delivered: who looks closely can guess. Who is unblocked is not
accepted: add them for that.

Examples:
  sotto contacts                 list them
  sotto contacts add bob
  sotto contacts accept bob      show the safety number of bob's new identity key, and ask
  sotto contacts accept-server   the server's operator has told you why its key is new
  sotto contacts accept bob --number "47193 01240 ..."    all of it: accept that key and no other
  sotto contacts remove bob
  sotto contacts rename bob carol    bob's messages say that they are carol's: take that name
  sotto contacts block bob       and sotto contacts unblock bob
`,
		flags: func(flags *pflag.FlagSet) {
			f.define(flags)
			flags.StringVar(&number, "number", "", "accept the key with the safety number `DIGITS`, which you have compared, without asking")
		},
		run: func(ctx context.Context, out *output, args []string) error {
			if err := checkContactsArgs(args); err != nil {
				return err
			}
			if number != "" && (len(args) == 0 || args[0] != "accept") {
				return usagef("--number goes with \"accept USER\"")
			}
			c, err := f.open(ctx, out, mediaFlags{})
			if err != nil {
				return err
			}
			defer c.Close()
			switch {
			case len(args) == 0:
				return listContacts(out, c)
			case args[0] == "accept-server":
				if err := c.AcceptServerKey(); err != nil {
					return err
				}
				out.say(map[string]string{"event": "server_key_accepted"},
					"the key that the server vouches with is accepted at the next link")
			case args[0] == "add":
				if err := connect(ctx, out, c); err != nil {
					return err
				}
				contact, err := c.AddContact(ctx, args[1])
				if err != nil {
					return err
				}
				sayContact(out, contact)
			case args[0] == "rename":
				if err := connect(ctx, out, c); err != nil {
					return err
				}
				contact, err := c.AcceptName(ctx, args[1], args[2])
				if err != nil {
					return err
				}
				sayContact(out, contact)
			case args[0] == "remove":
				if err := c.RemoveContact(args[1]); err != nil {
					return err
				}
				out.say(map[string]string{"event": "contact_removed", "username": args[1]}, "%s is removed", args[1])
			case args[0] == "block":
				if err := c.Block(args[1]); err != nil {
					return err
				}
				out.say(map[string]string{"event": "contact_blocked", "username": args[1]}, "%s is blocked", args[1])
			case args[0] == "unblock":
				if err := c.Unblock(args[1]); err != nil {
					return err
				}
				out.say(map[string]string{"event": "contact_unblocked", "username": args[1]}, "%s is not blocked any more, and not accepted: sotto contacts add %[1]s", args[1])
			default:
				if number == "" {
					if number, err = compareNumbers(ctx, out, c, args[1]); err != nil {
						return err
					}
				}
				if err := c.AcceptIdentity(ctx, args[1], number); err != nil {
					return err
				}
				out.say(map[string]string{"event": "identity_accepted", "username": args[1]}, "the new identity key of %s is accepted", args[1])
			}
			return nil
		},
	}
}

func checkContactsArgs(args []string) error {
	words := []string{"add", "accept", "remove", "block", "unblock"}
	switch {
	case len(args) == 0 || len(args) == 2 && slices.Contains(words, args[0]):
		return nil
	case len(args) == 3 && args[0] == "rename", len(args) == 1 && args[0] == "accept-server":
		return nil
	}
	return usagef("expected nothing, \"accept-server\", \"rename\" with two names, or one user name "+
		"behind one of: %s",
		strings.Join(words, ", "))
}

// compareNumbers has the user compare safety numbers, and returns the one that was the same.
func compareNumbers(ctx context.Context, out *output, c *session, username string) (string, error) {
	number, err := c.SafetyNumber(username)
	if err != nil {
		return "", err
	}
	if out.json || !out.from.asks() {
		return "", usagef("there is no terminal to ask on: compare the number of \"sotto safety %s\" with theirs, then give it with --number",
			username)
	}
	out.say(nil, "The safety number of the key that %s has now:\n\n  %s\n", username, number)
	if !out.confirm(ctx, "Does %s see the same number?", username) {
		return "", errors.New("the key was not accepted")
	}
	return number, nil
}

func listContacts(out *output, c *session) error {
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
	if contact.Verified {
		note += ", verified"
	}
	if contact.Sealed {
		note += ", sealed"
	}
	if contact.Blocked {
		note = "blocked"
	}
	if contact.Changed {
		note = "IDENTITY KEY HAS CHANGED: compare safety numbers, then: sotto contacts accept " + contact.String()
	}
	if contact.Claims != "" {
		note = fmt.Sprintf("GOES BY THE NAME OF %s: the server may have given you somebody else; "+
			"sotto contacts rename %s %[1]s, or remove %[2]s", contact.Claims, contact)
	}
	line := contactLine{
		"contact", contact.String(), contact.Accepted, contact.Changed, contact.Verified,
		contact.Sealed, contact.Blocked, contact.Claims,
	}
	out.say(line, "%-20s %s", contact, note)
}
