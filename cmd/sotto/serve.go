package main

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"sotto/internal/visible"
	"sotto/signaling"
	"sotto/turnserver"
	"sotto/wire"
)

// serveFlags are the settings of a server, in the order of the help text.
type serveFlags struct {
	listen        string
	data          string
	names         []string
	open          bool
	tlsCert       string
	tlsKey        string
	acme          []string
	acmeEmail     string
	acmeDirectory string
	insecurePlain bool
	proxies       []string
	noRelay       bool
	relayURLs     []string
	relay         relayFlags
	metrics       string
	verbose       bool
}

func serveCommand() *command { return new(serveFlags).command() }

func (f *serveFlags) command() (cmd *command) {
	cmd = &command{
		name:    "serve",
		summary: "Run a server, with a relay inside",
		help: `
Runs the signaling server, which carries sealed envelopes, and the relay, which carries sealed packets. On the first start it
prints an invitation for two accounts; more come from "sotto invite". SIGHUP reads the certificate files and
the file of the relay's secrets again, and --config for the relay's settings, as "sotto turn --help" says.

Examples:
  sotto serve --listen 127.0.0.1:8080
      to try it on one machine; plain, as nothing leaves it
  sotto serve --listen :443 --acme sotto.example --relay-address 198.51.100.7
      on the internet, with a certificate from Let's Encrypt; open TCP 443, UDP and TCP 3478, and UDP 49152 to 65535
  sotto serve --listen :443 --acme sotto.example --relay-tls-listen :443
      the relay answers on TCP 443 too (TURN over TLS), which more firewalls let through
  sotto serve --listen :443 --name sotto.example --tls-cert cert.pem --tls-key key.pem --no-relay
      with certificate files, and no relay
  sotto serve --config /etc/sotto.conf
      where the file says, for instance:  listen = :443
                                          acme = sotto.example
                                          relay-address = 198.51.100.7
`,
		flags: func(flags *pflag.FlagSet) {
			flags.StringVar(&f.listen, "listen", "127.0.0.1:8080", "the `ADDRESS` devices connect to")
			flags.StringVar(&f.data, "data", "", "keep accounts and mailboxes in `DIR` (default $XDG_DATA_HOME/sotto-server, or ~/.local/share/sotto-server)")
			flags.StringSliceVar(&f.names, "name", nil, "the host `NAME`s or addresses by which devices know this server (default: those of --acme, --listen)")
			flags.BoolVar(&f.open, "open", false, "let anyone register, without an invitation")
			flags.StringVar(&f.tlsCert, "tls-cert", "", "certificate `FILE` (PEM)")
			flags.StringVar(&f.tlsKey, "tls-key", "", "its private key `FILE` (PEM)")
			flags.StringSliceVar(&f.acme, "acme", nil, "get a certificate for these host `NAME`s from Let's Encrypt, accepting its terms")
			flags.StringVar(&f.acmeEmail, "acme-email", "", "`ADDRESS` for its expiry notices")
			flags.StringVar(&f.acmeDirectory, "acme-directory", "", "another ACME directory's `URL`")
			flags.BoolVar(&f.insecurePlain, "insecure-plain", false, "serve without TLS although --listen is not loopback")
			flags.StringSliceVar(&f.proxies, "proxy-protocol", nil,
				"connections to --listen from these ranges (`CIDR`) name their client "+
					"by the PROXY protocol")
			flags.BoolVar(&f.noRelay, "no-relay", false, "run no relay: calls work only where devices reach each other")
			flags.StringSliceVar(&f.relayURLs, "relay-url", nil, "send devices to a relay elsewhere (\"sotto turn\") by its `URL`, and run none here")
			f.relay.define(flags)
			flags.StringVar(&f.metrics, "metrics", "127.0.0.1:9464", "answer /metrics and /healthz on this `ADDRESS`, or \"off\"")
			flags.BoolVar(&f.verbose, "verbose", false, "log more, to standard error; never names, addresses or keys")
		},
		run: func(ctx context.Context, out *output, args []string) error {
			if err := exactly(0, args, "no argument"); err != nil {
				return err
			}
			return serve(ctx, out, *f, cmd)
		},
	}
	return cmd
}

// serve starts everything from the inside out, so that nothing answers before what it needs is there, and nothing is changed
// if an address is in use:
//
//  1. bind the addresses
//  2. start the relay
//  3. open the store and the server behind the bound address
//  4. open the control socket and the metrics, and say where everything is
//  5. on a signal, let relayed calls end, then take it all down in the reverse order
func serve(ctx context.Context, out *output, f serveFlags, cmd *command) (err error) {
	data, err := serverData(f.data)
	if err != nil {
		return err
	}
	first := firstStart(data)
	log := out.logger(f.verbose)
	var undo cleanup
	defer func() { err = errors.Join(err, undo.run()) }()

	certificate, err := certificateFiles(f.tlsCert, f.tlsKey)
	if err != nil {
		return err
	}
	warnOfGap(certificate, log)
	listener, err := f.bind(data, certificate, log)
	if err != nil {
		return err
	}
	undo.add(listener.Shutdown)
	metrics, err := listenMetrics(f.metrics)
	if err != nil {
		return err
	}
	if metrics != nil {
		undo.add(func(context.Context) error { return metrics.Close() })
	}
	names, err := f.serverNames()
	shown := certificate
	if len(f.names) == 0 && loopbackAddress(f.listen) {
		shown = nil // nobody said that this machine goes by all of its own names
	}
	if err := cmp.Or(err, checkNames(names, shown)); err != nil {
		return err
	}

	if !f.noRelay && len(f.relayURLs) == 0 {
		if err := f.relay.keepSecret(data); err != nil {
			return err
		}
	}
	relay, relayConfig, err := f.startRelay(names[0], listener, log)
	if err != nil {
		return err
	}
	if relay != nil {
		undo.add(func(context.Context) error { return stopRelay(relay) })
		if f.relay.sharedPort != "" {
			listener.Share(relay.ServeConn)
		}
	}

	server, err := signaling.New(signaling.Config{
		DataDir: data, Names: names, OpenRegistration: f.open, Relay: relayConfig, Logger: log,
	})
	if err != nil {
		return err
	}
	undo.add(server.Shutdown)
	stopControl, err := serveControl(data, server)
	if err != nil {
		return err
	}
	undo.add(stopControl)

	failed := make(chan error, 2)
	go func() { failed <- listener.Serve(server.Handler()) }()
	if metrics != nil {
		go func() { failed <- serveMetrics(metrics, server, relay) }()
	}
	out.say(serverLine{"server", listener.URL(names[0]), names, data}, "server at %s, data in %s", listener.URL(names[0]), data)
	if relay != nil {
		f.relay.announce(out, relay, names[0])
		urls := func() []string { return f.relay.urls(relay, names[0]) }
		go followMoves(out, relay.Moved(), urls, server.SetRelayURLs)
	}
	sayMetrics(out, metrics)
	if first && !f.open {
		made, err := invite(server.NewInvitation, 24*time.Hour, 2)
		if err != nil {
			return err
		}
		out.say(made, "invitation %s, for two accounts, within 24 hours; more: %s", made.Token, inviteHint(f.data))
		sayRegister(out, certificate, listener.URL(names[0]), made.Token)
	}
	newSecrets := f.relay.newSecrets(relay, server)
	if relayConfig == nil {
		newSecrets = nil
	}
	newSettings := func() error {
		var now serveFlags
		differs, err := cmd.again(now.command(), reloadedFlags)
		if err != nil {
			return err
		}
		now.loopback()
		now.share()
		return f.relay.take(relay, &now.relay, differs)
	}
	if err := untilStopped(ctx, reloads(certificate, newSettings, newSecrets), failed, out, log); err != nil {
		return err
	}
	if relay != nil { // before anything else: its calls need the server
		f.relay.drainRelay(relay, out)
	}
	out.say(map[string]string{"event": "stopping"}, "stopping; what was accepted is kept. A second signal stops at once.")
	return nil
}

// sayRegister prints the command for those who are invited.
func sayRegister(out *output, certificate *signaling.CertificateFiles, url, token string) {
	var ca, note visible.Text
	if needsAuthority(certificate) {
		ca = visible.Sprintf(" --ca FILE")
		note = visible.Sprintf("(FILE: the certificate of the authority behind --tls-cert; give it to " +
			"those whom you invite)\n")
	}
	out.say(nil, "\n  %s register USER --server %s%s --invitation %s\n%s", self(), url, ca, token,
		note)
}

type serverLine struct {
	Event string   `json:"event"` // "server"
	URL   string   `json:"url"`
	Names []string `json:"names"`
	Data  string   `json:"data"`
}

func inviteHint(data string) string {
	if data == "" {
		return self() + " invite"
	}
	return self() + " invite --data " + data
}

func (f *serveFlags) bind(data string, certificate *signaling.CertificateFiles, log *slog.Logger) (*signaling.Listener, error) {
	plain := certificate == nil && len(f.acme) == 0
	if plain && !f.insecurePlain && !loopbackAddress(f.listen) {
		return nil, usagef("%s is reachable by others: give --tls-cert and --tls-key, or --acme, or allow links without TLS by --insecure-plain", f.listen)
	}
	var proxies []netip.Prefix
	for _, text := range f.proxies {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil {
			return nil, usagef("--proxy-protocol %q is no range, for instance 192.0.2.10/32", text)
		}
		proxies = append(proxies, prefix)
	}
	listener, err := signaling.Listen(signaling.ListenConfig{
		Address: f.listen, Certificate: certificate,
		ACME: f.acme, ACMEDir: filepath.Join(data, "acme"), ACMEEmail: f.acmeEmail, ACMEDirectory: f.acmeDirectory,
		InsecurePlain: f.insecurePlain, Proxies: proxies, Logger: log,
	})
	return listener, addressError(err, f.listen, "--listen")
}

// serverNames are the names devices may sign for this server, the one to tell people first.
func (f *serveFlags) serverNames() ([]string, error) {
	host, _, _ := net.SplitHostPort(f.listen)
	ip := net.ParseIP(host)
	switch {
	case len(f.names) > 0:
		return f.names, nil
	case len(f.acme) > 0:
		return f.acme, nil
	case loopbackAddress(f.listen):
		return []string{host, "127.0.0.1", "localhost", "::1"}, nil
	case host == "" || ip.IsUnspecified():
		return nil, usagef("say by which name or address devices reach this server: --name sotto.example")
	}
	return []string{host}, nil
}

// checkNames refuses names that no device could verify.
func checkNames(names []string, certificate *signaling.CertificateFiles) error {
	for _, name := range names {
		bare := strings.Trim(name, "[]")
		if is, err := wire.ServerName(name); err != nil || !strings.EqualFold(is, bare) && net.ParseIP(bare) == nil {
			return usagef("--name %q is no host name or address: give it without https:// and port, for instance sotto.example", name)
		}
		if certificate == nil {
			continue
		}
		shown, err := certificate.Get(nil)
		if err != nil {
			return err
		}
		leaf, err := x509.ParseCertificate(shown.Certificate[0])
		if err != nil {
			return err
		}
		if err := leaf.VerifyHostname(bare); err != nil {
			return usagef("devices that know this server as %s would refuse its certificate (--tls-cert): %w", name, err)
		}
	}
	return nil
}

// startRelay starts the relay inside, or names the one elsewhere, or neither.
func (f *serveFlags) startRelay(
	name string, listener *signaling.Listener, log *slog.Logger,
) (*turnserver.Server, *signaling.RelayConfig, error) {
	if len(f.relayURLs) > 0 && f.relay.secretFile == "" {
		return nil, nil, usagef("--relay-url needs the secret shared with that relay: --relay-secret-file FILE")
	}
	if f.noRelay && len(f.relayURLs) == 0 {
		return nil, nil, nil
	}
	secrets, err := f.relay.secrets()
	if err != nil {
		return nil, nil, err
	}
	if len(f.relayURLs) > 0 {
		return nil, &signaling.RelayConfig{URLs: f.relayURLs, Secret: secrets[0]}, nil
	}
	f.loopback()
	f.share()
	if f.relay.sharedPort != "" && listener.GetCertificate() == nil {
		return nil, nil, usagef("--relay-tls-listen %s is the address of --listen, which has no TLS: "+
			"give it a certificate", f.listen)
	}
	relay, err := f.relay.start(secrets, relayTLS(listener.GetCertificate()), log)
	if err != nil {
		return nil, nil, err
	}
	return relay, &signaling.RelayConfig{URLs: f.relay.urls(relay, name), Secret: secrets[0]}, nil
}

// share has TURN over TLS come to the server's own port, where the relay is told to listen there.
func (f *serveFlags) share() {
	own, port, err := net.SplitHostPort(f.listen)
	if err != nil || port == "0" {
		return
	}
	f.relay.tlsListen = slices.DeleteFunc(f.relay.tlsListen, func(address string) bool {
		host, asked, err := net.SplitHostPort(address)
		same := err == nil && asked == port && (host == own || wildcard(host) && wildcard(own))
		if same {
			f.relay.sharedPort = port
		}
		return same
	})
}

func wildcard(host string) bool { return host == "" || net.ParseIP(host).IsUnspecified() }

// loopback makes the relay of a server for trials one for trials.
func (f *serveFlags) loopback() {
	if loopbackAddress(f.listen) {
		f.relay.onLoopback()
	}
}
