package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"sotto/client"
)

// accountFlags say which account a command works with. Each is a directory; by default all of a person's accounts lie
// side by side in $XDG_DATA_HOME/sotto, named by their user names.
type accountFlags struct {
	as        string
	directory string
}

func (a *accountFlags) define(flags *pflag.FlagSet) {
	flags.StringVar(&a.as, "as", "", "the account of `USER`, one of yours (needed when there are several)")
	flags.StringVar(&a.directory, "account", "", "the account in `DIR` (default $XDG_DATA_HOME/sotto/USER, or ~/.local/share/sotto/USER)")
}

// find names the directory of an account that was registered before.
func (a *accountFlags) find() (string, error) {
	if a.directory != "" {
		if _, err := os.Stat(a.directory); err != nil {
			return "", fmt.Errorf("there is no account in %s; make one with: sotto register USER --account %s", a.directory, a.directory)
		}
		return a.directory, nil
	}
	home, err := accountsHome()
	if err != nil {
		return "", err
	}
	if a.as != "" {
		if err := checkName(a.as); err != nil {
			return "", err
		}
		directory := filepath.Join(home, a.as)
		if _, err := os.Stat(directory); err != nil {
			return "", fmt.Errorf("you have no account %q; make one with: sotto register %s", a.as, a.as)
		}
		return directory, nil
	}

	var names []string
	entries, _ := os.ReadDir(home)
	for _, entry := range entries {
		// What a refused registration leaves behind has no records.
		if records, _ := os.ReadDir(filepath.Join(home, entry.Name(), "state")); len(records) > 0 {
			names = append(names, entry.Name())
		}
	}
	switch len(names) {
	case 0:
		return "", fmt.Errorf("you have no account yet; make one with: sotto register USER --server URL --invitation TOKEN")
	case 1:
		return filepath.Join(home, names[0]), nil
	}
	return "", usagef("you have the accounts %s: choose one with --as USER", strings.Join(names, ", "))
}

// make names the directory of a new account.
func (a *accountFlags) make(username string) (string, error) {
	if a.directory != "" {
		return a.directory, nil
	}
	if err := checkName(username); err != nil {
		return "", err
	}
	home, err := accountsHome()
	return filepath.Join(home, username), err
}

// checkName refuses what would lead out of the directory of accounts.
func checkName(username string) error {
	if username == "." || username == ".." || filepath.Base(username) != username {
		return usagef("%q is no user name; name a directory with --account", username)
	}
	return nil
}

func accountsHome() (string, error) {
	data, err := dataHome()
	return filepath.Join(data, "sotto"), err
}

// dataHome is the XDG base directory for data.
func dataHome() (string, error) {
	if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return dir, nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("no home directory is known; name a directory with --account or --data")
	}
	return filepath.Join(home, ".local", "share"), nil
}

// clientFlags are the settings of every command that opens an account.
type clientFlags struct {
	account        accountFlags
	keyFile        string
	passphraseFile string
	ca             string
	insecurePlain  bool
	verbose        bool
}

func (c *clientFlags) define(flags *pflag.FlagSet) {
	c.account.define(flags)
	flags.StringVar(&c.keyFile, "key-file", "", "what opens the account is in `FILE` (default: the file \"key\" in its directory)")
	flags.StringVar(&c.passphraseFile, "passphrase-file", "", "the first line of `FILE` opens the account; - asks on the terminal")
	flags.StringVar(&c.ca, "ca", "", "trust the certificate authorities in `FILE` (PEM) instead of the system's; remembered by a new account")
	flags.BoolVar(&c.insecurePlain, "insecure-plain", false, "allow links without TLS to a server on another machine")
	flags.BoolVar(&c.verbose, "verbose", false, "log to standard error; never names, addresses or keys")
}

// options are those of an account that lies in a directory, or will, if it is new.
func (c *clientFlags) options(out *output, directory string, isNew bool) (client.Options, error) {
	options := client.Options{AllowPlain: c.insecurePlain, Logger: out.personsLogger(c.verbose)}
	switch {
	case c.keyFile != "" && c.passphraseFile != "":
		return options, usagef("--key-file and --passphrase-file exclude each other")
	case c.keyFile != "":
		options.Key = client.KeyFile(c.keyFile)
	case c.passphraseFile != "":
		passphrase, err := readPassphrase(out, c.passphraseFile, isNew)
		if err != nil {
			return options, err
		}
		options.Key = client.Passphrase(passphrase)
	}
	file := c.ca
	if remembered := filepath.Join(directory, rememberedCA); file == "" && !isNew && exists(remembered) {
		file = remembered
	}
	if file != "" {
		roots, err := authorities(file)
		if err != nil {
			return options, err
		}
		options.TLS = &tls.Config{RootCAs: roots}
	}
	return options, nil
}

// rememberedCA is the copy of --ca in the directory of the account that was made with it.
const rememberedCA = "ca.pem"

// remember keeps what a new account was made with.
func (c *clientFlags) remember(out *output, directory string) {
	if c.ca == "" {
		return
	}
	pem, err := readFile(c.ca, maxAuthorities)
	if err == nil {
		err = writeOnce(filepath.Join(directory, rememberedCA), pem)
	}
	if err != nil {
		out.warn(linkLine{"ca_not_remembered", err.Error()}, "--ca is not remembered, give it again each time: %s", err)
	}
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

const maxAuthorities = 4 << 20

func authorities(file string) (*x509.CertPool, error) {
	pem, err := readFile(file, maxAuthorities)
	if err != nil {
		return nil, fmt.Errorf("cannot read the certificate authorities: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate in PEM form", file)
	}
	return roots, nil
}

// readPassphrase reads a line, without echo from the terminal. One that is new is asked for twice.
func readPassphrase(out *output, file string, isNew bool) ([]byte, error) {
	if file == "-" {
		if !out.from.asks() {
			return nil, usagef("there is no terminal to ask for the passphrase on; put it into a file of yours alone and name that")
		}
		passphrase, err := askPassphrase(out, "Passphrase: ")
		if err != nil || !isNew {
			return passphrase, err
		}
		again, err := askPassphrase(out, "The same again: ")
		if err == nil && !bytes.Equal(passphrase, again) {
			err = errors.New("the two passphrases differ: try again")
		}
		return passphrase, err
	}
	text, err := readFile(file, 64<<10)
	if err != nil {
		return nil, fmt.Errorf("cannot read the passphrase: %w", err)
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	return bytes.TrimSuffix(line, []byte("\r")), nil
}

func askPassphrase(out *output, question string) ([]byte, error) {
	out.prompt("%s", question)
	passphrase, err := term.ReadPassword(int(out.from.stdin.Fd()))
	out.prompt("\n")
	if err != nil {
		return nil, fmt.Errorf("cannot read the passphrase: %w", err)
	}
	return passphrase, nil
}
