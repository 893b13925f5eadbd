package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestBehindProxies: devices register and write through nginx and HAProxy as docs/selfhost.md sets
// them up, if these are installed; where nginx ends TLS they are told so, and nothing is used up.
func TestBehindProxies(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	cert, key := writeCertificateFor(t, t.TempDir(), 1, "localhost")
	server, stop := start(t, "serve", "--listen", "127.0.0.1:0", "--name", "localhost",
		"--tls-cert", cert, "--tls-key", key, "--proxy-protocol", "127.0.0.1/32",
		"--open", "--no-relay", "--metrics", "off")
	defer stop()
	port := server.await(t, `server at https://localhost:(\d+),`)
	command := func(args ...string) (string, int) {
		out := new(typed)
		code := run(t.Context(), args, out, out)
		return out.String(), code
	}
	register := func(name, front string) (string, int) {
		return command("register", name, "--server", "https://localhost:"+front, "--ca", cert)
	}
	if out, code := register("direct", port); code != exitFailed {
		t.Errorf("without a header: %d %s", code, out)
	}

	t.Run("nginx that ends TLS", func(t *testing.T) {
		own := "ssl_protocols TLSv1.3; ssl_certificate " + cert +
			"; ssl_certificate_key " + key + ";"
		front := runNginx(t, `
stream { server {
	listen ENDS ssl; `+own+`
	proxy_ssl on; proxy_ssl_protocols TLSv1.3; proxy_protocol on; proxy_pass 127.0.0.1:`+port+`;
} }
http { server {
	listen LOST ssl; `+own+`
	access_log off; location / { proxy_pass https://127.0.0.1:9; }
} }`)
		// In this order: after the second it is open whether there is an account.
		for _, c := range []struct{ front, want string }{
			{"ENDS", "ends TLS"}, {"LOST", "answers in its place (HTTP status 502)"},
		} {
			out, code := register("alice", front[c.front])
			if code != exitFailed || !strings.Contains(out, c.want) {
				t.Errorf("%s: %d %s", c.front, code, out)
			}
		}
	})
	for name, set := range map[string]func(t *testing.T, config string) (front string){
		"nginx": func(t *testing.T, config string) string {
			return runNginx(t, strings.Replace(config, "listen [::]:443;", "", 1))["443"]
		},
		"haproxy": func(t *testing.T, config string) string {
			return runHAProxy(t, config+"\nbackend web\n    mode tcp\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			config := fromTheDocument(t, name)
			ours := strings.NewReplacer(
				"calls.example.org", "localhost", "127.0.0.1:8443", "127.0.0.1:"+port)
			front := set(t, ours.Replace(config))
			for _, user := range []string{name + "-alice", name + "-bob"} {
				if out, code := register(user, front); code != exitDone {
					t.Fatalf("%d %s", code, out)
				}
			}
			out, code := command("send", name+"-bob", "--as", name+"-alice", "hello")
			if code != exitDone {
				t.Errorf("%d %s", code, out)
			}
		})
	}
}

// fromTheDocument is the block of that language in docs/selfhost.md.
func fromTheDocument(t *testing.T, language string) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/selfhost.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)```" + language + "\n(.*?)```").FindSubmatch(text)
	if block == nil {
		t.Fatalf("the document has no example for %s", language)
	}
	return string(block[1])
}

// freePort is free for now. Nobody here listens on ports of one's own choice otherwise.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// runNginx puts a free port in the place of each that the configuration listens on.
func runNginx(t *testing.T, config string) (fronts map[string]string) {
	t.Helper()
	dir, fronts := t.TempDir(), map[string]string{}
	config = regexp.MustCompile("#.*").ReplaceAllString(config, "")
	listens := regexp.MustCompile(`listen (127\.0\.0\.1:)?(\w+)`)
	config = listens.ReplaceAllStringFunc(config, func(s string) string {
		name := listens.FindStringSubmatch(s)[2]
		fronts[name] = freePort(t)
		return "listen 127.0.0.1:" + fronts[name]
	})
	const module = "/usr/lib/nginx/modules/ngx_stream_module.so" // where it is not built in
	config = "daemon off; master_process off; pid pid; error_log stderr;\nevents {}\n" + config
	if _, err := os.Stat(module); !errors.Is(err, fs.ErrNotExist) {
		config = "load_module " + module + ";\n" + config
	}
	file := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	runProxy(t, "nginx", fronts, "-p", dir, "-c", file)
	return fronts
}

func runHAProxy(t *testing.T, config string) (front string) {
	t.Helper()
	front = freePort(t)
	file := filepath.Join(t.TempDir(), "haproxy.cfg")
	config = "defaults\n    timeout connect 5s\n" +
		strings.Replace(config, "bind :443", "bind 127.0.0.1:"+front, 1)
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	runProxy(t, "haproxy", map[string]string{"": front}, "-db", "-f", file)
	return front
}

// runProxy starts a program and waits until it listens on its ports.
func runProxy(t *testing.T, name string, ports map[string]string, args ...string) {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	said := new(typed)
	program := exec.Command(path, args...)
	program.Stdout, program.Stderr = said, said
	if err := program.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- program.Wait() }()
	t.Cleanup(func() {
		_ = program.Process.Kill()
		<-ended
	})
	for _, port := range ports {
		for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
			conn, err := net.Dial("tcp", "127.0.0.1:"+port)
			if err == nil {
				conn.Close()
				break
			}
			select {
			case err := <-ended:
				ended <- err
				t.Fatal(fmt.Errorf("%s ended: %w: %s", name, err, said))
			default:
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s does not listen: %s", name, said)
			}
		}
	}
}
