package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/pion/dtls/v3"
	"github.com/pion/stun/v4"
	"github.com/pion/turn/v5"
)

// A transport is a way to a relay: udp, tcp, tls or dtls, to a host and port.
type transport struct{ name, host, port string }

// transports are those of a turn: or turns: URI (RFC 7065), or of HOST:PORT. Without ?transport= it is both, over datagrams and over a
// stream.
func transports(text string) ([]transport, error) {
	uri := text
	if !strings.HasPrefix(uri, "turn:") && !strings.HasPrefix(uri, "turns:") {
		uri = "turn:" + uri
	}
	u, err := stun.ParseURI(uri)
	if err != nil {
		return nil, usagef("--check %q is neither HOST:PORT nor an address that a relay says of itself, "+
			"for instance turns:relay.example:5349?transport=tcp", text)
	}
	names := map[stun.ProtoType]string{stun.ProtoTypeUDP: "udp", stun.ProtoTypeTCP: "tcp"}
	if u.Scheme == stun.SchemeTypeTURNS {
		names = map[stun.ProtoType]string{stun.ProtoTypeUDP: "dtls", stun.ProtoTypeTCP: "tls"}
	}
	of := func(p stun.ProtoType) transport { return transport{names[p], u.Host, strconv.Itoa(u.Port)} }
	if strings.Contains(uri, "?") {
		return []transport{of(u.Proto)}, nil
	}
	return []transport{of(stun.ProtoTypeUDP), of(stun.ProtoTypeTCP)}, nil
}

func (t transport) String() string {
	scheme := map[string]string{"udp": "turn", "tcp": "turn", "tls": "turns", "dtls": "turns"}[t.name]
	return fmt.Sprintf("%s:%s?transport=%s", scheme, net.JoinHostPort(t.host, t.port), strings.ToLower(t.below()))
}

// below is the protocol whose port it uses.
func (t transport) below() string {
	if t.name == "udp" || t.name == "dtls" {
		return "UDP"
	}
	return "TCP"
}

// dial opens the way to the relay: a connection that keeps messages apart.
func (t transport) dial(ctx context.Context, roots *x509.CertPool) (net.PacketConn, net.Addr, error) {
	address := net.JoinHostPort(t.host, t.port)
	switch t.name {
	case "udp", "dtls":
		conn, err := new(net.Dialer).DialContext(ctx, "udp", address)
		if err != nil {
			return nil, nil, err
		}
		if t.name == "udp" {
			return datagrams{conn}, conn.RemoteAddr(), nil
		}
		secured, err := dtls.ClientWithOptions(datagrams{conn}, conn.RemoteAddr(),
			dtls.WithServerName(t.host), dtls.WithRootCAs(roots), dtls.WithLoggerFactory(quiet()),
			dtls.WithVerifyConnection(func(s *dtls.State) error { return namedIP(s.PeerCertificates, t.host) }))
		if err == nil {
			err = secured.HandshakeContext(ctx)
		}
		if err != nil {
			conn.Close()
			return nil, nil, err
		}
		return datagrams{secured}, conn.RemoteAddr(), nil
	case "tls":
		conn, err := (&tls.Dialer{Config: &tls.Config{ServerName: t.host, RootCAs: roots}}).DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, nil, err
		}
		return turn.NewSTUNConn(conn), conn.RemoteAddr(), nil
	default:
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
		if err != nil {
			return nil, nil, err
		}
		return turn.NewSTUNConn(conn), conn.RemoteAddr(), nil
	}
}

// namedIP completes what pion/dtls checks of a certificate: of a server that is named by its address it does not look for it.
func namedIP(certificates [][]byte, host string) error {
	if net.ParseIP(host) == nil {
		return nil
	}
	leaf, err := x509.ParseCertificate(certificates[0])
	if err != nil {
		return err
	}
	return leaf.VerifyHostname(host)
}

// datagrams is a connected socket in the form that pion wants.
type datagrams struct{ net.Conn }

func (d datagrams) ReadFrom(b []byte) (int, net.Addr, error) {
	n, err := d.Read(b)
	return n, d.RemoteAddr(), err
}

func (d datagrams) WriteTo(b []byte, _ net.Addr) (int, error) { return d.Write(b) }
