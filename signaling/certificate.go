package signaling

import (
	"crypto/tls"
	"fmt"
	"sync/atomic"
)

// CertificateFiles are a TLS certificate and its key in PEM files that may be replaced while they serve. One value may serve several
// listeners, the relay's too: after a Reload all of them show the new certificate.
type CertificateFiles struct {
	cert, key string
	current   atomic.Pointer[tls.Certificate]
}

// LoadCertificate reads the files.
func LoadCertificate(certFile, keyFile string) (*CertificateFiles, error) {
	c := &CertificateFiles{cert: certFile, key: keyFile}
	if err := c.Reload(); err != nil {
		return nil, err
	}
	return c, nil
}

// Reload reads the files again, for instance at SIGHUP. If they cannot be used, the certificate in use stays.
func (c *CertificateFiles) Reload() error {
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return fmt.Errorf("certificate files: %w", err)
	}
	c.current.Store(&pair)
	return nil
}

// Get is for tls.Config.GetCertificate, which is asked at each handshake.
func (c *CertificateFiles) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.current.Load(), nil
}
