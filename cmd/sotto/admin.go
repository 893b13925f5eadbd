package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"sotto/internal/visible"
)

// admin is the command that operates a running server, through the socket that control.go serves.
type admin struct {
	data      string
	yes       bool
	uses      int
	ttl       time.Duration
	envelopes int
	bytes     int64
	reset     bool
	flags     *pflag.FlagSet
	out       *output
}

func adminCommand() *command {
	var a admin
	return &command{
		name:    "admin",
		args:    "WHAT",
		summary: "Operate a running server: accounts, invitations, state, backup",
		help: `
Asks the server that runs on the data directory, as its user or root. The server cannot read
messages, and keeps no record of who was there when: there are names, and how much waits in
mailboxes.

  accounts list           every account: its devices, what waits for it, its quota
  accounts disable NAME   end its links and refuse its devices; what others send it waits
  accounts enable NAME    let it in again
  accounts delete NAME    erase it with its keys and mailboxes; nobody can take its name again
  quota NAME              what may wait for each device of an account; --envelopes, --bytes or
                          --reset change it. Senders whom the server cannot name, as most
                          contacts, share half of it
  invitations list        those that can be used, by an id: the server does not know their tokens
  invitations new         make one; --uses, --ttl
  invitations revoke ID   take one back, by its id or its token ("revoke -- TOKEN" if it begins
                          with -)
  state                   what the server holds and does
  backup DIR              copy its data, while it runs, to a new directory, which a server can be
                          started on

Examples:
  sotto admin state --data /var/lib/sotto
  sotto admin accounts list --json
  sotto admin accounts delete mallory --yes
  sotto admin quota bot --envelopes 10000 --bytes 268435456
  sotto admin backup /var/backups/sotto-$(date +%F)
`,
		flags: func(flags *pflag.FlagSet) {
			a.flags = flags
			flags.StringVar(&a.data, "data", "", "the server's data `DIR` "+
				"(default $XDG_DATA_HOME/sotto-server, or ~/.local/share/sotto-server)")
			flags.BoolVar(&a.yes, "yes", false, "delete without asking")
			flags.IntVar(&a.uses, "uses", 1, "how many accounts a new invitation admits")
			flags.DurationVar(&a.ttl, "ttl", 7*24*time.Hour,
				"how long a new invitation is good for")
			flags.IntVar(&a.envelopes, "envelopes", 0,
				"how many may wait for each device (0: the server's limit)")
			flags.Int64Var(&a.bytes, "bytes", 0,
				"how many `BYTES` of them may wait for each device (0: the server's limit)")
			flags.BoolVar(&a.reset, "reset", false, "give an account the server's limits again")
		},
		run: func(ctx context.Context, out *output, args []string) error {
			a.out = out
			var err error
			if a.data, err = serverData(a.data); err != nil {
				return err
			}
			return a.run(ctx, args)
		},
	}
}

func (a *admin) run(ctx context.Context, args []string) error {
	what := strings.Join(args[:min(len(args), 2)], " ")
	switch {
	case what == "accounts list" && len(args) == 2:
		return a.listAccounts(ctx)
	case what == "accounts disable" && len(args) == 3:
		return a.account(ctx, http.MethodPost, "/accounts/disable", args[2])
	case what == "accounts enable" && len(args) == 3:
		return a.account(ctx, http.MethodPost, "/accounts/enable", args[2])
	case what == "accounts delete" && len(args) == 3:
		question := "This erases the account with all that waits for it; " +
			"nobody can take its name again."
		if err := confirmByName(ctx, a.out, a.yes, args[2], question); err != nil {
			return err
		}
		return a.account(ctx, http.MethodDelete, "/accounts", args[2])
	case len(args) == 2 && args[0] == "quota":
		return a.quota(ctx, args[1])
	case what == "invitations list" && len(args) == 2:
		return a.listInvitations(ctx)
	case what == "invitations new" && len(args) == 2:
		return a.newInvitation(ctx)
	case what == "invitations revoke" && len(args) == 3:
		return a.revoke(ctx, args[2])
	case what == "state" && len(args) == 1:
		return a.state(ctx)
	case len(args) == 2 && args[0] == "backup":
		return a.backup(ctx, args[1])
	}
	return adminUsage(args)
}

// adminForms are what admin does, as run takes it.
var adminForms = []string{
	"accounts list", "accounts disable NAME", "accounts enable NAME", "accounts delete NAME",
	"quota NAME", "invitations list", "invitations new", "invitations revoke ID", "state",
	"backup DIR",
}

// adminUsage lists what could have been meant.
func adminUsage(args []string) error {
	const help = "see \"sotto admin --help\""
	if len(args) == 0 {
		return usagef("say what to do: %s; %s", strings.Join(adminForms, ", "), help)
	}
	var forms []string
	for _, form := range adminForms {
		if first, _, _ := strings.Cut(form, " "); first == args[0] {
			forms = append(forms, form)
		}
	}
	typed := strings.Join(args, " ")
	if forms == nil {
		return usagef("%q is nothing that admin does; %s", typed, help)
	}
	return usagef("%q is nothing that admin does, but: %s; %s", typed, strings.Join(forms, ", "), help)
}

// ask decodes each line of the answer and has it shown.
func ask[Line any](
	ctx context.Context, a *admin, method, path string, q url.Values, show func(Line),
) error {
	return askServer(ctx, a.data, method, path, q, func(text []byte) error {
		var line Line
		if err := json.Unmarshal(text, &line); err != nil {
			return err
		}
		show(line)
		return nil
	})
}

func (a *admin) listAccounts(ctx context.Context) error {
	any := false
	err := ask(ctx, a, http.MethodGet, "/accounts", nil, func(line accountState) {
		any = true
		a.out.say(line, "%-32s %s", line.Username, accountText(line))
	})
	if err == nil && !any {
		a.out.say(nil, "nobody yet; invite somebody with: %s admin invitations new", self())
	}
	return err
}

func accountText(line accountState) visible.Text {
	notes := []visible.Text{
		visible.Sprintf("%s", plural(line.Devices, "device")),
		visible.Sprintf("%s waiting (%s)",
			plural(line.Waiting, "envelope"), byteSize(line.WaitingBytes)),
	}
	if line.QuotaOwn {
		notes = append(notes, quotaText(line))
	}
	if line.Disabled {
		notes = append(notes, visible.Sprintf("disabled"))
	}
	return visible.Join(", ", notes...)
}

func quotaText(line accountState) visible.Text {
	return visible.Sprintf("quota of %s or %s for each device",
		plural(line.Quota, "envelope"), byteSize(line.QuotaBytes))
}

// account does something to one.
func (a *admin) account(ctx context.Context, method, path, name string) error {
	return ask(ctx, a, method, path, url.Values{"name": {name}}, func(line doneLine) {
		event := map[string]string{"event": line.Event, "username": name}
		switch line.Event {
		case "account_disabled":
			a.out.say(event, "%s is disabled: what others send waits", name)
		case "account_enabled":
			a.out.say(event, "%s is enabled", name)
		default:
			a.out.say(event, "%s is deleted", name)
		}
	})
}

func (a *admin) quota(ctx context.Context, name string) error {
	q := url.Values{"name": {name}}
	changed := a.flags.Changed("envelopes") || a.flags.Changed("bytes")
	switch {
	case a.envelopes < 0 || a.bytes < 0:
		return usagef("a quota is not less than nothing")
	case changed && a.reset:
		return usagef("--reset gives the server's limits: it goes without --envelopes and --bytes")
	case changed || a.reset:
		q.Set("envelopes", strconv.Itoa(a.envelopes))
		q.Set("bytes", strconv.FormatInt(a.bytes, 10))
	}
	return ask(ctx, a, http.MethodPost, "/accounts/quota", q, func(line accountState) {
		whose := "the server's limits"
		if line.QuotaOwn {
			whose = "its own"
		}
		a.out.say(line, "%s: %s (%s); %s waiting (%s)", name, quotaText(line), whose,
			plural(line.Waiting, "envelope"), byteSize(line.WaitingBytes))
	})
}

func (a *admin) listInvitations(ctx context.Context) error {
	any := false
	err := ask(ctx, a, http.MethodGet, "/invitations", nil, func(line invitation) {
		any = true
		a.out.say(line, "%s  for %s, until %s", line.ID, plural(line.Uses, "account"),
			line.Expires.Local().Format("2006-01-02 15:04"))
	})
	if err == nil && !any {
		a.out.say(nil, "none; make one with: %s admin invitations new", self())
	}
	return err
}

func (a *admin) newInvitation(ctx context.Context) error {
	if a.uses < 1 || a.ttl <= 0 {
		return usagef("--uses must be at least 1 and --ttl more than nothing")
	}
	made, err := askForInvitation(ctx, a.data, a.ttl, a.uses)
	if err != nil {
		return err
	}
	return a.out.say(made, "%s", made.Token)
}

func (a *admin) revoke(ctx context.Context, which string) error {
	q := url.Values{"id": {which}}
	return ask(ctx, a, http.MethodDelete, "/invitations", q, func(line doneLine) {
		a.out.say(line, "the invitation is good for nobody any more")
	})
}

func (a *admin) state(ctx context.Context) error {
	return ask(ctx, a, http.MethodGet, "/state", nil, func(s serverState) {
		a.out.say(s, "%s", visible.Join("\n", stateRows(s)...))
	})
}

func stateRows(s serverState) []visible.Text {
	uptime := time.Duration(s.Uptime) * time.Second
	return []visible.Text{
		visible.Sprintf("version      %s, up %s", s.Version, uptime),
		visible.Sprintf("accounts     %d, %d of them disabled; %s; %s", s.Accounts, s.Disabled,
			plural(s.Devices, "device"), plural(s.Invitations, "invitation")),
		visible.Sprintf("waiting      %s (%s) in %s", plural(s.Waiting, "envelope"),
			byteSize(s.WaitingBytes), plural(s.Mailboxes, "mailbox")),
		visible.Sprintf("links        %d, %d anonymous, %d not yet authenticated",
			s.Links, s.Anonymous, s.Unauthenticated),
		visible.Sprintf("disk         %s taken, %s free",
			byteSize(s.StoreBytes), byteSize(s.FreeBytes)),
	}
}

func (a *admin) backup(ctx context.Context, directory string) error {
	whole, err := filepath.Abs(directory) // the server has another working directory
	if err != nil {
		return err
	}
	q := url.Values{"directory": {whole}}
	return ask(ctx, a, http.MethodPost, "/backup", q, func(line backupLine) {
		a.out.say(line, "%s has it all, %s: it holds private keys, so keep it as you keep "+
			"the data directory", line.Directory, byteSize(line.Bytes))
	})
}

// confirmByName lets somebody type the name of what is to go.
func confirmByName(ctx context.Context, out *output, yes bool, name, question string) error {
	if yes {
		return nil
	}
	if out.json || !out.from.asks() {
		return usagef("there is no terminal to ask on: give --yes to delete without asking")
	}
	out.prompt("%s\nType %s to go on: ", question, name)
	answer, _ := bufio.NewReader(io.LimitReader(out.from.input(ctx), 4096)).ReadString('\n')
	if strings.TrimSpace(answer) != name {
		return errors.New("that is another name: nothing was deleted")
	}
	return nil
}

func plural(n int, thing string) string {
	switch {
	case n == 1:
		return "1 " + thing
	case strings.HasSuffix(thing, "x"):
		return fmt.Sprintf("%d %ses", n, thing)
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

func byteSize(n int64) string {
	const units = "kMGTPE"
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	size, unit := float64(n)/1000, 0
	for ; size >= 999.5; unit++ {
		size /= 1000
	}
	return fmt.Sprintf("%.3g %cB", size, units[unit])
}
