// Package interop talks to Signal's own library: the npm package @signalapp/libsignal-client, a separate process that is given JSON
// lines and seen as a black box (oracle.mjs). What is shown here, live and in both roles, is that e2ee/ratchet, e2ee/spqr,
// e2ee/senderkey, e2ee/sealed and e2ee/safety speak its bytes.
//
//	go test ./test/interop                             a short form, for every commit
//	go test ./test/interop -messages 10000 -timeout 0  the long form
//
// The package is AGPL-3.0. It is installed by npm into the user's cache directory, pinned by package-lock.json, and used nowhere else.
package interop

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const libraryVersion = "0.103.0"

// An oracle is one process of the library.
type oracle struct {
	t    testing.TB
	in   io.WriteCloser
	out  *bufio.Reader
	last int
}

// A libraryError is what the library answers instead of a result.
type libraryError struct{ Name, Message string }

func (e *libraryError) Error() string { return e.Name + ": " + e.Message }

// startOracle starts a process that ends with the test.
func startOracle(t testing.TB) *oracle {
	t.Helper()
	library, err := install()
	if err != nil {
		t.Skip("no outside peer to talk to:", err)
	}
	cmd := exec.CommandContext(t.Context(), "node", "oracle.mjs")
	cmd.Env = append(os.Environ(), "LIBSIGNAL_CLIENT="+library)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Wait() }) // the context has killed it, or this end of input ends it
	o := &oracle{t: t, in: in, out: bufio.NewReaderSize(out, 1<<16)}
	var info struct{ Version string }
	o.must("info", nil, &info)
	if info.Version != libraryVersion {
		t.Fatalf("the library is version %s, want %s", info.Version, libraryVersion)
	}
	return o
}

// args are the arguments of an operation; byte strings travel in base64, as encoding/json writes them.
type args map[string]any

// call asks for one operation. The error is a *libraryError; a broken process ends the test.
func (o *oracle) call(op string, a args, result any) error {
	o.t.Helper()
	o.last++
	request := args{"id": o.last, "op": op}
	for k, v := range a {
		request[k] = v
	}
	line, err := json.Marshal(request)
	if err != nil {
		o.t.Fatal(err)
	}
	if _, err := o.in.Write(append(line, '\n')); err != nil {
		o.t.Fatal(err)
	}
	if line, err = o.out.ReadBytes('\n'); err != nil {
		o.t.Fatal("the library's process ended:", err)
	}
	var reply struct {
		ID     int
		OK     bool
		Result json.RawMessage
		Error  *libraryError
	}
	if err := json.Unmarshal(line, &reply); err != nil {
		o.t.Fatal(err)
	}
	if reply.ID != o.last {
		o.t.Fatalf("reply %d to request %d", reply.ID, o.last)
	}
	if !reply.OK {
		return reply.Error
	}
	if result != nil {
		if err := json.Unmarshal(reply.Result, result); err != nil {
			o.t.Fatal(err)
		}
	}
	return nil
}

func (o *oracle) must(op string, a args, result any) {
	o.t.Helper()
	if err := o.call(op, a, result); err != nil {
		o.t.Fatalf("%s: %v", op, err)
	}
}

// install puts the library into the cache directory, unless it is there, and returns where.
var install = sync.OnceValues(func() (string, error) {
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			return "", fmt.Errorf("%s is not installed", program)
		}
	}
	version, err := exec.Command("node", "--version").Output()
	if err != nil {
		return "", err
	}
	var major, minor int
	if fmt.Sscanf(string(version), "v%d.%d", &major, &minor); major < 20 || major == 20 && minor < 11 {
		return "", fmt.Errorf("node is %s; the library needs v20.11", bytes.TrimSpace(version))
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	const name = "node_modules/@signalapp/libsignal-client"
	parent := filepath.Join(cache, "sotto-interop")
	dir := filepath.Join(parent, libraryVersion)
	if _, err := os.Stat(filepath.Join(dir, name, "package.json")); err == nil {
		return filepath.Join(dir, name), nil
	}

	// Installed beside and renamed when whole, so that neither an interrupted run nor a parallel one leaves half of it.
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", err
	}
	fresh, err := os.MkdirTemp(parent, "installing-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(fresh)
	for _, file := range []string{"package.json", "package-lock.json", ".npmrc"} {
		b, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(filepath.Join(fresh, file), b, 0o644); err != nil {
			return "", err
		}
	}
	npm := exec.Command("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
	npm.Dir = fresh
	if out, err := npm.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm ci: %w: %s", err, lastLine(out))
	}
	if err := os.Rename(fresh, dir); err != nil && !errors.Is(err, os.ErrExist) {
		if _, statErr := os.Stat(filepath.Join(dir, name)); statErr != nil { // not installed by another process meanwhile
			return "", err
		}
	}
	return filepath.Join(dir, name), nil
})

func lastLine(b []byte) string {
	lines := strings.Split(string(bytes.TrimSpace(b)), "\n")
	return lines[len(lines)-1]
}
