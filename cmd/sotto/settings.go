package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode"

	"github.com/spf13/pflag"
)

// Flags, environment and file carry the same names. What is nearer to the user wins:
//
//  1. --relay-listen ADDR on the command line
//  2. SOTTO_RELAY_LISTEN=ADDR in the environment
//  3. relay-listen = ADDR in the file that --config or SOTTO_CONFIG names

type parsed struct {
	flags *pflag.FlagSet
	args  []string
	json  bool
}

func settings(cmd *command, getenv func(string) (string, bool)) (parsed, error) {
	flags := flagSet(cmd)
	p := parsed{flags: flags}
	var err error
	if cmd.text {
		p.args, err = parseBeforeText(flags, cmd.line)
	} else {
		err = flags.Parse(cmd.line)
		p.args = flags.Args()
	}
	p.json, _ = flags.GetBool("json")
	if err == pflag.ErrHelp {
		return p, err
	}
	if err != nil {
		return p, usagef("%w; see \"sotto %s --help\"", err, cmd.name)
	}

	fromLine := map[string]bool{}
	flags.Visit(func(f *pflag.Flag) { fromLine[f.Name] = true })
	fromEnv := map[string]bool{}
	flags.VisitAll(func(f *pflag.Flag) {
		value, ok := getenv(environmentName(f.Name))
		if !ok || value == "" || fromLine[f.Name] || err != nil {
			return
		}
		fromEnv[f.Name] = true
		if e := flags.Set(f.Name, value); e != nil {
			err = usagef("%s: %w", environmentName(f.Name), e)
		}
	})
	if err != nil {
		return p, err
	}

	if file, _ := flags.GetString("config"); file != "" {
		err = readConfig(file, func(name, value string) error {
			if !knownFlag(name) {
				return fmt.Errorf("there is no setting %q", name)
			}
			if flags.Lookup(name) == nil || fromLine[name] || fromEnv[name] {
				return nil // another command's, or overridden
			}
			return flags.Set(name, value)
		})
	}
	p.json, _ = flags.GetBool("json")
	cmd.given = make(map[string]string)
	flags.VisitAll(func(f *pflag.Flag) { cmd.given[f.Name] = f.Value.String() })
	return p, err
}

// parseBeforeText reads flags before the first argument and right behind it, up to "--" or the
// first word that is none of the command's. From there on all is text, whatever it looks like.
func parseBeforeText(flags *pflag.FlagSet, line []string) (args []string, err error) {
	flags.SetInterspersed(false)
	if err := flags.Parse(line); err != nil || flags.NArg() == 0 {
		return nil, err
	}
	args, rest := flags.Args()[:1], flags.Args()[1:]
	for flags.ArgsLenAtDash() < 0 {
		words := flagWords(flags, rest)
		if words == 0 {
			break
		}
		if err := flags.Parse(rest[:words]); err != nil {
			return nil, err
		}
		rest = rest[words:]
	}
	return slices.Concat(args, rest), nil
}

// flagWords is how many words the flag at the beginning takes: 0 if there is none, which -h is not.
func flagWords(flags *pflag.FlagSet, words []string) int {
	if len(words) == 0 || !strings.HasPrefix(words[0], "--") || strings.ContainsFunc(words[0], unicode.IsSpace) {
		return 0
	}
	if words[0] == "--" {
		return 1
	}
	name, _, valued := strings.Cut(words[0][2:], "=")
	flag := flags.Lookup(name)
	switch {
	case flag == nil:
		return 0
	case valued || flag.NoOptDefVal != "":
		return 1
	}
	return min(2, len(words))
}

// again reads the settings of a running command once more, into those of fresh, and names what is different there and is not among reloaded.
func (c *command) again(fresh *command, reloaded []string) (differs []string, err error) {
	fresh.line = c.line
	if _, err := settings(fresh, os.LookupEnv); err != nil {
		return nil, err
	}
	for name, value := range fresh.given {
		if value != c.given[name] && !slices.Contains(reloaded, name) {
			differs = append(differs, name)
		}
	}
	slices.Sort(differs)
	return differs, nil
}

func flagSet(cmd *command) *pflag.FlagSet {
	flags := pflag.NewFlagSet(cmd.name, pflag.ContinueOnError)
	flags.SortFlags = false
	flags.Usage = func() {}
	if cmd.flags != nil {
		cmd.flags(flags)
	}
	flags.String("config", "", "read settings from `FILE`: lines of \"name = value\", # begins a comment")
	flags.Bool("json", false, "print one JSON object a line")
	return flags
}

// readFile reads a small file, which may be a pipe, and no more of it than could be meant.
func readFile(name string, most int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(text)) > most {
		err = fmt.Errorf("%s has more than %d KiB: name the right file", name, most>>10)
	}
	return text, err
}

func environmentName(flag string) string {
	return "SOTTO_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// knownFlag reports whether any command has the flag: one file may serve several, and a misspelt name must not pass silently.
func knownFlag(name string) bool {
	for _, cmd := range commands() {
		if flagSet(cmd).Lookup(name) != nil {
			return true
		}
	}
	return false
}

func readConfig(file string, set func(name, value string) error) error {
	text, err := readFile(file, 1<<20)
	if err != nil {
		return usagef("cannot read the configuration: %w", err)
	}
	scanner := bufio.NewScanner(bytes.NewReader(text))
	for number := 1; scanner.Scan(); number++ {
		line := strings.TrimSpace(scanner.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		if !ok {
			return usagef("%s line %d: expected \"name = value\"", file, number)
		}
		if err := set(strings.TrimSpace(name), strings.TrimSpace(value)); err != nil {
			return usagef("%s line %d: %w", file, number, err)
		}
	}
	if err := scanner.Err(); err != nil {
		return usagef("cannot read the configuration: %w", err)
	}
	return nil
}
