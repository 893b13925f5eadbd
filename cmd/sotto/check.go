package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/pion/logging"
	"github.com/pion/stun/v4"
	"github.com/pion/turn/v5"

	"sotto/turncred"
)

// What a check of one transport does, as two clients of the relay and as a peer:
//
//  1. connect, for TLS and DTLS with a look at the certificate
//  2. allocate, twice
//  3. packets from one allocation to the other and back: the relay relays
//  4. packets between an allocation and a socket of this machine: the relayed ports are reachable. Not where the relay may not
//     send to this machine, because it has no public address or is the relay's own.
const (
	checkPackets  = 10
	checkSize     = 172 // audio
	checkAnswer   = 500 * time.Millisecond
	checkConnect  = 6 * time.Second  // to an allocation
	checkDeadline = 30 * time.Second // of one transport
)

type checkLine struct {
	Event     string  `json:"event"` // "check"
	Transport string  `json:"transport"`
	URL       string  `json:"url"`
	OK        bool    `json:"ok"`
	Lost      int     `json:"lost"` // of 20 packets between two allocations, there and back
	RTT       float64 `json:"rtt_ms,omitempty"`
	Ports     string  `json:"relayed_ports,omitempty"` // "reachable", or why they were not tried
	Error     string  `json:"error,omitempty"`
}

// A credential is made anew for each allocation.
type credential func() (username, password string)

// checkCredential is minted, or a user's who has a password.
func (r *relayFlags) checkCredential(secrets [][]byte) (credential, error) {
	if len(secrets) > 0 {
		return func() (string, string) {
			return turncred.Mint(secrets[0], "check", time.Minute, time.Now())
		}, nil
	}
	users, err := r.relayUsers()
	for _, user := range users {
		if user.password != "" {
			return func() (string, string) { return user.name, user.password }, err
		}
	}
	return nil, cmp.Or(err, usagef("--check needs the relay's secret or a user of it: "+
		"--relay-secret-file FILE, or --relay-user NAME:FILE with the password in that file and not "+
		"its key"))
}

// checkRelay proves each transport, and says what to do about those that fail.
func checkRelay(
	ctx context.Context, out *output, addresses []string, as credential, caFile string,
) error {
	var all []transport
	for _, address := range addresses {
		some, err := transports(address)
		if err != nil {
			return err
		}
		all = append(all, some...)
	}
	var roots *x509.CertPool // nil: the system's
	if caFile != "" {
		var err error
		if roots, err = authorities(caFile); err != nil {
			return err
		}
	}
	failed := 0
	for _, t := range all {
		line := checkLine{Event: "check", Transport: t.name, URL: t.String()}
		if err := t.check(ctx, as, roots, &line); err != nil {
			failed++
			line.Error = err.Error()
			out.say(line, "%-4s  %s  FAILS: %v", t.name, t, err)
			continue
		}
		line.OK = true
		out.say(line, "%-4s  %s  relays: %d of %d packets, %.1f ms there and back; relayed ports: %s",
			t.name, t, 2*checkPackets-line.Lost, 2*checkPackets, line.RTT, line.Ports)
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d transports do not relay", failed, len(all))
	}
	return nil
}

func (t transport) check(
	ctx context.Context, as credential, roots *x509.CertPool, line *checkLine,
) error {
	ctx, cancel := context.WithTimeout(ctx, checkDeadline)
	defer cancel()
	var ends [2]*end
	for i := range ends {
		e, err := t.allocate(ctx, as, roots)
		if err != nil {
			return err
		}
		defer e.close()
		ends[i] = e
	}
	a, b := ends[0], ends[1]
	if err := cmp.Or(a.permit(b.relayed.LocalAddr()), b.permit(a.relayed.LocalAddr())); err != nil {
		return fmt.Errorf("it allocates and does not let two of its own clients reach each other (%v): "+
			"let it relay to its own relayed addresses (of Sotto's relay --relay-allow, if they are not public)", err)
	}
	there, _, rtt := carry(ctx, a.relayed, b.relayed.LocalAddr(), b.relayed)
	back, _, _ := carry(ctx, b.relayed, a.relayed.LocalAddr(), a.relayed)
	if there == 0 || back == 0 {
		return fmt.Errorf("it allocates, but no packet passes between two allocations (%d of %d there, %d back): "+
			"see that the address it gives out, %v, is its own (--relay-address), and its refused_total and dropped_total metrics", there, checkPackets, back, host(a.relayed.LocalAddr()))
	}
	line.Lost, line.RTT = 2*checkPackets-there-back, rtt.Seconds()*1000
	return a.ports(ctx, line)
}

// ports tries a relayed port from outside.
func (e *end) ports(ctx context.Context, line *checkLine) error {
	seen, err := e.client.SendBindingRequestTo(e.server) // from where the relay sees this machine
	if err != nil {
		return fmt.Errorf("it stopped answering: %w", err)
	}
	own, relayed := host(seen), host(e.relayed.LocalAddr())
	if own.Equal(relayed) {
		line.Ports = "not tried, the check runs on the relay's own machine"
		return nil
	}
	var refused *stun.TurnError
	if err := e.permit(&net.UDPAddr{IP: own, Port: 9}); errors.As(err, &refused) && refused.ErrorCodeAttr.Code == stun.CodeForbidden {
		line.Ports = "not tried, the relay may not send to this machine; run the check from a machine with a public address"
		return nil
	} else if err != nil {
		return fmt.Errorf("it does not take a permission: %w", err)
	}
	peer, err := net.ListenUDP("udp", nil)
	if err != nil {
		return err
	}
	defer peer.Close()
	in, from, _ := carry(ctx, peer, e.relayed.LocalAddr(), e.relayed)
	if in == 0 {
		return fmt.Errorf("nothing arrives at its relayed port: let the firewall pass the UDP ports of --relay-ports (49152-65535) to the "+
			"relay, and see that %v is the address by which the internet reaches it (--relay-address)", relayed)
	}
	if backs, _, _ := carry(ctx, e.relayed, from, peer); backs == 0 {
		return errors.New("what it sends from a relayed port does not arrive: " +
			"let its firewall pass outgoing UDP from the ports of --relay-ports (49152-65535)")
	}
	line.Ports = "reachable"
	return nil
}

// carry sends packets one at a time and waits for each: how many came, from where the last, and how long the quickest took.
func carry(ctx context.Context, from net.PacketConn, to net.Addr, at net.PacketConn) (came int, source net.Addr, quickest time.Duration) {
	packet, buf := make([]byte, checkSize), make([]byte, 2048)
	for i := range checkPackets {
		if ctx.Err() != nil || came == 0 && i == 4 { // nothing comes
			return came, source, quickest
		}
		rand.Read(packet)
		start := time.Now()
		if _, err := from.WriteTo(packet, to); err != nil {
			continue
		}
		_ = at.SetReadDeadline(start.Add(checkAnswer))
		for {
			n, sender, err := at.ReadFrom(buf)
			if err != nil {
				break
			}
			if !bytes.Equal(buf[:n], packet) {
				continue // a late one
			}
			if took := time.Since(start); came == 0 || took < quickest {
				quickest = took
			}
			came, source = came+1, sender
			break
		}
	}
	return came, source, quickest
}

// An end is a client of the relay with an allocation.
type end struct {
	conn    net.PacketConn
	server  net.Addr
	client  *turn.Client
	relayed net.PacketConn
	stop    func() bool
}

func (e *end) close() {
	if e.relayed != nil {
		e.relayed.Close()
	}
	if e.client != nil {
		e.client.Close()
	}
	e.stop()
	e.conn.Close()
}

func (e *end) permit(peer net.Addr) error { return e.client.CreatePermission(peer) }

func (t transport) allocate(
	ctx context.Context, as credential, roots *x509.CertPool,
) (*end, error) {
	within, cancel := context.WithTimeout(ctx, checkConnect)
	defer cancel()
	conn, server, err := t.dial(within, roots)
	if err != nil {
		return nil, t.explainDial(err)
	}
	e := &end{conn: conn, server: server, stop: context.AfterFunc(ctx, func() { conn.Close() })} // pion's requests know no ctx
	username, password := as()
	e.client, err = turn.NewClient(&turn.ClientConfig{
		TURNServerAddr: server.String(), Conn: conn, Username: username, Password: password, LoggerFactory: quiet(),
	})
	if err == nil {
		err = e.client.Listen()
	}
	if err == nil {
		e.relayed, err = e.client.AllocateWithContext(within)
	}
	if err != nil {
		e.close()
		return nil, t.explainAllocate(err)
	}
	return e, nil
}

func (t transport) explainDial(err error) error {
	var certificate *tls.CertificateVerificationError
	var dns *net.DNSError
	var another x509.HostnameError
	switch {
	case errors.As(err, &another) && net.ParseIP(t.host) != nil && hostName(another.Certificate) != "":
		named := transport{t.name, hostName(another.Certificate), t.port}
		return fmt.Errorf("its certificate is good for %s and not for the address %s: "+
			"check %s, and give clients that too", named.host, t.host, named)
	case errors.As(err, &dns):
		return fmt.Errorf("the name %s has no address: see the DNS", t.host)
	case errors.As(err, &certificate), errors.As(err, new(x509.HostnameError)), errors.As(err, new(x509.UnknownAuthorityError)):
		return fmt.Errorf("its certificate is not good for %s: %w", t.host, err)
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("nothing listens on %s port %s: start the relay, or give it this port", t.below(), t.port)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return fmt.Errorf("no answer on %s port %s: let the firewall pass it to the relay, and see that the relay listens there",
			t.below(), t.port)
	}
	return fmt.Errorf("it cannot be reached over %s: %w", t.name, err)
}

func (t transport) explainAllocate(err error) error {
	var refused *stun.TurnError
	if !errors.As(err, &refused) {
		return fmt.Errorf("no answer of a relay on %s port %s: let the firewall pass it, and see that a relay listens there", t.below(), t.port)
	}
	switch refused.ErrorCodeAttr.Code {
	case stun.CodeBadRequest, stun.CodeUnauthorized:
		return errors.New("it does not take the credential: give it the same --relay-secret-file, " +
			"or the --relay-user with the password, and set both clocks right")
	case stun.CodeAllocQuotaReached:
		return errors.New("its quota is used up: see --relay-per-user and the number of its allocations")
	case stun.CodeInsufficientCapacity:
		return errors.New("it has no capacity: it is stopping (/healthz says \"draining\"), or has no free port in --relay-ports")
	}
	return fmt.Errorf("it refuses an allocation: %w", err)
}

func host(a net.Addr) net.IP {
	if u, ok := a.(*net.UDPAddr); ok {
		return u.IP
	}
	return nil
}

// quiet keeps pion, which would write to standard error, from doing so.
func quiet() logging.LoggerFactory {
	return &logging.DefaultLoggerFactory{DefaultLogLevel: logging.LogLevelDisabled}
}
