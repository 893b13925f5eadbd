package main

import (
	"context"
)

func safetyCommand() *command {
	var f clientFlags
	return &command{
		name:    "safety",
		args:    "USER",
		summary: "Show the safety number you share with somebody",
		help: `
Prints 60 digits that are the same at both ends if, and only if, nobody stands in between. Compare them with USER in person or
over a call in which you know the voice.

Example:
  sotto safety bob
`,
		flags: f.define,
		run: func(ctx context.Context, out *output, args []string) error {
			if err := exactly(1, args, "a user name"); err != nil {
				return err
			}
			c, err := f.open(false)
			if err != nil {
				return err
			}
			defer c.Close()
			number, err := c.SafetyNumber(args[0])
			if err != nil {
				return err
			}
			out.say(map[string]string{"event": "safety_number", "username": args[0], "number": number}, "%s", number)
			return nil
		},
	}
}
