package signaling

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sotto/sealedwire"
	"sotto/wire"
)

func (d *testDevice) certificate() (*wire.SenderCertificate, error) {
	f, err := d.ask(&wire.ClientFrame{Body: &wire.ClientFrame_GetSenderCertificate{GetSenderCertificate: &wire.GetSenderCertificate{}}})
	return f.GetSenderCertificate(), err
}

func TestSenderCertificate(t *testing.T) {
	s := serve(t, func(c *Config, _ *timing) { c.Limits.Certificates = Rate{2, time.Hour} })
	alice := s.connected(t, "alice")
	first, err := alice.certificate()
	if err != nil {
		t.Fatal(err)
	}
	c, err := sealedwire.ParseSenderCertificate(first.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	if err := c.Validate(sealedwire.PublicKey(first.TrustRoot), now); err != nil {
		t.Error(err)
	}
	if c.Account != [16]byte(alice.account) || c.Device != 1 || c.Identity != alice.identity {
		t.Error("the certificate is for another device or key")
	}
	if valid := c.Expires.Sub(now); valid < 24*time.Hour-time.Minute || valid > 25*time.Hour || !c.Expires.Equal(c.Expires.Truncate(time.Hour)) {
		t.Errorf("valid for %v, until %v", valid, c.Expires)
	}
	if _, err := alice.certificate(); err != nil {
		t.Error(err)
	}
	if _, err := alice.certificate(); code(err) != wire.Error_RATE_LIMITED {
		t.Errorf("a third: %v", err)
	}
	s.restart(t)
	alice.connect(t)
	if again, err := alice.certificate(); err != nil || !bytes.Equal(again.TrustRoot, first.TrustRoot) {
		t.Errorf("another trust root after a restart, %v", err)
	}
}

// TestIssuerFile: the keys are made once, for their owner's eyes; no damage goes unnoticed, nothing is made in place of what is damaged,
// and the error says what to do.
func TestIssuerFile(t *testing.T) {
	cfg := Config{DataDir: t.TempDir(), Names: []string{"127.0.0.1"}}
	path := filepath.Join(cfg.DataDir, "certificates")
	start := func() error {
		s, err := New(cfg)
		if err == nil {
			err = s.Shutdown(t.Context())
		}
		return err
	}
	if err := os.WriteFile(path+".new", []byte("half of a file, when the power failed"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := start(); err != nil {
		t.Fatal(err)
	}
	made, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file has mode %v, %v", info.Mode(), err)
	}
	if err := start(); err != nil {
		t.Fatal(err)
	}
	if again, err := os.ReadFile(path); err != nil || !bytes.Equal(again, made) {
		t.Errorf("the second start changed the file, %v", err)
	}
	if err := os.WriteFile(path, made[:len(made)-1], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := start(); err == nil || !strings.Contains(err.Error(), path+" is damaged") || !strings.Contains(err.Error(), "backup") {
		t.Errorf("with a damaged file: %v", err)
	}
	if after, err := os.ReadFile(path); err != nil || len(after) != len(made)-1 {
		t.Errorf("the damaged file was replaced, %v", err)
	}

	good, err := parseIssuer(made)
	if err != nil {
		t.Fatal(err)
	}
	for n := range made {
		if _, err := parseIssuer(made[:n]); err == nil {
			t.Errorf("%d bytes of %d are accepted", n, len(made))
		}
		flipped := bytes.Clone(made)
		flipped[n] ^= 0x20
		// Five bits of a Curve25519 private key mean nothing (RFC 7748 section 5); 0x20 is none of them.
		if _, err := parseIssuer(flipped); err == nil {
			t.Errorf("a change of byte %d is accepted", n)
		}
	}
	if _, err := parseIssuer(append(bytes.Clone(made), 0)); err == nil {
		t.Error("a byte more is accepted")
	}
	other, err := parseIssuer(newIssuerFile())
	if err != nil || other.root == good.root {
		t.Errorf("two servers have one trust root, %v", err)
	}
}
