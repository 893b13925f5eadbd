package turnserver

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"
)

// Config says where the relay listens, who may use it and for how much. Secrets or Users, and one
// of UDP, TCP, TLS and DTLS are required; the zero value of everything else is a sound default.
type Config struct {
	// UDP, TCP, TLS and DTLS are the addresses to serve clients on, as "203.0.113.7:3478", "[2001:db8::7]:3478", or ":3478" for every
	// address of the machine. Port 0 takes a free one, which Addrs tells. The customary ports are 3478 and, for TLS and DTLS, 5349 (443
	// passes more firewalls). On a machine with several addresses what arrives at ":3478" is answered
	// on Linux from the address that it was sent to. Elsewhere UDP may be answered from another, which
	// clients refuse: name the ones to use.
	UDP, TCP, TLS, DTLS []string

	// TLSConfig holds the certificate of the TLS and DTLS listeners; of several the DTLS ones use the first. To change certificates without
	// a restart set GetCertificate, which is asked at each handshake: connections that exist go on undisturbed. TLS 1.2 is the least that
	// is spoken.
	TLSConfig *tls.Config

	// External are the addresses that the internet knows this machine by, at most one IPv4 and one IPv6, for a machine behind a one-to-one
	// NAT (most clouds). The NAT must pass RelayPorts unchanged. Empty: the address a client reached, or the source address of the default
	// route.
	External []netip.Addr

	// RelayPorts is the range of UDP ports that peers are met on; one allocation takes one port. Let a firewall pass it, and let
	// nothing else on this machine use it. Default: 49152-65535 (RFC 8656 section 7.2).
	RelayPorts PortRange

	// Secrets are shared with whoever mints credentials (package turncred). A credential made with any of them is accepted. To
	// replace a secret add the new one, let the minters change, then remove the old one: see Server.SetSecrets. 16 bytes at least.
	// Sixteen secrets at most, as a wrong credential is tried with each of them.
	Secrets [][]byte

	// Users are those with lasting credentials, by name: the key of RFC 8489 section 9.2.2 for each,
	// as turncred.Key makes it of the name, Realm and the password, which the relay need not know. A
	// name has 1 to 256 bytes of UTF-8 without control characters, and is none that a secret's
	// credential could have. With Users Secrets may be empty. See Server.SetUsers.
	Users map[string][]byte

	// Realm is named to clients and enters their keys; nobody reads it. Default: "sotto". At most 28 bytes: a longer one would make the
	// answer to a stranger more than 3.2 times as long as the question, and the relay worth abusing.
	Realm string

	// AllowPeers opens ranges of addresses to which the relay may send although they are not globally routable: a company's own network, or
	// 127.0.0.1 for a trial on one machine. What runs on this machine itself, at any loopback address too, stays out of reach all the same,
	// except the relayed ports of other clients. A range of IPv6 addresses that embed IPv4 (NAT64, 6to4) opens only those whose embedded
	// address is allowed too.
	AllowPeers []netip.Prefix

	// MaxAllocations, MaxPerUser and MaxPerAddress bound how many allocations live at once: in all (default 10,000), for one user (the id
	// of the credential; default 32: a browser makes one for each network interface and each URL) and for one client address (an IPv4
	// address or an IPv6 /64; default 256: many people may sit behind one). An IPv6 /48, the most that one subscriber gets, may hold ten
	// times as many as one address.
	MaxAllocations, MaxPerUser, MaxPerAddress int

	// Bandwidth bounds what one allocation relays, each way, in bytes of payload a second, with bursts of one second. What exceeds it is
	// lost. 1 Mbit/s of video is 125,000. Default: 0, no bound.
	Bandwidth int

	// UserBandwidth and AddressBandwidth bound likewise what all allocations of one user, and of one client address (an IPv4 address or an
	// IPv6 /64), relay together; UserPackets and AddressPackets, how many packets a second, each way. A call with video is about 200
	// packets a second each way. Default: 0, no bound.
	UserBandwidth, AddressBandwidth, UserPackets, AddressPackets int

	// MaxConnections and MaxConnectionsPerAddress bound TCP, TLS and DTLS connections: in all (default 10,000) and for one client address
	// (default 256; of a /48 as above).
	MaxConnections, MaxConnectionsPerAddress int

	// Proxies are the addresses of TCP proxies in front, which name the client of each connection to the TCP and TLS listeners by the PROXY
	// protocol (version 1 or 2). A connection from there without it is closed. Limits, and what clients are told of themselves, then go by
	// the client's own address. Do not list an address from which others can connect. Default: none.
	Proxies []netip.Prefix

	// DataPlane says how packets of clients that come by UDP are carried: "auto" (the default), the fastest way that this system has, which
	// on Linux is a loop for each core that moves packets in batches; or "portable", one system call for each packet, as on other systems.
	DataPlane string

	// Dedicated says that this program is a relay and does little else. On Linux its loops then keep a processor of the Go scheduler each while
	// packets come, and runtime.GOMAXPROCS is raised by their number until Shutdown: at moderate load that saves a quarter of the CPU time.
	Dedicated bool

	// Offload says whether the network driver carries packets of channels (XDP): "off" (the default); "auto", where the system can and
	// permits it (Linux 5.12, CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON), and otherwise not; or "required", and New fails where it cannot.
	// Server.Offload tells what came of it. Quotas, policy and lifetimes hold alike. But the system's packet filter and tcpdump do not see
	// what the driver carries, so it is for the operator to choose.
	Offload string

	// Logger gets what an operator must know, never a user name or an address. Default: silence.
	Logger *slog.Logger

	tune tuning
}

// PortRange is an inclusive range of ports.
type PortRange struct{ Min, Max uint16 }

// tuning is what the tests of this package change: times to shorten, and which addresses of loopback stand for other machines.
type tuning struct {
	foreign      []netip.Prefix
	now          func() time.Time // what passes by it does so steadily
	wall         func() time.Time // what the expiry of credentials is held to
	firstFrame   time.Duration    // from accepting a connection to its first whole message, TLS handshake included
	restOfFrame  time.Duration    // from the first byte of a later message to its last
	idle         time.Duration    // of a connection that holds no allocation
	outage       time.Duration    // of a connection that holds one, in the middle of a message either way
	lifetime     time.Duration    // of an allocation whose client names none
	shortest     time.Duration    // the least that a client may ask for
	permission   time.Duration
	channel      time.Duration
	look         time.Duration                       // between looks at this machine's addresses
	source       func(network, to string) netip.Addr // defaultSource
	offloadMode  string                              // native or generic, where the default would choose the other
	onCreated    func()                              // runs as an allocation becomes its client's
	onPermission func()                              // runs between pion's publishing of a permission and the start of its timer
}

const (
	defaultRealm    = "sotto"
	maxRealm        = 28
	minSecret       = 16
	maxSecrets      = 16
	credentialGrace = 24 * time.Hour // how long an allocation may live on the credential it was made with
	maxPermissions  = 1024           // of one allocation
	maxChannels     = 256            // likewise
	maxDatagram     = 1600           // messages and packets of this length or more are dropped: it is all that pion reads
)

// withDefaults checks the configuration and fills in what was left out.
func (c Config) withDefaults() (Config, error) {
	switch {
	case len(c.UDP)+len(c.TCP)+len(c.TLS)+len(c.DTLS) == 0:
		return c, errors.New("no address to listen on: set UDP, TCP, TLS or DTLS, for example \":3478\"")
	case len(c.TLS)+len(c.DTLS) > 0 && (c.TLSConfig == nil || len(c.TLSConfig.Certificates) == 0 && c.TLSConfig.GetCertificate == nil):
		return c, errors.New("TLS and DTLS listeners need a certificate: set TLSConfig")
	case len(c.Realm) > maxRealm:
		return c, fmt.Errorf("realm is longer than %d bytes, which would let strangers amplify traffic: shorten it", maxRealm)
	}
	if len(c.Secrets) > 0 {
		if err := checkSecrets(c.Secrets); err != nil {
			return c, err
		}
	}
	if err := checkUsers(c.Users); err != nil {
		return c, err
	}
	for i, a := range c.External {
		for _, b := range c.External[:i] {
			if a.Unmap().Is4() == b.Unmap().Is4() {
				return c, errors.New("two external addresses are of one family: give one IPv4 and one IPv6 address at most")
			}
		}
	}
	for _, bound := range []int{
		c.MaxAllocations, c.MaxPerUser, c.MaxPerAddress, c.MaxConnections, c.MaxConnectionsPerAddress,
		c.Bandwidth, c.UserBandwidth, c.AddressBandwidth, c.UserPackets, c.AddressPackets,
	} {
		if bound < 0 {
			return c, errors.New("a bound is less than nothing: 0 is the default")
		}
	}
	if c.RelayPorts == (PortRange{}) {
		c.RelayPorts = PortRange{49152, 65535}
	}
	if c.RelayPorts.Min == 0 || c.RelayPorts.Min > c.RelayPorts.Max {
		return c, fmt.Errorf("relay ports %d-%d are not a range: the first must be at least 1 and at most the last",
			c.RelayPorts.Min, c.RelayPorts.Max)
	}
	switch c.DataPlane {
	case "":
		c.DataPlane = planeAuto
	case planeAuto, planePortable:
	default:
		return c, fmt.Errorf("no data plane is called %q: choose %q or %q", c.DataPlane, planeAuto, planePortable)
	}
	switch c.Offload {
	case "":
		c.Offload = offloadOff
	case offloadOff, offloadAuto, offloadRequired:
	default:
		return c, fmt.Errorf("offload %q is not known: choose %q, %q or %q", c.Offload, offloadAuto, offloadOff, offloadRequired)
	}
	if c.Realm == "" {
		c.Realm = defaultRealm
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&c.MaxAllocations, 10_000)
	setDefault(&c.MaxPerUser, 32)
	setDefault(&c.MaxPerAddress, 256)
	setDefault(&c.MaxConnections, 10_000)
	setDefault(&c.MaxConnectionsPerAddress, 256)
	setDefault(&c.tune.firstFrame, 6*time.Second)
	setDefault(&c.tune.restOfFrame, 6*time.Second)
	setDefault(&c.tune.look, 10*time.Second)
	setDefault(&c.tune.outage, 45*time.Second)
	setDefault(&c.tune.idle, 30*time.Second)
	setDefault(&c.tune.lifetime, 10*time.Minute)  // RFC 8656 section 3.2
	setDefault(&c.tune.shortest, c.tune.lifetime) // RFC 8656 section 7.2
	setDefault(&c.tune.permission, 5*time.Minute) // RFC 8656 section 9
	setDefault(&c.tune.channel, 10*time.Minute)   // RFC 8656 section 12
	if c.tune.wall == nil {
		c.tune.wall = time.Now
		if c.tune.now != nil {
			c.tune.wall = c.tune.now
		}
	}
	if c.tune.now == nil {
		c.tune.now = steady()
	}
	if c.tune.source == nil {
		c.tune.source = defaultSource
	}
	if c.tune.onCreated == nil {
		c.tune.onCreated = func() {}
	}
	if c.tune.onPermission == nil {
		c.tune.onPermission = func() {}
	}
	return c, nil
}

// steady is a clock that nobody sets: when the machine's is set back, buckets would stay empty and permissions live on for that long.
func steady() func() time.Time {
	start := time.Now()
	return func() time.Time { return start.Add(time.Since(start)) }
}

func checkSecrets(secrets [][]byte) error {
	if len(secrets) == 0 {
		return errors.New("no secret and no users: " +
			"set Secrets to what the minter of credentials uses, or Users")
	}
	if len(secrets) > maxSecrets {
		return fmt.Errorf("%d secrets, more than %d: take out the old ones",
			len(secrets), maxSecrets)
	}
	for _, s := range secrets {
		if len(s) < minSecret {
			return fmt.Errorf("a secret is shorter than %d bytes: make one with `openssl rand -base64 32`", minSecret)
		}
	}
	return nil
}

func setDefault[T int | time.Duration](v *T, to T) {
	if *v == 0 {
		*v = to
	}
}
