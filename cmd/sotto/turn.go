package main

import (
	"context"

	"github.com/spf13/pflag"
)

func turnCommand() *command {
	var relay relayFlags
	var tlsCert, tlsKey, metrics, ca string
	var check []string
	var verbose bool
	return &command{
		name:    "turn",
		summary: "Run the relay alone, for any WebRTC program",
		help: `
Runs a TURN server (RFC 8656) for calls whose ends do not reach each other. Credentials are the customary time-limited ones, made
by whoever shares the secret: the user name is "expiry:id", the password base64(HMAC-SHA1(secret, user name)). It relays to
globally routable addresses only, unless --relay-allow opens others. SIGHUP reads the certificate files and the secrets again. "sotto serve"
has the same relay inside.

SIGTERM stops in order: new calls are refused, running ones get --drain; /healthz answers 503 "draining" meanwhile. A second
SIGTERM ends them.

To replace the secret without refusing anybody: put a new line first in the file, SIGHUP the relay, then whoever makes credentials;
ten minutes later take the old line out, SIGHUP again.

Examples:
  (umask 077; openssl rand -base64 32 > secret)
  sotto turn --relay-secret-file secret --relay-address 198.51.100.7
  sotto turn --relay-secret-file secret --relay-tls-listen :5349 --tls-cert cert.pem --tls-key key.pem
  sotto turn --check relay.example:3478,turns:relay.example:5349?transport=tcp --relay-secret-file secret
      on another machine: does it relay, over each transport? (also addresses that the relay printed)
  sotto serve --listen :443 --acme sotto.example --no-relay --relay-secret-file secret \
      --relay-url 'turn:relay.example:3478?transport=udp'
      the server that sends its devices to this relay
`,
		flags: func(flags *pflag.FlagSet) {
			relay.define(flags)
			flags.StringVar(&tlsCert, "tls-cert", "", "certificate `FILE` (PEM)")
			flags.StringVar(&tlsKey, "tls-key", "", "its private key `FILE` (PEM)")
			flags.StringSliceVar(&check, "check", nil, "run no relay but try the one at `HOST:PORT` or turn: or turns: URL, over each transport, and say what to do")
			flags.StringVar(&ca, "ca", "", "with --check, trust the certificate authorities in `FILE` (PEM) instead of the system's")
			flags.StringVar(&metrics, "metrics", "127.0.0.1:9464", "answer /metrics and /healthz on this `ADDRESS`, or \"off\"")
			flags.BoolVar(&verbose, "verbose", false, "log more, to standard error; never names, addresses or keys")
		},
		run: func(ctx context.Context, out *output, args []string) error {
			if err := exactly(0, args, "no argument"); err != nil {
				return err
			}
			if relay.secretFile == "" {
				return usagef("--relay-secret-file is missing; make one with: (umask 077; openssl rand -base64 32 > secret)")
			}
			secrets, err := relay.secrets()
			if err != nil {
				return err
			}
			if len(check) > 0 {
				return checkRelay(ctx, out, check, secrets[0], ca)
			}
			certificate, err := certificateFiles(tlsCert, tlsKey)
			if err != nil {
				return err
			}
			log := logger(verbose)
			listener, err := listenMetrics(metrics)
			if err != nil {
				return err
			}
			if listener != nil {
				defer listener.Close()
			}
			server, err := relay.start(secrets, relayTLS(certificate), log)
			if err != nil {
				return err
			}
			if listener != nil {
				go serveMetrics(listener, nil, server)
			}
			relay.say(out, server)
			sayMetrics(out, listener)
			if err := untilStopped(ctx, reloads(certificate, relay.newSecrets(server, nil)), nil, log); err != nil {
				return err
			}
			relay.drainRelay(server, out)
			out.say(map[string]string{"event": "stopping"}, "stopping")
			return stopRelay(server)
		},
	}
}
