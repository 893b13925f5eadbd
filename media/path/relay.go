package path

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/pion/dtls/v3"
	"github.com/pion/stun/v4"
	"github.com/pion/transport/v4"
	"github.com/pion/turn/v5"

	"sotto/internal/routable"
)

// The agent runs TURN (RFC 8656) over connections that are made here. Left to itself, ice v4.4.2
// reaches relays over IPv4 only, checks their certificates against the system's roots only, looks
// names up wherever they lead, does not say why a relay is of no use, and waits four seconds for a
// dead one when it closes.
//
//  1. newRelayDialer takes the relays apart: one that nothing can be done with is named and left out.
//  2. urls tells the agent of the others by number, each as a TURN server over TCP: the agent asks Dial for such connections.
//  3. Dial looks the name up, refuses addresses that no relay should have, and connects: UDP, TCP, TLS or DTLS.
//  4. A relayConn carries one allocation. It hands the agent whole TURN messages, whatever they came over, and reads along why
//     the relay refuses.
//  5. close ends the connections whose allocation is still asked for; the agent gives the others back.

// A Relay is a TURN server with time-limited credentials.
type Relay struct {
	URL      string // RFC 7065, for instance turn:192.0.2.1:3478?transport=udp
	Username string
	Password string
}

// ErrNoRelay says that a path that may use relays only has none that anything can be done with.
var ErrNoRelay = errors.New("only relays may be used, but no usable relay is known")

// ErrRelayCredentials says that a relay did not accept its credentials: others are to be had from
// the server, perhaps.
var ErrRelayCredentials = errors.New("it refuses the credentials")

var (
	errRelayURL    = errors.New("its address is malformed: it must look like turn:host:port?transport=udp")
	errRelayLocal  = errors.New("its address is one of a private or local network, and the server's is not")
	errRelaySilent = errors.New("it does not answer")
	errRelayClosed = errors.New("the path was closed")
	errOtherFamily = errors.New("reached over IPv4")
)

const (
	relayDialTimeout = 5 * time.Second
	relayPatience    = 3 * time.Second // after which a relay that has not answered is said to be silent
	readyForTURN     = "127.0.0.1"     // see urls
)

type relayDialer struct {
	relays []Relay
	uris   []*stun.URI // of relays, parsed
	roots  *x509.CertPool
	local  bool // relays may be at addresses that are not globally routable
	net    transport.Net
	failed func(url string, err error)
	names  func(ctx context.Context, network, host string) ([]netip.Addr, error)

	ctx   context.Context
	stop  context.CancelFunc
	mu    sync.Mutex
	conns map[*relayConn]bool
}

func newRelayDialer(cfg Config, network transport.Net) *relayDialer {
	d := &relayDialer{
		roots: cfg.RelayRoots, local: cfg.LocalRelays, net: network, failed: cfg.OnRelayFailed,
		names: net.DefaultResolver.LookupNetIP, conns: map[*relayConn]bool{},
	}
	if d.failed == nil {
		d.failed = func(string, error) {}
	}
	d.ctx, d.stop = context.WithCancel(context.Background())
	for _, relay := range cfg.Relays {
		uri, err := stun.ParseURI(relay.URL)
		switch {
		case err != nil, uri.Scheme != stun.SchemeTypeTURN && uri.Scheme != stun.SchemeTypeTURNS,
			uri.Port < 1 || uri.Port > 65535, relay.Username == "":
			d.failed(relay.URL, errRelayURL)
			continue
		}
		if address, err := netip.ParseAddr(uri.Host); err == nil && !d.mayReach(address) {
			d.failed(relay.URL, errRelayLocal)
			continue
		}
		d.relays, d.uris = append(d.relays, relay), append(d.uris, uri)
	}
	return d
}

// mayReach reports whether a relay may be at an address. A server that lies could otherwise have a
// phone that merely rings send into the network it is in.
func (d *relayDialer) mayReach(a netip.Addr) bool {
	return !a.IsUnspecified() && !a.IsMulticast() && (d.local || routable.Global(a))
}

// urls are what the agent is told: two for each relay, as the relayed address is to be of IPv4 or
// of IPv6. The port is their number; the protocol only tells which of several relays the agent is
// to prefer, UDP above the others.
func (d *relayDialer) urls() []*stun.URI {
	var all []*stun.URI
	for i, relay := range d.relays {
		scheme := stun.SchemeTypeTURNS
		if d.uris[i].Scheme == stun.SchemeTypeTURN && d.uris[i].Proto == stun.ProtoTypeUDP {
			scheme = stun.SchemeTypeTURN
		}
		for family := range 2 {
			all = append(all, &stun.URI{
				Scheme: scheme, Host: readyForTURN, Port: 2*i + family + 1, Proto: stun.ProtoTypeTCP,
				Username: relay.Username, Password: relay.Password,
			})
		}
	}
	return all
}

// reflexive are the same servers, asked by STUN for our reflexive address: a TURN server is a STUN
// server too (RFC 8656 section 2).
func (d *relayDialer) reflexive(relayOnly bool) (all []*stun.URI) {
	for _, uri := range d.uris {
		if !relayOnly && uri.Scheme == stun.SchemeTypeTURN && uri.Proto == stun.ProtoTypeUDP {
			all = append(all, &stun.URI{Scheme: stun.SchemeTypeSTUN, Host: uri.Host, Port: uri.Port, Proto: stun.ProtoTypeUDP})
		}
	}
	return all
}

// Dial connects to the relay of a number.
func (d *relayDialer) Dial(_, address string) (net.Conn, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	number, err := strconv.Atoi(port)
	if err != nil || number < 1 || number > 2*len(d.relays) {
		return nil, errRelayURL
	}
	i, wantsIPv6 := (number-1)/2, number%2 == 0
	c, err := d.connect(i, wantsIPv6)
	if err != nil {
		if d.ctx.Err() == nil && !errors.Is(err, errOtherFamily) {
			d.failed(d.relays[i].URL, plainly(err))
		}
		return nil, err
	}
	return c, nil
}

// connect makes the connection for an allocation. Over IPv4 there is one, of IPv4. Over IPv6 there
// are two, one of each family: either end may have no other than the other family. A name that has
// addresses of both is reached over both, for an allocation of the same: one may be dead.
func (d *relayDialer) connect(i int, wantsIPv6 bool) (*relayConn, error) {
	ctx, cancel := context.WithTimeout(d.ctx, relayDialTimeout)
	defer cancel()
	addresses, err := d.lookUp(ctx, d.uris[i].Host)
	if err != nil {
		return nil, err
	}
	if wantsIPv6 {
		addresses = slices.DeleteFunc(addresses, netip.Addr.Is4)
		err = errOtherFamily
	}
	for _, address := range addresses {
		var c *relayConn
		if c, err = d.connectTo(ctx, i, netip.AddrPortFrom(address, uint16(d.uris[i].Port))); err == nil {
			return d.keep(c, wantsIPv6)
		}
	}
	return nil, err
}

// lookUp finds the addresses that a relay may be at, IPv4 first, at most one of each family.
func (d *relayDialer) lookUp(ctx context.Context, host string) ([]netip.Addr, error) {
	if address, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{address.Unmap()}, nil
	}
	found, err := d.names(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	var four, six []netip.Addr
	for _, address := range found {
		switch address = address.Unmap(); {
		case !d.mayReach(address):
		case address.Is4() && four == nil:
			four = []netip.Addr{address}
		case address.Is6() && six == nil:
			six = []netip.Addr{address}
		}
	}
	if all := append(four, six...); len(all) > 0 {
		return all, nil
	}
	return nil, errRelayLocal
}

func (d *relayDialer) connectTo(ctx context.Context, i int, at netip.AddrPort) (*relayConn, error) {
	uri := d.uris[i]
	c := &relayConn{dialer: d, url: d.relays[i].URL}
	if uri.Proto == stun.ProtoTypeUDP {
		conn, err := d.net.Dial("udp", at.String())
		if err != nil {
			return nil, err
		}
		c.Conn = conn
		if uri.Scheme == stun.SchemeTypeTURNS {
			return c, c.secureDatagrams(ctx, uri.Host, at)
		}
		return c, nil
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", at.String())
	if err != nil {
		return nil, err
	}
	if uri.Scheme == stun.SchemeTypeTURNS {
		secured := tls.Client(conn, &tls.Config{ServerName: uri.Host, RootCAs: d.roots})
		if err := secured.HandshakeContext(ctx); err != nil {
			_ = conn.Close()
			return nil, err
		}
		conn = secured
	}
	c.Conn, c.frames = conn, turn.NewSTUNConn(conn)
	return c, nil
}

func (c *relayConn) secureDatagrams(ctx context.Context, name string, at netip.AddrPort) error {
	secured, err := dtls.ClientWithOptions(datagrams{c.Conn}, net.UDPAddrFromAddrPort(at),
		dtls.WithServerName(name), dtls.WithRootCAs(c.dialer.roots), dtls.WithLoggerFactory(silent))
	if err == nil {
		if err = secured.HandshakeContext(ctx); err != nil {
			_ = secured.Close()
		}
	}
	if err != nil {
		_ = c.Conn.Close()
		return err
	}
	c.Conn = secured
	return nil
}

// datagrams is a connected UDP socket as a net.PacketConn.
type datagrams struct{ net.Conn }

func (d datagrams) ReadFrom(b []byte) (int, net.Addr, error) {
	n, err := d.Read(b)
	return n, d.RemoteAddr(), err
}

func (d datagrams) WriteTo(b []byte, _ net.Addr) (int, error) { return d.Write(b) }

// keep remembers a connection until it is closed. The agent asks for an allocation of the family of
// its local address.
func (d *relayDialer) keep(c *relayConn, wantsIPv6 bool) (*relayConn, error) {
	c.local = &net.TCPAddr{IP: net.IPv4zero}
	if wantsIPv6 {
		c.local.IP = net.IPv6unspecified
	}
	if _, port, err := net.SplitHostPort(c.Conn.LocalAddr().String()); err == nil {
		c.local.Port, _ = strconv.Atoi(port)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ctx.Err() != nil {
		_ = c.Conn.Close()
		return nil, errRelayClosed
	}
	d.conns[c] = true
	c.silent = time.AfterFunc(relayPatience, func() { d.failed(c.url, errRelaySilent) })
	return c, nil
}

// close gives up what is not there yet.
func (d *relayDialer) close() {
	d.mu.Lock()
	d.stop()
	waiting := make([]*relayConn, 0, len(d.conns))
	for c := range d.conns {
		waiting = append(waiting, c)
	}
	d.mu.Unlock()
	for _, c := range waiting {
		c.giveUp()
	}
}

// A relayConn is a connection to a relay, for one allocation. The agent takes it for a stream; each
// Read yields one message.
type relayConn struct {
	net.Conn
	dialer *relayDialer
	url    string
	frames *turn.STUNConn // cuts a stream into messages; nil over datagrams
	local  *net.TCPAddr
	silent *time.Timer // until the first answer

	mu          sync.Mutex
	permissions permissions
	woken       bool                         // the read deadline may be over
	request     [stun.TransactionIDSize]byte // of the last Allocate request
	signed      bool                         // it had credentials
	allocated   bool
	givenUp     bool
	answered    bool // giveUp's answer was read
}

func (c *relayConn) LocalAddr() net.Addr { return c.local }

func (c *relayConn) Close() error {
	c.silent.Stop()
	c.dialer.mu.Lock()
	delete(c.dialer.conns, c)
	c.dialer.mu.Unlock()
	return c.Conn.Close()
}

// giveUp lets an Allocate request that waits for its answer fail now.
func (c *relayConn) giveUp() {
	c.silent.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.allocated {
		c.givenUp = true
		_ = c.Conn.Close()
	}
}

func (c *relayConn) Read(b []byte) (int, error) {
	for {
		if n := c.answer(b); n > 0 {
			return n, nil
		}
		n, err := c.read(b)
		switch {
		case err != nil && timedOut(err):
			continue // there is an answer of ours
		case err != nil && c.frames == nil && passes(err):
			continue // an ICMP error: the relay may be starting again
		case err != nil:
			return c.refusal(b, err)
		}
		if n = wholeMessage(b, n); n > 0 && c.observe(b[:n]) {
			return n, nil
		}
	}
}

func (c *relayConn) read(b []byte) (int, error) {
	if c.frames == nil {
		return c.Conn.Read(b)
	}
	n, _, err := c.frames.ReadFrom(b)
	return n, err
}

// passes reports whether an error of a connected UDP socket says something of one datagram only
// (RFC 1122 section 4.1.3.3).
func passes(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH)
}

// wholeMessage returns the length of the TURN message in a datagram, padded as in a stream (RFC
// 8656 section 12.5), or 0 if it holds none: the agent would give the relay up for that, whoever
// sent it.
func wholeMessage(b []byte, n int) int {
	if n < 4 {
		return 0
	}
	size := int(binary.BigEndian.Uint16(b[2:]))
	if stun.IsMessage(b[:n]) {
		if n < 20+size {
			return 0
		}
		return 20 + size
	}
	if b[0]&0xf0 != 0x40 || n < 4+size {
		return 0
	}
	padded := 4 + (size+3)&^3
	if padded > len(b) {
		return 0
	}
	clear(b[min(n, padded):padded])
	return padded
}

// observe reads along what the relay answers. It reports false for a message that is malformed.
func (c *relayConn) observe(b []byte) bool {
	if !stun.IsMessage(b) {
		return true
	}
	c.silent.Stop()
	m := &stun.Message{Raw: b}
	if m.Decode() != nil {
		return false
	}
	if m.Type.Method == stun.MethodCreatePermission {
		c.mu.Lock()
		c.permissions.learn(m)
		c.mu.Unlock()
	}
	if m.Type.Method != stun.MethodAllocate {
		return true
	}
	c.mu.Lock()
	signed := c.signed && m.TransactionID == c.request
	c.allocated = c.allocated || m.Type.Class == stun.ClassSuccessResponse
	c.mu.Unlock()
	var code stun.ErrorCodeAttribute
	if m.Type.Class != stun.ClassErrorResponse || code.GetFrom(m) != nil || !signed {
		return true // the first request has no credentials, and is refused for that
	}
	switch code.Code {
	case stun.CodeStaleNonce:
	case stun.CodeUnauthorized, stun.CodeWrongCredentials:
		c.dialer.failed(c.url, ErrRelayCredentials)
	case stun.CodeAddrFamilyNotSupported:
	default:
		c.dialer.failed(c.url, fmt.Errorf("it refuses: error %d", code.Code))
	}
	return true
}

// refusal is read when the connection has ended: the answer to a request that was given up, once.
func (c *relayConn) refusal(b []byte, err error) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.givenUp || c.answered {
		return 0, err
	}
	c.answered = true
	m, err := stun.Build(stun.NewTransactionIDSetter(c.request),
		stun.NewType(stun.MethodAllocate, stun.ClassErrorResponse), stun.CodeInsufficientCapacity)
	if err != nil || len(m.Raw) > len(b) {
		return 0, io.EOF
	}
	return copy(b, m.Raw), nil
}

func (c *relayConn) Write(b []byte) (int, error) {
	if len(b) >= 20 && b[0] == 0 && (b[1] == byte(stun.MethodAllocate) || b[1] == byte(stun.MethodCreatePermission)) { // requests
		m := &stun.Message{Raw: b}
		switch {
		case m.Decode() != nil:
		case m.Type.Method == stun.MethodAllocate:
			c.mu.Lock()
			c.request, c.signed = m.TransactionID, m.Contains(stun.AttrMessageIntegrity)
			c.mu.Unlock()
		case !c.askPermission(m):
			return len(b), nil
		}
	}
	n, err := c.Conn.Write(b)
	if err != nil && c.frames == nil && passes(err) {
		return len(b), nil // of a datagram before; this one is lost, as datagrams are
	}
	return n, err
}

// plainly says what a person can do something about.
func plainly(err error) error {
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(err, &unknown):
		return errors.New("its certificate is signed by an unknown authority")
	case errors.As(err, &name):
		return errors.New("its certificate is for another name")
	case errors.As(err, &invalid):
		return errors.New("its certificate is not valid, or not now")
	case errors.Is(err, context.DeadlineExceeded):
		return errRelaySilent
	case errors.Is(err, errRelayLocal), errors.Is(err, errRelayURL):
		return err
	}
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return errors.New("its name is not known")
	}
	return errors.New("it cannot be reached")
}
