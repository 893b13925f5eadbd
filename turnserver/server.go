package turnserver

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Server is a running relay.
type Server struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics
	policy  policy
	table   *table
	relays  atomic.Pointer[[]relayAddr]
	moves   moves
	addrs   Addrs
	offload *offload // nil: the sockets carry everything
	offered string   // what became of Config.Offload

	secrets     atomic.Pointer[[][]byte]
	named       atomic.Pointer[map[string][]byte] // Config.Users
	users       *quota[string]                    // allocations of each credential id, and in all
	addresses   *addressQuota                     // allocations of each client address
	accounts    *accounts
	connections *addressQuota
	headers     *quota[netip.Addr] // connections of proxies that have not named their client
	strangers   *strangers
	nonces      *nonces
	hellos      bucket // DTLS sessions begun, of all clients

	draining atomic.Bool
	tasks    sync.WaitGroup // listeners, connections and the watch over our own addresses
	stop     chan struct{}
	stopOnce sync.Once

	mu        sync.Mutex
	udp       []udpListener
	serving   int // how many of udp have a frontend that reads
	dedicated int // processors of Go's scheduler that were added for them
	listeners []net.Listener
	streams   map[connection]struct{}
	secured   []*dtlsListener
	closed    bool
}

// Addrs are the addresses that a Server listens on, with the ports that were found for port 0, and the addresses that its peers see.
type Addrs struct {
	UDP, TCP, TLS, DTLS []netip.AddrPort
	External            []netip.Addr
}

// New starts a relay. It is listening when New returns.
func New(cfg Config) (*Server, error) {
	cfg, err := cfg.withDefaults()
	if err == nil && len(cfg.Users) == 0 {
		err = checkSecrets(cfg.Secrets)
	}
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg:         cfg,
		log:         cfg.Logger,
		metrics:     newMetrics(),
		policy:      policy{foreign: cfg.tune.foreign},
		table:       newTable(),
		users:       newQuota[string](cfg.MaxAllocations, cfg.MaxPerUser),
		addresses:   newAddressQuota(math.MaxInt, cfg.MaxPerAddress),
		accounts:    newAccounts(cfg),
		connections: newAddressQuota(cfg.MaxConnections, cfg.MaxConnectionsPerAddress),
		headers:     newQuota[netip.Addr](cfg.MaxConnections, cfg.MaxConnections),
		strangers:   newStrangers(),
		nonces:      newNonces(),
		stop:        make(chan struct{}),
		streams:     make(map[connection]struct{}),
		moves:       moves{told: make(chan struct{}, 1)},
	}
	s.secrets.Store(&cfg.Secrets)
	s.named.Store(&cfg.Users)
	s.policy.allow.Store(&cfg.AllowPeers)
	s.relays.Store(new([]relayAddr))
	s.policy.refresh(cfg.External)
	if err := s.listen(); err != nil {
		s.close()
		for _, u := range s.udp[s.serving:] { // nobody reads these
			s.tasks.Add(1)
			u.ended()
		}
		for _, l := range s.secured {
			_ = l.conn.Close()
		}
		s.tasks.Wait()
		s.undedicate()
		return nil, err
	}
	s.log.Info("relay started", "udp", len(s.addrs.UDP), "tcp", len(s.addrs.TCP), "tls", len(s.addrs.TLS), "dtls", len(s.addrs.DTLS))
	return s, nil
}

// listen opens every socket before the first client is served, so that a failure leaves nothing behind.
func (s *Server) listen() error {
	for _, address := range s.cfg.UDP {
		opened, err := s.openUDP(address)
		s.udp = append(s.udp, opened...)
		if err != nil {
			return err
		}
		s.addrs.UDP = append(s.addrs.UDP, opened[0].at())
	}
	var configs []*tls.Config // of each listener; nil: plain TCP
	open := func(addresses []string, config *tls.Config, bound *[]netip.AddrPort) error {
		for _, address := range addresses {
			l, err := listenTCP(address)
			if err != nil {
				return err
			}
			s.listeners, configs = append(s.listeners, l), append(configs, config)
			*bound = append(*bound, tcpAddrPort(l.Addr()))
		}
		return nil
	}
	if err := open(s.cfg.TCP, nil, &s.addrs.TCP); err != nil {
		return err
	}
	if s.cfg.TLSConfig != nil {
		config := s.cfg.TLSConfig.Clone()
		config.MinVersion = max(config.MinVersion, tls.VersionTLS12)
		if err := open(s.cfg.TLS, config, &s.addrs.TLS); err != nil {
			return err
		}
		for _, address := range s.cfg.DTLS {
			l, err := s.listenDTLS(address, config)
			if err != nil {
				return err
			}
			s.secured = append(s.secured, l)
			s.addrs.DTLS = append(s.addrs.DTLS, l.local)
		}
	}

	relays, err := s.relayAddrs(s.addrs.all())
	if err != nil {
		return err
	}
	s.relays.Store(&relays)
	s.policy.refresh(s.ours())

	if err := s.openOffload(); err != nil {
		return err
	}
	s.dedicate()
	for _, u := range s.udp {
		f := &frontend{s: s, socket: u, local: u.at(), transport: "udp", relays: make(map[tuple]*relay)}
		err := u.begin(f)
		if err == nil {
			s.tasks.Add(1)
			if err = f.start(); err != nil {
				s.tasks.Done()
			}
		}
		if err != nil {
			return fmt.Errorf("%w", err)
		}
		s.serving++
	}
	for i, l := range s.listeners {
		s.tasks.Add(1)
		go s.acceptStreams(l, configs[i])
	}
	for _, l := range s.secured {
		s.tasks.Add(1)
		go l.serve()
	}
	s.tasks.Add(1)
	go s.watchAddresses()
	return nil
}

func (s *Server) openOffload() (err error) {
	if s.cfg.Offload == offloadOff {
		s.offered = "off"
		return nil
	}
	s.offload, err = s.startOffload()
	switch {
	case err == nil:
		s.offered = s.offload.describe()
	case s.cfg.Offload == offloadRequired:
		return fmt.Errorf("the driver cannot carry packets, which Offload requires: %w", err)
	default:
		s.offered = "none, the sockets carry everything: " + err.Error()
	}
	s.log.Info("offload: " + s.offered)
	return nil
}

// Offload says, for the operator, which interfaces carry packets in their driver, or why none does.
func (s *Server) Offload() string { return s.offered }

// Addrs tells where the relay listens.
func (s *Server) Addrs() Addrs {
	a := s.addrs
	for _, r := range *s.relays.Load() {
		a.External = append(a.External, r.public)
	}
	return a
}

func (a Addrs) all() []netip.AddrPort { return slices.Concat(a.UDP, a.TCP, a.TLS, a.DTLS) }

// URLs are what to give to ICE agents: a turn: or turns: URI (RFC 7065) for each listener, with the external address in place of a local one.
func (s *Server) URLs() []string {
	var out []string
	relays := *s.relays.Load()
	add := func(scheme, transport string, at []netip.AddrPort) {
		for _, a := range at {
			v6 := a.Addr().Is6() && (!a.Addr().IsUnspecified() || len(relays) > 0 && relays[0].local.Is6())
			if r, ok := s.relayAddrFor(a.Addr(), v6); ok {
				out = append(out, fmt.Sprintf("%s:%s?transport=%s", scheme, netip.AddrPortFrom(r.public, a.Port()), transport))
			}
		}
	}
	add("turn", "udp", s.addrs.UDP)
	add("turn", "tcp", s.addrs.TCP)
	add("turns", "tcp", s.addrs.TLS)
	add("turns", "udp", s.addrs.DTLS)
	return out
}

// SetSecrets replaces the secrets while the relay runs. Calls that were set up with a secret that is gone continue.
func (s *Server) SetSecrets(secrets [][]byte) error {
	if err := checkSecrets(secrets); err != nil {
		return err
	}
	s.secrets.Store(&secrets)
	return nil
}

// Drain takes no new connections and allocations from now on, and waits until the clients of the existing ones have ended them or ctx is done, whose error
// it then returns. A new allocation is refused with 508, at which a client tries its next server at once and this one not before a minute
// (RFC 8656 section 7.4).
func (s *Server) Drain(ctx context.Context) error {
	s.draining.Store(true)
	s.table.close()
	s.closeListeners()
	select {
	case <-s.table.empty:
		return nil
	default:
	}
	select {
	case <-s.table.empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Draining says whether Drain or Shutdown has begun: nothing new is served.
func (s *Server) Draining() bool { return s.draining.Load() }

// Shutdown ends the relay: it drains for as long as ctx lasts, then closes everything. When Shutdown returns every port is free. The error is that
// of ctx if allocations were cut off.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.Drain(ctx)
	s.close()
	<-s.table.empty
	s.tasks.Wait()
	s.undedicate()
	s.log.Info("relay stopped")
	return err
}

func (s *Server) now() time.Time { return s.cfg.tune.now() }

func (s *Server) closeListeners() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.listeners {
		_ = l.Close()
	}
}

func (s *Server) close() {
	s.stopOnce.Do(func() { close(s.stop) })
	s.closeListeners()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, u := range s.udp {
		u.close()
	}
	for c := range s.streams {
		c.close()
	}
	for _, l := range s.secured {
		l.close()
	}
}

// connection is a TCP, TLS or DTLS client.
type connection interface{ close() }

// track notes a connection, so that it can be closed.
func (s *Server) track(c connection) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.streams[c] = struct{}{}
	s.tasks.Add(1)
	return true
}

func (s *Server) untrack(c connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, c)
	s.tasks.Done()
}
