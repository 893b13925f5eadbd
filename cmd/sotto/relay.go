package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"sotto/internal/visible"
	"sotto/signaling"
	"sotto/turnserver"
)

// relayFlags are the relay's settings, the same for the relay inside "sotto serve" and for "sotto turn" alone.
type relayFlags struct {
	listen     []string
	tlsListen  []string
	dtlsListen []string
	external   []string
	ports      string
	allow      []string
	proxies    []string
	secretFile string
	users      []string
	drain      time.Duration
	dataPlane  string
	offload    string
	sharedPort string // of the server, where clients of the relay come too

	allocations, perUser, perAddress           int
	connections, connectionsPerAddress         int
	bandwidth, userBandwidth, addressBandwidth int // bytes a second
	userPackets, addressPackets                int // a second
}

func (r *relayFlags) define(flags *pflag.FlagSet) {
	flags.StringSliceVar(&r.listen, "relay-listen", nil, "`ADDRESS`es of the relay, UDP and TCP (default :3478; with a server on loopback a free port there)")
	flags.StringSliceVar(&r.tlsListen, "relay-tls-listen", nil,
		"`ADDRESS`es of the relay for TLS, with the server's certificate, for instance :5349; "+
			"or that of --listen, to share it")
	flags.StringSliceVar(&r.dtlsListen, "relay-dtls-listen", nil, "`ADDRESS`es of the relay for DTLS, TLS over UDP, likewise")
	flags.StringSliceVar(&r.external, "relay-address", nil, "the `IP` the internet knows this machine by, where it is not the machine's own")
	flags.StringVar(&r.ports, "relay-ports", "49152-65535", "UDP ports for relayed traffic, as `FIRST-LAST`; open them in the firewall")
	flags.StringSliceVar(&r.allow, "relay-allow", nil, "let the relay reach these ranges (`CIDR`) although they are not public, for instance 10.0.0.0/8")
	flags.StringSliceVar(&r.proxies, "relay-proxy", nil, "connections from these ranges (`CIDR`) name their client by the PROXY protocol")
	flags.StringVar(&r.secretFile, "relay-secret-file", "", "the secrets that credentials are made from, shared with whoever makes them, one a line, # begins a comment, in `FILE`, which others must not read: credentials are made from the first, and good with any; SIGHUP reads it again")
	flags.StringSliceVar(&r.users, "relay-user", nil,
		"somebody with a lasting password, as `NAME:KEYFILE`: the first line of that file is the "+
			"password, or its key as \"sotto turn --hash-user\" prints it; SIGHUP reads it again, and "+
			"ends the calls of who is gone")
	flags.StringVar(&r.dataPlane, "relay-data-plane", "auto", "how packets are carried: `auto`, the fastest way that this system has, or portable")
	flags.StringVar(&r.offload, "offload", "off", "let the network driver (XDP) carry packets of calls, past the packet filter: `auto`, where it can; required; or off")
	flags.IntVar(&r.allocations, "relay-allocations", 0, "how many allocations there may be (default 10000)")
	flags.IntVar(&r.perUser, "relay-per-user", 0, "how many of them one user may hold (default 32)")
	flags.IntVar(&r.perAddress, "relay-per-address", 0, "how many one client address, an IPv6 /64, may hold (default 256)")
	flags.IntVar(&r.connections, "relay-connections", 0, "how many TCP, TLS and DTLS connections there may be (default 10000)")
	flags.IntVar(&r.connectionsPerAddress, "relay-connections-per-address", 0, "how many of them one client address may hold (default 256)")
	flags.DurationVar(&r.drain, "drain", 5*time.Second, "how long running relayed calls may go on after the signal to stop, for instance 1h")
	flags.IntVar(&r.bandwidth, "relay-bandwidth", 0, "bytes a second that one allocation may relay each way (default: any number)")
	flags.IntVar(&r.userBandwidth, "relay-user-bandwidth", 0, "likewise all allocations of one user together")
	flags.IntVar(&r.addressBandwidth, "relay-address-bandwidth", 0, "likewise those of one client address, of an IPv6 /64")
	flags.IntVar(&r.userPackets, "relay-user-packets", 0, "packets a second that one user may relay each way (default: any number)")
	flags.IntVar(&r.addressPackets, "relay-address-packets", 0, "likewise one client address, an IPv6 /64")
}

// onLoopback makes a relay for trials, unless told to listen elsewhere: on loopback, where the other end of a call is relayed too. Only the addresses it
// listens on are opened, and at them the relay reaches nothing but relayed ports.
func (r *relayFlags) onLoopback() {
	if len(r.listen) == 0 {
		r.listen = []string{"127.0.0.1:0"}
	}
	for _, address := range slices.Concat(r.listen, r.tlsListen, r.dtlsListen) {
		if at, err := netip.ParseAddrPort(address); err == nil && at.Addr().IsLoopback() {
			own := at.Addr().Unmap()
			r.allow = append(r.allow, netip.PrefixFrom(own, own.BitLen()).String())
		}
	}
}

func (r *relayFlags) start(secrets [][]byte, certificate *tls.Config, log *slog.Logger) (*turnserver.Server, error) {
	config, err := r.config()
	if err != nil {
		return nil, err
	}
	if len(r.tlsListen)+len(r.dtlsListen) > 0 && certificate == nil {
		return nil, usagef("--relay-tls-listen and --relay-dtls-listen need --tls-cert and --tls-key, " +
			"or --acme")
	}
	config.Secrets, config.TLSConfig, config.Logger = secrets, certificate, log
	server, err := turnserver.New(config)
	if external := (*turnserver.ExternalError)(nil); errors.As(err, &external) {
		return nil, externalError(external)
	}
	if errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EACCES) { // it says which address
		err = fmt.Errorf("%w (the relay's addresses: --relay-listen, --relay-tls-listen, --relay-dtls-listen)", err)
	}
	return server, err
}

// externalError names the flags that give a relay an address which its clients reach.
func externalError(e *turnserver.ExternalError) error {
	bits := 24 // a usual size of private networks
	switch {
	case e.Address.IsLoopback():
		bits = e.Address.BitLen()
	case e.Address.Is6():
		bits = 64
	}
	network := netip.PrefixFrom(e.Address, bits).Masked()
	if e.Given {
		return fmt.Errorf("--relay-address %s is no address that the internet reaches: give one that is, "+
			"or for a relay of your own network (LAN, VPN) open that network as well, for instance "+
			"--relay-allow %s", e.Address, network)
	}
	return fmt.Errorf("the relay would be at %s, which the internet does not reach: give the address "+
		"that the internet knows this machine by with --relay-address, or for a relay of your own "+
		"network (LAN, VPN) open that network, for instance --relay-allow %s", e.Address, network)
}

// config are the settings, without secrets, certificate and logger.
func (r *relayFlags) config() (config turnserver.Config, err error) {
	if r.drain < 0 {
		return config, usagef("--drain %v is less than nothing", r.drain)
	}
	config = turnserver.Config{
		UDP: r.listen, TCP: r.listen, TLS: r.tlsListen, DTLS: r.dtlsListen,
		DataPlane: r.dataPlane, Dedicated: true, Offload: r.offload,
		MaxAllocations: r.allocations, MaxPerUser: r.perUser, MaxPerAddress: r.perAddress,
		MaxConnections: r.connections, MaxConnectionsPerAddress: r.connectionsPerAddress,
		Bandwidth: r.bandwidth, UserBandwidth: r.userBandwidth, AddressBandwidth: r.addressBandwidth,
		UserPackets: r.userPackets, AddressPackets: r.addressPackets,
	}
	if len(r.listen) == 0 {
		config.UDP, config.TCP = []string{":3478"}, []string{":3478"}
	}
	if config.RelayPorts, err = portRange(r.ports); err != nil {
		return config, err
	}
	for _, text := range r.external {
		address, err := netip.ParseAddr(strings.TrimSpace(text))
		if err != nil {
			return config, usagef("--relay-address %q is not an IP address", text)
		}
		config.External = append(config.External, address)
	}
	for _, text := range r.allow {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil {
			return config, usagef("--relay-allow %q is not a range, for instance 10.0.0.0/8", text)
		}
		config.AllowPeers = append(config.AllowPeers, prefix)
	}
	for _, text := range r.proxies {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(text))
		if err != nil {
			return config, usagef("--relay-proxy %q is not a range, for instance 192.0.2.10/32", text)
		}
		config.Proxies = append(config.Proxies, prefix)
	}
	config.Users, err = r.keys()
	return config, err
}

func portRange(text string) (turnserver.PortRange, error) {
	first, last, found := strings.Cut(text, "-")
	low, err := strconv.ParseUint(strings.TrimSpace(first), 10, 16)
	high, err2 := strconv.ParseUint(strings.TrimSpace(last), 10, 16)
	if !found || err != nil || err2 != nil || low == 0 || low > high {
		return turnserver.PortRange{},
			usagef("--relay-ports %q is not FIRST-LAST, for instance 49152-65535", text)
	}
	return turnserver.PortRange{Min: uint16(low), Max: uint16(high)}, nil
}

// urls are what clients are told. Over TLS and DTLS they check the name in the certificate, so they
// are given that, if there is one.
func (r *relayFlags) urls(server *turnserver.Server, name string) []string {
	urls := server.URLs()
	if name == "" {
		return urls
	}
	if r.sharedPort != "" {
		urls = append(urls, "turns:"+net.JoinHostPort(name, r.sharedPort)+"?transport=tcp")
	}
	for i, url := range urls {
		if at, secured := strings.CutPrefix(url, "turns:"); secured {
			at, query, _ := strings.Cut(at, "?")
			_, port, _ := net.SplitHostPort(at)
			urls[i] = "turns:" + net.JoinHostPort(name, port) + "?" + query
		}
	}
	return urls
}

// secrets reads the shared secrets, the one to make credentials from first; or makes one up for a relay that nobody else makes credentials for.
func (r *relayFlags) secrets() ([][]byte, error) {
	if r.secretFile == "" {
		secret := make([]byte, 32)
		rand.Read(secret)
		return [][]byte{secret}, nil
	}
	text, err := readPrivate(r.secretFile)
	if err != nil {
		return nil, fmt.Errorf("cannot read the relay's secret: %w", err)
	}
	var secrets [][]byte
	for line := range bytes.Lines(text) {
		if secret := bytes.TrimSpace(line); len(secret) > 0 && secret[0] != '#' { // a comment, as in --config
			secrets = append(secrets, secret)
		}
	}
	if len(secrets) == 0 {
		return nil, fmt.Errorf("%s holds no secret; make one with: openssl rand -base64 32", r.secretFile)
	}
	return secrets, nil
}

// keepSecret names the file in a server's data directory as that of the relay's secrets, unless the
// operator has named one, and makes it at the first start: with a new secret at each start every
// call that runs through the relay would end with it.
func (r *relayFlags) keepSecret(data string) error {
	if r.secretFile != "" {
		return nil
	}
	r.secretFile = filepath.Join(data, "relay-secret")
	if _, err := os.Lstat(r.secretFile); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(data, 0o700); err != nil {
		return fmt.Errorf("cannot keep the relay's secret: %w", err)
	}
	secret := make([]byte, 32)
	rand.Read(secret)
	err := writeOnce(r.secretFile, base64.StdEncoding.AppendEncode(nil, secret))
	if err != nil && !errors.Is(err, fs.ErrExist) { // another process was faster
		return fmt.Errorf("cannot keep the relay's secret: %w", err)
	}
	return nil
}

// writeOnce makes a file, whole or not at all, unless there is one.
func writeOnce(file string, content []byte) error {
	made, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*") // of mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(made.Name())
	_, err = made.Write(content)
	if err = errors.Join(err, made.Sync(), made.Close()); err != nil {
		return err
	}
	return os.Link(made.Name(), file)
}

// newSecrets reads the file again for those who use it: first the relay, which then knows what the server makes credentials from. Either may be nil.
func (r *relayFlags) newSecrets(relay *turnserver.Server, minter *signaling.Server) func() error {
	if r.secretFile == "" {
		return nil
	}
	return func() error {
		secrets, err := r.secrets()
		if err == nil && relay != nil {
			err = relay.SetSecrets(secrets)
		}
		if err == nil && minter != nil {
			err = minter.SetRelaySecret(secrets[0])
		}
		return err
	}
}

// reloadedFlags hold from the next SIGHUP on.
var reloadedFlags = []string{
	"relay-user", "relay-allow", "relay-allocations", "relay-per-user", "relay-per-address",
	"relay-connections", "relay-connections-per-address", "drain",
}

// take has a relay take over what the settings are now, as far as it can. The relay may be nil. differs is what only a restart changes.
func (r *relayFlags) take(relay *turnserver.Server, now *relayFlags, differs []string) error {
	config, err := now.config()
	if err != nil {
		return err
	}
	if relay != nil {
		err = relay.Reload(config)
	}
	if err != nil && !errors.Is(err, turnserver.ErrNeedsRestart) {
		return err
	}
	r.drain = now.drain
	if len(differs) > 0 { // which says it by the operator's names
		err = fmt.Errorf("%w %s", turnserver.ErrNeedsRestart, strings.Join(differs, ", "))
	}
	return err
}

// drainRelay lets running calls end, until they took too long or a second signal comes. Nothing new begins meanwhile, and /healthz says so.
func (r *relayFlags) drainRelay(server *turnserver.Server, out *output) {
	ctx, cancel := context.WithTimeout(context.Background(), r.drain)
	defer cancel()
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	out.say(map[string]string{"event": "draining"}, "running calls get %v; a second signal ends them", r.drain)
	_ = server.Drain(ctx) // what is cut off looks for another path
}

// stopRelay ends a relay, and calls that still run.
func stopRelay(server *turnserver.Server) error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := server.Shutdown(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

type relayLine struct {
	Event string   `json:"event"` // "relay"
	URLs  []string `json:"urls"`
}

type offloadLine struct {
	Event   string `json:"event"` // "offload"
	Offload string `json:"offload"`
}

func (r *relayFlags) announce(out *output, server *turnserver.Server, name string) {
	sayRelay(out, r.urls(server, name))
	if r.offload != "off" {
		out.say(offloadLine{"offload", server.Offload()}, "offload   %s", server.Offload())
	}
}

// followMoves tells whoever sends clients to the relay when its addresses change, until it ends.
func followMoves(
	out *output, moved <-chan struct{}, urls func() []string, tell func(urls []string) error,
) {
	for range moved {
		if err := tell(urls()); err != nil {
			out.warn(nil, "the relay has moved, and the server still sends devices to where it was: %v", err)
			continue
		}
		sayRelay(out, urls())
	}
}

func sayRelay(out *output, urls []string) {
	shown := make([]visible.Text, len(urls))
	for i, url := range urls {
		shown[i] = visible.Line(url)
	}
	out.say(relayLine{"relay", urls}, "relay at  %s", visible.Join("\n          ", shown...))
}
