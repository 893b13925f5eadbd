package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"sotto/signaling"
	"sotto/turnserver"
)

// What serve and turn have in common: addresses, metrics, logging, and sentences for what goes wrong with them.

// serverData names the data directory of a server.
func serverData(given string) (string, error) {
	if given != "" {
		return given, nil
	}
	home, err := dataHome()
	return filepath.Join(home, "sotto-server"), err
}

// firstStart reports whether no server has run on the data directory yet. A start that failed, because of an address in use, may have left
// the directory of the certificates there; the store is made when nothing can fail any more but itself.
func firstStart(data string) bool {
	_, err := os.Stat(filepath.Join(data, "store"))
	return errors.Is(err, fs.ErrNotExist)
}

func loopbackAddress(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

// A cleanup takes down what was put up, in the reverse order.
type cleanup []func(context.Context) error

func (c *cleanup) add(undo func(context.Context) error) { *c = append(*c, undo) }

func (c *cleanup) run() error {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	var errs []error
	for i := len(*c) - 1; i >= 0; i-- {
		errs = append(errs, (*c)[i](ctx))
	}
	return errors.Join(errs...)
}

// certificateFiles reads a certificate; nil when none is given.
func certificateFiles(cert, key string) (*signaling.CertificateFiles, error) {
	switch {
	case cert == "" && key == "":
		return nil, nil
	case key == "":
		return nil, usagef("--tls-key is missing: name the file of the private key of --tls-cert %s", cert)
	case cert == "":
		return nil, usagef("--tls-cert is missing: name the file of the certificate of --tls-key %s", key)
	}
	return signaling.LoadCertificate(cert, key)
}

// nameIn is the first host name of a certificate, "" if it has none.
func nameIn(certificate *signaling.CertificateFiles) string {
	if certificate == nil {
		return ""
	}
	shown, err := certificate.Get(nil)
	if err != nil {
		return ""
	}
	leaf, err := x509.ParseCertificate(shown.Certificate[0])
	if err != nil {
		return ""
	}
	return hostName(leaf)
}

func hostName(leaf *x509.Certificate) string {
	for _, name := range leaf.DNSNames {
		if !strings.HasPrefix(name, "*.") {
			return name
		}
	}
	return ""
}

// warnOfGap tells an operator that clients may not get from a certificate to an authority that they
// know. Those that have met the intermediate elsewhere do, which hides the fault.
func warnOfGap(certificate *signaling.CertificateFiles, log *slog.Logger) {
	if certificate == nil {
		return
	}
	shown, err := certificate.Get(nil)
	if err != nil {
		return
	}
	if issuer := chainGap(shown.Certificate, nil); issuer != "" {
		log.Warn("the issuer of the certificate in --tls-cert is neither in that file nor an authority "+
			"that this system knows. If it is an intermediate, put its certificate into the file too, "+
			"behind the server's. If it is an authority of your own, others need it by --ca.",
			"issuer", issuer)
	}
}

// knownAuthority tells whether a certificate leads to one of roots (nil: the system's).
func knownAuthority(leaf *x509.Certificate, others, roots *x509.CertPool) bool {
	_, err := leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: others, CurrentTime: leaf.NotAfter.Add(-time.Second),
	})
	return !errors.As(err, new(x509.UnknownAuthorityError))
}

// parseChain reads what a server shows.
func parseChain(chain [][]byte) (certificates []*x509.Certificate, all *x509.CertPool, err error) {
	all = x509.NewCertPool()
	for _, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, nil, err
		}
		certificates = append(certificates, c)
		all.AddCert(c)
	}
	return certificates, all, nil
}

// needsAuthority tells whether people must be given the authority of a certificate, which may be
// nil.
func needsAuthority(certificate *signaling.CertificateFiles) bool {
	if certificate == nil {
		return false
	}
	shown, err := certificate.Get(nil)
	if err != nil {
		return false
	}
	certificates, others, err := parseChain(shown.Certificate)
	return err == nil && !knownAuthority(certificates[0], others, nil)
}

// chainGap names the issuer at which a chain of certificates breaks off, "" if it leads to one of
// roots (nil: the system's) or to a root of its own.
func chainGap(chain [][]byte, roots *x509.CertPool) string {
	certificates, others, err := parseChain(chain)
	if err != nil || knownAuthority(certificates[0], others, roots) {
		return ""
	}
	last := certificates[0]
	for range certificates {
		if bytes.Equal(last.RawIssuer, last.RawSubject) {
			return ""
		}
		at := slices.IndexFunc(certificates, func(c *x509.Certificate) bool {
			return bytes.Equal(c.RawSubject, last.RawIssuer)
		})
		if at < 0 {
			break
		}
		last = certificates[at]
	}
	return last.Issuer.String()
}

// relayTLS serves a certificate at the relay; nil for none.
func relayTLS(get func(*tls.ClientHelloInfo) (*tls.Certificate, error)) *tls.Config {
	if get == nil {
		return nil
	}
	return &tls.Config{GetCertificate: get}
}

// A reload reads something again that may have changed, and leaves in use what was if it cannot.
type reload struct {
	what string
	read func() error
}

// reloads are those of a command that has certificate files, settings or a file of secrets; each may be missing.
func reloads(certificate *signaling.CertificateFiles, settings, secrets func() error) []reload {
	var all []reload
	if certificate != nil {
		all = append(all, reload{"certificate", certificate.Reload})
	}
	if settings != nil {
		all = append(all, reload{"settings", settings})
	}
	if secrets != nil {
		all = append(all, reload{"relay secrets", secrets})
	}
	return all
}

// untilStopped returns when ctx ends or something fails. SIGHUP reads files again and stops nothing.
func untilStopped(
	ctx context.Context, again []reload, failed <-chan error, out *output, log *slog.Logger,
) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP) // and not given back: it must not end what is still draining
	for {
		select {
		case <-hangup:
			readAgain(again, out, log)
		case err := <-failed:
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

type reloadedLine struct {
	Event string   `json:"event"` // "reloaded"
	What  []string `json:"what"`
}

// readAgain says what holds from now on, and logs what does not.
func readAgain(again []reload, out *output, log *slog.Logger) {
	var done []string
	for _, r := range again {
		switch err := r.read(); {
		case errors.Is(err, turnserver.ErrNeedsRestart):
			log.Warn("read again, but not all of it holds", "what", r.what, "error", err)
		case err != nil:
			log.Error("cannot read again; what is in use stays", "what", r.what, "error", err)
		default:
			done = append(done, r.what)
		}
	}
	if done != nil {
		out.say(reloadedLine{"reloaded", done}, "read again: %s", strings.Join(done, ", "))
	}
}

// addressError makes a sentence of the most common reasons why listening fails.
func addressError(err error, address, flag string) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("%s is in use by another program: stop it, or choose another address with %s", address, flag)
	}
	if errors.Is(err, syscall.EACCES) {
		return fmt.Errorf("%s is not yours to listen on: ports below 1024 need privileges; choose another with %s", address, flag)
	}
	return err
}

// listenMetrics binds the address of metrics and health; nil when they are off.
func listenMetrics(address string) (net.Listener, error) {
	if address == "off" || address == "" {
		return nil, nil
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, addressError(err, address, "--metrics ADDRESS, or --metrics off")
	}
	return listener, nil
}

// serveMetrics answers until the listener is closed: /healthz, /metrics of the server, /metrics/relay of the relay. Either may be nil; a relay alone
// answers at /metrics too, where Prometheus looks if it is not told otherwise.
func serveMetrics(listener net.Listener, server *signaling.Server, relay *turnserver.Server) error {
	mux := http.NewServeMux()
	health := http.Handler(http.HandlerFunc(relayHealth))
	if server != nil {
		mux.Handle("GET /metrics", server.MetricsHandler())
		health = server.Handler()
	}
	if relay != nil {
		registry := prometheus.NewRegistry()
		registry.MustRegister(relay)
		handler := promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
		mux.Handle("GET /metrics/relay", handler)
		if server == nil {
			mux.Handle("GET /metrics", handler)
		}
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, r *http.Request) {
		if relay != nil && relay.Draining() { // so that a load balancer sends no new calls
			http.Error(w, "draining", http.StatusServiceUnavailable)
			return
		}
		health.ServeHTTP(w, r)
	})
	answering := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: time.Minute}
	if err := answering.Serve(listener); !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// relayHealth is that of a relay alone; a server asks its store too.
func relayHealth(w http.ResponseWriter, _ *http.Request) {
	if err := signaling.DescriptorsLeft(); err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Write([]byte("ok\n"))
}

type metricsLine struct {
	Event string `json:"event"` // "metrics"
	URL   string `json:"url"`
}

func sayMetrics(out *output, listener net.Listener) {
	if listener != nil {
		url := "http://" + listener.Addr().String()
		out.say(metricsLine{"metrics", url}, "metrics and health at %s/metrics, /metrics/relay, /healthz", url)
	}
}
