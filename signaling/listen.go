package signaling

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/crypto/acme"
	"golang.org/x/crypto/acme/autocert"

	"sotto/internal/proxyproto"
	"sotto/wire"
)

// ListenConfig says where and how a Listener serves. Exactly one of three ways: Certificate, ACME, or plain.
type ListenConfig struct {
	// Address is a TCP address such as ":443" or "127.0.0.1:0".
	Address string

	// Certificate is served as it was last loaded.
	Certificate *CertificateFiles

	// ACME gets certificates for these names from Let's Encrypt (RFC 8555, challenge tls-alpn-01 of RFC 8737: Address must be
	// port 443 as the internet sees it). Using it accepts the directory's terms of service.
	ACME          []string
	ACMEDir       string // keeps keys and certificates; required with ACME
	ACMEEmail     string // optional contact
	ACMEDirectory string // another directory URL

	// InsecurePlain allows serving without TLS on an address that is not loopback. Devices' links
	// are then open to the network. A proxy that ends TLS in front breaks the links' channel
	// binding: let it pass TCP through instead. Behind such a proxy all devices share its address,
	// and with it every limit that goes by address: ConnectionsPer and those of Limits. See
	// Proxies.
	InsecurePlain bool

	// Proxies are the addresses of TCP proxies in front, each of whose connections names its client
	// by the PROXY protocol, version 1 or 2, and is closed if it does not. Nobody else may be able
	// to connect from there. From other addresses such a header is no request.
	Proxies []netip.Prefix

	// Connections bounds what is open at once, links included: never more than half of the descriptors the process may have, which
	// leaves the rest to the store and the relay. Default 130,000. ConnectionsPer is the same for one address. Default 256.
	Connections, ConnectionsPer int

	Logger *slog.Logger
}

// A Listener serves HTTP on one address.
type Listener struct {
	net    net.Listener
	server *http.Server
	plain  bool
	sorter *sorter // of a shared port
}

// Listen binds the address. Nothing is answered before Serve.
func Listen(cfg ListenConfig) (*Listener, error) {
	logger := cfg.Logger
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	config, err := cfg.tls()
	if err != nil {
		return nil, err
	}
	l := &Listener{plain: config == nil}
	if l.plain && !cfg.InsecurePlain && !loopback(cfg.Address) {
		return nil, fmt.Errorf("%s is not a loopback address: give certificate files or ACME names, or allow plain explicitly", cfg.Address)
	}
	bound, err := net.Listen("tcp", cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("cannot listen: %w", err)
	}
	if len(cfg.Proxies) > 0 {
		bound = proxyproto.Listen(bound, cfg.Proxies)
	}
	l.net = door{bound, newCrowd(or(cfg.ConnectionsPer, 256), min(or(cfg.Connections, 130_000), descriptors()/2))}
	l.server = &http.Server{
		TLSConfig:         config,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second, // of a registration; links set their own deadlines
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       60 * time.Second,
		MaxHeaderBytes:    16 << 10,
		// The HTTP server's own messages hold addresses of peers (failed handshakes): only their number would be of use.
		ErrorLog: log.New(discardCounted{logger}, "", 0),
	}
	return l, nil
}

// tls returns nil for plain.
func (cfg ListenConfig) tls() (*tls.Config, error) {
	if cfg.Certificate != nil && len(cfg.ACME) > 0 {
		return nil, errors.New("certificate files and ACME exclude each other")
	}
	// TLS 1.3 only: channel binding needs it (RFC 9266 section 4.2). A websocket needs HTTP/1.1.
	config := &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}}
	switch {
	case cfg.Certificate != nil:
		config.GetCertificate = cfg.Certificate.Get
	case len(cfg.ACME) > 0:
		if cfg.ACMEDir == "" {
			return nil, errors.New("ACME needs a directory to keep its certificates in")
		}
		if err := os.MkdirAll(cfg.ACMEDir, 0o700); err != nil {
			return nil, fmt.Errorf("ACME directory: %w", err)
		}
		names := make([]string, len(cfg.ACME))
		for i, n := range cfg.ACME {
			name, err := wire.ServerName(n)
			if err != nil {
				return nil, fmt.Errorf("%q: %w", n, err)
			}
			names[i] = name
		}
		manager := &autocert.Manager{
			Prompt:     autocert.AcceptTOS,
			HostPolicy: autocert.HostWhitelist(names...),
			Cache:      autocert.DirCache(filepath.Clean(cfg.ACMEDir)),
			Email:      cfg.ACMEEmail,
		}
		if cfg.ACMEDirectory != "" {
			manager.Client = &acme.Client{DirectoryURL: cfg.ACMEDirectory}
		}
		config.GetCertificate = manager.GetCertificate
		config.NextProtos = append(config.NextProtos, acme.ALPNProto)
	default:
		return nil, nil
	}
	return config, nil
}

// Addr is the bound address.
func (l *Listener) Addr() net.Addr { return l.net.Addr() }

// URL is the base URL of this listener under one of the server's names.
func (l *Listener) URL(name string) string {
	_, port, _ := net.SplitHostPort(l.net.Addr().String())
	scheme := "https"
	if l.plain {
		scheme = "http"
	}
	return scheme + "://" + net.JoinHostPort(name, port)
}

// GetCertificate is for tls.Config.GetCertificate of others that go by the same name, the relay for
// one: the certificate that this listener shows. Nil for a plain one.
func (l *Listener) GetCertificate() func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if l.plain {
		return nil
	}
	return l.server.TLSConfig.GetCertificate
}

// Serve answers with handler until Shutdown, then returns nil.
func (l *Listener) Serve(handler http.Handler) error {
	l.server.Handler = handler
	var err error
	if l.sorter != nil {
		err = l.serveSorted(handler)
	} else if l.plain {
		err = l.server.Serve(l.net)
	} else {
		err = l.server.ServeTLS(l.net, "", "")
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Shutdown stops accepting and closes connections. Call it after Server.Shutdown, which answers the requests in flight and ends the
// links: what is left then are answers on their way, and strangers who have not asked for anything yet. They get a second.
func (l *Listener) Shutdown(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if l.server.Shutdown(ctx) != nil {
		return l.server.Close()
	}
	return nil
}

func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// discardCounted logs that the HTTP server had something to say, and not what.
type discardCounted struct{ logger *slog.Logger }

func (d discardCounted) Write(p []byte) (int, error) {
	d.logger.Debug("http: a connection failed before a request was read")
	return len(p), nil
}
