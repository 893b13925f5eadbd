// Package path finds the way between two devices and keeps watching it: ICE (RFC 8445) with trickled candidates (RFC 8838), relays
// by TURN (RFC 8656), consent to go on sending (RFC 7675).
//
//  1. New makes an agent with fresh credentials; Gather opens sockets and allocations and reports each candidate as it is found.
//  2. AddRemoteCandidate takes the peer's, before or after Connect; most of them wait until Accepted.
//  3. Connect starts the checks. From the first pair that answered (Ready) datagrams can be written; Connected follows when the
//     controlling end has nominated one.
//  4. Datagrams of the peer are handed to Config.Handle, one at a time. Only those from an address that passed a check arrive.
//  5. A silent path is Interrupted; one without consent for 30 s has Failed, and nothing is sent on it any more.
//
// In a relay-only path no candidate but the relay's is gathered, so neither a host nor a reflexive address leaves the device, and no
// candidate names the address it was made from.
package path

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/ice/v4"
	"github.com/pion/logging"
	"github.com/pion/transport/v4"
	"github.com/pion/transport/v4/stdnet"
)

// Tuning of the agent. Waiting to see a better candidate costs every call set-up time, and a lost check costs one interval.
const (
	checkInterval     = 20 * time.Millisecond
	maxChecks         = 400 // per pair, by the caller: with trickling, checks start before the peer knows us, and go on for 8 s
	relayWait         = 200 * time.Millisecond
	lateAfter         = time.Second // see announceHeld
	stunGatherTimeout = 3 * time.Second
	keepalive         = 2 * time.Second // also refreshes consent; RFC 7675 section 5.1 asks for at most 5 s
)

// DefaultConsentTimeout is RFC 7675's: without an answer for so long, sending must stop.
const DefaultConsentTimeout = 30 * time.Second

// DefaultInterruptedAfter is how long nothing has arrived when a path is called interrupted.
const DefaultInterruptedAfter = 5 * time.Second

// Limits on what a peer can make us do. A phone that rings checks whatever addresses its caller names, and asks nobody: until its
// user has accepted these are few. (Announced candidates count, and as many addresses that were learnt from checks of the peer's.)
const (
	maxRemoteCandidates = 64
	maxRingCandidates   = 16 // before Accepted
	maxCandidateLength  = 256
	// maxCalleeChecks is 2 s of checks per pair at the callee's end. They open its NAT to the caller; when the caller begins later,
	// each check of the caller's triggers one of the callee's (RFC 8445 section 7.3.1.4).
	maxCalleeChecks = 100
)

// ErrNotReady says that no pair of candidates has been validated yet.
var ErrNotReady = errors.New("no path to the peer yet")

// ErrConsentExpired says that the peer no longer answers: it is gone, or the network between is.
var ErrConsentExpired = errors.New("the peer cannot be reached any more")

// ErrUnreachable says that no path was found in time.
var ErrUnreachable = errors.New("no network path to the peer was found; a relay may be needed, or could not be reached")

// A State tells what became of a path.
type State int

const (
	Connected   State = iota + 1 // a pair is selected; again after Interrupted
	Interrupted                  // nothing arrived for some seconds
	Failed                       // for good
)

// Config says how a path is to be found.
type Config struct {
	Controlling bool    // the caller's end (RFC 8445 section 6.1.1)
	Relays      []Relay // also asked for the reflexive address, unless RelayOnly
	RelayOnly   bool
	Loopback    bool // host candidates on the loopback interface only: both ends on one machine

	RelayRoots    *x509.CertPool              // who may sign for relays over TLS and DTLS; nil: the system's roots
	LocalRelays   bool                        // relays may be at private and local addresses
	OnRelayFailed func(url string, why error) // a relay is of no use; may come more than once for one

	// Avoid are addresses of this device that are not to be used.
	Avoid []netip.Addr

	InterruptedAfter time.Duration // 0: DefaultInterruptedAfter
	ConsentTimeout   time.Duration // 0: DefaultConsentTimeout; also how long the first connection may take

	OnCandidate func(string)       // a candidate-attribute value (RFC 8839 section 5.1) without "candidate:"
	OnState     func(State, error) // one call at a time; the error is set with Failed
	Handle      func(Kind, []byte) // an incoming datagram, valid during the call
	Log         *slog.Logger       // nil: discarded
	Net         transport.Net      // nil: the machine's
}

// mayUse reports whether candidates may be made of one of this device's addresses.
func (cfg *Config) mayUse(a netip.Addr) bool {
	if cfg.Loopback {
		return a.IsLoopback()
	}
	return !slices.Contains(cfg.Avoid, a)
}

// A Path is one ICE agent and the datagrams through it.
type Path struct {
	cfg      Config
	agent    *ice.Agent
	relays   *relayDialer
	ufrag    string
	password string
	ready    chan struct{}
	closed   chan struct{}
	done     sync.WaitGroup

	accepted atomic.Bool
	checked  atomic.Int32 // addresses of the peer's that the agent was asked to check

	mu      sync.Mutex
	conn    *ice.Conn
	remote  int             // candidates taken from the peer
	waiting []ice.Candidate // those of them that wait for Accepted
	failed  bool
	closing bool
	info    Info     // the last there was
	held    []string // this end's candidates that are not announced yet
	late    bool     // none are held any more

	dead []netip.Prefix // see deadEnds
}

// New makes the agent; nothing is sent yet.
func New(cfg Config) (*Path, error) {
	if cfg.InterruptedAfter == 0 {
		cfg.InterruptedAfter = DefaultInterruptedAfter
	}
	if cfg.ConsentTimeout == 0 {
		cfg.ConsentTimeout = DefaultConsentTimeout
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.ConsentTimeout <= cfg.InterruptedAfter {
		cfg.InterruptedAfter = cfg.ConsentTimeout / 2
	}
	machine := cfg.Net
	if machine == nil {
		var err error
		if machine, err = stdnet.NewNet(); err != nil {
			return nil, fmt.Errorf("reading the network interfaces: %w", err)
		}
	}
	relays := newRelayDialer(cfg, machine)
	if cfg.RelayOnly && len(relays.relays) == 0 {
		return nil, ErrNoRelay
	}
	p := &Path{cfg: cfg, relays: relays, ready: make(chan struct{}), closed: make(chan struct{})}
	if cfg.Net == nil && !cfg.Loopback && !cfg.RelayOnly {
		p.dead = findDeadEnds(machine, relays)
	}
	options := agentOptions(cfg, &network{Net: machine, use: cfg.mayUse, mayReach: relays.mayReach}, relays)
	var err error
	p.agent, err = ice.NewAgentWithOptions(append(options, ice.WithRemoteIPFilter(p.mayCheck))...)
	if err != nil {
		return nil, fmt.Errorf("starting ICE: %w", err)
	}
	if p.ufrag, p.password, err = p.agent.GetLocalUserCredentials(); err == nil {
		err = p.subscribe()
	}
	if err != nil {
		return nil, errors.Join(err, p.agent.Close())
	}
	return p, nil
}

func agentOptions(cfg Config, network transport.Net, relays *relayDialer) []ice.AgentOption {
	types, wait := []ice.CandidateType{ice.CandidateTypeHost, ice.CandidateTypeServerReflexive, ice.CandidateTypeRelay}, relayWait
	if cfg.RelayOnly {
		types, wait = []ice.CandidateType{ice.CandidateTypeRelay}, 0 // pion would wait 2 s for something better
	}
	checks := uint16(maxCalleeChecks)
	if cfg.Controlling {
		checks = maxChecks // nothing triggers a check of the caller's, in pion
	}
	options := []ice.AgentOption{
		ice.WithUrls(append(relays.urls(), relays.reflexive(cfg.RelayOnly)...)),
		ice.WithProxyDialer(relays),
		ice.WithNet(network),
		ice.WithCandidateTypes(types),
		ice.WithNetworkTypes([]ice.NetworkType{ice.NetworkTypeUDP4, ice.NetworkTypeUDP6}),
		ice.WithMulticastDNSMode(ice.MulticastDNSModeDisabled),
		ice.WithDisableActiveTCP(),
		ice.WithHostAcceptanceMinWait(0),
		ice.WithSrflxAcceptanceMinWait(0),
		ice.WithPrflxAcceptanceMinWait(0),
		ice.WithRelayAcceptanceMinWait(wait),
		ice.WithCheckInterval(checkInterval),
		ice.WithMaxBindingRequests(checks),
		ice.WithSTUNGatherTimeout(stunGatherTimeout),
		ice.WithKeepaliveInterval(keepalive),
		ice.WithDisconnectedTimeout(cfg.InterruptedAfter),
		ice.WithFailedTimeout(cfg.ConsentTimeout - cfg.InterruptedAfter),
		ice.WithLoggerFactory(silent),
	}
	if cfg.Loopback {
		options = append(options, ice.WithIncludeLoopback())
	}
	return options
}

// silent drops pion's own log, which names addresses.
var silent = &logging.DefaultLoggerFactory{Writer: io.Discard, DefaultLogLevel: logging.LogLevelDisabled}

// Credentials are the ICE user name fragment and password the peer needs.
func (p *Path) Credentials() (ufrag, password string) { return p.ufrag, p.password }

// Gather starts finding candidates and returns.
func (p *Path) Gather() error { return p.agent.GatherCandidates() }

// AddRemoteCandidate takes one candidate of the peer. Names are refused: looking one up would tell others about the call.
func (p *Path) AddRemoteCandidate(candidate string) error {
	parsed, err := parseCandidate(candidate)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.remote++
	full := p.remote > maxRemoteCandidates
	wait := !full && p.remote > maxRingCandidates && !p.accepted.Load()
	if wait {
		p.waiting = append(p.waiting, parsed)
	}
	p.mu.Unlock()
	switch {
	case full:
		return errors.New("too many candidates from the peer")
	case wait:
		return nil
	}
	return p.agent.AddRemoteCandidate(parsed)
}

// Accepted lifts the limits that hold while it rings: the local user wants this peer's media. It can be called again.
func (p *Path) Accepted() {
	p.mu.Lock()
	p.accepted.Store(true)
	waiting := p.waiting
	p.waiting = nil
	p.mu.Unlock()
	for _, candidate := range waiting {
		_ = p.agent.AddRemoteCandidate(candidate) // its form was checked
	}
}

// mayCheck is asked by the agent for each new address, announced or learnt. It must not lock: the agent's loop waits.
func (p *Path) mayCheck(ip net.IP) bool {
	if a, ok := netip.AddrFromSlice(ip); ok && p.leadsNowhere(a.Unmap()) {
		return false
	}
	limit := int32(maxRingCandidates)
	if p.accepted.Load() {
		limit = maxRemoteCandidates
	}
	if p.checked.Load() >= 2*limit {
		return false
	}
	p.checked.Add(1)
	return true
}

var errCandidate = errors.New("the peer's candidate is malformed")

func parseCandidate(candidate string) (parsed ice.Candidate, err error) {
	defer func() {
		if recover() != nil {
			parsed, err = nil, errCandidate
		}
	}()
	if len(candidate) > maxCandidateLength {
		return nil, errCandidate
	}
	parsed, err = ice.UnmarshalCandidate(candidate)
	if err != nil {
		return nil, errCandidate
	}
	address, err := netip.ParseAddr(parsed.Address())
	if err != nil || address.IsUnspecified() || address.IsMulticast() || parsed.Port() == 0 || parsed.NetworkType().IsTCP() {
		return nil, errCandidate
	}
	return parsed, nil
}

// marshalCandidate leaves out the related address, which would name the address behind a relay or a NAT: RFC 8839 section 5.1 has
// 0.0.0.0 and port 9 for that.
func marshalCandidate(c ice.Candidate) string {
	fields := strings.Fields(c.Marshal())
	if len(fields) < 8 {
		return ""
	}
	s := strings.Join(fields[:8], " ")
	if c.Type() != ice.CandidateTypeHost {
		s += " raddr 0.0.0.0 rport 9"
	}
	return s
}

// Connect starts the connectivity checks and returns.
func (p *Path) Connect(ufrag, password string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn != nil || p.closing {
		return errors.New("path was connected before")
	}
	start := p.agent.StartAccept
	if p.cfg.Controlling {
		start = p.agent.StartDial
	}
	conn, err := start(ufrag, password)
	if err != nil {
		return fmt.Errorf("starting ICE: %w", err)
	}
	p.conn = conn
	p.done.Add(2)
	go p.read(conn)
	go p.watch(conn)
	return nil
}

// Ready is closed when datagrams can be written: a check was answered, which takes one round trip and a half from the start.
func (p *Path) Ready() <-chan struct{} { return p.ready }

// Write sends one datagram on the selected pair, or on the best valid one before there is a selection.
func (p *Path) Write(datagram []byte) error {
	p.mu.Lock()
	conn, failed := p.conn, p.failed
	p.mu.Unlock()
	if conn == nil {
		return ErrNotReady
	}
	if failed {
		return ErrConsentExpired
	}
	_, err := conn.Write(datagram)
	if errors.Is(err, ice.ErrNoCandidatePairs) {
		return ErrNotReady
	}
	return err
}

func (p *Path) read(conn *ice.Conn) {
	defer p.done.Done()
	buffer := make([]byte, 2048)
	for {
		n, err := conn.Read(buffer)
		if errors.Is(err, io.ErrShortBuffer) {
			continue // longer than anything this protocol sends
		}
		if err != nil {
			return
		}
		p.handle(buffer[:n])
	}
}

// handle keeps one datagram from ending the process, whatever a parser makes of it.
func (p *Path) handle(datagram []byte) {
	defer func() {
		if recover() != nil {
			p.cfg.Log.Error("a datagram made its handler panic; dropped")
		}
	}()
	p.cfg.Handle(Demultiplex(datagram), datagram)
}

// Close ends the agent, its sockets and allocations, and waits for everything it started.
func (p *Path) Close() error {
	p.mu.Lock()
	closing := p.closing
	p.closing = true
	p.mu.Unlock()
	if closing {
		return nil
	}
	p.refreshInfo()
	close(p.closed)
	p.relays.close()
	err := p.agent.GracefulClose()
	p.done.Wait()
	return err
}
