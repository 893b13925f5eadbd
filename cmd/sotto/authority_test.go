package main

import (
	"strings"
	"testing"
)

// TestOwnAuthority: a server with a certificate of its operator's own authority.
func TestOwnAuthority(t *testing.T) {
	t.Setenv("XDG_DATA_HOME", t.TempDir())
	cert, key := writeCertificate(t, t.TempDir(), 1)
	tls := []string{"serve", "--listen", "127.0.0.1:0", "--no-relay", "--metrics", "off", "--tls-cert", cert, "--tls-key", key}
	for name, want := range map[string]string{
		"https://127.0.0.1": "is no host name or address: give it without https:// and port",
		"127.0.0.1:443":     "is no host name or address",
		"sotto.example":     "devices that know this server as sotto.example would refuse its certificate",
	} {
		out := new(typed)
		if code := run(t.Context(), append(tls, "--name", name), out, out); code != exitUsage || !strings.Contains(out.String(), want) {
			t.Errorf("--name %s: %d %s", name, code, out)
		}
	}
	server, stop := start(t, append(tls, "--name", "127.0.0.1")...)
	defer stop()
	url := server.await(t, `server at (\S+),`)
	token := server.await(t, `invitation (\S+),`)
	server.await(t, `register USER --server \S+ --ca FILE --invitation `+token)
	command := func(args ...string) (string, int) {
		out := new(typed)
		code := run(t.Context(), args, out, out)
		return out.String(), code
	}

	out, code := command("register", "alice", "--server", url, "--invitation", token)
	if code != exitFailed || !strings.Contains(out, "give it once with --ca FILE") || !strings.Contains(out, "is trusted neither") {
		t.Errorf("without the authority: %d %s", code, out)
	}
	for _, name := range []string{"alice", "bob"} {
		out, code = command("register", name, "--server", url, "--ca", cert, "--invitation", " "+token+"\n")
		if code != exitDone {
			t.Fatal(out)
		}
	}
	if out, code = command("send", "bob", "--as", "alice", "hello"); code != exitDone {
		t.Errorf("the authority is forgotten: %s", out)
	}
	adding, stopAdding := start(t, "devices", "add", "--as", "alice", "--yes")
	link := adding.await(t, `sotto link '(\S+)' --as alice --ca ca.pem`)
	out, code = command("link", link, "--as", "alice", "--account", t.TempDir()+"/second", "--ca", cert)
	if code != exitDone {
		t.Errorf("the second device: %s", out)
	}
	stopAdding()
	out, code = command("register", "carol", "--server", "http://192.0.2.1")
	if code != exitFailed || strings.Contains(out, "AllowPlain") || !strings.Contains(out, "--insecure-plain") {
		t.Errorf("plain: %d %s", code, out)
	}
}
