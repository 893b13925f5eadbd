package main

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"

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
	err := flags.Parse(cmd.line)
	p.json, _ = flags.GetBool("json")
	p.args = flags.Args()
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
	f, err := os.Open(file)
	if err != nil {
		return usagef("cannot read the configuration: %w", err)
	}
	defer f.Close()
	scanner := bufio.NewScanner(f)
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
