// Package scenario holds whole calls between separate processes of the real binary, over real sockets.
package scenario

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// sotto is the binary under test.
var sotto string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		directory, err := os.MkdirTemp("", "sotto-scenario-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(directory)
		sotto = filepath.Join(directory, "sotto")
		build := exec.Command("go", "build", "-o", sotto, "sotto/cmd/sotto")
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building the binary: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// patience is for a machine that is busy with other tests; nothing here waits longer than it must.
const patience = 60 * time.Second

// A line is one JSON object that a command printed.
type line map[string]any

// A process is a running sotto command, whose events can be waited for.
type process struct {
	t     *testing.T
	name  string
	cmd   *exec.Cmd
	lines chan line
	errs  *strings.Builder
	seen  []line
	ended sync.Once
	err   error
}

// start runs "sotto ARGS --json", in a network namespace if one is named.
func start(t *testing.T, namespace string, args ...string) *process {
	t.Helper()
	args = append([]string{sotto}, append(args, "--json")...)
	if namespace != "" {
		args = append([]string{"ip", "netns", "exec", namespace}, args...)
	}
	p := &process{t: t, name: strings.Join(args, " "), cmd: exec.Command(args[0], args[1:]...), lines: make(chan line, 1000), errs: &strings.Builder{}}
	p.cmd.Stderr = p.errs
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.lines)
		scanner := bufio.NewScanner(stdout)
		for scanner.Scan() {
			var l line
			if json.Unmarshal(scanner.Bytes(), &l) == nil {
				p.lines <- l
			}
		}
	}()
	t.Cleanup(func() {
		p.cmd.Process.Signal(syscall.SIGINT)
		p.wait()
	})
	return p
}

// isStill reports whether the last line of the two kinds is of the first.
func (p *process) isStill(kind, over string) (still bool) {
	for _, l := range p.seen {
		switch l["event"] {
		case kind:
			still = true
		case over:
			still = false
		}
	}
	return still
}

// event returns the next line of that kind.
func (p *process) event(kind string) line {
	p.t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case l, ok := <-p.lines:
			if !ok {
				p.t.Fatalf("%s ended without %q: %v\n%s\n%v", p.name, kind, p.wait(), p.errs, p.seen)
			}
			p.seen = append(p.seen, l)
			if l["event"] == kind {
				return l
			}
		case <-deadline:
			p.t.Fatalf("%s: no %q within %s; it said %v", p.name, kind, patience, p.seen)
		}
	}
}

// wait waits for the end of the process, and makes it end if it takes too long.
func (p *process) wait() error {
	p.ended.Do(func() {
		kill := time.AfterFunc(patience, func() { p.cmd.Process.Kill() })
		defer kill.Stop()
		for range p.lines { // until its output is closed
		}
		p.err = p.cmd.Wait()
	})
	return p.err
}

// run runs a command to its end.
func run(t *testing.T, namespace string, args ...string) {
	t.Helper()
	p := start(t, namespace, args...)
	if err := p.wait(); err != nil {
		t.Fatalf("%s: %v\n%s", p.name, err, p.errs)
	}
}

// number is a value of a line, "video.frames_sent" being one within another.
func number(t *testing.T, l line, name string) float64 {
	t.Helper()
	outer, inner, nested := strings.Cut(name, ".")
	value := l[outer]
	if nested {
		value = value.(map[string]any)[inner]
	}
	n, ok := value.(float64)
	if !ok {
		t.Fatalf("%s is not a number in %v", name, l)
	}
	return n
}

// certificate writes a self-signed certificate for the addresses, and returns the names of its files.
func certificate(t *testing.T, addresses ...string) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "scenario"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	for _, a := range addresses {
		template.IPAddresses = append(template.IPAddresses, net.ParseIP(a))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, kind string, bytes []byte) string {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: bytes}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	return write("cert.pem", "CERTIFICATE", der), write("key.pem", "PRIVATE KEY", pkcs8)
}

// ip runs one command of iproute2.
func ip(t *testing.T, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience) // also while cleaning up
	defer cancel()
	if out, err := exec.CommandContext(ctx, "ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}
