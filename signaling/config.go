package signaling

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"sotto/wire"
)

// Config says how a server runs. Fields without a default are marked "required".
type Config struct {
	// DataDir is the directory of the store, and of the keys that sender certificates are made with. Required. It is made if it does not exist, readable by its owner only, and belongs to
	// one process at a time.
	DataDir string

	// Names are the host names or addresses by which devices reach this server, in any form wire.ServerName takes. Required.
	// Devices sign them, so a request for any other name is refused.
	Names []string

	// OpenRegistration lets anyone register. Off, a registration needs a token of NewInvitation.
	OpenRegistration bool

	// Relay is where devices find a TURN relay; nil: they get no relay credentials.
	Relay *RelayConfig

	// AllowedOrigins are the Origin headers (RFC 6454) from which a browser's page may open a link, for instance
	// "https://chat.example". Default: none; programs other than browsers send no Origin.
	AllowedOrigins []string

	// EraseEvery bounds how long the bytes of an erased envelope stay in the files of DataDir. Default 10 minutes. Erasing
	// rewrites what is still waiting in mailboxes, so a server with gigabytes of them may want an hour.
	EraseEvery time.Duration

	// Limits bound what devices may ask for. Every zero field has a default.
	Limits Limits

	// Logger takes what operators should know. Default: nothing is logged.
	Logger *slog.Logger
}

// RelayConfig names a relay that shares a secret with this server.
type RelayConfig struct {
	URLs   []string      // RFC 7065, for instance "turn:relay.example:3478?transport=udp"
	Secret []byte        // the HMAC secret shared with the relay; Server.SetRelaySecret replaces it
	TTL    time.Duration // how long credentials hold; at most, and by default, 10 minutes
}

// A Rate allows Burst at once, and one more each Every.
type Rate struct {
	Burst int
	Every time.Duration
}

// Limits of one server. An address is an IPv4 address or an IPv6 /64; an IPv6 /48 has ten times as much.
type Limits struct {
	Registrations      Rate // per address. Default 20, then one a minute
	Attempts           Rate // links opened per address. Default 60, then one a second
	UnauthenticatedPer int  // links not yet authenticated, per address. Default 20
	Unauthenticated    int  // links not yet authenticated in all. Default 2000
	Links              int  // links in all. Default 100000
	AnonymousPer       int  // anonymous links per address. Default 20
	Anonymous          int  // anonymous links in all. Default 20000

	Frames        Rate // per link, a frame counting once and once more for each KiB; above it the link is read more slowly. Default 1000, then one a millisecond
	Sends         Rate // per device. Default 200, then one each 20 ms
	LookUps       Rate // per account. Default 30, then one each 2 s
	BundleFetches Rate // and of device lists, per account. Default 60, then one each 2 s
	// Per account and target account: each fetch uses up one-time keys, and each device that either
	// links makes one. Default 20, then one each 30 minutes.
	PairFetches  Rate
	Uploads      Rate // per device. Default 10, then one each 30 s
	Relays       Rate // relay credentials per account. Default 20, then one each 5 s
	Tokens       Rate // delivery tokens set, per account. Default 30, then one each 10 s
	Certificates Rate // sender certificates per account. Default 30, then one each 10 s

	Linkings     int  // codes for further devices that are open, in all. Default 500
	LinkRequests Rate // of devices that want to be added, per address. Default 20, then one a minute
	Devices      Rate // codes opened, devices added and removed, per account. Default 20, then one a minute

	SealedSends   Rate // over anonymous links, per address. Default 400, then one each 10 ms
	SealedTo      Rate // over anonymous links with the right token, per recipient device. Default 200, then one each 20 ms
	SealedFetches Rate // of bundles and device lists, over anonymous links, per address. Default 60, then one each 2 s
	FetchedFrom   Rate // bundles over anonymous links with the right token, per target account. Default 30, then one each 10 minutes

	// One account has at most a quarter of what is left free of these (store.Limits): a fifth of an empty mailbox. Senders without a name
	// have half of an empty mailbox, all of them together.
	Mailbox      int   // envelopes waiting for one device. Default 2000
	MailboxBytes int64 // bytes waiting for one device. Default 32 MiB
}

func orRate(r, d Rate) Rate {
	if r.Burst <= 0 || r.Every <= 0 {
		return d
	}
	return r
}

func or[N int | int64 | time.Duration](n, d N) N {
	if n <= 0 {
		return d
	}
	return n
}

func (l Limits) withDefaults() Limits {
	return Limits{
		Registrations:      orRate(l.Registrations, Rate{20, time.Minute}),
		Attempts:           orRate(l.Attempts, Rate{60, time.Second}),
		UnauthenticatedPer: or(l.UnauthenticatedPer, 20),
		Unauthenticated:    or(l.Unauthenticated, 2000),
		Links:              or(l.Links, 100_000),
		AnonymousPer:       or(l.AnonymousPer, 20),
		Anonymous:          or(l.Anonymous, 20_000),
		Frames:             orRate(l.Frames, Rate{1000, time.Millisecond}),
		Sends:              orRate(l.Sends, Rate{200, 20 * time.Millisecond}),
		LookUps:            orRate(l.LookUps, Rate{30, 2 * time.Second}),
		BundleFetches:      orRate(l.BundleFetches, Rate{60, 2 * time.Second}),
		PairFetches:        orRate(l.PairFetches, Rate{20, 30 * time.Minute}),
		Uploads:            orRate(l.Uploads, Rate{10, 30 * time.Second}),
		Relays:             orRate(l.Relays, Rate{20, 5 * time.Second}),
		Tokens:             orRate(l.Tokens, Rate{30, 10 * time.Second}),
		Certificates:       orRate(l.Certificates, Rate{30, 10 * time.Second}),
		Linkings:           or(l.Linkings, 500),
		LinkRequests:       orRate(l.LinkRequests, Rate{20, time.Minute}),
		Devices:            orRate(l.Devices, Rate{20, time.Minute}),
		SealedSends:        orRate(l.SealedSends, Rate{400, 10 * time.Millisecond}),
		SealedTo:           orRate(l.SealedTo, Rate{200, 20 * time.Millisecond}),
		SealedFetches:      orRate(l.SealedFetches, Rate{60, 2 * time.Second}),
		FetchedFrom:        orRate(l.FetchedFrom, Rate{30, 10 * time.Minute}),
		Mailbox:            or(l.Mailbox, 2000),
		MailboxBytes:       or(l.MailboxBytes, 32<<20),
	}
}

// check fills in defaults and refuses what cannot work.
func (c *Config) check() error {
	if c.DataDir == "" {
		return errors.New("no data directory is configured")
	}
	if len(c.Names) == 0 {
		return errors.New("no server name is configured: give the host name devices will use")
	}
	names := make([]string, len(c.Names))
	for i, n := range c.Names {
		name, err := wire.ServerName(n)
		if err != nil {
			return fmt.Errorf("%q: %w", n, err)
		}
		names[i] = name
	}
	c.Names = names
	if c.Relay != nil {
		r := *c.Relay
		if len(r.URLs) == 0 {
			return errors.New("the relay needs at least one URL")
		}
		if len(r.Secret) < minRelaySecret {
			return errRelaySecret
		}
		if r.TTL <= 0 || r.TTL > maxRelayTTL {
			r.TTL = maxRelayTTL
		}
		c.Relay = &r
	}
	c.EraseEvery = or(c.EraseEvery, 10*time.Minute)
	c.Limits = c.Limits.withDefaults()
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}
