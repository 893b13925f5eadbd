package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"sotto/client"
	"sotto/cmd/sotto/qrcode"
	"sotto/internal/visible"
)

type devicesFlags struct {
	client clientFlags
	yes    bool
	png    string
}

type deviceLine struct {
	Event  string `json:"event"` // "device", "device_added" or "device_removed"
	Device int    `json:"device"`
	This   bool   `json:"this"`
}

func devicesCommand() *command {
	var f devicesFlags
	return &command{
		name:    "devices",
		handed:  true,
		args:    "[add | remove N]",
		summary: "List your account's devices, add another or remove one",
		help: `
An account has up to four devices. What is sent to you arrives on all of them; what you send, whoever gets it sees as yours. Only the
first device, which registered, adds and removes others. Your contacts take no device that it has not signed.

"sotto devices add" shows a code, as text and on a terminal as a QR code, and waits for ten minutes. Bring the code to the new device
and run "sotto link CODE" there; let nobody else see it. Both show the same ten digits: compare them before you agree. The new device
begins with your contacts and what you have verified of them, and with no old messages.

"sotto devices remove N" is for one that is lost: nobody sends to it or takes anything of it any more. What is on it stays there.

Examples:
  sotto devices                  list them
  sotto devices add
  sotto devices add --yes        without asking: whoever has the code is added
  sotto devices remove 2
`,
		flags: func(flags *pflag.FlagSet) {
			f.client.define(flags)
			flags.BoolVar(&f.yes, "yes", false, "add the device that has the code without asking about its digits")
			flags.StringVar(&f.png, "png", "", "write the QR code as a picture to `FILE`: erase it afterwards")
		},
		run: func(ctx context.Context, out *output, args []string) error {
			remove := 0
			switch {
			case len(args) == 0, len(args) == 1 && args[0] == "add":
			case len(args) == 2 && args[0] == "remove":
				n, err := strconv.Atoi(args[1])
				if err != nil || n < 1 {
					return usagef("%q is no number of a device; \"sotto devices\" lists them", args[1])
				}
				remove = n
			default:
				return usagef("expected nothing, \"add\" or \"remove N\"")
			}
			adding := len(args) == 1
			if !adding && (f.yes || f.png != "") {
				return usagef("--yes and --png go with \"add\"")
			}
			if adding && !f.yes && (out.json || !out.from.asks()) {
				return usagef("there is no terminal to ask on: with --yes whoever has the code is added")
			}
			c, err := f.client.open(ctx, out, mediaFlags{})
			if err != nil {
				return err
			}
			defer c.Close()
			if !adding && remove == 0 {
				for _, d := range c.Devices() {
					sayDevice(out, d)
				}
				return nil
			}
			if adding {
				c.share(ctx, out, "devices add")
			}
			if err := connect(ctx, out, c); err != nil {
				return err
			}
			if adding {
				go c.skipEvents(ctx)
				return addDevice(ctx, out, c, f)
			}
			if err := c.RemoveDevice(ctx, remove); err != nil {
				return err
			}
			out.say(deviceLine{"device_removed", remove, false}, "device %d is removed: nobody sends to it or takes anything of it any more", remove)
			return waitTold(ctx, c)
		},
	}
}

// waitTold lets contacts be told of the change. Who is not told now is when the account is connected next.
func waitTold(ctx context.Context, c *session) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := c.WaitTold(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return nil
}

func sayDevice(out *output, d client.Device) {
	var notes []string
	if d.ID == 1 {
		notes = append(notes, "the first: it adds and removes others")
	}
	if d.This {
		notes = append(notes, "this one")
	}
	out.say(deviceLine{"device", d.ID, d.This}, "%s", strings.TrimSpace(fmt.Sprintf("%-3d %s", d.ID, strings.Join(notes, "; "))))
}

func addDevice(ctx context.Context, out *output, c *session, f devicesFlags) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	added, err := c.AddDevice(ctx, client.AddDeviceOptions{
		Show: func(code string) {
			if err := showCode(out, c, code, f.png); err != nil {
				cancel(err)
			}
		},
		Confirm: func(ctx context.Context, digits string) bool {
			if f.yes {
				out.say(map[string]string{"event": "linking", "digits": digits}, "the new device has the digits %s", digits)
				return true
			}
			return out.confirm(ctx, "Does the new device show %s?", digits)
		},
	})
	if err != nil {
		return err
	}
	out.say(deviceLine{"device_added", added.ID, false}, "device %d is added", added.ID)
	return waitTold(ctx, c)
}

// showCode shows what the user brings to the new device.
func showCode(out *output, c *session, code, png string) error {
	symbol, err := qrcode.Encode([]byte(code))
	if err != nil {
		return err
	}
	if png != "" {
		var picture bytes.Buffer
		if err := symbol.PNG(&picture); err != nil {
			return err
		}
		if err := os.WriteFile(out.from.file(png), picture.Bytes(), 0o600); err != nil {
			return fmt.Errorf("%w: choose another file with --png", err)
		}
	}
	if out.terminal && symbol.Size() <= columnsOf(out.stdout) {
		out.draw(func(w io.Writer) { io.WriteString(w, symbol.Text(out.colour())) })
	}
	var more visible.Text
	if ca := filepath.Join(c.directory, rememberedCA); exists(ca) {
		more = visible.Sprintf(" --ca ca.pem\n(ca.pem: the server's authority, a copy of %s)", ca)
	}
	out.say(map[string]string{"event": "linking_code", "code": code},
		"On the new device, within ten minutes: sotto link '%s' --as %s%s", code, c.Username(), more)
	return nil
}

func linkCommand() *command {
	var f clientFlags
	return &command{
		name:    "link",
		args:    "CODE",
		summary: "Make this another device of an account you have",
		help: `
Joins the account whose first device shows CODE with "sotto devices add", and waits until you agree there. Compare the ten digits.
The account lives in a directory as after "sotto register", named by --as, for which its user name is the natural choice; or by --account,
if this machine has that account already.
"-" reads the code from standard input, so that it is in no shell's history.

Examples:
  sotto link 'https://sotto.example#ABCD-EFGH-IJKL-MNOP-QRST-UVWX-YZ23-4567-ABCD-EFGH-IJKL-MNOP' --as alice
  sotto link - --account ~/sotto-phone
`,
		flags: func(flags *pflag.FlagSet) { f.define(flags) },
		run: func(ctx context.Context, out *output, args []string) error {
			if err := exactly(1, args, "a code"); err != nil {
				return err
			}
			code := args[0]
			if code == "-" {
				line, err := bufio.NewReader(io.LimitReader(os.Stdin, 4096)).ReadString('\n')
				if err != nil && !errors.Is(err, io.EOF) {
					return err
				}
				code = strings.TrimSpace(line)
			}
			if f.account.directory == "" && f.account.as == "" {
				return usagef("say with --as whose account it is: the user name is not known yet (or name a directory with --account)")
			}
			directory, err := f.account.make(f.account.as)
			if err != nil {
				return err
			}
			options, err := f.options(out, directory, true)
			if err != nil {
				return err
			}
			c, err := client.Link(ctx, directory, client.LinkOptions{
				Options: options, Code: code,
				Show: func(digits string) {
					out.say(map[string]string{"event": "linking", "digits": digits},
						"the digits of this device are %s: agree on the first one if it shows the same", digits)
				},
			})
			if err != nil {
				return err
			}
			defer c.Close()
			f.remember(out, directory)
			out.say(map[string]string{"event": "linked", "username": c.Username(), "server": c.Server(), "directory": directory},
				"this is a device of %s at %s now; the account is in %s", c.Username(), c.Server(), directory)
			return nil
		},
	}
}
