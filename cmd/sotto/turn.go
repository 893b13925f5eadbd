package main

import (
	"context"
	"crypto/tls"
	"os"

	"github.com/spf13/pflag"
)

// turnFlags are the settings of a relay alone, in the order of the help text.
type turnFlags struct {
	relay    relayFlags
	tlsCert  string
	tlsKey   string
	check    []string
	hashUser string
	ca       string
	metrics  string
	verbose  bool
}

func turnCommand() *command { return new(turnFlags).command() }

func (f *turnFlags) command() (cmd *command) {
	cmd = &command{
		name:    "turn",
		summary: "Run the relay alone, for any WebRTC program",
		help: `
Runs a TURN server (RFC 8656) for calls whose ends do not reach each other. Credentials are the customary time-limited ones, made
by whoever shares the secret: the user name is "expiry:id", the password base64(HMAC-SHA1(secret, user name)). It relays to
globally routable addresses only, unless --relay-allow opens others. "sotto serve" has the same relay inside.
User names "id:expiry" and "expiry", and HMAC-SHA256, are good too; and so are lasting names and
passwords (--relay-user).

SIGHUP reads again, and no call ends: the certificate files, the secrets, and from --config relay-allow, relay-allocations, relay-per-user,
relay-per-address, relay-connections, relay-connections-per-address and drain. The log names what else is different and needs a restart.
It also reads relay-user and the files named there; who is gone, or has another password, loses
running calls.

SIGTERM stops in order: new calls are refused, running ones get --drain; /healthz answers 503 "draining" meanwhile. A second
SIGTERM ends them.

To replace the secret without refusing anybody: put a new line first in the file, SIGHUP the relay, then whoever makes credentials;
ten minutes later take the old line out, SIGHUP again.

Examples:
  (umask 077; openssl rand -base64 32 > secret)
  sotto turn --relay-secret-file secret --relay-address 198.51.100.7
  sotto turn --relay-secret-file secret --relay-tls-listen :5349 --tls-cert cert.pem --tls-key key.pem
  sotto turn --hash-user alice > alice.key; chmod 600 alice.key
  sotto turn --relay-user alice:alice.key --relay-address 198.51.100.7
      for programs that know lasting passwords only
  sotto turn --check relay.example:3478,turns:relay.example:5349?transport=tcp --relay-secret-file secret
      on another machine: does it relay, over each transport? (also addresses that the relay printed)
  sotto serve --listen :443 --acme sotto.example --no-relay --relay-secret-file secret \
      --relay-url 'turn:relay.example:3478?transport=udp'
      the server that sends its devices to this relay
`,
		flags: func(flags *pflag.FlagSet) {
			f.relay.define(flags)
			flags.StringVar(&f.tlsCert, "tls-cert", "", "certificate `FILE` (PEM)")
			flags.StringVar(&f.tlsKey, "tls-key", "", "its private key `FILE` (PEM)")
			flags.StringSliceVar(&f.check, "check", nil, "run no relay but try the one at `HOST:PORT` or turn: or turns: URL, over each transport, and say what to do")
			flags.StringVar(&f.hashUser, "hash-user", "",
				"run no relay but print the key of user `NAME` for the password on standard input, for "+
					"--relay-user")
			flags.StringVar(&f.ca, "ca", "", "with --check, trust the certificate authorities in `FILE` (PEM) instead of the system's")
			flags.StringVar(&f.metrics, "metrics", "127.0.0.1:9464", "answer /metrics and /healthz on this `ADDRESS`, or \"off\"")
			flags.BoolVar(&f.verbose, "verbose", false, "log more, to standard error; never names, addresses or keys")
		},
		run: func(ctx context.Context, out *output, args []string) error {
			if err := exactly(0, args, "no argument"); err != nil {
				return err
			}
			return f.run(ctx, out, cmd)
		},
	}
	return cmd
}

func (f *turnFlags) run(ctx context.Context, out *output, cmd *command) error {
	if f.hashUser != "" {
		return hashUser(out, os.Stdin, f.hashUser)
	}
	if f.relay.secretFile == "" && len(f.relay.users) == 0 && len(f.check) == 0 {
		return usagef("--relay-secret-file is missing; make one with: (umask 077; openssl rand -base64 32 > secret)")
	}
	var secrets [][]byte
	var err error
	if f.relay.secretFile != "" {
		if secrets, err = f.relay.secrets(); err != nil {
			return err
		}
	}
	if len(f.check) > 0 {
		credential, err := f.relay.checkCredential(secrets)
		if err != nil {
			return err
		}
		return checkRelay(ctx, out, f.check, credential, f.ca)
	}
	certificate, err := certificateFiles(f.tlsCert, f.tlsKey)
	if err != nil {
		return err
	}
	log := out.logger(f.verbose)
	warnOfGap(certificate, log)
	listener, err := listenMetrics(f.metrics)
	if err != nil {
		return err
	}
	if listener != nil {
		defer listener.Close()
	}
	var shown *tls.Config
	if certificate != nil {
		shown = relayTLS(certificate.Get)
	}
	server, err := f.relay.start(secrets, shown, log)
	if err != nil {
		return err
	}
	if listener != nil {
		go serveMetrics(listener, nil, server)
	}
	name := nameIn(certificate)
	f.relay.announce(out, server, name)
	urls := func() []string { return f.relay.urls(server, name) }
	go followMoves(out, server.Moved(), urls, func([]string) error { return nil })
	sayMetrics(out, listener)
	newSettings := func() error {
		var now turnFlags
		differs, err := cmd.again(now.command(), reloadedFlags)
		if err != nil {
			return err
		}
		return f.relay.take(server, &now.relay, differs)
	}
	again := reloads(certificate, newSettings, f.relay.newSecrets(server, nil))
	if err := untilStopped(ctx, again, nil, out, log); err != nil {
		return err
	}
	f.relay.drainRelay(server, out)
	out.say(map[string]string{"event": "stopping"}, "stopping")
	return stopRelay(server)
}
