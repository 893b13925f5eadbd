package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/gorilla/websocket"
	"google.golang.org/protobuf/proto"

	"sotto/wire"
)

// hostile is what others write to make a terminal, or its reader, believe something.
const hostile = "\x1b[2J\x1b]0;owned\x07\u009b31m\x7f\u202e\u2066\u200b\ufeff\u2028\r\nFORGED\nFORGED"

// A typed is a command's output, which grows while it runs.
type typed struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *typed) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *typed) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// await waits until the output has a match, and returns its last group.
func (o *typed) await(t *testing.T, pattern string) string {
	t.Helper()
	find := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if found := find.FindStringSubmatch(o.String()); found != nil {
			return found[len(found)-1]
		}
		if time.Now().After(deadline) {
			t.Fatalf("no %s in:\n%q", pattern, o.String())
		}
	}
}

// harmless fails if the output holds anything but text, or a row that somebody else began.
func (o *typed) harmless(t *testing.T) {
	t.Helper()
	out := o.String()
	if !utf8.ValidString(out) {
		t.Errorf("no UTF-8: %q", out)
	}
	for _, r := range out {
		if r != '\n' && !unicode.IsPrint(r) {
			t.Errorf("%U is printed as it is: %q", r, out)
		}
	}
	for row := range strings.SplitSeq(out, "\n") {
		if strings.HasPrefix(row, "FORGED") {
			t.Errorf("somebody else has written a row: %q", out)
		}
	}
	if !strings.Contains(out, "FORGED") {
		t.Errorf("nothing of it is shown: %q", out)
	}
}

// start runs a command until the returned function is called, which waits for its end.
func start(t *testing.T, args ...string) (out *typed, stop func()) {
	out = new(typed)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		run(ctx, args, out, out)
	}()
	return out, func() { cancel(); <-ended }
}

// TestHostileArguments: what a script hands on as an argument is not always its user's.
func TestHostileArguments(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	for _, args := range [][]string{
		{hostile},
		{"call", "--" + hostile},
		{"call", "bob", hostile},
		{"send", "bob", "--as", hostile, "x"},
		{"listen", "--config", hostile},
		{"listen", "--audio", hostile},
		{"listen", "--account", hostile},
		{"register", "alice", "--ca", hostile},
		{"register", "alice", "--server", "http://192.0.2.1/" + hostile},
		{"register", "alice", "--passphrase-file", hostile},
		{"turn", "--relay-secret-file", hostile},
		{"turn", "--check", hostile, "--relay-secret-file", "x"},
		{"invite", "--data", hostile},
		{"link", hostile, "--as", "alice"},
	} {
		for _, more := range []string{"", "--json"} {
			out := new(typed)
			if more != "" {
				args = append([]string{args[0], more}, args[1:]...)
			}
			if run(t.Context(), args, out, out) == exitDone {
				t.Errorf("%q succeeds", args)
			}
			if strings.Contains(out.String(), "FORGED") {
				out.harmless(t)
			}
		}
	}
}

// TestHostileServer: certificates, refusals and reasons are the server's words.
func TestHostileServer(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	for _, addresses := range [][]net.IP{nil, {net.IPv4(127, 0, 0, 1)}} {
		server := hostileServer(t, nil, addresses)
		out := new(typed)
		run(t.Context(), []string{"register", "alice", "--server", server.URL}, out, out)
		if !strings.Contains(out.String(), "x509") && !strings.Contains(out.String(), "certificate") {
			t.Errorf("the certificate is not named: %s", out.String())
		}
		harmlessOrSilent(t, out)
	}
	refusal, _ := proto.Marshal(&wire.Error{Code: wire.Error_FORBIDDEN, Message: hostile})
	refusing := hostileServer(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/x-protobuf")
		w.WriteHeader(http.StatusForbidden)
		w.Write(refusal)
	}, nil)
	for _, more := range []string{"--verbose", "--json"} {
		out := new(typed)
		run(t.Context(), []string{"register", "alice", "--server", refusing.URL, more}, out, out)
		out.harmless(t)
	}

	closing := func(c *websocket.Conn) {
		reason := hostile
		c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4000, reason), time.Now().Add(time.Second))
	}
	failing := func(c *websocket.Conn) {
		for _, frame := range []*wire.ServerFrame{
			{Body: &wire.ServerFrame_Hello{Hello: &wire.Hello{Nonce: make([]byte, 32)}}},
			{Body: &wire.ServerFrame_Error{Error: &wire.Error{Code: wire.Error_UNAVAILABLE, Message: hostile}}},
		} {
			b, _ := proto.Marshal(frame)
			c.WriteMessage(websocket.BinaryMessage, b)
		}
	}
	for i, speak := range []func(*websocket.Conn){closing, failing} {
		name := []string{"closing", "failing"}[i]
		server := hostileServer(t, func(w http.ResponseWriter, r *http.Request) { link(w, r, speak) }, nil)
		made := new(typed)
		if run(t.Context(), []string{"register", name, "--server", server.URL}, made, made) != exitDone {
			t.Fatal(made.String())
		}
		for _, more := range []string{"--verbose", "--json"} {
			out, stop := start(t, "listen", "--as", name, more)
			out.await(t, "FORGED")
			stop()
			out.harmless(t)
		}
	}
}

func harmlessOrSilent(t *testing.T, out *typed) {
	t.Helper()
	if strings.Contains(out.String(), "FORGED") {
		out.harmless(t)
	}
}

// link makes an account of anybody, and lets speak have their link.
func link(w http.ResponseWriter, r *http.Request, speak func(*websocket.Conn)) {
	if r.Method == http.MethodPost {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/x-protobuf")
		made, _ := proto.Marshal(&wire.RegistrationResult{Account: make([]byte, 16), Device: 1})
		w.Write(made)
		return
	}
	if c, err := new(websocket.Upgrader).Upgrade(w, r, nil); err == nil {
		defer c.Close()
		speak(c)
		c.ReadMessage()
	}
}

// hostileServer answers with plain HTTP, or without a handler over TLS with a certificate of its
// own.
func hostileServer(t *testing.T, handler http.HandlerFunc, addresses []net.IP) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(server.Close)
	if handler != nil {
		server.Start()
		return server
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	name := strings.Map(func(r rune) rune { // names are IA5Strings
		if r > 0x7f {
			return -1
		}
		return r
	}, hostile)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		Subject:  pkix.Name{CommonName: hostile, Organization: []string{hostile}},
		DNSNames: []string{name}, IPAddresses: addresses,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	server.StartTLS()
	return server
}

// TestHostileMessage: what a stranger writes is theirs, in every row.
func TestHostileMessage(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	server, stop := start(t, "serve", "--listen", "127.0.0.1:0", "--no-relay", "--metrics", "off", "--open")
	defer stop()
	url := server.await(t, `server at (\S+),`)
	for _, name := range []string{"alice", "bob"} {
		if out := new(typed); run(t.Context(), []string{"register", name, "--server", url}, out, out) != exitDone {
			t.Fatal(out.String())
		}
	}
	flood := "a" + strings.Repeat("\u0301", 500)
	for _, more := range []string{"", "--json"} {
		for _, text := range []string{hostile, flood + " FORGED"} {
			out := new(typed)
			if run(t.Context(), []string{"send", "bob", "--as", "alice", text}, out, out) != exitDone {
				t.Fatal(out.String())
			}
		}
		args := []string{"listen", "--as", "bob"}
		if more != "" {
			args = append(args, more)
		}
		out, end := start(t, args...)
		out.await(t, `(?s)FORGED.*FORGED.*\x{301}.* FORGED`)
		end()
		out.harmless(t)
		if more == "" {
			if !strings.Contains(out.String(), "alice (not a contact): <U+001B>[2J") || !strings.Contains(out.String(), "\n    | FORGED\n    | FORGED\n") {
				t.Errorf("not set off: %q", out.String())
			}
			if n := strings.Count(out.String(), "\u0301"); n > 4 {
				t.Errorf("%d marks on one letter", n)
			}
		} else if !holds(t, out.String(), hostile) {
			t.Errorf("a script does not get what was sent: %s", out.String())
		}
	}
}

func holds(t *testing.T, lines, text string) bool {
	for line := range strings.Lines(lines) {
		var event struct{ Text string }
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			t.Fatalf("%v: %q", err, line)
		}
		if event.Text == text {
			return true
		}
	}
	return false
}

// TestOneWayOut: what is printed goes through output, and its sentences are ours.
func TestOneWayOut(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) == 0 {
		t.Fatal(err)
	}
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		source, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, wrong := range waysAround(file, source) {
			t.Errorf("%s: %s", file, wrong)
		}
	}
}

// waysAround are writes to standard output and error that the package output does not see, and
// sentences that are not written out.
func waysAround(file string, source *ast.File) (found []string) {
	sentence := map[string]int{"say": 1, "progress": 1, "warn": 1, "prompt": 0, "confirm": 1, "Sprintf": 0}
	inFunction := ""
	ast.Inspect(source, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			inFunction = n.Name.Name
		case *ast.SelectorExpr:
			name := types(n)
			standard := name == "os.Stdout" || name == "os.Stderr" || strings.HasPrefix(name, "fmt.Print")
			allowed := file == "output.go" || file == "main.go" && inFunction == "main" || file == "origin.go" && inFunction == "ownOrigin"
			if standard && !allowed {
				found = append(found, inFunction+" uses "+name)
			}
		case *ast.CallExpr:
			if file != "output.go" && file != "log.go" && writesToStream(n) {
				found = append(found, inFunction+" writes to a standard stream")
			}
			method, ok := n.Fun.(*ast.SelectorExpr)
			if !ok || strings.HasPrefix(types(method), "fmt.") {
				return true
			}
			at, ok := sentence[method.Sel.Name]
			if !ok || len(n.Args) <= at || n.Ellipsis.IsValid() {
				return true
			}
			if !written(n.Args[at]) {
				found = append(found, inFunction+": the sentence of "+types(method)+" is not written out")
			}
		}
		return true
	})
	return found
}

// writesToStream tells whether a call writes to a field that is a standard stream (output, origin).
func writesToStream(call *ast.CallExpr) bool {
	method, ok := call.Fun.(*ast.SelectorExpr)
	if !ok || !strings.HasPrefix(method.Sel.Name, "Write") && !strings.HasPrefix(method.Sel.Name, "Fprint") {
		return false
	}
	for _, to := range append([]ast.Expr{method.X}, call.Args...) {
		if field, ok := to.(*ast.SelectorExpr); ok && (field.Sel.Name == "stdout" || field.Sel.Name == "stderr") {
			return true
		}
	}
	return false
}

func types(s *ast.SelectorExpr) string {
	if x, ok := s.X.(*ast.Ident); ok {
		return x.Name + "." + s.Sel.Name
	}
	return s.Sel.Name
}

// written tells whether an expression is a literal, or several.
func written(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.BasicLit:
		return true
	case *ast.BinaryExpr:
		return written(e.X) && written(e.Y)
	}
	return false
}
