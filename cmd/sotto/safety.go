package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"os"

	"github.com/spf13/pflag"

	"sotto/cmd/sotto/qrcode"
)

type safetyFlags struct {
	client  clientFlags
	qr      bool
	png     string
	compare string
	given   *pflag.Flag // --compare
}

func safetyCommand() *command {
	var f safetyFlags
	return &command{
		name:    "safety",
		handed:  true,
		args:    "USER",
		summary: "Show the safety number you share with somebody, or compare it with theirs",
		help: `
Prints 60 digits that are the same at both ends if, and only if, nobody stands in between, and on a terminal the same as a QR code.
Compare with USER in person or over a call in which you know the voice, not by messages. What you compare is

  a picture   a PNG or JPEG of the QR code that USER's device shows for you: a photo or a screenshot
  a code      the content of that QR code in base64, which "sotto safety --json" prints as "code"
  a number    the 60 digits that USER reads out

If it matches, USER is marked as verified until another identity key appears. If one has appeared already, the comparison tells whether
that is accepted, or whether USER still has the old one and the other is forgotten. If it does not match, the exit code is 1, and
with --json "result" is mismatch, other_people or other_version.

Without colour (NO_COLOR, or into a file) the QR code is drawn for light letters on a dark background.

Examples:
  sotto safety bob
  sotto safety bob --png for-bob.png
  sotto safety bob --compare photo.jpg
  sotto safety bob --compare "47193 01240 ..."    all of it
`,
		flags: func(flags *pflag.FlagSet) {
			f.client.define(flags)
			flags.BoolVar(&f.qr, "qr", false, "draw the QR code even if this is no terminal")
			flags.StringVar(&f.png, "png", "", "write the QR code as a picture to `FILE`")
			flags.StringVar(&f.compare, "compare", "", "compare with `WHAT` USER's device shows: a picture, a code or a number")
			f.given = flags.Lookup("compare")
		},
		run: func(ctx context.Context, out *output, args []string) error {
			if err := exactly(1, args, "a user name"); err != nil {
				return err
			}
			if f.compare == "" && f.given.Changed { // a script must not take that for a match
				return usagef("there is nothing to compare with behind --compare")
			}
			if f.compare != "" && (f.qr || f.png != "") {
				return usagef("--compare reads what USER shows, --qr and --png show: use one at a time")
			}
			c, err := f.client.open(ctx, out, mediaFlags{})
			if err != nil {
				return err
			}
			defer c.Close()
			if f.compare != "" {
				return compareSafety(ctx, out, c, args[0], f.compare)
			}
			return showSafety(out, c, args[0], f)
		},
	}
}

func showSafety(out *output, c *session, username string, f safetyFlags) error {
	contact, err := c.Contact(username)
	if err != nil {
		return err
	}
	number, err := c.SafetyNumber(username)
	if err != nil {
		return err
	}
	code, err := c.SafetyCode(username)
	if err != nil {
		return err
	}
	symbol, err := qrcode.Encode(code)
	if err != nil {
		return err
	}
	if f.png != "" {
		var picture bytes.Buffer
		if err := symbol.PNG(&picture); err != nil {
			return err
		}
		if err := os.WriteFile(out.from.file(f.png), picture.Bytes(), 0o644); err != nil {
			return fmt.Errorf("%w: choose another file with --png", err)
		}
	}
	out.say(map[string]any{
		"event": "safety_number", "username": username, "number": number, "code": base64.StdEncoding.EncodeToString(code),
		"verified": contact.Verified,
	}, "%s", number)
	switch {
	case out.json || !f.qr && !out.terminal:
	case !f.qr && symbol.Size() > cmp.Or(columnsOf(out.stdout), 80):
		out.say(nil, "(for the QR code, make this window %d columns wide, or use --png)", symbol.Size())
	default:
		out.draw(func(w io.Writer) { io.WriteString(w, symbol.Text(out.colour())) })
	}
	if out.terminal && contact.Verified {
		out.say(nil, "%s is verified: you have compared this number", username)
	}
	return nil
}
